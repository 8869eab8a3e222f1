"""Bytes of frozen dataclasses that hold tensors, plain values and values of registered socket types.

Values without tensors, such as references to weights, are JSON, which needs no torch: a service reads and writes them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from graphengine_nodes.codecs import pack, unpack
from graphengine_nodes.values.types import Tensors

from graphengine import socket_type

if TYPE_CHECKING:
    import torch


class DataclassCodec:
    """Encodes values of some classes as safetensors, or as JSON where they hold no tensors, and decodes them.

    Args:
        own: The dataclasses, which are encoded field by field.
        registered: Classes with codecs of their own whose values stand in the fields.
    """

    def __init__(self, own: Iterable[type[Any]], registered: Iterable[type[Any]]) -> None:
        self._own = {cls.__name__: cls for cls in own}
        self._registered = {cls.__name__: cls for cls in registered}

    def encode(self, value: Any) -> bytes:
        """A value as bytes."""
        tensors: Tensors = {}
        data = self._to_json(value, tensors)
        return pack(tensors, value=data) if tensors else json.dumps(data).encode()

    def decode(self, data: bytes) -> Any:
        """The value of `encode`."""
        if b"\0" not in data:  # safetensors begin with the length of their header in eight bytes
            return self._from_json(json.loads(data), {})
        tensors, facts = unpack(data)
        return self._from_json(facts["value"], tensors)

    def _to_json(self, value: Any, tensors: Tensors) -> Any:
        """A value as JSON; its tensors, and the bytes of registered values, go into `tensors`."""
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if _is_tensor(value):
            return {"tensor": _added(value.contiguous(), tensors)}
        if isinstance(value, (list, tuple)):
            return {"list": [self._to_json(item, tensors) for item in value]}
        if isinstance(value, Mapping):
            return {"dict": {str(name): self._to_json(item, tensors) for name, item in value.items()}}
        known = socket_type(type(value))
        if known is not None and type(value) not in self._own.values():
            assert known.encode is not None
            if known.digest is not None:  # a reference, whose bytes are JSON
                return {"value": known.name, "text": known.encode(value).decode()}
            import torch

            data = torch.frombuffer(bytearray(known.encode(value)), dtype=torch.uint8)
            return {"value": known.name, "bytes": _added(data, tensors)}
        assert is_dataclass(value)
        parts = {field.name: self._to_json(getattr(value, field.name), tensors) for field in fields(value)}
        return {"own": type(value).__name__, "fields": parts}

    def _from_json(self, data: Any, tensors: Tensors) -> Any:
        """The value of `_to_json`."""
        if not isinstance(data, Mapping):
            return data
        if "tensor" in data:
            return tensors[data["tensor"]]
        if "list" in data:
            return tuple(self._from_json(item, tensors) for item in data["list"])
        if "dict" in data:
            return {name: self._from_json(item, tensors) for name, item in data["dict"].items()}
        if "value" in data:
            known = socket_type(self._registered[data["value"]])
            assert known is not None
            assert known.decode is not None
            if "text" in data:
                return known.decode(data["text"].encode())
            return known.decode(tensors[data["bytes"]].numpy().tobytes())
        parts = {name: self._from_json(item, tensors) for name, item in data["fields"].items()}
        return self._own[data["own"]](**parts)


def _is_tensor(value: Any) -> bool:
    """Whether a value is a tensor; without torch in this process there is none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _added(tensor: torch.Tensor, tensors: Tensors) -> str:
    """The name under which a copy of a tensor is added to `tensors`."""
    name = str(len(tensors))
    tensors[name] = tensor.clone()
    return name


def size(value: Any) -> int:
    """The bytes that a value takes in memory, about."""
    if _is_tensor(value):
        return int(value.numel() * value.element_size())
    if isinstance(value, Mapping):
        return sum(map(size, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(size, value))
    if is_dataclass(value) and not isinstance(value, type):
        return 100 + sum(size(getattr(value, field.name)) for field in fields(value))
    return 50
