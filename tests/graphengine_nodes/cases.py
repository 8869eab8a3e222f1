"""Cases of the oracle tests: plain data and one drawn picture, for the graph's tests and for the reference process.

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


def awkward() -> PIL.Image.Image:
    """Neither square nor with sides that are multiples of 8."""
    return picture().resize((67, 45))


def mask() -> PIL.Image.Image:
    drawn = PIL.Image.new("L", (128, 128), 0)
    PIL.ImageDraw.Draw(drawn).rectangle((32, 32, 95, 95), fill=255)
    return drawn


def edges() -> PIL.Image.Image:
    """A control picture as a canny detector would give it."""
    drawn = PIL.Image.new("RGB", (128, 128), "black")
    PIL.ImageDraw.Draw(drawn).ellipse((34, 34, 94, 94), outline="white")
    return drawn


def sized(drawn: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    """A drawn picture at a case's size."""
    return drawn if drawn.size == size else drawn.resize(size, PIL.Image.Resampling.NEAREST)


def control_pictures(case: dict[str, Any]) -> list[PIL.Image.Image]:
    """The picture of each control."""
    sizes = case["control_sizes"] or [(case["side"], case["side"])] * len(case["controls"])
    return [sized(edges(), size) for size in sizes]


def fade(pipe: Any, index: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """A caller's look at each step, which changes what it sees."""
    return {"latents": tensors["latents"] * 0.9}


def case(name: str, kind: str = "text", **changes: Any) -> dict[str, Any]:
    """A case that differs from the plainest one so."""
    return {
        "name": name,
        "kind": kind,  # text, image, inpaint
        "family": "stable_diffusion",
        "model": "tiny",  # or "nine", the inpainting checkpoint; "euler", "zero", "old": see conftest
        "side": 128 if kind == "inpaint" else 64,  # of the pictures that it starts from and follows
        "seeds": [5],
        "one": False,  # one generator, of the first seed, for all pictures
        "steps": 4 if changes.get("scheduler") == "PNDMScheduler" else 3,
        "guidance": 3.5,
        "negative": None,
        "scheduler": None,
        "strength": None,
        "controls": [],  # (scale, start, end)
        "control_sizes": [],  # of their pictures, where not of that side
        "loras": [],  # (name, scale)
        "guess": False,
        "arguments": {},  # further ones of the pipeline
        "latents": None,  # a seed to draw the first noise from
        "fade": False,
        "precision": "float32",
    } | changes


def cases() -> list[dict[str, Any]]:
    """Every case; names are unique."""
    found = [case(f"text {scheduler}", scheduler=scheduler) for scheduler in SCHEDULERS]
    for scheduler in SEVERAL:
        most = 2**31 if "SDE" in scheduler else 2**64 - 1
        found += [
            case(f"three seeds {scheduler}", scheduler=scheduler, seeds=[5, 7, most]),
            case(f"image {scheduler}", "image", scheduler=scheduler, strength=0.75),
            case(f"image, all {scheduler}", "image", scheduler=scheduler, strength=1.0, seeds=[1, 2]),
            case(f"inpaint {scheduler}", "inpaint", scheduler=scheduler, strength=0.75),
            case(f"inpaint, all {scheduler}", "inpaint", scheduler=scheduler, seeds=[1, 2]),
            case(f"nine channels {scheduler}", "inpaint", scheduler=scheduler, model="nine"),
            case(f"nine channels, part {scheduler}", "inpaint", scheduler=scheduler, model="nine", strength=0.75),
            case(f"control {scheduler}", scheduler=scheduler, controls=[(0.8, 0.0, 1.0)], seeds=[3, 4]),
            case(f"control image {scheduler}", "image", scheduler=scheduler, controls=[(0.8, 0.0, 0.7)], strength=0.8),
            case(f"one LoRA {scheduler}", scheduler=scheduler, loras=[("blueprint", 0.7)]),
        ]
    for scheduler in ("LCMScheduler", "TCDScheduler"):
        found += [
            case(f"few steps {scheduler}", scheduler=scheduler, seeds=[1, 2], steps=4),
            case(f"few steps, image {scheduler}", "image", scheduler=scheduler, strength=0.75, steps=4),
        ]
    for guidance in (0.0, 1.0, 7.5):
        found += [
            case(f"guidance {guidance}", guidance=guidance, negative="green"),
            case(f"guidance {guidance} image", "image", guidance=guidance, strength=0.75),
            case(f"guidance {guidance} inpaint", "inpaint", guidance=guidance),
        ]
    for spacing in ("leading", "linspace", "trailing"):
        for scheduler in ("EulerDiscreteScheduler", "DDIMScheduler"):
            found.append(case(f"{spacing} {scheduler}", scheduler=scheduler, spacing=spacing))
    for skip in (1, 2, 3):
        found += [
            case(f"clip skip {skip}", clip_skip=skip),
            case(f"clip skip {skip} negative", clip_skip=skip, negative="a green tree", guidance=7.5),
        ]
    # Pipelines correct the scheduler of their model when they are constructed, and only that one.
    for kind in ("text", "inpaint"):
        for scheduler in ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler"):
            found.append(case(f"euler {kind} {scheduler}", kind, model="euler", scheduler=scheduler, seeds=[7]))
        found.append(case(f"zero {kind} DDIMScheduler", kind, model="zero", scheduler="DDIMScheduler", seeds=[6]))
        found.append(case(f"zero {kind}", kind, model="zero", seeds=[6], steps=4))
    found += [
        case("euler spacing", model="euler", scheduler="DDIMScheduler", spacing="linspace"),
        case("old", model="old", steps=4),
        case("old image", "image", model="old", steps=4),
        case("old inpaint", "inpaint", model="old", steps=4),
        case("old control", model="old", steps=4, controls=[(0.8, 0.0, 1.0)]),
        case("old spacing", model="old", spacing="trailing", steps=4),
        case("old PNDMScheduler", model="old", scheduler="PNDMScheduler"),
        case("old DDIMScheduler", model="old", scheduler="DDIMScheduler"),
    ]
    two, size = [(0.8, 0.0, 1.0), (0.4, 0.0, 1.0)], {"size": (128, 128)}
    found += [
        case("control of another size", controls=two[:1], control_sizes=[(96, 160)], **size),
        case("two controls of other sizes", controls=two, control_sizes=[(96, 160), (64, 64)], **size),
        case("two controls, one of another size", controls=two, control_sizes=[(96, 160), (128, 128)], **size),
        case("two controls of other sizes, seeds", controls=two, control_sizes=[(96, 160), (64, 64)], seeds=[1, 2])
        | size,
        case("inpaint, control of another size", "inpaint", controls=two[:1], control_sizes=[(64, 96)], **size),
    ]
    return [
        *found,
        case("inpaint PNDMScheduler", "inpaint", scheduler="PNDMScheduler"),
        case("inpaint, part PNDMScheduler", "inpaint", scheduler="PNDMScheduler", strength=0.75, seeds=[1, 2]),
        case("negative", negative="a green tree"),
        case("empty negative", negative=""),
        case("empty prompt", prompt=""),
        case("long prompt", prompt=f"{PROMPT} " * 30),
        case("guidance rescale", rescale=0.6, guidance=7.5),
        case("other sides", size=(160, 96)),
        case("odd levels", size=(72, 136)),
        case("two controls", controls=[(0.8, 0.0, 1.0), (0.4, 0.25, 0.75)]),
        case("control inpaint", "inpaint", controls=[(0.8, 0.0, 1.0)], strength=0.75),
        case("control nine", "inpaint", controls=[(0.8, 0.0, 1.0)], model="nine", seeds=[1, 2]),
        case("two LoRAs", loras=[("blueprint", 0.7), ("noise", -0.4)]),
        case("two LoRAs, other order", loras=[("noise", -0.4), ("blueprint", 0.7)]),
        case("LoRA on the text encoder", loras=[("words", 1.3)], negative="green"),
        case("LoRA in kohya's names", loras=[("kohya", 0.9)]),
        case("LoRA in kohya's names, no guidance", loras=[("kohya", 0.9)], guidance=1.0),
        case("LoRA whose alpha is told in metadata", loras=[("told", 0.9)]),
        case("guess", controls=[(0.8, 0.0, 1.0)], guess=True, guidance=5.0),
        case("guess image", "image", controls=[(0.8, 0.0, 1.0)], guess=True, seeds=[1, 2]),
        case("guess inpaint", "inpaint", controls=[(0.8, 0.0, 1.0)], guess=True),
        case("guess, two", controls=two, guess=True, seeds=[1, 2]),
        case("guess, no guidance", controls=[(0.8, 0.0, 1.0)], guess=True, guidance=1.0),
        *[
            case(f"one generator {kind} {scheduler}", kind, one=True, seeds=[5, 6, 7], scheduler=scheduler, strength=s)
            for kind, s in (("text", None), ("image", 0.75), ("inpaint", 0.75))
            for scheduler in ("DDIMScheduler", "EulerAncestralDiscreteScheduler")
        ],
        case("one generator nine", "inpaint", one=True, seeds=[5, 6], model="nine"),
        case("one generator, control", "image", one=True, seeds=[5, 6], controls=two),
        case("one generator, one picture", one=True, scheduler="EulerAncestralDiscreteScheduler"),
        case("eta", arguments={"eta": 0.7}, scheduler="DDIMScheduler"),
        case("sigmas", arguments={"sigmas": [5.0, 2.0, 0.5]}, scheduler="EulerDiscreteScheduler"),
        case("latents", side=128, latents=3),
        case("latents, control", latents=3, controls=[(0.8, 0.0, 1.0)]),
        case("latents, inpaint", "inpaint", latents=3),
        case("a caller's look at steps", fade=True),
        case("a caller's look at steps, image", "image", fade=True),
        case("two prompts", prompt=[PROMPT, "a green tree"], seeds=[1, 2]),
        case("two prompts, four pictures", prompt=[PROMPT, "a green tree"], seeds=[1, 2, 3, 4]),
        case("two negatives", prompt=[PROMPT, "a house"], negative=["green", "blue"], seeds=[1, 2], guidance=7.5),
        case("all at once", "image", loras=[("blueprint", 0.5)], controls=[(0.6, 0.0, 1.0)], seeds=[8, 9]),
    ]
