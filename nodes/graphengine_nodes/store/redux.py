"""FLUX.1 Redux: pictures as tokens of a prompt, as diffusers' pipeline computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from graphengine_nodes.values.types import Conditioning, Image


def with_pictures(
    redux: Any, prompt: Conditioning, pictures: Sequence[Image], scales: Sequence[float], pooled: Sequence[float]
) -> Conditioning:
    """Put the tokens of pictures behind those of a prompt, scale both, and sum up what each picture makes of it.

    Args:
        redux: The networks `encoder` and `embedder`, on a device.
        scales, pooled: A factor for each picture, of tokens and of the pooled embedding.

    Raises:
        ValueError: Its tokens are of another width than the prompt's.
    """
    import torch
    from transformers import SiglipImageProcessor

    encoder, embedder = redux["encoder"], redux["embedder"]
    side = encoder.config.image_size
    extract: Any = SiglipImageProcessor(size={"height": side, "width": side})
    pils = [pil for picture in pictures for pil in picture.pils()]
    pixels = extract.preprocess(images=pils, do_resize=True, return_tensors="pt", do_convert_rgb=True).pixel_values
    with torch.no_grad():
        seen = encoder(pixels.to(encoder.device, encoder.dtype)).last_hidden_state
        tokens = embedder(seen).image_embeds.cpu()
    if tokens.shape[2] != prompt.embeds.shape[2]:
        raise ValueError(
            f"this Redux makes tokens of {tokens.shape[2]} numbers, and the prompt has {prompt.embeds.shape[2]}: they "
            "are for models of another width"
        )
    assert prompt.pooled is not None
    count = len(pils)
    embeds = torch.cat([prompt.embeds.repeat(count, 1, 1), tokens], dim=1)
    embeds = embeds * torch.tensor(scales, dtype=tokens.dtype)[:, None, None]
    text = prompt.pooled.repeat(count, 1) * torch.tensor(pooled, dtype=tokens.dtype)[:, None]
    return replace(
        prompt, embeds=torch.sum(embeds, dim=0, keepdim=True), pooled=torch.sum(text, dim=0, keepdim=True), absent=False
    )
