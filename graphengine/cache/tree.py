"""Serialization of values as JSON trees with blobs beside them, for the disk store and for other processes."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from graphengine.declare.registry import class_called, type_of_packs
from graphengine.errors import NotStorable
from graphengine.old_names import name_in_keys, place_now
from graphengine.system.opening import rooted, roots_of
from graphengine.values.literals import plain_number
from graphengine.values.socket_types import is_named_tuple, python_number, socket_type, type_called

Write = Callable[[str, bytes], None]
Read = Callable[[str], bytes]


class UnknownType(LookupError):
    """The type of a value belongs to a pack that is not loaded in this process."""


def blob_name(content: bytes) -> str:
    """The name of a blob: its hash, 40 hexadecimal digits of BLAKE2b."""
    return hashlib.blake2b(content, digest_size=20).hexdigest()


def to_tree(value: Any, write: Write) -> Any:
    """Convert a value to JSON data.

    Args:
        value: The value.
        write: Called with the name and the bytes of each blob in it.

    Raises:
        NotStorable: A part of it cannot be written.
    """
    cls = type(value)
    if cls in (int, str, bool, type(None)) or (cls is float and math.isfinite(value)):
        return {"json": value}
    if cls is float:
        return {"float": repr(value)}
    if cls is list or cls is tuple:
        return {cls.__name__: [to_tree(v, write) for v in value]}
    if cls is set or cls is frozenset:
        return {cls.__name__: sorted((to_tree(v, write) for v in value), key=json.dumps)}
    if cls is dict and all(type(key) is str for key in value):
        return {"dict": {key: to_tree(v, write) for key, v in value.items()}}
    if cls is dict:
        return {"items": [[to_tree(k, write), to_tree(v, write)] for k, v in value.items()]}
    if cls is collections.OrderedDict:
        return {"items": [[to_tree(k, write), to_tree(v, write)] for k, v in value.items()], "ordered": True}
    if isinstance(value, Path):
        roots = roots_of(value)
        return {"path": str(value)} | ({} if roots is None else {"roots": list(roots)})
    if cls is bytes:
        return {"raw": "bytes", "blob": _written(value, write)}
    registered = socket_type(cls)
    if registered is None and class_called(cls.__module__, cls.__qualname__) is not cls:
        registered = type_of_packs(cls)
    if registered is not None and registered.type is cls:
        if registered.encode is None:
            raise NotStorable(_no_form(cls))
        return {"type": registered.name, "blob": _written(registered.encode(value), write)}
    if python_number(cls) is not cls and plain_number(value) == value:
        return {"number": cls.__name__, "of": to_tree(plain_number(value), write)}
    return _to_tree_of_class(value, cls, write)


def _to_tree_of_class(value: Any, cls: type, write: Write) -> Any:
    """Convert an instance of a pack's class, or of a class in a node's annotations."""
    if class_called(cls.__module__, cls.__qualname__) is not cls:
        raise NotStorable(_no_form(cls))
    name = list(name_in_keys(cls))
    if is_named_tuple(cls):
        return {"named": name, "tuple": [to_tree(v, write) for v in value]}
    if isinstance(value, enum.Enum):
        if value.name in cls.__members__:  # type: ignore[attr-defined]
            return {"member": value.name, "of": name}
        return {"combined": to_tree(value.value, write), "of": name}  # of flags
    if dataclasses.is_dataclass(cls) and _is_made_of_fields(cls):
        return {"fields": name, "dict": {key: to_tree(v, write) for key, v in _fields(value, cls).items()}}
    raise NotStorable(_no_form(cls))


def _written(content: bytes, write: Write) -> str:
    name = blob_name(content)
    write(name, content)
    return name


_HEAP_TYPE = 1 << 9
"""CPython's flag of classes that are written in Python; objects of others may hold more than their attributes."""


def _is_made_of_fields(cls: type) -> bool:
    return all(base is object or base.__flags__ & _HEAP_TYPE for base in cls.__mro__)


def _fields(value: Any, cls: type) -> dict[str, Any]:
    """The fields of a dataclass instance, which must have no other attributes."""
    try:
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(cls)}
    except AttributeError as error:
        raise NotStorable(f"a {cls.__name__} has no form in which it could be written or sent: {error}") from None
    more = [name for name in getattr(value, "__dict__", ()) if name not in fields and not _is_cached(cls, name)]
    if more:
        raise NotStorable(
            f"a {cls.__name__} has no form in which it could be written or sent: it holds {', '.join(more)}, which are "
            f"no fields; {_codec(cls)} gives it one"
        )
    return fields


def _is_cached(cls: type, name: str) -> bool:
    return isinstance(getattr(cls, name, None), functools.cached_property)


def _codec(cls: type) -> str:
    return f'register_type(SocketType({cls.__name__}, "{cls.__name__}", encode=..., decode=...)) of graphengine'


def _no_form(cls: type) -> str:
    """The error message for a class whose values cannot be written, with what to do."""
    name = cls.__name__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    return f"a value of type {name} has no form in which it could be written or sent: {_advice(cls)}"


def _advice(cls: type) -> str:
    known = socket_type(cls)
    if known is not None and known.type is cls:
        return f"it is registered without a codec; {_codec(cls)}, in its pack, gives it one"
    if known is not None:
        return f"what is registered is its base {known.name}; {_codec(cls)}, in its pack, registers it too"
    if cls.__module__ == "builtins":
        return "what can are numbers, texts, bytes, lists, dicts, sets, arrays, dataclasses and registered types"
    by_fields = is_named_tuple(cls) or issubclass(cls, enum.Enum) or dataclasses.is_dataclass(cls)
    if by_fields and class_called(cls.__module__, cls.__qualname__) is not cls:
        return "name the class in the annotations of a node, so that whoever reads it knows it"
    return f"make it a dataclass of such values, or {_codec(cls)}, in its pack, gives it one"


def from_tree(tree: Mapping[str, Any], read: Read) -> Any:
    """Convert JSON data of `to_tree` back to the value.

    Args:
        tree: The data.
        read: Returns the bytes of a blob by its name.

    Raises:
        UnknownType: A type in it belongs to a pack that is not loaded here.
        Exception: Whatever a codec raises on damaged bytes.
    """
    if "json" in tree:
        return tree["json"]
    if "float" in tree:
        return float(tree["float"])
    if "list" in tree:
        return [from_tree(item, read) for item in tree["list"]]
    if "set" in tree:
        return {from_tree(item, read) for item in tree["set"]}
    if "frozenset" in tree:
        return frozenset(from_tree(item, read) for item in tree["frozenset"])
    if "fields" in tree:
        return _instance(_known(tree["fields"]), {k: from_tree(item, read) for k, item in tree["dict"].items()})
    if "dict" in tree:
        return {key: from_tree(item, read) for key, item in tree["dict"].items()}
    if "items" in tree:
        made = dict if "ordered" not in tree else collections.OrderedDict
        return made((from_tree(key, read), from_tree(item, read)) for key, item in tree["items"])
    if "path" in tree:
        return Path(tree["path"]) if "roots" not in tree else rooted(tree["path"], tree["roots"])
    if "named" in tree:
        return _named(_known(tree["named"]), [from_tree(item, read) for item in tree["tuple"]])
    if "tuple" in tree:
        return tuple(from_tree(item, read) for item in tree["tuple"])
    if "member" in tree or "combined" in tree:
        cls: Any = _known(tree["of"])
        if not issubclass(cls, enum.Enum):
            raise UnknownType(tree["of"])
        return cls[tree["member"]] if "member" in tree else cls(from_tree(tree["combined"], read))
    if "number" in tree:
        return _number(tree["number"], from_tree(tree["of"], read))
    if tree.get("raw") == "bytes":
        return read(tree["blob"])
    registered = type_called(tree["type"])
    if registered is None or registered.decode is None:
        raise UnknownType(tree["type"])
    return registered.decode(read(tree["blob"]))


def _known(name: list[str]) -> type:
    module, qualified = name
    found = class_called(*place_now(module, qualified))
    if found is None:
        raise UnknownType(name)
    return found


def _named(cls: Any, items: list[Any]) -> Any:
    if not is_named_tuple(cls):
        raise UnknownType(cls)
    return cls(*items)


def _instance(cls: type, fields: Mapping[str, Any]) -> Any:
    """Make an instance of a dataclass from its fields without running any code of the class."""
    if not dataclasses.is_dataclass(cls) or not _is_made_of_fields(cls):
        raise UnknownType(cls)
    if {field.name for field in dataclasses.fields(cls)} != fields.keys():
        raise ValueError(f"the fields of {cls.__name__} are others now")
    made = object.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def _number(name: str, value: Any) -> Any:
    import numpy

    cls = getattr(numpy, name, None)
    if not isinstance(cls, type) or python_number(cls) is cls:
        raise UnknownType(name)
    return cls(value)


def blobs_of(tree: Mapping[str, Any]) -> Iterator[str]:
    """The names of the blobs in a tree."""
    if "blob" in tree:
        yield tree["blob"]
    for key in ("list", "tuple", "set", "frozenset"):
        for item in tree.get(key, ()):
            yield from blobs_of(item)
    for item in tree.get("dict", {}).values():
        yield from blobs_of(item)
    for pair in tree.get("items", ()):
        for item in pair:
            yield from blobs_of(item)


def packed(value: Any) -> bytes:
    """Encode a value with all its blobs as bytes, which `unpacked` decodes.

    Raises:
        NotStorable: As from `to_tree`.
    """
    blobs: dict[str, bytes] = {}
    tree = to_tree(value, blobs.__setitem__)
    header = json.dumps({"value": tree, "blobs": [[name, len(blob)] for name, blob in blobs.items()]}).encode()
    return b"".join([len(header).to_bytes(8, "little"), header, *blobs.values()])


def unpacked(content: bytes) -> Any:
    """Decode the bytes of `packed`.

    Raises:
        UnknownType: As from `from_tree`.
        Exception: The bytes are damaged.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header, blobs = json.loads(content[8:start]), {}
    for name, size in header["blobs"]:
        blobs[name] = content[start : start + size]
        start += size
    return from_tree(header["value"], blobs.__getitem__)
