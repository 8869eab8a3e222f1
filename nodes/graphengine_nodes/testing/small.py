"""Helpers that the modules of small models share: random weights, parts that several families have, LoRAs, files.

Every family's module (`z_image`, `qwen_image`, ...) saves a pipeline in diffusers' layout with a `defaults.json` beside
it. Weights are drawn from a seed, each component from one of its own, so that two calls write the same bytes and
another seed moves every component. Pictures are patterns without a meaning that every component moves.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["lora_for", "randomised", "saved", "single_transformer_file", "small_clip", "small_vae"]

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""How the layers of attention end that `lora_for` changes, in all of diffusers' transformers."""


def randomised(module: Any, seed: int, std: float) -> Any:
    """Draw a module's weights, those of norms around 1: a module as its library begins it makes pictures of one grey.

    Args:
        std: The standard deviation of the weights. A matrix is drawn narrower where it has more than 64 columns, so
            that one number does for layers of all widths.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator) * std
            if parameter.ndim > 1 and parameter[0].numel() > 64 and "embed_tokens" not in name:
                drawn *= (64 / parameter[0].numel()) ** 0.5
            norm = "norm" in name and name.endswith(("weight", "gamma")) and parameter.squeeze().ndim == 1
            parameter.copy_(1 + drawn if norm else drawn)
    return module.eval()


def sharpened(transformer: Any, factor: float = 2) -> Any:
    """A transformer whose attention tells tokens apart: else each of hundreds of text tokens moves next to nothing."""
    import torch

    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if name.endswith(("norm_q.weight", "norm_k.weight", "norm_added_q.weight", "norm_added_k.weight")):
                parameter.mul_(factor)
    return transformer


def saved(pipeline: Any, folder: Path, **defaults: int) -> Path:
    """Save a pipeline in diffusers' layout, with what its runs begin with: 2 steps, 64 x 64 pixels, `defaults`."""
    pipeline.save_pretrained(folder)
    (folder / "defaults.json").write_text(json.dumps({"steps": 2, "width": 64, "height": 64} | defaults))
    return folder


def small_vae(seed: int, scaling: float = 0.3611, shift: float = 0.1159) -> Any:
    """The VAE of FLUX.1, Z-Image, Chroma and SD3: 16 channels at 1/8 of the size, no convolutions between."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=2,
        scaling_factor=scaling,
        shift_factor=shift,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return faded(randomised(vae, seed, 0.2))


def faded(vae: Any, contrast: float = 0.4) -> Any:
    """A VAE with less contrast in what it decodes, so that few values are cut off at black and white."""
    import torch

    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(contrast)
        vae.decoder.conv_out.bias.mul_(contrast)
    return vae


def small_clip(words: Any, width: int, seed: int, projection: int | None = None) -> Any:
    """CLIP's text encoder for a tokenizer; with a projection of its pooled output if its size is given."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        projection_dim=projection or width,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return randomised((CLIPTextModelWithProjection if projection else CLIPTextModel)(config), seed, 0.3)


def lora_for(
    model: Any, file: Path, seed: int = 0, component: str = "transformer", rank: int = 4, std: float = 0.2
) -> Path:
    """Write a LoRA with random weights on a denoiser's attention, by diffusers' names: `transformer.….lora_A.weight`.

    Args:
        model: A folder in diffusers' layout, or a pipeline or module that has the layers itself.
        component: Whose layers: `transformer`, or `transformer_2` of Wan 2.2. Names begin with `transformer` for both:
            diffusers is told by `load_into_transformer_2=True`, and finds nothing by the other name.
    """
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, (rows, columns) in _matrices(model, component):
        if name.endswith(ATTENTION):
            tensors[f"transformer.{name}.lora_A.weight"] = torch.randn(rank, columns, generator=generator) * std
            tensors[f"transformer.{name}.lora_B.weight"] = torch.randn(rows, rank, generator=generator) * std
    save_file(tensors, file)
    return file


def _matrices(model: Any, component: str) -> Iterable[tuple[str, tuple[int, int]]]:
    """The names and shapes of the layers of a component."""
    if isinstance(model, Path):
        from graphengine_nodes.weights.files import read_header

        header = read_header(model / component / "diffusion_pytorch_model.safetensors")
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    else:
        shapes = {name: tuple(p.shape) for name, p in getattr(model, component, model).named_parameters()}
    found = [(name, shape) for name, shape in sorted(shapes.items()) if len(shape) == 2 and name.endswith(".weight")]
    return [(name.removesuffix(".weight"), (shape[0], shape[1])) for name, shape in found]


def single_transformer_file(folder: Path, file: Path, prefix: str = "", component: str = "transformer") -> Path:
    """Write a folder's transformer as one .safetensors file with diffusers' names, as users have it for ComfyUI.

    Args:
        prefix: What the names begin with, such as `model.diffusion_model.`.
    """
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / component / "diffusion_pytorch_model.safetensors")
    save_file({f"{prefix}{name}": tensor for name, tensor in tensors.items()}, file)
    return file
