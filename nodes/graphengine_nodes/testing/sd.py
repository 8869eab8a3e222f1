"""Small models made on the spot, for tests of nodes: of every kind that the embedded ones are not.

They need no download and a second or less; their weights are drawn from a seed, so that two calls make the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graphengine_nodes.weights.files import TINY, read_header

__all__ = ["controlnet", "hypernetwork", "inpainting_model", "levels_model", "lora", "single_file", "t2i_adapter"]


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


LEVELS = (16, 16, 32, 32)
"""The channels of `levels_model`'s levels."""


def levels_model(folder: Path, seed: int = 0) -> Path:
    """A model whose denoiser has the four levels of Stable Diffusion 1, over `tiny`'s other parts: it paints noise."""
    import torch
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    shutil.copytree(TINY / "model", folder)
    config = UNet2DConditionModel.load_config(TINY / "model" / "unet")
    across = ("CrossAttnDownBlock2D",) * 3, ("CrossAttnUpBlock2D",) * 3
    levels = {
        "block_out_channels": LEVELS,
        "layers_per_block": 2,
        "down_block_types": (*across[0], "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *across[1]),
        "norm_num_groups": 8,
    }
    unet = UNet2DConditionModel.from_config({**config, **levels})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
            elif name.endswith("bias"):
                parameter.zero_()
    unet.save_pretrained(folder / "unet")
    return folder


def t2i_adapter(file: Path, kind: str = "full", seed: int = 0, published: bool = False) -> Path:
    """A T2I-Adapter for `levels_model` with random weights, as one file.

    Args:
        kind: `full` or `light`.
        published: With the names of the files that its authors published, else with diffusers'.
    """
    import re

    import torch
    from diffusers.models.adapter import T2IAdapter
    from safetensors.torch import save_file

    channels = [*(LEVELS if kind == "full" else LEVELS[:-1])]
    made = T2IAdapter(3, channels, 2, 8, f"{kind}_adapter")
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(one.shape, generator=generator) * 0.1 for name, one in made.state_dict().items()}

    def name_in_file(name: str) -> str:
        name = name.removeprefix("adapter.")
        if kind == "light":
            return name.replace(".resnets.", ".body.")
        name = re.sub(r"^body\.(\d+)\.in_conv", lambda found: f"body.{2 * int(found[1])}.in_conv", name)
        return re.sub(r"^body\.(\d+)\.resnets\.(\d+)", lambda found: f"body.{2 * int(found[1]) + int(found[2])}", name)

    save_file({name_in_file(name) if published else name: one for name, one in tensors.items()}, file)
    return file


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


def lora(
    file: Path,
    seed: int = 0,
    parts: tuple[str, ...] = ("unet",),
    rank: int = 4,
    kohya: bool = False,
    model: Path = TINY / "model",
    alpha: float | None = None,
) -> Path:
    """A LoRA for a model with random weights on the attention of its `unet` and text encoders.

    Args:
        kohya: With the names that kohya's trainer writes, and an alpha of half the rank.
        alpha: Told in the file's metadata, as diffusers' trainers write it; by default the rank, and nothing is told.
    """
    import json

    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    xl = (model / "text_encoder_2").is_dir()
    for part in parts:
        stem = "diffusion_pytorch_model" if part == "unet" else "model"
        header = read_header(model / part / f"{stem}.safetensors")
        ends = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "_proj.weight")
        for name, entry in header.items():
            if not name.endswith(ends):
                continue
            rows, columns = entry["shape"]
            down = torch.randn(rank, columns, generator=generator) * 0.1
            up = torch.randn(rows, rank, generator=generator) * 0.1
            module = name.removesuffix(".weight")
            if part != "unet":
                module = f"text_model.{module.removeprefix('text_model.')}"
            if kohya:
                prefix = _kohya_name(part, module, model, xl)
                tensors |= {f"{prefix}.lora_down.weight": down, f"{prefix}.lora_up.weight": up}
                tensors[f"{prefix}.alpha"] = torch.tensor(rank / 2)
            else:
                tensors |= {f"{part}.{module}.lora_A.weight": down, f"{part}.{module}.lora_B.weight": up}
    layers = {"unet": ["to_q", "to_k", "to_v", "to_out.0"]}
    facts = {
        f"{part}.{name}": value
        for part in parts
        for name, value in (("r", rank), ("lora_alpha", alpha), ("target_modules", layers.get(part, _PROJECTIONS)))
    }
    save_file(tensors, file, None if alpha is None else {"lora_adapter_metadata": json.dumps(facts)})
    return file


_PROJECTIONS = ["q_proj", "k_proj", "v_proj", "out_proj"]


def _kohya_name(part: str, module: str, model: Path, xl: bool) -> str:
    """As kohya's trainer writes it: of SDXL's UNet by the original code's names, of others by diffusers'."""
    if part == "unet" and xl:
        module = _unet_names(model)(module)
    start = "unet" if part == "unet" else "te2" if part == "text_encoder_2" else "te1" if xl else "te"
    return f"lora_{start}_{module.replace('.', '_')}"


def hypernetwork(
    file: Path,
    seed: int = 0,
    widths: tuple[int, ...] = (96, 128),
    structure: tuple[float, ...] = (1, 2, 1),
    activation: str | None = "relu",
    layer_norm: bool = False,
    dropout: float = 0.0,
    activate_output: bool = False,
    std: float = 0.05,
) -> Path:
    """A hypernetwork with random weights as the WebUI writes it, by default for `tiny`.

    Args:
        widths: Of the contexts; `tiny` has 128 for prompts, 96 and 128 for features of pictures.
        structure: Of its networks: the width of each layer, in widths of the context.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)

    def network(width: int) -> dict[str, torch.Tensor]:
        tensors, place, last = {}, 0, len(structure) - 2
        for index in range(last + 1):
            before, after = (int(width * part) for part in structure[index : index + 2])
            tensors[f"linear.{place}.weight"] = torch.randn(after, before, generator=generator) * std
            tensors[f"linear.{place}.bias"] = torch.randn(after, generator=generator) * std
            place += 1 + (activation not in (None, "linear") and (index < last or activate_output))
            if layer_norm:
                tensors[f"linear.{place}.weight"] = 1 + torch.randn(after, generator=generator) * std
                tensors[f"linear.{place}.bias"] = torch.randn(after, generator=generator) * std
                place += 1
            place += dropout > 0 and index < last
        return tensors

    facts = {
        "step": 1000,
        "name": file.stem,
        "layer_structure": list(structure),
        "activation_func": activation,
        "is_layer_norm": layer_norm,
        "weight_initialization": "Normal",
        "sd_checkpoint": None,
        "sd_checkpoint_name": None,
        "activate_output": activate_output,
        "use_dropout": dropout > 0,
        "dropout_structure": [0.0, *[dropout] * (len(structure) - 2), 0.0],
        "last_layer_dropout": False,
    }
    torch.save({width: (network(width), network(width)) for width in widths} | facts, file)
    return file


def single_file(file: Path, model: Path = TINY / "model", open_clip: bool = False, configurations: bool = True) -> Path:
    """A folder's weights as one checkpoint, as published ones of Stable Diffusion or of SDXL have them: the original
    code's names, attention of the VAE as convolutions, and what the training left beside the weights.

    Args:
        open_clip: The text encoder with OpenCLIP's names, as Stable Diffusion 2.x has it: with one layer more than the
            folder's, which nothing reads. (SDXL's second one has these names anyhow.)
        configurations: The folder's configurations are in the file's metadata, since no shape tells how many heads and
            groups a small model has.
    """
    import json

    import torch
    from safetensors.torch import load_file, save_file

    rename = _unet_names(model)
    unet = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    tensors = {f"model.diffusion_model.{rename(name)}": t for name, t in unet.items()}
    tensors |= {f"first_stage_model.{name}": t for name, t in original_vae(model / "vae").items()}
    xl = (model / "text_encoder_2").is_dir()
    prefix = "conditioner.embedders.0." if xl else "cond_stage_model."
    refiner = not (model / "text_encoder").is_dir()
    text = {} if refiner else load_file(model / "text_encoder" / "model.safetensors")
    if open_clip:
        tensors |= _open_clip(f"{prefix}model.", text, last=True)
    elif not refiner:
        names = {name.removeprefix("text_model."): t for name, t in text.items()}
        names["embeddings.position_ids"] = torch.arange(77)[None]
        tensors |= {f"{prefix}transformer.text_model.{name}": t for name, t in names.items()}
    if xl:
        second = load_file(model / "text_encoder_2" / "model.safetensors")
        tensors |= _open_clip(f"conditioner.embedders.{0 if refiner else 1}.model.", second)
    tensors |= {"denoiser.sigmas": torch.ones(1000)} if xl else {name: torch.ones(1000) for name in SCHEDULE}
    metadata = {"config": json.dumps(configurations_of(model))} if configurations else None
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata)
    return file


SCHEDULE = (
    *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"),
    *("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"),
    *("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
)
"""The noise schedule in checkpoints of Stable Diffusion 1.x and 2.x."""


def configurations_of(model: Path) -> dict[str, Any]:
    """The configurations of a folder by component."""
    import json

    index = json.loads((model / "model_index.json").read_text())
    facts = {name: value for name, value in index.items() if not isinstance(value, list) and name[0] != "_"}
    found = {file.parent.name: json.loads(file.read_text()) for file in model.glob("*/config.json")}
    found["scheduler"] = json.loads((model / "scheduler" / "scheduler_config.json").read_text())
    return found | {"model_index": facts}


def original_vae(folder: Path) -> dict[str, Any]:
    """The tensors of a VAE with the original code's names, whose attention is made of 1 x 1 convolutions."""
    import json

    from safetensors.torch import load_file

    blocks = len(json.loads((folder / "config.json").read_text())["block_out_channels"])
    found = {}
    for name, tensor in load_file(folder / "diffusion_pytorch_model.safetensors").items():
        convolution = "attentions" in name and tensor.ndim == 2
        found[original_vae_name(name, blocks)] = tensor[:, :, None, None] if convolution else tensor
    return found


def _open_clip(prefix: str, text: dict[str, Any], last: bool = False) -> dict[str, Any]:
    """A text encoder's tensors as OpenCLIP has them: queries, keys and values in one piece.

    Args:
        last: With one layer more, and a projection, which Stable Diffusion 2.x does not read.
    """
    import torch

    text = {name.removeprefix("text_model."): tensor for name, tensor in text.items()}
    outer = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    found = {new: text[old] for old, new in outer.items()} | {"logit_scale": torch.tensor(4.6)}
    layers = sorted({int(name.split(".")[2]) for name in text if name.startswith("encoder.layers.")})
    if last:
        generator = torch.Generator().manual_seed(1)
        more = {
            name.replace("layers.0.", f"layers.{len(layers)}."): t for name, t in text.items() if "layers.0." in name
        }
        text |= {name: torch.randn(t.shape, generator=generator) for name, t in more.items()}
        layers.append(len(layers))
        width = found["positional_embedding"].shape[1]
        found["text_projection"] = torch.randn(width, width, generator=generator)
    elif "text_projection.weight" in text:
        found["text_projection"] = text["text_projection.weight"].T
    inner = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    inner["self_attn.out_proj"] = "attn.out_proj"
    for layer in layers:
        old, new = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            found |= {f"{new}.{there}.{kind}": text[f"{old}.{here}.{kind}"] for here, there in inner.items()}
            rows = [text[f"{old}.self_attn.{name}_proj.{kind}"] for name in ("q", "k", "v")]
            found[f"{new}.attn.in_proj_{kind}"] = torch.cat(rows)
    return {f"{prefix}{name}": tensor for name, tensor in found.items()}


def _unet_names(model: Path) -> Callable[[str], str]:
    """From diffusers' names in a model's UNet to those of the original code."""
    import json

    layers = json.loads((model / "unet" / "config.json").read_text())["layers_per_block"]
    header = read_header(model / "unet" / "diffusion_pytorch_model.safetensors")
    attended = {name.split(".")[1] for name in header if name.startswith("up_blocks") and "attentions" in name}
    return lambda name: _unet_name(name, layers, attended)


def _unet_name(name: str, layers: int, attended: set[str]) -> str:
    """The original code's name of a tensor of diffusers' UNet: its blocks are counted through."""
    place, *rest = name.split(".")
    outer = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    if place in outer:
        return ".".join([outer[place], *rest])
    if place == "time_embedding":
        return ".".join(["time_embed", "0" if rest[0] == "linear_1" else "2", *rest[1:]])
    if place == "add_embedding":
        return ".".join(["label_emb", "0", "0" if rest[0] == "linear_1" else "2", *rest[1:]])
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


def original_vae_name(name: str, blocks: int) -> str:
    """The original code's name of a tensor of diffusers' VAE: its decoder's levels count from the picture."""
    place, *rest = name.split(".")
    if rest[0] == "conv_norm_out":
        return ".".join([place, "norm_out", *rest[1:]])
    if rest[:2] == ["mid_block", "attentions"]:
        names = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}
        return ".".join([place, "mid.attn_1", names[rest[3]], rest[-1]])
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
