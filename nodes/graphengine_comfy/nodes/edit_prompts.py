"""Prompts of Qwen-Image-Edit: its text encoder reads the pictures that are edited, and its denoiser sees their latents.

The models are told in ComfyUI by the node that encodes, and not by the text encoder: `TextEncodeQwenImageEdit` is for
the first one, `TextEncodeQwenImageEditPlus` for those of several pictures (2509, 2511). Pictures are resized as there,
by averaging, to an area; the text encoder's own processor then brings them to whole patches.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from graphengine_nodes import VAE, Conditioning, Image
from graphengine_nodes.families.flow import Flow
from graphengine_nodes.families.lookup import family

from graphengine import INERT, Choices, Context, ModelError, Multiline, Uses, node
from graphengine_comfy.nodes.image_sizes import scaled
from graphengine_comfy.nodes.latents import encoded, with_options
from graphengine_comfy.nodes.prompt_encoding import encode
from graphengine_comfy.values import CLIP, CONDITIONING, Entry

if TYPE_CHECKING:
    import torch

Text = Annotated[str, Multiline()]
Encoders = Annotated[CLIP, Uses("text_encoder")]
Coder = Annotated[VAE | None, Uses("vae")]

EDITED, SEEN = 1024 * 1024, 384 * 384
"""The pixels of a picture that is edited, and of one that the text encoder of several pictures reads."""


@node(version=1, on="device")
def TextEncodeQwenImageEdit(
    *, clip: Encoders, prompt: Text, vae: Coder = None, image: Image | None = None, ctx: Context = INERT
) -> CONDITIONING:
    """Encode what is to be changed in a picture, for Qwen-Image-Edit.

    Without a picture it is a prompt of Qwen-Image; without a VAE the text encoder alone sees the picture.

    Raises:
        ValueError: The text encoder is of another family.
        ModelError: It has no processor, which reads pictures.
    """
    if image is None:
        return CONDITIONING((Entry(encode(clip, [prompt], ctx.device)),))
    picture = _of_area(image, EDITED)
    found = CONDITIONING((Entry(_read(clip, prompt, [picture], "edit", ctx.device)),))
    return found if vae is None else _seeing(found, [encoded(vae, picture.pixels, ctx)])


@node(version=1, on="device")
def TextEncodeQwenImageEditPlus(
    *,
    clip: Encoders,
    prompt: Text,
    vae: Coder = None,
    image1: Image | None = None,
    image2: Image | None = None,
    image3: Image | None = None,
    ctx: Context = INERT,
) -> CONDITIONING:
    """Encode what is to be made of up to three pictures, for Qwen-Image-Edit 2509 and 2511.

    The prompt names them `Picture 1` to `Picture 3`, by their inputs. Without a VAE the text encoder alone sees them.

    Raises:
        ValueError: The text encoder is of another family.
        ModelError: It has no processor, which reads pictures.
    """
    images = {number: one for number, one in enumerate((image1, image2, image3), start=1) if one is not None}
    shown = [_of_area(one, SEEN) for one in images.values()]
    found = CONDITIONING((Entry(_read(clip, prompt, shown, "edit_plus", ctx.device, tuple(images))),))
    if vae is None or not images:
        return found
    return _seeing(found, [encoded(vae, _of_area(one, EDITED, 8).pixels, ctx) for one in images.values()])


@node(version=1)
def FluxKontextMultiReferenceLatentMethod(
    *,
    conditioning: CONDITIONING,
    reference_latents_method: Annotated[str, Choices("offset", "index", "uxo/uno", "index_timestep_zero")] = "offset",
) -> CONDITIONING:
    """Say where the pictures that a model sees stand beside the one that it makes.

    `offset`: on one layer, beside one another (FLUX.1 Kontext); `index`: each on a layer of its own (FLUX.2,
    Qwen-Image-Edit); `index_timestep_zero`: the same, as pictures without noise (Qwen-Image-Edit 2511).
    """
    return with_options(conditioning, reference_method=reference_latents_method)


def _of_area(image: Image, area: int, multiple: int = 1) -> Image:
    """A picture of about an area, its sides multiples of a number, resized by averaging."""
    factor = math.sqrt(area / math.prod(image.size))
    width, height = (max(1, round(side * factor / multiple)) * multiple for side in image.size)
    return scaled(image.opaque(), width, height, "area")


def _seeing(given: CONDITIONING, latents: Sequence[torch.Tensor]) -> CONDITIONING:
    """Prompts with reference latents."""
    return with_options(given, references=list(latents))


def _read(
    clip: CLIP, prompt: str, pictures: Sequence[Image], variant: str, device: str, numbers: tuple[int, ...] = ()
) -> Conditioning:
    """A prompt with the pictures that a variant's text encoder reads.

    Args:
        numbers: Of the pictures, where the prompt names them.

    Raises:
        ValueError: The text encoder is of another family.
        ModelError: It has no processor.
    """
    from graphengine_nodes.store.store import store

    model = clip.encoder.model
    if model.family != "qwen_image":
        raise ValueError(f"{clip.source} is of a {model.family} model; load a text encoder of the type qwen_image")
    if "processor" not in dict(model.components):
        raise ModelError(
            f"{clip.source} has no processor, which reads pictures: put model_index.json and the folders tokenizer and "
            "processor of a published Qwen-Image-Edit into tokenizers/qwen_image among the models"
        )
    model = replace(model, settings=tuple(sorted({**dict(model.settings), "variant": variant}.items())))
    found = _reader(numbers).encode_prompt(store, model, prompt, 0, model.computes_on(device), references=pictures)
    return replace(found, seen=())  # what the sampler gets besides are latents, and no pictures to compare


@functools.cache
def _reader(numbers: tuple[int, ...]) -> Flow:
    """The family, but that its pipelines get pictures as they are, by numbers of their own, and may get none."""
    known: Any = family("qwen_image")
    record = known.record

    def numbered(pipeline: Any, pictures: Sequence[Any]) -> Any:
        reads = pipeline.processor

        def processor(*args: Any, text: Sequence[str], **kwargs: Any) -> Any:
            return reads(*args, text=[_renumbered(one, numbers) for one in text], **kwargs)

        vars(pipeline)["processor"] = processor
        return list(pictures)

    as_they_are = {"edit": lambda pipeline, pictures: pictures[0], "edit_plus": numbered}
    variants = dict(record.variants)
    for name, shown in as_they_are.items():
        own = variants[name]
        tasks = {**own.tasks, "": variants[""].tasks[""]}
        variants[name] = replace(own, tasks=tasks, text=replace(own.text, shown=shown))
    return Flow(replace(record, variants=variants))


def _renumbered(text: str, numbers: Sequence[int]) -> str:
    """A prompt whose pictures diffusers has counted, with other numbers: each is its count or more."""
    for count, number in reversed([*enumerate(numbers, start=1)]):
        text = text.replace(f"Picture {count}: <|vision_start|>", f"Picture {number}: <|vision_start|>", 1)
    return text
