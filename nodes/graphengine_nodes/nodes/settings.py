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
    found |= _prompt(given.get("positive"), "prompt") | _prompt(given.get("negative"), "negative_prompt")
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


ENCODERS = ("std.encode_prompt", "std.encode_weighted")


def _prompt(source: Any, name: str) -> dict[str, Any]:
    """The text of a conditioning, as `name`; of the positive prompt the clip skip too.

    Args:
        source: The step that gives the conditioning, or a list of steps, of which the first counts.
    """
    source = source[0] if isinstance(source, list) and source else source
    if not isinstance(source, Step):
        return {}
    encoder = next((step for step in _steps(source) if step.node in ENCODERS), None)
    if encoder is None:
        return {}
    both = encoder.node == "std.encode_weighted"  # it encodes both prompts
    found = {name: encoder.inputs.get(name if both else "prompt")}
    return found | ({"clip_skip": encoder.inputs.get("clip_skip")} if name == "prompt" else {})


def _scheduler(model: Model) -> str | None:
    try:
        location = files.locate(model.component("scheduler"), model.source)
        name = files.read_json(location.folder / "scheduler_config.json").get("_class_name")
    except (ModelError, KeyError):
        return None
    return name if isinstance(name, str) else None
