"""Canonical forms of literals, for keys: tuples of plain Python values, which are hashed by their `repr`.

Two such tuples have the same `repr` only if they are equal.
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
from graphengine.values.socket_types import socket_type

PLAIN = frozenset({int, str, float, bool, type(None), bytes})


class NotData(TypeError):
    """A literal has no canonical form; results that are computed from it are not remembered."""


def digest(canonical: Any) -> bytes:
    """Hash a canonical form: 16 bytes of BLAKE2b."""
    return blake2b(repr(canonical).encode(), digest_size=16).digest()


def canonical(value: Any, part: str | None = None) -> Any:
    """The canonical form of a literal.

    Args:
        value: The literal.
        part: Of a reference to weights, the part whose digest to take; None for the whole model.

    Raises:
        NotData: It has none (a function, an open file, an object of an unknown class).
    """
    cls = type(value)
    if cls in PLAIN:
        return value
    if cls is list or cls is tuple:
        return ("list", *[canonical(v, part) for v in value])
    if cls is dict:
        items = [(canonical(k), canonical(v, part)) for k, v in value.items()]
        return ("dict", *sorted(items, key=repr))
    if isinstance(value, enum.Enum):
        return ("enum", *name_in_keys(cls), canonical(value.value))
    if isinstance(value, PurePath):
        return ("path", str(value))
    registered = socket_type(cls)
    if registered is not None and registered.digest is not None:
        return ("reference", registered.keyed_as or registered.name, registered.digest(value, part))
    if registered is not None and registered.encode is not None:
        try:
            content = registered.encode(value)
        except NotStorable as reason:
            raise NotData(str(reason)) from None
        return ("value", registered.name, blake2b(content, digest_size=16).digest())
    if cls is set or cls is frozenset:
        return ("set", *sorted((canonical(v, part) for v in value), key=repr))
    if isinstance(value, tuple):
        return ("tuple", *name_in_keys(cls), *[canonical(v, part) for v in value])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(f.name, canonical(getattr(value, f.name))) for f in dataclasses.fields(value)]
        return ("fields", *name_in_keys(cls), *fields)
    if hasattr(value, "tobytes") and hasattr(value, "dtype") and hasattr(value, "shape"):
        if getattr(value.dtype, "hasobject", False):
            raise NotData("an array of objects is no data")
        content = blake2b(value.tobytes(), digest_size=16).digest()
        return ("array", str(value.dtype), tuple(value.shape), content)
    raise NotData(f"{cls.__name__} is no data")


_tokens: dict[int, tuple[bytes, Any]] = {}
TOKENS = 10_000
"""The most objects that have a token at once; the oldest token is dropped, and its object then gets a new one."""


def token(value: Any) -> bytes:
    """A random token that identifies an object without a canonical form; no two objects of any process share one."""
    known = _tokens.get(id(value))
    if known is None or (known[1]() if type(known[1]) is weakref.ref else known[1]) is not value:
        try:
            held: Any = weakref.ref(value)
        except TypeError:
            held = value  # kept alive, so that no other object gets its id
        known = _tokens[id(value)] = (os.urandom(16), held)
        if len(_tokens) > TOKENS:
            _tokens.pop(next(iter(_tokens)), None)
    return known[0]


HERE = b"-of-this-process"
"""The suffix of keys of values that are remembered in this process only, and of all values made from these."""
