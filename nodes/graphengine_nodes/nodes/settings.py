"""Settings of a picture, read from the calls that made it, for the text that other tools read."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from graphengine import FileError, ModelError, Step, fingerprint, open_file
from graphengine_nodes.families.lookup import family
from graphengine_nodes.families.sampler_names import webui_names
from graphengine_nodes.nodes import templates
from graphengine_nodes.values.picture_text import parameters
from graphengine_nodes.values.references import LoRA, ModelPart, digest_of, model_of
from graphengine_nodes.values.types import Image, Model
from graphengine_nodes.values.video import Video
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
    found: dict[str, Any] = {}
    names = ("steps", "guidance_scale", "width", "height")
    model = given.get("model")
    model = model.value if isinstance(model, Step) else model
    if isinstance(model, Model | ModelPart):
        model = model_of(model)
        found = {name: model.setting(name) for name in names} | _of_weights(model)
    found |= {name: given[name] for name in (*names, "strength") if given.get(name) is not None}
    found |= _of_scheduler(given, model)
    if isinstance(value, Image | Video):
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


# --- weights ----------------------------------------------------------------------------------------------------------


def _of_weights(model: Model) -> dict[str, Any]:
    """Names and hashes of the weights: those of the files, whatever is applied to them."""
    hashes = {lora.source: lora_hash(lora) for lora, _ in model.loras}
    return {
        "model": model.source,
        **_hash(model),
        "loras": tuple(_scales(model)),
        "lora_hashes": {name: digest for name, digest in hashes.items() if digest},
    }


def _scales(model: Model) -> Iterator[tuple[str, float, float]]:
    """The LoRAs with their scales for the denoiser and for the text encoders: one that is applied to them with two
    strengths stands twice in the model, for one part each."""
    waiting = list(model.loras)
    while waiting:
        lora, scale = waiting.pop(0)
        other = next((one for one in waiting[:1] if one[0].weights == lora.weights), None)
        if other is None or set(other[0].parts) & set(lora.parts):
            yield lora.source, scale, scale
        else:
            waiting.remove(other)
            yield lora.source, *((scale, other[1]) if "denoiser" in lora.parts else (other[1], scale))


def _hash(model: Model) -> dict[str, str]:
    """The hash of the checkpoint file that holds the denoiser, or of a folder's components.

    The file's SHA-256 was taken for the keys of the run, and is remembered by its size and time of change.
    """
    kind = family(model.family)
    try:
        for name in kind.parts["denoiser"]:
            path = files.locate(model.component(name), model.source).path
            if kind.stems[name] is not None and path.is_file():
                return {"model_hash": fingerprint(path)[:10]}
    except (ModelError, FileError, KeyError, OSError):
        pass  # an object of this process, or gone since
    return {"folder_hash": digest_of([[name, str(digest)] for name, digest in model.components])[:10]}


def lora_hash(lora: LoRA) -> str | None:
    """The hash by which the WebUI and collections of LoRAs know a file: the first 12 digits of the SHA-256 of what
    follows the header of a safetensors file. None if the file is gone."""
    try:
        return _tensors_hash(lora.weights)
    except (ModelError, OSError):
        return None


@functools.lru_cache(maxsize=256)
def _tensors_hash(digest: str) -> str:
    with open_file(files.locate(digest, "a LoRA").path) as file:
        length = int.from_bytes(file.read(8), "little")
        file.seek(8 + length)
        found = hashlib.sha256()
        while chunk := file.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()[:12]


# --- sampler ----------------------------------------------------------------------------------------------------------


def _of_scheduler(given: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """The sampler and its schedule by the WebUI's names."""
    config = _config(model) if isinstance(model, Model) else {}
    name = given.get("scheduler") or config.get("_class_name")
    if not isinstance(name, str):
        return {}
    options = dict(given.get("scheduler_options") or {})
    if given.get("timestep_spacing") is not None:
        options["timestep_spacing"] = given["timestep_spacing"]
    sampler, schedule = webui_names(name, options, config)
    return {"sampler": sampler, "schedule": schedule}


def _config(model: Model) -> dict[str, Any]:
    """The configuration of the model's own scheduler; empty if it is gone."""
    try:
        location = files.locate(model.component("scheduler"), model.source)
        return files.read_json(location.folder / "scheduler_config.json")
    except (ModelError, KeyError):
        return {}


# --- prompts ----------------------------------------------------------------------------------------------------------


def _prompt(source: Any, name: str) -> dict[str, Any]:
    """The text of a conditioning, as `name`; of the positive prompt the clip skip too.

    Args:
        source: The step that gives the conditioning, or a list of steps, of which the first counts.
    """
    source = source[0] if isinstance(source, list) and source else source
    if not isinstance(source, Step):
        return {}
    encoder = next((step for step in _steps(source) if step.node.startswith("std.encode") and "prompt" in step.inputs),
                   None)  # fmt: skip
    if encoder is None:
        return {}
    both = "negative_prompt" in encoder.inputs  # it encodes both prompts
    found = {name: _text(encoder.inputs.get(name if both else "prompt"), name)}
    return found | ({"clip_skip": encoder.inputs.get("clip_skip")} if name == "prompt" else {})


def _text(value: Any, name: str) -> str | None:
    """A prompt, or what is drawn for one from a template; None for what other nodes make.

    Args:
        name: Which of the two prompts that a template gives.
    """
    if not isinstance(value, Step):
        return value if isinstance(value, str) else None
    if any(isinstance(one, Step) for one in value.inputs.values()):
        return None
    if value.node == "std.expand_wildcards":
        return templates.expand_wildcards.fn(**value.inputs)
    if value.node == "std.prompt_from_template":
        return str(getattr(templates.prompt_from_template.fn(**value.inputs), name))
    return None
