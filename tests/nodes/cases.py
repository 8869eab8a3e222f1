"""What the oracle is asked: plain data and one drawn picture, used by the graph's tests and by the reference process.

The reference process must know nothing of graphengine, so this module imports only PIL.
"""

from __future__ import annotations

from typing import Any

import PIL.Image
import PIL.ImageDraw

PROMPT = "a red circle on a blue background"

SCHEDULERS = [
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "DPMSolverSDEScheduler",
    "EDMEulerScheduler",
]
SEVERAL = ["DDIMScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "DPMSolverSDEScheduler"]


def picture() -> PIL.Image.Image:
    """What image-to-image and inpainting start from, and what has the edges to follow: 128 x 128."""
    drawn = PIL.Image.new("RGB", (128, 128), (40, 60, 170))
    pen = PIL.ImageDraw.Draw(drawn)
    pen.rectangle((30, 40, 90, 110), fill=(220, 200, 40))
    pen.ellipse((70, 15, 115, 60), fill=(200, 40, 40))
    return drawn


def mask() -> PIL.Image.Image:
    drawn = PIL.Image.new("L", (128, 128), 0)
    PIL.ImageDraw.Draw(drawn).rectangle((32, 32, 95, 95), fill=255)
    return drawn


def edges() -> PIL.Image.Image:
    """A control picture as a canny detector would give it."""
    drawn = PIL.Image.new("RGB", (128, 128), "black")
    PIL.ImageDraw.Draw(drawn).ellipse((34, 34, 94, 94), outline="white")
    return drawn


def control_pictures(case: dict[str, Any]) -> list[PIL.Image.Image]:
    """The picture of each control."""
    sizes = case["control_sizes"] or [(128, 128)] * len(case["controls"])
    return [edges() if size == (128, 128) else edges().resize(size, PIL.Image.Resampling.NEAREST) for size in sizes]


def _case(name: str, kind: str = "text", **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,  # text, image, inpaint
        "model": "tiny",  # or "nine", the inpainting checkpoint; "euler", "zero", "old": see conftest
        "seeds": [5],
        "steps": 4 if changes.get("scheduler") == "PNDMScheduler" else 3,
        "guidance": 3.5,
        "negative": None,
        "scheduler": None,
        "strength": None,
        "controls": [],  # (scale, start, end)
        "control_sizes": [],  # of their pictures, where not 128 x 128
        "loras": [],  # (name, scale)
    } | changes


def cases() -> list[dict[str, Any]]:
    """Every case; names are unique."""
    found = [_case(f"text {scheduler}", scheduler=scheduler) for scheduler in SCHEDULERS]
    for scheduler in SEVERAL:
        most = 2**31 if "SDE" in scheduler else 2**64 - 1
        found += [
            _case(f"three seeds {scheduler}", scheduler=scheduler, seeds=[5, 7, most]),
            _case(f"image {scheduler}", "image", scheduler=scheduler, strength=0.75),
            _case(f"image, all {scheduler}", "image", scheduler=scheduler, strength=1.0, seeds=[1, 2]),
            _case(f"inpaint {scheduler}", "inpaint", scheduler=scheduler, strength=0.75),
            _case(f"inpaint, all {scheduler}", "inpaint", scheduler=scheduler, seeds=[1, 2]),
            _case(f"nine channels {scheduler}", "inpaint", scheduler=scheduler, model="nine"),
            _case(f"nine channels, part {scheduler}", "inpaint", scheduler=scheduler, model="nine", strength=0.75),
            _case(f"control {scheduler}", scheduler=scheduler, controls=[(0.8, 0.0, 1.0)], seeds=[3, 4]),
            _case(f"control image {scheduler}", "image", scheduler=scheduler, controls=[(0.8, 0.0, 0.7)], strength=0.8),
            _case(f"one LoRA {scheduler}", scheduler=scheduler, loras=[("blueprint", 0.7)]),
        ]
    for guidance in (0.0, 1.0, 7.5):
        found += [
            _case(f"guidance {guidance}", guidance=guidance, negative="green"),
            _case(f"guidance {guidance} image", "image", guidance=guidance, strength=0.75),
            _case(f"guidance {guidance} inpaint", "inpaint", guidance=guidance),
        ]
    for spacing in ("leading", "linspace", "trailing"):
        for scheduler in ("EulerDiscreteScheduler", "DDIMScheduler"):
            found.append(_case(f"{spacing} {scheduler}", scheduler=scheduler, spacing=spacing))
    for skip in (1, 2, 3):
        found += [
            _case(f"clip skip {skip}", clip_skip=skip),
            _case(f"clip skip {skip} negative", clip_skip=skip, negative="a green tree", guidance=7.5),
        ]
    # Pipelines correct the scheduler of their model when they are constructed, and only that one.
    for kind in ("text", "inpaint"):
        for scheduler in ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler"):
            found.append(_case(f"euler {kind} {scheduler}", kind, model="euler", scheduler=scheduler, seeds=[7]))
        found.append(_case(f"zero {kind} DDIMScheduler", kind, model="zero", scheduler="DDIMScheduler", seeds=[6]))
        found.append(_case(f"zero {kind}", kind, model="zero", seeds=[6], steps=4))
    found += [
        _case("euler spacing", model="euler", scheduler="DDIMScheduler", spacing="linspace"),
        _case("old", model="old", steps=4),
        _case("old image", "image", model="old", steps=4),
        _case("old inpaint", "inpaint", model="old", steps=4),
        _case("old control", model="old", steps=4, controls=[(0.8, 0.0, 1.0)]),
        _case("old spacing", model="old", spacing="trailing", steps=4),
        _case("old PNDMScheduler", model="old", scheduler="PNDMScheduler"),
        _case("old DDIMScheduler", model="old", scheduler="DDIMScheduler"),
    ]
    two, size = [(0.8, 0.0, 1.0), (0.4, 0.0, 1.0)], {"size": (128, 128)}
    found += [
        _case("control of another size", controls=two[:1], control_sizes=[(96, 160)], **size),
        _case("two controls of other sizes", controls=two, control_sizes=[(96, 160), (64, 64)], **size),
        _case("two controls, one of another size", controls=two, control_sizes=[(96, 160), (128, 128)], **size),
        _case("two controls of other sizes, seeds", controls=two, control_sizes=[(96, 160), (64, 64)], seeds=[1, 2])
        | size,
        _case("inpaint, control of another size", "inpaint", controls=two[:1], control_sizes=[(64, 96)], **size),
    ]
    return [
        *found,
        _case("inpaint PNDMScheduler", "inpaint", scheduler="PNDMScheduler"),
        _case("inpaint, part PNDMScheduler", "inpaint", scheduler="PNDMScheduler", strength=0.75, seeds=[1, 2]),
        _case("negative", negative="a green tree"),
        _case("empty negative", negative=""),
        _case("empty prompt", prompt=""),
        _case("long prompt", prompt=f"{PROMPT} " * 30),
        _case("guidance rescale", rescale=0.6, guidance=7.5),
        _case("other sides", size=(160, 96)),
        _case("odd levels", size=(72, 136)),
        _case("two controls", controls=[(0.8, 0.0, 1.0), (0.4, 0.25, 0.75)]),
        _case("control inpaint", "inpaint", controls=[(0.8, 0.0, 1.0)], strength=0.75),
        _case("control nine", "inpaint", controls=[(0.8, 0.0, 1.0)], model="nine", seeds=[1, 2]),
        _case("two LoRAs", loras=[("blueprint", 0.7), ("noise", -0.4)]),
        _case("two LoRAs, other order", loras=[("noise", -0.4), ("blueprint", 0.7)]),
        _case("LoRA on the text encoder", loras=[("words", 1.3)], negative="green"),
        _case("LoRA in kohya's names", loras=[("kohya", 0.9)]),
        _case("all at once", "image", loras=[("blueprint", 0.5)], controls=[(0.6, 0.0, 1.0)], seeds=[8, 9]),
    ]
