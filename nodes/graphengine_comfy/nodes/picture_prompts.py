"""Pictures as prompts: FLUX.1 Redux, and pictures that a model sees beside its latents."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import graphengine_nodes as std
from graphengine_nodes import Image

from graphengine import INERT, Choices, Context, ModelError, Range, node
from graphengine_comfy.nodes.latents import Decoder, Prepared, encoded, fitted, with_options
from graphengine_comfy.nodes.model_folders import find
from graphengine_comfy.values import CLIP_VISION, CLIP_VISION_OUTPUT, CONDITIONING, LATENT, STYLE_MODEL, Entry

if TYPE_CHECKING:
    import torch


@node(version=1)
def CLIPVisionEncode(
    *, clip_vision: CLIP_VISION, image: Image, crop: Annotated[str, Choices("center", "none")] = "center"
) -> CLIP_VISION_OUTPUT:
    """Give a picture to an image encoder: its middle square, or all of it stretched to a square."""
    return CLIP_VISION_OUTPUT(clip_vision, image.opaque().pixels, crop == "center")


@node(version=1, on="device")
def StyleModelApply(
    *,
    conditioning: CONDITIONING,
    style_model: STYLE_MODEL,
    clip_vision_output: CLIP_VISION_OUTPUT,
    strength: Annotated[float, Range(0.0, 10.0, 0.001)] = 1.0,
    strength_type: Annotated[str, Choices("multiply", "attn_bias")] = "multiply",
    ctx: Context = INERT,
) -> CONDITIONING:
    """Put a picture into a prompt of FLUX.1 by Redux: its tokens, times the strength, follow the text's.

    Raises:
        ValueError: The strength is to bias attention, which diffusers' pipelines do not; the prompt is of another
            family.
        ModelError: The files are none of Redux.
    """
    import torch

    if strength_type == "attn_bias" and strength != 1.0:
        raise ValueError("diffusers' pipelines bias no attention: take the strength_type multiply, or strength 1")
    source = find("style_models", style_model.source)
    redux = std.load_redux(source, image_encoder=find("clip_vision", clip_vision_output.encoder.source))
    picture = Image(_square(clip_vision_output.pixels) if clip_vision_output.crop else clip_vision_output.pixels)
    if len(picture) != 1:
        raise ModelError(f"Redux reads one picture here, and got {len(picture)}: take ImageFromBatch before")
    found = []
    for entry in conditioning.entries:
        words = int(entry.prompt.embeds.shape[1])
        prompt = std.apply_redux(entry.prompt, redux, picture, ctx=ctx)
        embeds = torch.cat([prompt.embeds[:, :words], prompt.embeds[:, words:] * strength], dim=1)
        found.append(Entry(replace(prompt, embeds=embeds), entry.options, entry.controls))
    return CONDITIONING(tuple(found))


def _square(pixels: torch.Tensor) -> torch.Tensor:
    """The middle square of pictures [B, H, W, 3]."""
    height, width = (int(side) for side in pixels.shape[1:3])
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[:, top : top + side, left : left + side].contiguous()


@node(version=1, on="device")
def InstructPixToPixConditioning(
    *, positive: CONDITIONING, negative: CONDITIONING, vae: Decoder, pixels: Image, ctx: Context = INERT
) -> Prepared:
    """Let a model that follows pictures (FLUX.1 Canny, Depth) see one, and begin at noise of its size."""
    import torch

    concat = encoded(vae, fitted(vae, pixels.opaque().pixels), ctx)
    sides = [with_options(one, concat_latent=concat) for one in (positive, negative)]
    return Prepared(sides[0], sides[1], LATENT(torch.zeros_like(concat)))
