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
        new.weight.copy_(torch.cat([old.weight, extra], dim=1))
        new.bias.copy_(old.bias)
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
    tensors = {}
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
