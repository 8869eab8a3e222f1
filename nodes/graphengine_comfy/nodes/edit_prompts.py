"""Prompts of Qwen-Image-Edit and Qwen-Image 2.1: the text encoder reads the pictures that are edited, and the denoiser
sees their latents.

The models are told in ComfyUI by the node that encodes, and not by the text encoder: `TextEncodeQwenImageEdit` is for
the first one, `TextEncodeQwenImageEditPlus` for those of several pictures (2509, 2511). Pictures are resized as there,
by averaging, to an area; the text encoder's own processor then brings them to whole patches.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from graphengine_nodes import VAE, Conditioning, Image
from graphengine_nodes.families.flow import Flow
from graphengine_nodes.families.lookup import family

from graphengine import INERT, Choices, Context, ModelError, Multiline, Range, Uses, node
from graphengine_comfy.nodes.image_sizes import scaled
from graphengine_comfy.nodes.latents import encoded, with_options
from graphengine_comfy.nodes.prompt_encoding import encode
from graphengine_comfy.values import CLIP, CONDITIONING, LATENT, MODEL, Entry

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


class Asked(NamedTuple):
    """A positive and a negative prompt, and empty latents of the size of the first picture."""

    positive: CONDITIONING
    negative: CONDITIONING
    latent: LATENT


@node(version=1, on="device")
def TextEncodeQwenImage21(
    *,
    clip: Encoders,
    prompt: Text = "",
    negative_prompt: Text = "",
    vae: Coder = None,
    resolution: Annotated[int, Range(0, 4096, 32)] = 1024,
    images: list[Image] | None = None,
    ctx: Context = INERT,
) -> Asked:
    """Encode prompts of Qwen-Image 2.1, with the pictures that it is to edit or to refer to.

    Pictures are brought to about `resolution` pixels a side, multiples of 32; at 0 they keep their size. The first of a
    batch counts.

    Raises:
        ValueError: The text encoder is of another family; there are pictures without a VAE, or with transparency.
    """
    import torch

    model = clip.encoder.model
    if model.family != "qwen_image_21":
        raise ValueError(f"{clip.source} is of a {model.family} model; TextEncodeQwenImage21 is for Qwen-Image 2.1")
    if images and vae is None:
        raise ValueError("pictures that the text encoder of Qwen-Image 2.1 reads alone are not followed here: link vae")
    if any(one.alpha is not None for one in images or ()):
        raise ValueError("pictures with transparency are not followed here yet: take SplitImageWithAlpha before")
    shown = [_of_side(one, resolution) for one in images or ()]
    width, height = shown[0].size if shown else (resolution or 1024, resolution or 1024)
    seen = {} if vae is None or not shown else {"references": [encoded(vae, one.pixels, ctx) for one in shown]}
    sides = [_encoded(clip, text or " ", shown, "", ctx.device) for text in (prompt, negative_prompt)]
    one, other = (CONDITIONING((Entry(side, dict(seen)),)) for side in sides)
    return Asked(one, other, LATENT(torch.zeros(1, 64, height // 16, width // 16)))


@node(version=1)
def QwenImage21Cache(
    *,
    model: MODEL,
    device: Annotated[str, Choices("auto", "gpu", "cpu", "off")] = "auto",
    dtype: Annotated[str, Choices("default", "int8", "int4")] = "default",
) -> MODEL:
    """Say where keys and values of prompt and pictures are kept between the steps, which changes no picture.

    Raises:
        ValueError: They are to be rounded.
    """
    if dtype != "default":
        raise ValueError(f"dtype {dtype} rounds what is kept between the steps, which is not done here: give default")
    return model


class Generated(NamedTuple):
    """A text that a language model has written, and what it thought before."""

    generated_text: str
    thinking: str


@node(version=1)
def TextGenerate(
    *,
    clip: CLIP,
    prompt: Text = "",
    image: Image | None = None,
    video: Image | None = None,
    audio: Any = None,
    system_prompt: str | None = None,
    max_length: int = 256,
    sampling_mode: Annotated[str, Choices("on", "off")] = "on",
    sampling_mode_temperature: float = 0.7,
    sampling_mode_top_k: int = 64,
    sampling_mode_top_p: float = 0.95,
    sampling_mode_min_p: float = 0.05,
    sampling_mode_repetition_penalty: float = 1.05,
    sampling_mode_seed: int = 0,
    sampling_mode_presence_penalty: float = 0.0,
    thinking: bool = False,
    use_default_template: bool = True,
    mtp: str = "auto",
) -> Generated:
    """Write a text by a language model: workflows have it behind a switch, to write prompts anew.

    Raises:
        ValueError: Always: there is no such model here. Where the switch is off, it is not asked.
    """
    raise ValueError("no language model writes texts here: switch the enhancing of prompts off, or write the prompt")


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


def _of_side(image: Image, resolution: int) -> Image:
    """The first picture of a batch at about so many pixels a side, multiples of 32."""
    factor = resolution / math.sqrt(math.prod(image.size)) if resolution else 1.0
    sides = [max(32, round(side * factor / 32) * 32) for side in image.size]
    return scaled(Image(image.pixels[:1]), sides[0], sides[1], "lanczos")


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
    model = clip.encoder.model
    if model.family != "qwen_image":
        raise ValueError(f"{clip.source} is of a {model.family} model; load a text encoder of the type qwen_image")
    if "processor" not in dict(model.components):
        raise ModelError(
            f"{clip.source} has no processor, which reads pictures: put model_index.json and the folders tokenizer and "
            "processor of a published Qwen-Image-Edit into tokenizers/qwen_image among the models"
        )
    return _encoded(clip, prompt, pictures, variant, device, numbers)


def _encoded(
    clip: CLIP, prompt: str, pictures: Sequence[Image], variant: str, device: str, numbers: tuple[int, ...] = ()
) -> Conditioning:
    """A prompt as a variant's pipeline encodes it, with pictures in the size that they have."""
    from graphengine_nodes.store.store import store

    model = clip.encoder.model
    if variant:
        model = replace(model, settings=tuple(sorted({**dict(model.settings), "variant": variant}.items())))
    reader = _reader(model.family, numbers)
    found = reader.encode_prompt(store, model, prompt, 0, model.computes_on(device), references=pictures)
    return replace(found, seen=())  # what the sampler gets besides are latents, and no pictures to compare


@functools.cache
def _reader(name: str, numbers: tuple[int, ...]) -> Flow:
    """A family, but that its pipelines get pictures as they are, by numbers of their own, and may get none."""
    known: Any = family(name)
    record = known.record

    def numbered(pipeline: Any, pictures: Sequence[Any]) -> Any:
        reads = pipeline.processor

        def processor(*args: Any, text: Sequence[str], **kwargs: Any) -> Any:
            return reads(*args, text=[_renumbered(one, numbers) for one in text], **kwargs)

        vars(pipeline)["processor"] = processor
        return list(pictures)

    as_they_are: dict[str, Any] = {"edit": lambda pipeline, pictures: pictures[0], "edit_plus": numbered}
    if name == "qwen_image_21":
        as_they_are = {"": lambda pipeline, pictures: list(pictures)}
    variants = dict(record.variants)
    for name, shown in as_they_are.items():
        own = variants[name]
        tasks = {**own.tasks, "": record.variants[""].tasks[""]}
        variants[name] = replace(own, tasks=tasks, text=replace(own.text or record.text, shown=shown))
    return Flow(replace(record, variants=variants))


def _renumbered(text: str, numbers: Sequence[int]) -> str:
    """A prompt whose pictures diffusers has counted, with other numbers: each is its count or more."""
    for count, number in reversed([*enumerate(numbers, start=1)]):
        text = text.replace(f"Picture {count}: <|vision_start|>", f"Picture {number}: <|vision_start|>", 1)
    return text
