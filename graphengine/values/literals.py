"""Literals: which ones a declared type accepts, and their conversion to it.

A text is accepted for a path or an enum member, a list for a tuple, a mapping for a dataclass, and `1` for `1.0`.
"""

from __future__ import annotations

import dataclasses
import enum
import pathlib
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

from graphengine.values.socket_types import (
    field_types,
    fits,
    is_protocol,
    python_number,
    socket_type,
    strip,
    union_members,
)

_PLAIN = frozenset({int, float, str, bool, type(None)})


def plain_number(value: Any) -> Any:
    """Convert a numpy number to a Python number; other values are returned as they are."""
    if type(value) in _PLAIN:
        return value
    if not any(base.__module__ == "numpy" for base in type(value).__mro__):
        return value
    import numpy  # it is loaded, but another thread may still be importing it

    return value.item() if isinstance(value, numpy.number | numpy.bool_) else value


def value_fits(value: Any, annotation: Any) -> bool:
    """Whether an input declared with `annotation` accepts a literal."""
    annotation = strip(annotation)
    if annotation is Any or annotation is object or isinstance(annotation, TypeVar) or is_protocol(annotation):
        return True
    if type(value) is annotation:
        return True
    value = plain_number(value)
    members = union_members(annotation)
    if len(members) > 1:
        return any(value_fits(value, m) for m in members)
    origin = get_origin(annotation)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(annotation))
    if origin in (list, tuple):
        args = get_args(annotation)
        if not isinstance(value, list | tuple):
            return False
        if origin is tuple and args and args[-1] is not ... and len(args) != len(value):
            return False
        return all(value_fits(v, args[0] if origin is list or args[-1] is ... else args[i])
                   for i, v in enumerate(value)) if args else True
    if origin is dict:
        key_type, value_type = get_args(annotation)
        return isinstance(value, dict) and all(
            value_fits(k, key_type) and value_fits(v, value_type) for k, v in value.items()
        )
    if annotation is tuple:
        return isinstance(value, list | tuple)
    if not isinstance(annotation, type):
        return origin is not None and isinstance(value, origin)
    if issubclass(annotation, enum.Enum):
        return member_of(annotation, value) is not None
    if isinstance(value, bool):
        return python_number(annotation) is bool
    if typing.is_typeddict(annotation):
        return isinstance(value, dict)
    if annotation is float:
        return isinstance(value, int | float)
    if issubclass(annotation, pathlib.PurePath):
        return isinstance(value, str | pathlib.PurePath)
    if isinstance(value, dict) and _is_written_as_fields(annotation):
        return instance_of(annotation, value) is not None
    if isinstance(value, int | float) and python_number(annotation) is not annotation:
        return _fits_number(value, annotation)
    return isinstance(value, annotation)


def _fits_number(value: int | float, annotation: Any) -> bool:
    """Whether a Python number can be converted to a class of numpy numbers."""
    if python_number(annotation) is float:
        return True
    import numpy

    limits = numpy.iinfo(annotation) if issubclass(annotation, numpy.integer) else None
    return limits is not None and isinstance(value, int) and limits.min <= value <= limits.max


def member_of(cls: type[enum.Enum], value: Any) -> enum.Enum | None:
    """The member of an enum for a literal, which may be the member, its value or its name; None if there is none."""
    if isinstance(value, cls):
        return value
    if isinstance(value, bool) and not any(member.value is value for member in cls):
        return None
    try:
        return cls(_as_tuple(value))
    except Exception:  # there is no such value, or the enum's own `_missing_` fails
        return cls.__members__.get(value) if isinstance(value, str) else None


def _as_tuple(value: Any) -> Any:
    """Convert lists to tuples: files write a member whose value is a tuple as a list."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def instance_of(cls: type, given: Mapping[str, Any]) -> Any:
    """Make an instance of a dataclass from its fields; None if they do not match, or its own code refuses them."""
    types_of = field_types(cls)
    names = {field.name for field in dataclasses.fields(cls) if field.init}
    if not names.issuperset(given) or not all(value_fits(v, types_of.get(name, Any)) for name, v in given.items()):
        return None
    try:
        return cls(**{name: coerce(value, types_of.get(name, Any)) for name, value in given.items()})
    except Exception:  # a field is missing, or the class refuses a value
        return None


def _is_written_as_fields(cls: type) -> bool:
    """Whether literals of a class are written as a mapping of fields."""
    return dataclasses.is_dataclass(cls) and socket_type(cls) is None


def coerce(value: Any, annotation: Any) -> Any:
    """Convert a literal to its declared type, also inside lists, tuples and dictionaries.

    Texts become paths or enum members, `1` becomes `1.0`, lists become tuples, numpy numbers become Python numbers,
    and mappings become dataclasses. A literal that cannot be converted is returned as it is.
    """
    annotation = strip(annotation)
    if value is None or type(value) is annotation or annotation is Any:
        return value
    if annotation is int or annotation is float or annotation is bool:
        value = plain_number(value)
    members = union_members(annotation)
    if len(members) > 1:
        exact = [m for m in members if value_fits(value, m)]
        return coerce(value, exact[0]) if exact and not any(type(value) is m for m in exact) else value
    if get_origin(annotation) is list and isinstance(value, list | tuple):
        (inner,) = get_args(annotation) or (Any,)
        return [coerce(v, inner) for v in value]
    if (get_origin(annotation) or annotation) is tuple and isinstance(value, list | tuple):
        types_of = get_args(annotation)
        if not types_of or types_of[-1] is ...:
            types_of = (types_of or (Any,))[:1] * len(value)
        return tuple(map(coerce, value, types_of)) if len(types_of) == len(value) else value
    if get_origin(annotation) is dict and isinstance(value, dict):
        key_type, value_type = get_args(annotation)
        return {coerce(k, key_type): coerce(v, value_type) for k, v in value.items()}
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(annotation, type):
        return value
    if issubclass(annotation, enum.Enum):
        member = member_of(annotation, value)
        return value if member is None else member
    if isinstance(value, dict) and _is_written_as_fields(annotation):
        instance = instance_of(annotation, value)
        return value if instance is None else instance
    if isinstance(value, int | float) and python_number(annotation) is not annotation and value_fits(value, annotation):
        return typing.cast(Any, annotation)(value)
    if isinstance(annotation, type) and issubclass(annotation, pathlib.PurePath) and isinstance(value, str):
        return annotation(value)
    return value


def fits_written(source: Any, target: Any) -> bool:
    """Whether a graph input of type `source` may be linked to a socket of type `target`.

    The input's value is a literal, so that a text fits a path, and the choices of an enum fit the enum.
    """
    source, target = strip(source), strip(target)
    if fits(source, target):
        return True
    members = union_members(source)
    if len(members) > 1:
        return all(fits_written(member, target) for member in members)
    if get_origin(source) is Literal:
        return all(value_fits(value, target) for value in get_args(source))
    targets = union_members(target)
    if len(targets) > 1:
        return any(fits_written(source, t) for t in targets)
    inner, wanted = get_args(source), get_args(target)
    if get_origin(source) is list and get_origin(target) in (list, tuple) and inner and wanted:
        return all(fits_written(inner[0], w) for w in wanted if w is not ...)
    if not isinstance(target, type):
        return False
    if issubclass(target, enum.Enum):
        return any(type(member.value) is source for member in target) or source is str
    return issubclass(target, pathlib.PurePath) and source is str
