"""IP-Adapters on a denoiser that is not shared, and the image encoders that read their pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from graphengine import ModelError
from graphengine_nodes.families.picture_scales import blocks_of, check_blocks
from graphengine_nodes.values.types import Image
from graphengine_nodes.weights.ip_adapter_files import read_adapter

if TYPE_CHECKING:
    import torch


def add_ip_adapters(denoiser: Any, adapters: Sequence[tuple[Path, float | str]]) -> None:
    """Put IP-Adapters (file, scale) beside the attention of a denoiser that is not shared.

    They are diffusers' own layers. Only these are cast and moved: the denoiser's weights stay shared.

    Raises:
        ModelError: A file is damaged, or does not fit the denoiser; a scale names a block that it does not have.
    """
    from diffusers.loaders.ip_adapter import FluxIPAdapterMixin, IPAdapterMixin
    from diffusers.models.embeddings import MultiIPAdapterImageProjection

    names = " and ".join(path.name for path, _ in adapters)
    states = [read_adapter(path) for path, _ in adapters]
    dtype, device = denoiser.dtype, denoiser.device
    denoiser.encoder_hid_proj = None
    try:
        processors = denoiser._convert_ip_adapter_attn_to_diffusers(states)
        projections = [denoiser._convert_ip_adapter_image_proj_to_diffusers(state["image_proj"]) for state in states]
    except (KeyError, RuntimeError, ValueError) as error:
        raise ModelError(f"{names} does not fit the denoiser ({error!s:.200}); it is for another model") from None
    projection = MultiIPAdapterImageProjection(projections)
    for module in (projection, *processors.values()):
        if hasattr(module, "parameters"):  # processors of attention without an adapter are no modules
            module.to(device=device, dtype=dtype)
    denoiser.set_attn_processor(processors)
    denoiser.encoder_hid_proj = projection
    denoiser.config.encoder_hid_dim_type = "ip_image_proj"
    scales = [json.loads(scale) if isinstance(scale, str) else scale for _, scale in adapters]
    flux = hasattr(denoiser, "transformer_blocks")
    set_scale: Any = (FluxIPAdapterMixin if flux else IPAdapterMixin).set_ip_adapter_scale
    pipeline = SimpleNamespace(**{"transformer" if flux else "unet": denoiser})
    try:
        if not flux:
            for scale in scales:
                if isinstance(scale, dict):
                    check_blocks(scale, blocks_of(denoiser.state_dict()), "the denoiser")
        set_scale(pipeline, scales[0] if len(scales) == 1 else scales)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"the scales of {names} do not fit the denoiser's blocks: {error!s:.200}") from None


def encode_pictures(
    encoder: Any, pictures: Sequence[Image], patches: bool, black: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode pictures as diffusers' pipelines do, and what stands for no picture: [1, n, width] each, on the CPU.

    Args:
        patches: The last hidden states but one, [1, n, patches, width], in place of a picture's embedding.
        black: A single black picture stands for no picture, as for FLUX; else zeros do.
    """
    import PIL.Image
    import torch
    from transformers import CLIPImageProcessor

    side = encoder.config.image_size
    extract: Any = CLIPImageProcessor(size=side, crop_size=side)
    pils = [pil for picture in pictures for pil in picture.pils()]

    def pixels_of(given: Sequence[Any]) -> torch.Tensor:
        found: torch.Tensor = extract(given, return_tensors="pt").pixel_values.to(encoder.device, encoder.dtype)
        return found

    pixels = pixels_of(pils)
    with torch.no_grad():
        if patches:
            both = [
                encoder(given, output_hidden_states=True).hidden_states[-2]
                for given in (pixels, torch.zeros_like(pixels))
            ]
        else:
            embeds = encoder(pixels).image_embeds
            nothing = (
                encoder(pixels_of([PIL.Image.new("RGB", (side, side))])).image_embeds
                if black
                else torch.zeros_like(embeds)
            )
            both = [embeds, nothing]
    positive, negative = (found[None].cpu() for found in both)
    return positive, negative
