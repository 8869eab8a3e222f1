"""Cases of the oracle tests of Wan, as data, and the pictures they begin and end with.

The reference process must know nothing of graphengine, so this module imports only PIL.
"""

from __future__ import annotations

from typing import Any

import PIL.Image
import PIL.ImageDraw

PROMPT = "a red circle — rolls"
FRAMES = 5


def first() -> PIL.Image.Image:
    """What a video begins with: of another size than the video."""
    drawn = PIL.Image.new("RGB", (96, 80), (40, 60, 170))
    PIL.ImageDraw.Draw(drawn).ellipse((15, 20, 55, 60), fill=(200, 40, 40))
    return drawn


def last() -> PIL.Image.Image:
    """What a video ends with."""
    drawn = PIL.Image.new("RGB", (64, 64), (40, 60, 170))
    PIL.ImageDraw.Draw(drawn).ellipse((35, 8, 57, 30), fill=(200, 40, 40))
    return drawn


def video() -> list[PIL.Image.Image]:
    """What video to video starts from: a square that moves."""
    drawn = [PIL.Image.new("RGB", (64, 64), (40, 60, 170)) for _ in range(FRAMES)]
    for index, frame in enumerate(drawn):
        PIL.ImageDraw.Draw(frame).rectangle((8 * index, 20, 8 * index + 20, 50), fill=(220, 200, 40))
    return drawn


def case(model: str, task: str = "", what: str = "", **changes: Any) -> dict[str, Any]:
    """A case: the pipeline of `task`, names of what it holds joined by `+`, with a folder that the conftest makes."""
    pipeline = "WanVideoToVideoPipeline" if task == "video" else "WanImageToVideoPipeline" if task else "WanPipeline"
    base: dict[str, Any] = {
        "name": " ".join(filter(None, (model, task or "text", what))),
        "model": model,
        "task": task,
        "class": pipeline,
        "negative": None,
        "scale": 4.0,
        "scale_2": None,
        "scheduler": None,
        "steps": 2,
        "frames": FRAMES,
        "lora": None,
        "noise": None,
        "precision": None,
    }
    return base | changes


def cases() -> list[dict[str, Any]]:
    """Every case."""
    return [
        case("2.1"),
        case("2.1", what="nine frames", frames=9),
        case("2.1", what="one frame", frames=1),
        case("2.1", what="negative", negative="a tree"),
        case("2.1", what="no guidance", scale=1.0),
        case("2.1", what="LoRA", lora="lora"),
        case("2.1", what="Euler", scheduler="FlowMatchEulerDiscreteScheduler", steps=3),
        case("2.1", what="DPM++", scheduler="DPMSolverMultistepScheduler", steps=3),
        case("2.1", what="bfloat16", precision="bfloat16"),
        case("2.1", what="bfloat16 and LoRA", precision="bfloat16", lora="lora"),
        case("2.1", "video", negative="a tree"),
        case("2.1", "video", "DPM++", scheduler="DPMSolverMultistepScheduler", steps=3),
        case("2.1", "video", "Euler", scheduler="FlowMatchEulerDiscreteScheduler"),
        case("2.1-i2v", "first"),
        case("2.1-i2v", "first", "negative", negative="a tree"),
        case("2.1-flf2v", "first+last"),
        case("2.2-14b"),
        case("2.2-14b", what="two scales", scale_2=2.0),
        case("2.2-14b", what="LoRA high", lora="lora", noise="high"),
        case("2.2-14b", what="LoRA low", lora="lora", noise="low"),
        case("2.2-14b", what="LoRA both", lora="lora", noise="both"),
        case("2.2-14b-i2v", "first"),
        case("2.2-14b-i2v", "first+last", scale_2=2.0),
        case("2.2-5b"),
        case("2.2-5b", "first"),
    ]
