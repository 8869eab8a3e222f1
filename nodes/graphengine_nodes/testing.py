"""Small models made on the spot, for tests of nodes: of every kind that the embedded ones are not.

They need no network and a second or less; their weights are drawn from a seed, so that two calls make the same.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from graphengine_nodes.checkpoints import TINY, read_header

__all__ = ["controlnet", "inpainting_model", "lora", "single_file"]


def inpainting_model(folder: Path, seed: int = 0) -> Path:
    """A model whose denoiser takes 9 channels (latents, mask, masked picture), over `tiny`'s other parts.

    The five new channels' weights are random: it paints, but does not know what the mask means.
    """
    import torch
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    shutil.copytree(TINY / "model", folder)
    unet = UNet2DConditionModel.from_pretrained(TINY / "model" / "unet")
    old = unet.conv_in
    new = torch.nn.Conv2d(9, old.out_channels, old.kernel_size, padding=old.padding)
    with torch.no_grad():
        extra = torch.randn(old.out_channels, 5, 3, 3, generator=torch.Generator().manual_seed(seed)) * 0.05
        new.load_state_dict({"weight": torch.cat([old.weight, extra], dim=1), "bias": old.bias})
    unet.conv_in = new
    unet.register_to_config(in_channels=9)
    unet.save_pretrained(folder / "unet")
    return folder


def controlnet(folder: Path, seed: int = 0, std: float = 0.05) -> Path:
    """A ControlNet for `tiny` with random weights: it moves pixels, and follows nothing."""
    import torch
    from diffusers.models.controlnets.controlnet import ControlNetModel

    net = ControlNetModel.from_config(ControlNetModel.load_config(TINY / "controlnet"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    net.save_pretrained(folder)
    return folder


def lora(file: Path, seed: int = 0, parts: tuple[str, ...] = ("unet",), rank: int = 4, kohya: bool = False) -> Path:
    """A LoRA for `tiny` with random weights on the attention of its `unet`, `text_encoder`, or both.

    Args:
        kohya: With the names that kohya's trainer writes, and an alpha of half the rank.
    """
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for part in parts:
        stem = "diffusion_pytorch_model" if part == "unet" else "model"
        header = read_header(TINY / "model" / part / f"{stem}.safetensors")
        ends = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "_proj.weight")
        for name, entry in header.items():
            if not name.endswith(ends):
                continue
            rows, columns = entry["shape"]
            down = torch.randn(rank, columns, generator=generator) * 0.1
            up = torch.randn(rows, rank, generator=generator) * 0.1
            module = name.removesuffix(".weight")
            if part == "text_encoder":
                module = f"text_model.{module.removeprefix('text_model.')}"
            if kohya:
                prefix = f"lora_{'unet' if part == 'unet' else 'te'}_{module.replace('.', '_')}"
                tensors |= {f"{prefix}.lora_down.weight": down, f"{prefix}.lora_up.weight": up}
                tensors[f"{prefix}.alpha"] = torch.tensor(rank / 2)
            else:
                tensors |= {f"{part}.{module}.lora_A.weight": down, f"{part}.{module}.lora_B.weight": up}
    save_file(tensors, file)
    return file


def single_file(file: Path, model: Path = TINY / "model") -> Path:
    """A Stable Diffusion folder's weights as one checkpoint with the names of the original code (CompVis)."""
    import json

    from safetensors.torch import load_file, save_file

    layers = json.loads((model / "unet" / "config.json").read_text())["layers_per_block"]
    blocks = len(json.loads((model / "vae" / "config.json").read_text())["block_out_channels"])
    unet = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(model / "vae" / "diffusion_pytorch_model.safetensors")
    text = load_file(model / "text_encoder" / "model.safetensors")
    attended = {name.split(".")[1] for name in unet if name.startswith("up_blocks") and "attentions" in name}
    tensors = {f"model.diffusion_model.{_unet_name(name, layers, attended)}": t for name, t in unet.items()}
    tensors |= {f"first_stage_model.{_vae_name(name, blocks)}": t for name, t in vae.items()}
    prefix = "cond_stage_model.transformer.text_model."
    tensors |= {prefix + name.removeprefix("text_model."): t for name, t in text.items()}
    save_file(tensors, file)
    return file


def _unet_name(name: str, layers: int, attended: set[str]) -> str:
    """The original code's name of a tensor of diffusers' UNet: its blocks are counted through."""
    place, *rest = name.split(".")
    outer = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    if place in outer:
        return ".".join([outer[place], *rest])
    if place == "time_embedding":
        return ".".join(["time_embed", "0" if rest[0] == "linear_1" else "2", *rest[1:]])
    if place == "mid_block":
        kind, index, *leaf = rest
        number = "1" if kind == "attentions" else str(2 * int(index))
        return ".".join(["middle_block", number, *_resnet_leaf(kind, leaf)])
    block, kind, index, *leaf = rest
    first = int(block) * (layers + 1)
    if kind == "downsamplers":
        return ".".join(["input_blocks", str(first + layers + 1), "0", "op", leaf[-1]])
    if kind == "upsamplers":
        return ".".join(["output_blocks", str(first + layers), "2" if block in attended else "1", "conv", leaf[-1]])
    side, before = ("input_blocks", first + 1) if place == "down_blocks" else ("output_blocks", first)
    slot = "1" if kind == "attentions" else "0"
    return ".".join([side, str(before + int(index)), slot, *_resnet_leaf(kind, leaf)])


def _resnet_leaf(kind: str, leaf: list[str]) -> list[str]:
    names = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1",
        "conv_shortcut": "skip_connection",
    }
    return [names.get(leaf[0], leaf[0]), *leaf[1:]] if kind == "resnets" else leaf


def _vae_name(name: str, blocks: int) -> str:
    """The original code's name of a tensor of diffusers' VAE: its decoder's levels count from the picture."""
    place, *rest = name.split(".")
    if rest[0] == "conv_norm_out":
        return ".".join([place, "norm_out", *rest[1:]])
    if rest[0] == "mid_block":
        return ".".join([place, "mid", f"block_{int(rest[2]) + 1}", *rest[3:]]).replace("conv_shortcut", "nin_shortcut")
    if rest[0] not in ("down_blocks", "up_blocks"):
        return name
    side, block, kind, index, *leaf = rest
    level = int(block) if side == "down_blocks" else blocks - 1 - int(block)
    inner = {"resnets": f"block.{index}", "downsamplers": "downsample", "upsamplers": "upsample"}[kind]
    return ".".join([place, side.removesuffix("_blocks"), str(level), inner, *leaf]).replace(
        "conv_shortcut", "nin_shortcut"
    )
