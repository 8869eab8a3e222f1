"""Cases of the oracle tests of families that are records: a line for each family, as data, and drawn pictures.

The reference process must know nothing of graphengine, so this module imports only PIL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import PIL.Image
import PIL.ImageDraw

PROMPT = "a red circle on a blue background"


def picture() -> PIL.Image.Image:
    """What image to image, inpainting and edits start from: 64 x 64."""
    drawn = PIL.Image.new("RGB", (64, 64), (40, 60, 170))
    pen = PIL.ImageDraw.Draw(drawn)
    pen.rectangle((15, 20, 45, 55), fill=(220, 200, 40))
    pen.ellipse((35, 8, 57, 30), fill=(200, 40, 40))
    return drawn


def other() -> PIL.Image.Image:
    """A second reference picture, of another size."""
    drawn = PIL.Image.new("RGB", (96, 64), (200, 60, 40))
    PIL.ImageDraw.Draw(drawn).ellipse((20, 10, 70, 50), fill=(30, 160, 60))
    return drawn


def mask() -> PIL.Image.Image:
    """Where to paint."""
    drawn = PIL.Image.new("L", (64, 64), 0)
    PIL.ImageDraw.Draw(drawn).rectangle((16, 16, 47, 47), fill=255)
    return drawn


def edges() -> PIL.Image.Image:
    """A control picture as a canny detector would give it."""
    drawn = PIL.Image.new("RGB", (64, 64), "black")
    PIL.ImageDraw.Draw(drawn).ellipse((17, 17, 47, 47), outline="white")
    return drawn


AREA = 64 * 64
"""The area to which Qwen-Image's pipelines that edit bring pictures here: the published megapixel takes seconds."""


def make_areas_small(set_attribute: Callable[[str, Any], object]) -> None:
    """Let those pipelines make pictures small.

    Args:
        set_attribute: Takes the dotted name of what it sets, and the value.
    """

    def dimensions(area: int, ratio: float) -> tuple[int, int, None]:
        width, height = ((AREA * area / 1024**2 * one) ** 0.5 for one in (ratio, 1 / ratio))
        return max(32, round(width / 32) * 32), max(32, round(height / 32) * 32), None

    edits = ("qwenimage.pipeline_qwenimage_edit", "qwenimage.pipeline_qwenimage_edit_inpaint")
    for name in (*edits, "qwenimage21.pipeline_qwenimage21"):
        set_attribute(f"diffusers.pipelines.{name}.calculate_dimensions", dimensions)
    plus = "diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus.calculate_dimensions"
    set_attribute(plus, lambda area, ratio: dimensions(area, ratio)[:2])


def line(
    model: str,
    tasks: Mapping[str, str],
    *,
    guidance: str = "guidance_scale",
    scale: float = 4.0,
    schedulers: Sequence[str] = (),
    negative: bool = True,
    guided: bool = True,
    lora: str | None = "transformer",
    several: bool = True,
    references: int = 1,
    call: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    size: tuple[int, int] = (64, 64),
    net: str = "net",
) -> Iterator[dict[str, Any]]:
    """The cases of one model.

    Args:
        model: The folder that the conftest makes; a ControlNet lies beside it, as `{model}-{net}`.
        tasks: The pipelines of diffusers by task, as the family's record names tasks.
        guidance: The pipelines' argument that the guidance scale is for.
        schedulers: Others than the model's own that it is asked with.
        negative: Its pipelines take a negative prompt.
        guided: There is guidance without one.
        lora: The component that a LoRA changes, `{model}.safetensors`; None where there is none.
        several: A call makes two pictures of two generators.
        references: The most reference pictures that it is asked with; two are asked in a case of their own.
        call: Further arguments of diffusers' one call.
        arguments: The same for the nodes, where they differ.
        net: What the ControlNet is called.
    """
    base: dict[str, Any] = {
        "model": model,
        "guidance": guidance,
        "scale": scale,
        "seeds": [5],
        "steps": 2,
        "scheduler": None,
        "negative": None,
        "lora": None,
        "call": dict(call or {}),
        "arguments": dict((call or {}) if arguments is None else arguments),
        "size": size,
        "references": 1,
        "precision": None,
        "net": f"{model}-{net}",
    }

    def case(task: str, what: str = "", **changes: Any) -> dict[str, Any]:
        name = " ".join(filter(None, (model, task or "text", what)))
        return base | {"name": name, "task": task, "class": tasks[task]} | changes

    for task in tasks:
        yield case(task)
        if several:
            yield case(task, "two pictures", seeds=[5, 9])
    first = next(iter(tasks))
    yield case(first, "bfloat16", precision="bfloat16")
    if negative:
        yield case(first, "negative", negative="a tree")
    if guided:
        yield case(first, "no guidance", scale=0.0)
    if references > 1:
        yield case("references", "two references", references=2)
    if lora:
        yield case(first, "LoRA", lora=lora)
    for scheduler in schedulers:
        yield case(first, scheduler, scheduler=scheduler, steps=3)


def cases() -> list[dict[str, Any]]:
    """Every case of every family."""
    return [
        *line(
            "chroma",
            {"": "ChromaPipeline", "image": "ChromaImg2ImgPipeline"},
            schedulers=("UniPCMultistepScheduler",),
        ),
        *line(
            "z_image",
            {
                "": "ZImagePipeline",
                "image": "ZImageImg2ImgPipeline",
                "inpaint": "ZImageInpaintPipeline",
                "controlnet": "ZImageControlNetPipeline",
            },
            schedulers=("UniPCMultistepScheduler",),
        ),
        *line(
            "z_image",
            {"controlnet+inpaint": "ZImageControlNetInpaintPipeline"},
            guided=False,
            lora=None,
            net="painter",
        ),
        *line(
            "stable_diffusion_3",
            {
                "": "StableDiffusion3Pipeline",
                "image": "StableDiffusion3Img2ImgPipeline",
                "inpaint": "StableDiffusion3InpaintPipeline",
                "controlnet": "StableDiffusion3ControlNetPipeline",
            },
            schedulers=("FlowMatchHeunDiscreteScheduler", "UniPCMultistepScheduler", "DPMSolverMultistepScheduler"),
        ),
        *line(
            "qwen_image",
            {
                "": "QwenImagePipeline",
                "image": "QwenImageImg2ImgPipeline",
                "inpaint": "QwenImageInpaintPipeline",
                "controlnet": "QwenImageControlNetPipeline",
            },
            guidance="true_cfg_scale",
            guided=False,
            schedulers=("UniPCMultistepScheduler",),
        ),
        *line(
            "klein",
            {
                "": "Flux2KleinPipeline",
                "references": "Flux2KleinPipeline",
                "inpaint": "Flux2KleinInpaintPipeline",
                "inpaint+references": "Flux2KleinInpaintPipeline",
            },
            schedulers=("UniPCMultistepScheduler",),
            references=2,
        ),
        *line("klein-distilled", {"": "Flux2KleinPipeline"}, negative=False, guided=False, lora=None, several=False),
        *line(
            "flux2-dev",
            {"": "Flux2Pipeline", "references": "Flux2Pipeline"},
            schedulers=("UniPCMultistepScheduler",),
            negative=False,
            references=2,
        ),
        *line("kontext", {"": "FluxKontextPipeline"}, negative=False, call={"max_area": 64 * 64}, arguments={}),
        *line(
            "kontext",
            {"references": "FluxKontextPipeline", "inpaint+references": "FluxKontextInpaintPipeline"},
            negative=False,
            guided=False,
            lora=None,
            # By its own sizes a picture of 64 x 64 would be encoded at 1024 x 1024.
            call={"max_area": 64 * 64, "_auto_resize": False},
            arguments={"_auto_resize": False},
        ),
        *line("fill", {"inpaint": "FluxFillPipeline"}, negative=False),
        *line(
            "control",
            {
                "control": "FluxControlPipeline",
                "control+image": "FluxControlImg2ImgPipeline",
                "control+inpaint": "FluxControlInpaintPipeline",
            },
            negative=False,
        ),
        *line(
            "qwen_image_edit",
            {"references": "QwenImageEditPipeline", "inpaint": "QwenImageEditInpaintPipeline"},
            guidance="true_cfg_scale",
            guided=False,
            several=False,
        ),
        *line(
            "qwen_image_edit_plus",
            {"references": "QwenImageEditPlusPipeline"},
            guidance="true_cfg_scale",
            guided=False,
            several=False,
            references=2,
        ),
        *line(
            "qwen_image_21",
            {"": "QwenImage21Pipeline", "references": "QwenImage21Pipeline"},
            guidance="true_cfg_scale",
            guided=False,
            schedulers=("UniPCMultistepScheduler",),
            references=2,
        ),
    ]
