"""Values as JSON trees with blobs beside them: how they lie on disk, and how they go to another process."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from graphengine.errors import NotStorable
from graphengine.types import is_named_tuple, socket_type, type_called


class UnknownType(LookupError):
    """A value's type is of a pack that is not loaded here."""


def blob_name(content: bytes) -> str:
    """What a blob is called: its hash."""
    return hashlib.blake2b(content, digest_size=20).hexdigest()


def to_tree(value: Any, write: Callable[[str, bytes], None]) -> Any:
    """A value as JSON data; `write` is given the name and the bytes of each blob in it.

    Raises:
        NotStorable: Something in it has no codec.
    """
    kind = type(value)
    if kind in (int, str, bool, type(None)) or (kind is float and math.isfinite(value)):
        return {"json": value}
    if kind is float:
        return {"float": repr(value)}
    if kind is list or kind is tuple:
        return {kind.__name__: [to_tree(v, write) for v in value]}
    if kind is dict and all(type(key) is str for key in value):
        return {"dict": {key: to_tree(v, write) for key, v in value.items()}}
    if isinstance(value, Path):
        return {"path": str(value)}
    registered = socket_type(kind)
    if registered is not None and registered.type is kind and registered.encode is not None:
        content = registered.encode(value)
        name = blob_name(content)
        write(name, content)
        return {"type": registered.name, "blob": name}
    if is_named_tuple(kind) and _class_called(kind.__module__, kind.__qualname__) is kind:
        items = [to_tree(v, write) for v in value]
        return {"named": [kind.__module__, kind.__qualname__], "tuple": items}
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    raise NotStorable(f"a value of type {name} has no form in which it could be written or sent: {_advice(kind)}")


def _advice(kind: type) -> str:
    """What gives the values of a class a form."""
    known, name = socket_type(kind), kind.__name__
    codec = f'register_type(SocketType({name}, "{name}", encode=..., decode=...))'
    if kind is dict:
        return "its keys must be texts"
    if known is not None and known.type is kind:
        return f"it is registered without a codec; {codec} in its pack gives it one"
    if known is not None:
        return f"what is registered is its base {known.name}; {codec} in its pack registers it too"
    if kind.__module__ == "builtins":
        return "nodes for the device take and return numbers, texts, lists, dicts and registered types"
    return f"{codec} of graphengine, in its pack, gives it one"


def from_tree(tree: Mapping[str, Any], read: Callable[[str], bytes]) -> Any:
    """The value of a tree; `read` gives the bytes of a blob.

    Raises:
        UnknownType: It holds a type of a pack that is not loaded here.
        Exception: Whatever a codec raises on damaged bytes.
    """
    if "json" in tree:
        return tree["json"]
    if "float" in tree:
        return float(tree["float"])
    if "list" in tree:
        return [from_tree(item, read) for item in tree["list"]]
    if "dict" in tree:
        return {key: from_tree(item, read) for key, item in tree["dict"].items()}
    if "path" in tree:
        return Path(tree["path"])
    if "named" in tree:
        named = _class_called(*tree["named"])
        if named is None:
            raise UnknownType(tree["named"])
        return named(*(from_tree(item, read) for item in tree["tuple"]))
    if "tuple" in tree:
        return tuple(from_tree(item, read) for item in tree["tuple"])
    registered = type_called(tree["type"])
    if registered is None or registered.decode is None:
        raise UnknownType(tree["type"])
    return registered.decode(read(tree["blob"]))


def blobs_of(tree: Mapping[str, Any]) -> Iterator[str]:
    """The names of the blobs in a tree."""
    if "blob" in tree:
        yield tree["blob"]
    for item in (*tree.get("list", ()), *tree.get("tuple", ()), *tree.get("dict", {}).values()):
        yield from blobs_of(item)


def _class_called(module: str, name: str) -> Any:
    """A named tuple of a module that is imported already; nothing is imported for what a file says."""
    found = getattr(sys.modules.get(module), name, None)
    return found if is_named_tuple(found) else None
