"""Files of today's models made of diffusers' own classes: the names of the original code, by rules of a line each.

The rules turn diffusers' names back into those of the published files; tensors that are one in the files are joined.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from graphengine_nodes.layouts import contents
from graphengine_nodes.layouts.contents import Component, Contents
from graphengine_nodes.weights.headers import Header

Tensors = dict[str, torch.Tensor]
Rules = Sequence[tuple[str, str]]
Joined = Sequence[tuple[str, Sequence[str]]]


def made(cls: str, config: dict[str, Any], device: str = "meta") -> Any:
    """A model of a class of diffusers; with random weights, if it is not on the meta device."""
    torch.manual_seed(0)
    with torch.device(device):
        model = getattr(diffusers, cls)(**config)
    for tensor in model.state_dict().values() if device != "meta" else ():
        if tensor.is_floating_point():
            tensor.normal_()
    return model


def original(tensors: Tensors, rules: Rules, joined: Joined = (), swapped: Sequence[str] = ()) -> Tensors:
    """The tensors under the names of the original code.

    Args:
        rules: Patterns in diffusers' names and what stands there instead, one after another.
        joined: For the end of a name, the ends of the names whose tensors are one there; by diffusers' names.
        swapped: Beginnings of original names of tensors whose halves come in the other order there.
    """
    left, found = dict(tensors), {}
    for end, parts in joined:
        for name in [name for name in left if name.rpartition(".")[0].endswith(parts[0])]:
            layer, _, last = name.rpartition(".")
            start = layer.removesuffix(parts[0])
            found[f"{start}{end}.{last}"] = torch.cat([left.pop(f"{start}{part}.{last}") for part in parts])
    for name, tensor in (found | left).items():
        found.pop(name, None)
        for pattern, instead in rules:
            name = re.sub(pattern, instead, name)
        found[name] = torch.cat(tensor.chunk(2)[::-1]) if name.startswith(tuple(swapped)) and swapped else tensor
    return found


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def header(tensors: Tensors, dtype: str = "BF16") -> Header:
    return {name: {"dtype": dtype, "shape": list(tensor.shape)} for name, tensor in tensors.items()}


def read(tensors: Tensors, metadata: dict[str, str] | None = None) -> Contents:
    return contents.read(header(tensors), metadata or {}, Path("some.safetensors"))


def loaded(component: Component, tensors: Tensors) -> Tensors:
    """A component's tensors by diffusers' names, read from a file's."""
    return {name: place.read(tensors[place.name]) for name, place in component.places.items()}


def converted(converter: str, tensors: Tensors, **arguments: Any) -> Tensors:
    """The tensors by diffusers' names, as its converter of single files gives them."""
    module = importlib.import_module("diffusers.loaders.single_file_utils")
    found: Tensors = getattr(module, converter)(dict(tensors), **arguments)
    return found


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


def assert_config(found: dict[str, Any], model: Any, *, but: Sequence[str] = ()) -> None:
    """A configuration that follows from shapes says what the model's own says, in each of its entries."""
    own = {name: list(value) if isinstance(value, tuple) else value for name, value in dict(model.config).items()}
    said = {name: value for name, value in found.items() if name not in ("_class_name", *but)}
    assert said == {name: own[name] for name in said}
    assert found["_class_name"] == type(model).__name__
