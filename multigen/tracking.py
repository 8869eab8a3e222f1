"""Tracking of changes that a script makes to a diffusers pipeline over a model's weights.

A component has changed when another object replaced it, when a tensor was replaced or written to, or when its
configuration or something set on its layers differs: LoRAs, attention processors, hooks, padding.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from graphengine_nodes.values.types import Model

__all__ = ["changes", "note", "note_one", "origin", "written"]

SAMPLES = 4096
"""How many numbers of each tensor are compared, evenly spread; of smaller tensors all."""

@dataclass
class _Noted:
    """A pipeline as it was made: its model, None if a caller made it, and by name each component with its state."""

    model: Model | None
    states: dict[str, tuple[Any, Any]]


_noted: weakref.WeakKeyDictionary[Any, _Noted] = weakref.WeakKeyDictionary()


def note(pipeline: Any, model: Model | None) -> None:
    """Note the present state of a pipeline's components, made from a model or handed in by a caller."""
    _noted[pipeline] = _Noted(model, {name: (part, _state(part)) for name, part in pipeline.components.items()})


def note_one(pipeline: Any, name: str) -> None:
    """Note the present state of one component as unchanged."""
    part = pipeline.components[name]
    _noted[pipeline].states[name] = part, _state(part)


def origin(pipeline: Any) -> Model | None:
    """The model over whose weights a pipeline was made; None if a caller made it."""
    noted = _noted.get(pipeline)
    return None if noted is None else noted.model


def changes(pipeline: Any) -> dict[str, Any]:
    """By name, the components of a pipeline that have changed since it was made."""
    states = _noted[pipeline].states
    found = {}
    for name, part in pipeline.components.items():
        before, state = states.get(name, (None, None))
        if part is not before or (part is not None and not _equal(state, _state(part))):
            found[name] = part
    return found


def written(pipeline: Any) -> bool:
    """Whether a script has written to the shared tensors over which a pipeline was made."""
    for part, state in _noted[pipeline].states.values():
        if hasattr(part, "parameters"):
            now = {place[3]: place for place in _tensors(part)}
            if any(now.get(place[3], place)[4:] != place[4:] for place in state[0]):
                return True
    return False


def _state(part: Any) -> Any:
    """The state of a component, which differs after a script has changed it."""
    if hasattr(part, "parameters"):
        return _tensors(part), _layers(part)
    config = getattr(part, "config", None)
    return (type(part), dict(config)) if hasattr(part, "set_timesteps") and config is not None else None


def _tensors(module: Any) -> list[Any]:
    """For each tensor its name, dtype, address, version counter, and some of its numbers."""
    import torch

    named = [*module.named_parameters(), *module.named_buffers()]
    # A write through `tensor.data` changes nothing but the numbers.
    sums = torch.stack([_sum(tensor.detach()).cpu() for _, tensor in named]).tolist() if named else []
    return [
        (name, tensor.dtype, tensor.device, tensor.data_ptr(), tensor._version, total)
        for (name, tensor), total in zip(named, sums, strict=True)
    ]


def _sum(tensor: Any) -> Any:
    import torch

    sample = tensor.reshape(-1)[:: -(-tensor.numel() // SAMPLES) or 1]
    if sample.dtype.itemsize < 2:  # torch adds no numbers of 8 bits
        sample = sample.to(torch.float32)
    return sample.sum(dtype=torch.float64)


PLAIN = (bool, int, float, str, tuple, type(None))


def _layers(module: Any) -> list[Any]:
    """The settings of a module's layers beside their tensors: plain values, functions, hooks, processors, LoRAs."""
    found: list[Any] = [dict(getattr(module, "config", None) or {}) if hasattr(module, "register_to_config") else {}]
    for layer in module.modules():
        own = vars(layer)
        found.append((type(layer), {name: value for name, value in own.items() if isinstance(value, PLAIN)}))
        found.append([own.get("forward"), *layer._forward_hooks.values(), *layer._forward_pre_hooks.values()])
        if hasattr(layer, "lora_A"):
            merged = list(getattr(layer, "merged_adapters", ()))
            scales = dict(getattr(layer, "scaling", {}))
            found.append((list(layer.active_adapters), bool(layer.disable_adapters), merged, scales))
        if (processor := getattr(layer, "processor", None)) is not None:
            found.append(processor)
    return found


def _equal(before: Any, now: Any) -> bool:
    if isinstance(before, list | tuple) and isinstance(now, list | tuple):
        return len(before) == len(now) and all(map(_equal, before, now))
    return before is now or bool(before == now)
