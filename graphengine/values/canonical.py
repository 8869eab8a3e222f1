"""The canonical form of literals: tuples of plain Python values, and the hash of their `repr`.

The `repr` of two such tuples is the same for equal tuples only.
"""

from __future__ import annotations

import dataclasses
import enum
import os
import weakref
from hashlib import blake2b
from pathlib import PurePath
from typing import Any

from graphengine.errors import NotStorable
from graphengine.old_names import name_in_keys
from graphengine.values.types import socket_type

PLAIN = frozenset({int, str, float, bool, type(None), bytes})


class NotData(TypeError):
    """A literal that has no canonical form; what is computed from it is not remembered."""


def digest(canonical: Any) -> bytes:
    """The hash of a canonical form."""
    return blake2b(repr(canonical).encode(), digest_size=16).digest()


def canonical(value: Any, part: str | None = None) -> Any:
    """The canonical form of a literal; of a reference to weights, that of one part of it.

    Raises:
        NotData: It has none (a function, an open file, an object of an unknown class).
    """
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind is list or kind is tuple:
        return ("list", *[canonical(v, part) for v in value])
    if kind is dict:
        items = [(canonical(k), canonical(v, part)) for k, v in value.items()]
        return ("dict", *sorted(items, key=repr))
    if isinstance(value, enum.Enum):
        return ("enum", *name_in_keys(kind), canonical(value.value))
    if isinstance(value, PurePath):
        return ("path", str(value))
    registered = socket_type(kind)
    if registered is not None and registered.digest is not None:
        return ("reference", registered.name, registered.digest(value, part))
    if registered is not None and registered.encode is not None:
        try:
            content = registered.encode(value)
        except NotStorable as reason:
            raise NotData(str(reason)) from None
        return ("value", registered.name, blake2b(content, digest_size=16).digest())
    if kind is set or kind is frozenset:
        return ("set", *sorted((canonical(v, part) for v in value), key=repr))
    if isinstance(value, tuple):
        return ("tuple", *name_in_keys(kind), *[canonical(v, part) for v in value])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(f.name, canonical(getattr(value, f.name))) for f in dataclasses.fields(value)]
        return ("fields", *name_in_keys(kind), *fields)
    if hasattr(value, "tobytes") and hasattr(value, "dtype") and hasattr(value, "shape"):
        if getattr(value.dtype, "hasobject", False):
            raise NotData("an array of objects is no data")
        content = blake2b(value.tobytes(), digest_size=16).digest()
        return ("array", str(value.dtype), tuple(value.shape), content)
    raise NotData(f"{kind.__name__} is no data")


_tokens: dict[int, tuple[bytes, Any]] = {}
TOKENS = 10_000
"""How many objects of this process are told apart at once; one that is forgotten is taken for a new one."""


def token(value: Any) -> bytes:
    """What stands for an object that has no canonical form: never the same for two, in this process or another."""
    known = _tokens.get(id(value))
    if known is None or (known[1]() if type(known[1]) is weakref.ref else known[1]) is not value:
        try:
            held: Any = weakref.ref(value)
        except TypeError:
            held = value  # kept, so that its id is nobody else's
        known = _tokens[id(value)] = (os.urandom(16), held)
        if len(_tokens) > TOKENS:
            _tokens.pop(next(iter(_tokens)), None)
    return known[0]


HERE = b"-of-this-process"
"""Ends the keys of values that are remembered in this process only, and so of all that is made of them."""
