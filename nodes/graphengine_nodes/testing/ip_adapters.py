"""Small IP-Adapters made on the spot, for tests: of every kind, for models with a UNet and of FLUX, and image encoders.

Their weights are drawn from a seed: pictures move pixels, and mean nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphengine_nodes.families.picture_prompts import attended
from graphengine_nodes.testing.sdxl import drawn
from graphengine_nodes.weights.files import TINY, read_header

__all__ = ["flux_ip_adapter", "image_encoder", "ip_adapter"]

HIDDEN, EMBEDDING = 48, 32
"""Widths of an image encoder's patches and of its embedding of a picture, which differ as in real ones."""


def image_encoder(folder: Path, seed: int = 0, hidden: int = HIDDEN, embedding: int = EMBEDDING) -> Path:
    """An image encoder, CLIP's picture side, that reads pictures of 32 x 32 in patches of 8."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        projection_dim=embedding,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    drawn(CLIPVisionModelWithProjection(config), torch.Generator().manual_seed(seed), 0.2).save_pretrained(folder)
    return folder


def ip_adapter(
    file: Path, kind: str = "plain", model: Path = TINY / "model", seed: int = 0, faces: bool = False
) -> Path:
    """An IP-Adapter with random weights for a model with a UNet, with the names of the published files.

    Args:
        file: A `.safetensors`, or a `.bin` as the first ones were published.
        kind: `plain`, `plus` or `full`.
        faces: With the LoRAs of the kind FaceID, which is refused.
    """
    import torch
    from safetensors.torch import save_file

    header = read_header(model / "unet" / "diffusion_pytorch_model.safetensors")
    layers = attended({name: entry["shape"] for name, entry in header.items()})
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    words = layers[0][1]
    projection = {name: numbers(*shape) for name, shape in _projection(kind, words).items()}
    attention: dict[str, Any] = {}
    for place, shape in enumerate(layers):
        attention |= {f"{2 * place + 1}.to_{side}_ip.weight": numbers(*shape) for side in "kv"}
        if faces:
            attention[f"{2 * place + 1}.to_k_lora.down.weight"] = numbers(4, shape[1])
    sides = {"image_proj": projection, "ip_adapter": attention}
    if file.suffix == ".safetensors":
        save_file({f"{side}.{name}": tensor for side, part in sides.items() for name, tensor in part.items()}, file)
    else:
        torch.save(sides, file)
    return file


def flux_ip_adapter(file: Path, model: Path, seed: int = 0) -> Path:
    """An IP-Adapter with random weights for a FLUX model, with XLabs' names."""
    import torch
    from safetensors.torch import save_file

    header = read_header(model / "transformer" / "diffusion_pytorch_model.safetensors")
    layers = attended({name: entry["shape"] for name, entry in header.items()})
    generator = torch.Generator().manual_seed(seed)
    shapes = {f"ip_adapter_proj_model.{name}": s for name, s in _projection("plain", layers[0][1]).items()}
    for place, (rows, columns) in enumerate(layers):
        for side in "kv":
            name = f"double_blocks.{place}.processor.ip_adapter_double_stream_{side}_proj"
            shapes |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    save_file({name: torch.randn(*shape, generator=generator) * 0.3 for name, shape in shapes.items()}, file)
    return file


def _projection(kind: str, words: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a projection's tensors."""
    if kind == "plain":
        return {
            "proj.weight": (4 * words, EMBEDDING),
            "proj.bias": (4 * words,),
            "norm.weight": (words,),
            "norm.bias": (words,),
        }
    if kind == "full":
        found = {"proj.0.weight": (HIDDEN, HIDDEN), "proj.0.bias": (HIDDEN,), "proj.2.weight": (words, HIDDEN)}
        return found | dict.fromkeys(("proj.2.bias", "proj.3.weight", "proj.3.bias"), (words,))
    inner = 64
    shapes: dict[str, tuple[int, ...]] = {"latents": (1, 3, inner)}
    shapes |= {"proj_in.weight": (inner, HIDDEN), "proj_in.bias": (inner,)}
    shapes |= {"proj_out.weight": (words, inner), "proj_out.bias": (words,)}
    shapes |= {"norm_out.weight": (words,), "norm_out.bias": (words,)}
    for layer in range(4):
        start = f"layers.{layer}"
        shapes |= {f"{start}.0.{norm}.{end}": (inner,) for norm in ("norm1", "norm2") for end in ("weight", "bias")}
        shapes |= {f"{start}.0.{name}.weight": (inner, inner) for name in ("to_q", "to_out")}
        shapes[f"{start}.0.to_kv.weight"] = (2 * inner, inner)
        shapes |= {f"{start}.1.0.weight": (inner,), f"{start}.1.0.bias": (inner,)}
        shapes |= {f"{start}.1.1.weight": (4 * inner, inner), f"{start}.1.3.weight": (inner, 4 * inner)}
    return shapes
