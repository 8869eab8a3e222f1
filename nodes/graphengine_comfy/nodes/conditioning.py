"""Prompts: encoded, joined, and given options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

from graphengine_nodes import Conditioning

from graphengine import INERT, Context, Multiline, Range, Uses, node
from graphengine_comfy.nodes.latents import with_options
from graphengine_comfy.nodes.prompt_encoding import encode
from graphengine_comfy.nodes.resizing import MOST
from graphengine_comfy.values import CLIP, CONDITIONING, LATENT, Entry

Text = Annotated[str, Multiline()]
Encoders = Annotated[CLIP, Uses("text_encoder")]
Pixels = Annotated[int, Range(0, MOST, 1)]
Share = Annotated[float, Range(0.0, 1.0, 0.001)]
Guidance = Annotated[float, Range(0.0, 100.0, 0.1)]


def _one(prompt: Conditioning, **options: Any) -> CONDITIONING:
    return CONDITIONING((Entry(prompt, options),))


@node(version=1, on="device")
def CLIPTextEncode(*, text: Text, clip: Encoders, ctx: Context = INERT) -> CONDITIONING:
    """Encode a prompt.

    `(text)` is 1.1 times and `(text:1.3)` 1.3 times as far from the empty prompt; longer prompts than the text encoder
    reads are encoded in pieces.
    """
    return _one(encode(clip, [text], ctx.device))


@node(version=1, on="device")
def CLIPTextEncodeSDXL(
    *,
    clip: Encoders,
    width: Pixels = 1024,
    height: Pixels = 1024,
    crop_w: Pixels = 0,
    crop_h: Pixels = 0,
    target_width: Pixels = 1024,
    target_height: Pixels = 1024,
    text_g: Text = "",
    text_l: Text = "",
    ctx: Context = INERT,
) -> CONDITIONING:
    """Encode a prompt for each text encoder of SDXL, with the sizes that the model is told."""
    sizes = {"width": width, "height": height, "crop_w": crop_w, "crop_h": crop_h}
    sizes |= {"target_width": target_width, "target_height": target_height}
    return _one(encode(clip, [text_l, text_g], ctx.device), **sizes)


@node(version=1, on="device")
def CLIPTextEncodeSDXLRefiner(
    *,
    ascore: Annotated[float, Range(0.0, 1000.0, 0.01)] = 6.0,
    width: Pixels = 1024,
    height: Pixels = 1024,
    text: Text = "",
    clip: Encoders,
    ctx: Context = INERT,
) -> CONDITIONING:
    """Encode a prompt for SDXL's refiner, with the size and the score of pictures that the model is told."""
    return _one(encode(clip, [text], ctx.device), aesthetic_score=ascore, width=width, height=height)


@node(version=1, on="device")
def CLIPTextEncodeFlux(
    *,
    clip: Encoders,
    clip_l: Text = "",
    t5xxl: Text = "",
    guidance: Guidance = 3.5,
    ctx: Context = INERT,
) -> CONDITIONING:
    """Encode a prompt for each text encoder of FLUX.1, with the guidance that the model is told."""
    return _one(encode(clip, [clip_l, t5xxl], ctx.device), guidance=guidance)


@node(version=1)
def FluxGuidance(*, conditioning: CONDITIONING, guidance: Guidance = 3.5) -> CONDITIONING:
    """Say the guidance that FLUX.1 dev is told."""
    return with_options(conditioning, guidance=guidance)


@node(version=1)
def FluxDisableGuidance(*, conditioning: CONDITIONING) -> CONDITIONING:
    """Tell the model no guidance.

    Raises:
        ValueError: Always: diffusers' pipelines tell a model that takes guidance some.
    """
    raise ValueError("diffusers' pipelines tell FLUX.1 dev always some guidance: take FluxGuidance")


# --- several prompts --------------------------------------------------------------------------------------------------


@node(version=1)
def ConditioningCombine(*, conditioning_1: CONDITIONING, conditioning_2: CONDITIONING) -> CONDITIONING:
    """Let two prompts act together: what the model predicts for each is averaged."""
    return CONDITIONING((*conditioning_1.entries, *conditioning_2.entries))


@node(version=1)
def ConditioningConcat(*, conditioning_to: CONDITIONING, conditioning_from: CONDITIONING) -> CONDITIONING:
    """Put the tokens of a prompt behind those of another."""
    import torch

    more = conditioning_from.entries[0].prompt.embeds
    return _changed(conditioning_to, lambda one: replace(one, embeds=torch.cat([one.embeds, more], dim=1)))


@node(version=1)
def ConditioningAverage(
    *,
    conditioning_to: CONDITIONING,
    conditioning_from: CONDITIONING,
    conditioning_to_strength: Annotated[float, Range(0.0, 1.0, 0.01)] = 1.0,
) -> CONDITIONING:
    """Mix the embeddings of two prompts, token by token."""
    import torch

    other, share = conditioning_from.entries[0].prompt, conditioning_to_strength

    def mixed(one: Conditioning) -> Conditioning:
        more = other.embeds[:, : one.embeds.shape[1]]
        more = torch.nn.functional.pad(more, (0, 0, 0, one.embeds.shape[1] - more.shape[1]))
        pooled = other.pooled if one.pooled is None else one.pooled
        if one.pooled is not None and other.pooled is not None:
            pooled = one.pooled * share + other.pooled * (1 - share)
        return replace(one, embeds=one.embeds * share + more * (1 - share), pooled=pooled)

    return _changed(conditioning_to, mixed)


@node(version=1)
def ConditioningZeroOut(*, conditioning: CONDITIONING) -> CONDITIONING:
    """Put zeros in the place of the embeddings."""
    import torch

    def zeros(one: Conditioning) -> Conditioning:
        pooled = None if one.pooled is None else torch.zeros_like(one.pooled)
        return replace(one, embeds=torch.zeros_like(one.embeds), pooled=pooled)

    return _changed(conditioning, zeros)


@node(version=1)
def ConditioningSetTimestepRange(*, conditioning: CONDITIONING, start: Share = 0.0, end: Share = 1.0) -> CONDITIONING:
    """Let a prompt act in a part of sampling only: 0 is its beginning, 1 its end."""
    return with_options(conditioning, start=start, end=end)


@node(version=1)
def ReferenceLatent(*, conditioning: CONDITIONING, latent: LATENT | None = None) -> CONDITIONING:
    """Let a model that edits see a picture, by its latents; several nodes give several pictures."""
    if latent is None:
        return conditioning
    found = []
    for one in conditioning.entries:
        references = [*one.options.get("references", ()), latent.samples]
        found.append(Entry(one.prompt, {**one.options, "references": references}, one.controls))
    return CONDITIONING(tuple(found))


def _changed(given: CONDITIONING, change: Callable[[Conditioning], Conditioning]) -> CONDITIONING:
    return CONDITIONING(tuple(Entry(change(one.prompt), one.options, one.controls) for one in given.entries))
