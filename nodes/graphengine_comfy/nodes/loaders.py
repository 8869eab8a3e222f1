"""Loaders: nodes that make references to the files of models."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Annotated, NamedTuple

import graphengine_nodes as std
from graphengine_nodes import VAE, Denoiser
from graphengine_nodes.families.lookup import families
from graphengine_nodes.nodes.parts import config_of
from graphengine_nodes.values.references import ControlNet, Model, digest_of

from graphengine import Choices, ModelError, Range, node
from graphengine_comfy.nodes.model_folders import choices, find, tokenizers
from graphengine_comfy.nodes.t2i_adapters import is_adapter
from graphengine_comfy.values import (
    CLIP,
    CLIP_VISION,
    CONTROL_NET,
    MODEL,
    STYLE_MODEL,
    UPSCALE_MODEL,
)


def _files(folder: str) -> Callable[[], list[str]]:
    return functools.partial(choices, folder)


Checkpoint = Annotated[str, Choices(_files("checkpoints"))]
Lora = Annotated[str, Choices(_files("loras"))]
Encoder = Annotated[str, Choices(_files("text_encoders"))]
Strength = Annotated[float, Range(-100.0, 100.0, 0.01)]


class Checkpointed(NamedTuple):
    """The parts of a checkpoint."""

    MODEL: MODEL
    CLIP: CLIP
    VAE: VAE


@node(version=1)
def CheckpointLoaderSimple(*, ckpt_name: Checkpoint) -> Checkpointed:
    """Load a checkpoint: a file or a folder in diffusers layout in the folder `checkpoints`, or `tiny`.

    Raises:
        ModelError: It is no model of a known family, or incomplete.
    """
    model = std.load_model(find("checkpoints", ckpt_name))
    parts = std.split_model(model)
    denoiser = MODEL(parts.denoiser, _vae_config(model), shown_by=model.component("vae"))
    return Checkpointed(denoiser, CLIP(_with_embeddings(parts.text_encoder)), parts.vae)


def _vae_config(model: Model) -> str:
    config = config_of(model, "vae")
    return "" if config is None else json.dumps(config, sort_keys=True)


@node(version=1)
def UNETLoader(
    *,
    unet_name: Annotated[str, Choices(_files("diffusion_models"))],
    weight_dtype: Annotated[str, Choices("default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2")] = "default",
) -> MODEL:
    """Load a denoiser: a file or folder in `diffusion_models` or `unet`. Its numbers stay as the file has them.

    Raises:
        ModelError: It is no denoiser of a known family, or incomplete; `weight_dtype` asks to round it.
    """
    if weight_dtype != "default":
        raise ModelError(f"weight_dtype {weight_dtype} rounds the weights, which is not done here: give default")
    return MODEL(std.load_denoiser(find("diffusion_models", unet_name)))


TYPES = {
    "stable_diffusion": "stable_diffusion",
    "sdxl": "stable_diffusion_xl",
    "sd3": "stable_diffusion_3",
    "flux": "flux",
    "chroma": "chroma",
    "lumina2": "z_image",
    "z_image": "z_image",
    "qwen_image": "qwen_image",
    "flux2": "flux2",
    "wan": "wan",
}
"""ComfyUI's types of text encoders, and the families that read prompts with them."""

CLIP_TYPES = (
    "stable_diffusion", "stable_cascade", "sd3", "stable_audio", "mochi", "ltxv", "pixart", "cosmos", "lumina2", "wan",
    "hidream", "chroma", "ace", "omnigen2", "qwen_image", "hunyuan_image", "flux2", "ovis", "flux", "sdxl", "z_image",
)  # fmt: skip
"""The types of a single text encoder; the last three are for folders of whole models."""


DUAL_TYPES = (
    "sdxl", "sd3", "flux", "hunyuan_video", "hidream", "hunyuan_image", "hunyuan_video_15", "kandinsky5", "ltxv", "ace",
)  # fmt: skip


def _encoders(type: str, *names: str) -> CLIP:
    if type not in TYPES or TYPES[type] not in families():
        raise ModelError(f"text encoders of the type {type!r} are of no family that is here")
    paths = [find("text_encoders", name) for name in names]
    first, second, third = [*paths, None, None][:3]
    assert first is not None
    whole = len(names) == 1 and getattr(first, "is_dir", lambda: False)()
    family = None if whole else TYPES[type]
    words = None if family is None else tokenizers(family)
    config = words if words is not None and (words / "model_index.json").is_file() else None
    try:
        loaded = std.load_text_encoder(
            first, source_2=second, source_3=third, family=family, tokenizer=words, config=config
        )
    except ModelError as error:
        if family is None or words is not None or "give tokenizer" not in str(error):
            raise
        what, _, _ = str(error).partition(": give tokenizer")
        advice = f"put the folders tokenizer, tokenizer_2, ... of a published {family} model into tokenizers/{family}"
        raise ModelError(f"{what}: {advice} among the models") from None
    return CLIP(_with_embeddings(loaded))


def _with_embeddings(encoder: std.TextEncoder) -> std.TextEncoder:
    """Text encoders with all textual inversions of the folder `embeddings` that fit, by their files' names.

    A prompt's key cannot hold the files that its words name: the reference of the text encoder holds them.
    """
    model = encoder.model
    for name in choices("embeddings"):
        stem = re.sub(r"[^\w.-]", "_", PurePosixPath(name).stem)
        if name.endswith(".safetensors") and stem not in dict(model.embeddings):
            with contextlib.suppress(ModelError):  # of another family
                model = std.apply_embedding(model, stem, find("embeddings", name))
    return std.TextEncoder(model, encoder.families)


@node(version=1)
def CLIPLoader(
    *,
    clip_name: Encoder,
    type: Annotated[str, Choices(*CLIP_TYPES)] = "stable_diffusion",
    device: Annotated[str, Choices("default", "cpu")] = "default",
) -> CLIP:
    """Load a text encoder: a file in `text_encoders` or `clip`, or a model's folder there. `device` changes nothing.

    Raises:
        ModelError: It is no text encoder of a family of this type.
    """
    return _encoders(type, clip_name)


@node(version=1)
def DualCLIPLoader(
    *,
    clip_name1: Encoder,
    clip_name2: Encoder,
    type: Annotated[str, Choices(*DUAL_TYPES)] = "sdxl",
    device: Annotated[str, Choices("default", "cpu")] = "default",
) -> CLIP:
    """Load the two text encoders of a model, in any order.

    Raises:
        ModelError: They are no text encoders of a family of this type.
    """
    return _encoders(type, clip_name1, clip_name2)


@node(version=1)
def TripleCLIPLoader(*, clip_name1: Encoder, clip_name2: Encoder, clip_name3: Encoder) -> CLIP:
    """Load the three text encoders of Stable Diffusion 3, in any order.

    Raises:
        ModelError: They are no text encoders of it.
    """
    return _encoders("sd3", clip_name1, clip_name2, clip_name3)


@node(version=1)
def VAELoader(*, vae_name: Annotated[str, Choices(_files("vae"))]) -> VAE:
    """Load a VAE: a file or folder in `vae`.

    Files do not tell the scale of their latents. It need not be known: latents pass between nodes in the VAE's own.

    Raises:
        ModelError: It is no VAE of a known family.
    """
    path = find("vae", vae_name)
    try:
        return std.load_vae(path)
    except ModelError:
        for family in SEVERAL:
            with contextlib.suppress(ModelError):
                return std.load_vae(path, family=family)
        raise


SEVERAL = ("stable_diffusion", "flux")
"""Families whose VAEs have the shape of another family's, with another scale: SDXL's and Stable Diffusion 3's."""


# --- LoRAs ------------------------------------------------------------------------------------------------------------


class Patched(NamedTuple):
    """A model and its text encoders with a LoRA."""

    MODEL: MODEL
    CLIP: CLIP


@node(version=1)
def LoraLoader(
    *,
    model: MODEL,
    clip: CLIP,
    lora_name: Lora,
    strength_model: Strength = 1.0,
    strength_clip: Strength = 1.0,
) -> Patched:
    """Add a LoRA of the folder `loras` to a model and its text encoders; at strength 0 it changes nothing.

    Changes that have no place in the model are left out with a warning.

    Raises:
        ModelError: It is for another family.
    """
    return Patched(
        _with_lora(model, lora_name, strength_model),
        replace(clip, encoder=std.TextEncoder(*_applied(clip.encoder, "text_encoder", lora_name, strength_clip))),
    )


@node(version=1)
def LoraLoaderModelOnly(*, model: MODEL, lora_name: Lora, strength_model: Strength = 1.0) -> MODEL:
    """Add a LoRA of the folder `loras` to a model alone; at strength 0 it changes nothing.

    Raises:
        ModelError: It is for another family.
    """
    return _with_lora(model, lora_name, strength_model)


def _with_lora(model: MODEL, name: str, strength: float) -> MODEL:
    return replace(model, denoiser=Denoiser(*_applied(model.denoiser, "denoiser", name, strength)))


def _applied(
    part: Denoiser | std.TextEncoder, which: str, name: str, strength: float
) -> tuple[Model, tuple[str, ...]]:
    """A part of a model with the changes of a LoRA that are for it."""
    if strength == 0:
        return part.model, part.families
    lora = std.load_lora(find("loras", name))
    if which not in lora.parts:
        return part.model, part.families
    lora = replace(lora, parts=(which,))
    return std.apply_lora(part.model, lora, strength, partial=True), part.families


# --- others -----------------------------------------------------------------------------------------------------------


@node(version=1)
def ControlNetLoader(*, control_net_name: Annotated[str, Choices(_files("controlnet"))]) -> CONTROL_NET:
    """Load a ControlNet, or a T2I-Adapter of Stable Diffusion 1, of the folder `controlnet`; or `tiny-canny`.

    Raises:
        ModelError: It is no ControlNet of a known family.
    """
    path = find("controlnet", control_net_name)
    if is_adapter(path):
        return CONTROL_NET(
            ControlNet("stable_diffusion", _content("controlnet", control_net_name), source=control_net_name),
            adapter=True,
        )
    return CONTROL_NET(std.load_controlnet(find("controlnet", control_net_name)))


@node(version=1)
def CLIPVisionLoader(*, clip_name: Annotated[str, Choices(_files("clip_vision"))]) -> CLIP_VISION:
    """Name an image encoder of the folder `clip_vision`; the style model that reads by it loads it."""
    return CLIP_VISION(_content("clip_vision", clip_name), clip_name)


@node(version=1)
def StyleModelLoader(*, style_model_name: Annotated[str, Choices(_files("style_models"))]) -> STYLE_MODEL:
    """Name a style model (FLUX.1 Redux) of the folder `style_models`."""
    return STYLE_MODEL(_content("style_models", style_model_name), style_model_name)


def _content(folder: str, name: str) -> str:
    """A digest of a file's content, or of all files of a folder."""
    from graphengine import fingerprint

    path = find(folder, name)
    assert not isinstance(path, str)
    if path.is_file():
        return fingerprint(path)
    return digest_of([[one.name, fingerprint(one)] for one in sorted(path.iterdir()) if one.is_file()])


@node(version=1)
def UpscaleModelLoader(*, model_name: Annotated[str, Choices(_files("upscale_models"))]) -> UPSCALE_MODEL:
    """Load an upscale model of the folder `upscale_models`.

    Raises:
        ModelError: It is none of an architecture that spandrel knows.
    """
    path = find("upscale_models", model_name)
    return UPSCALE_MODEL(std.load_upscaler(path))


@node(version=1)
def CLIPSetLastLayer(*, clip: CLIP, stop_at_clip_layer: Annotated[int, Range(-24, -1, 1)] = -1) -> CLIP:
    """Take the output of an earlier layer of the text encoders: -1 is the last one, -2 the one before."""
    return replace(clip, stop_at=stop_at_clip_layer)


@node(version=1)
def T5TokenizerOptions(
    *,
    clip: CLIP,
    min_padding: Annotated[int, Range(0, 10000, 1)] = 0,
    min_length: Annotated[int, Range(0, 10000, 1)] = 0,
) -> CLIP:
    """Say how many tokens of padding follow a prompt of Chroma: none, or one, as diffusers' pipeline has it.

    Raises:
        ValueError: Another padding or length is asked for, or the text encoder is of another family.
    """
    family = clip.encoder.model.family
    if family != "chroma" or min_padding > 1 or min_length > 1:
        raise ValueError(f"T5TokenizerOptions is followed for Chroma's min_padding 0 or 1 alone, not for {family} so")
    return replace(clip, padding=min_padding)
