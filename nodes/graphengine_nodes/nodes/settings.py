"""Settings of a picture, read from the calls that made it, for the text that other tools read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from graphengine import ModelError, Step
from graphengine_nodes.values.picture_text import parameters
from graphengine_nodes.values.types import Image, Model
from graphengine_nodes.weights import files

SAMPLERS = ("std.sample", "std.inpaint", "std.repaint")


def settings(step: Step, value: Any) -> str | None:
    """The `parameters` text of a picture; None where no sampler made it.

    Of several samplers, the last one counts.
    """
    sampler = next((one for one in _steps(step) if one.node in SAMPLERS), None)
    if sampler is None:
        return None
    given = sampler.inputs
    model = given.get("model")
    model = model.value if isinstance(model, Step) else model
    found: dict[str, Any] = {}
    if isinstance(model, Model):
        found = {name: model.setting(name) for name in ("steps", "guidance_scale", "width", "height")}
        found |= {"model": model.source, "model_hash": model.digest()[:10], "scheduler": _scheduler(model)}
        found["loras"] = tuple((lora.source, scale) for lora, scale in model.loras)
    for name in ("steps", "guidance_scale", "width", "height", "scheduler", "strength"):
        if given.get(name) is not None:
            found[name] = given[name]
    if isinstance(value, Image):
        found["width"], found["height"] = value.size
    seed = given.get("seed")
    found["seed"] = (seed[0] if seed else None) if isinstance(seed, list) else seed
    positive, negative = _encoder(given.get("positive")), _encoder(given.get("negative"))
    found["prompt"], found["clip_skip"] = positive.get("prompt"), positive.get("clip_skip")
    found["negative_prompt"] = negative.get("prompt")
    return parameters(**found)


def _steps(start: Step) -> Iterator[Step]:
    """The steps that led to a step, nearest first."""
    waiting, seen = [start], {id(start)}
    for step in waiting:
        yield step
        for value in step.inputs.values():
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, Step) and id(one) not in seen:
                    seen.add(id(one))
                    waiting.append(one)


def _encoder(source: Any) -> dict[str, Any]:
    if not isinstance(source, Step):
        return {}
    found = next((one for one in _steps(source) if one.node == "std.encode_prompt"), None)
    return dict(found.inputs) if found is not None else {}


def _scheduler(model: Model) -> str | None:
    try:
        location = files.locate(model.component("scheduler"), model.source)
        name = files.read_json(location.folder / "scheduler_config.json").get("_class_name")
    except (ModelError, KeyError):
        return None
    return name if isinstance(name, str) else None
