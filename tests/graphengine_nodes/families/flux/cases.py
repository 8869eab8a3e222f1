"""Cases of FLUX's oracle tests: plain data and drawn pictures, for the graph's tests and the reference process.

The reference process must know nothing of graphengine, so this module imports only PIL.
"""

from __future__ import annotations

from typing import Any

import PIL.Image
import PIL.ImageDraw

PROMPT = "a red circle on a blue background"


def picture() -> PIL.Image.Image:
    """What image-to-image and inpainting start from: 64 x 64."""
    drawn = PIL.Image.new("RGB", (64, 64), (40, 60, 170))
    pen = PIL.ImageDraw.Draw(drawn)
    pen.rectangle((15, 20, 45, 55), fill=(220, 200, 40))
    pen.ellipse((35, 8, 57, 30), fill=(200, 40, 40))
    return drawn


def painted() -> PIL.Image.Image:
    """The same with something painted over it."""
    drawn = picture()
    PIL.ImageDraw.Draw(drawn).rectangle((16, 16, 47, 47), fill=(30, 160, 60))
    return drawn


def mask() -> PIL.Image.Image:
    """Where to paint; one side lies between two latents."""
    drawn = PIL.Image.new("L", (64, 64), 0)
    PIL.ImageDraw.Draw(drawn).rectangle((16, 12, 47, 43), fill=255)
    return drawn


def edges(size: tuple[int, int] = (64, 64)) -> PIL.Image.Image:
    """A control picture as a canny detector would give it."""
    drawn = PIL.Image.new("RGB", (64, 64), "black")
    PIL.ImageDraw.Draw(drawn).ellipse((17, 17, 47, 47), outline="white")
    return drawn if size == (64, 64) else drawn.resize(size, PIL.Image.Resampling.NEAREST)


def control_pictures(case: dict[str, Any]) -> list[PIL.Image.Image]:
    """The picture of each control."""
    sizes = case["control_sizes"] or [(64, 64)] * len(case["controls"])
    return [edges(size) for size in sizes]


def _case(name: str, kind: str = "text", **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,  # text, image, inpaint, repaint
        "model": "dev",  # or "schnell"
        "prompt": PROMPT,
        "prompt_2": None,
        "length": 64,  # of T5's tokens
        "seeds": [5],
        "one": False,  # one generator, of the first seed, for all pictures
        "steps": 2,
        "guidance": 3.5,
        "negative": None,
        "true_cfg": None,
        "strength": None,
        "size": (64, 64),
        "controls": [],  # (ControlNet, scale, start, end)
        "control_sizes": [],  # of their pictures, where not 64 x 64
        "modes": None,  # of union ControlNets
        "loras": [],  # (name, scale)
        "sample_mode": "sample",
    } | changes


def cases() -> list[dict[str, Any]]:
    """Every case; names are unique."""
    one, two = [("one", 0.8, 0.0, 1.0)], [("one", 0.8, 0.0, 1.0), ("other", 0.5, 0.0, 1.0)]
    cfg = {"negative": "a green tree", "true_cfg": 3.0}
    found: list[dict[str, Any]] = []
    for kind in ("text", "image", "inpaint"):
        part = {} if kind == "text" else {"strength": 0.6, "steps": 4}
        found += [
            _case(kind, kind, **part),
            _case(f"{kind}, schnell", kind, model="schnell", **part),
            _case(f"{kind}, guidance", kind, guidance=1.0, **part),
            _case(f"{kind}, two seeds", kind, seeds=[7, 2**64 - 1], **part),
            _case(f"{kind}, one generator", kind, seeds=[7, 8], one=True, **part),
            _case(f"{kind}, true guidance", kind, **cfg, **part),
            _case(f"{kind}, true guidance, two seeds", kind, **cfg, seeds=[7, 8], **part),
            _case(f"{kind}, LoRAs", kind, loras=[("wide", 0.7), ("words", -0.4)], **part),
            _case(f"{kind}, control", kind, controls=one, **part),
            _case(f"{kind}, control, two seeds", kind, controls=one, seeds=[3, 4], **part),
            _case(f"{kind}, control, one generator", kind, controls=one, seeds=[3, 4], one=True, **part),
            _case(f"{kind}, control in part", kind, controls=[("one", 0.8, 0.0, 0.5)], **part),
            _case(f"{kind}, two controls", kind, controls=two, **part),
            _case(f"{kind}, two controls, two seeds", kind, controls=two, seeds=[3, 4], **part),
            _case(f"{kind}, union", kind, controls=[("union", 0.8, 0.0, 1.0)], modes=[1], **part),
            _case(f"{kind}, control of another size", kind, controls=one, control_sizes=[(48, 80)], **part),
            _case(f"{kind}, schnell, control", kind, model="schnell", controls=one, **part),
        ]
        if kind != "text":
            found.append(_case(f"{kind}, all", kind, strength=1.0, seeds=[1, 2]))
            found.append(_case(f"{kind}, default strength", kind, steps=3))
    found.append(_case("image, a step that is only begun", "image", strength=0.05, steps=10))
    for mode in ("sample", "argmax", "random"):
        found.append(_case(f"repaint {mode}", "repaint", sample_mode=mode, strength=0.75, steps=4, seeds=[1, 2]))
    return [
        *found,
        _case("repaint, all", "repaint", strength=1.0, **cfg),
        _case("text, true guidance, control", controls=one, **cfg),
        _case("other sides", size=(96, 48)),
        _case("other sides, control", size=(96, 48), controls=one, control_sizes=[(96, 48)]),
        _case("second prompt", prompt_2="a blue house"),
        _case("empty prompt", prompt=""),
        _case("empty negative", negative="", true_cfg=3.0),
        _case("long prompt", prompt=f"{PROMPT} " * 4),
        _case("longer sequence", length=96, prompt=f"{PROMPT} " * 3),
        _case("one LoRA", loras=[("wide", 0.7)]),
        _case("two LoRAs, other order", loras=[("words", -0.4), ("wide", 0.7)]),
        _case("LoRA in kohya's names", loras=[("kohya", 0.9)]),
        _case("two unions", controls=[("union", 0.8, 0.0, 1.0), ("union", 0.5, 0.0, 1.0)], modes=[1, 2]),
        _case("more steps", steps=5),
    ]
