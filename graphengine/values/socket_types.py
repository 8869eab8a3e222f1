"""Socket types: which types may be linked, their names in files, and what packs register about them.

Sockets have Python types. A source fits a target if it is the same type, a subclass, or a member of the target's union
(a union fits if each of its members does). `int` fits `float`; nothing else is converted.

The module is long because matching, naming and reading of annotations must agree on which annotations there are.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import functools
import importlib
import pathlib
import re
import threading
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin

T = TypeVar("T")

Solved = dict[TypeVar, Any]


@dataclass(frozen=True, slots=True)
class View:
    """A value as it is shown to a person: a picture (PNG bytes) or a text."""

    png: bytes | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class SocketType(Generic[T]):
    """A type that a pack registers, with the functions by which the engine encodes, shows and saves its values.

    Args:
        type: The class of the values.
        name: Its name in files and messages.
        encode, decode: A lossless conversion to bytes and back (safetensors, never pickle). Without it, values are
            kept in memory only.
        size: Returns the bytes that a value takes in memory.
        view: Returns how a value is shown to a person.
        save: `save(value, path_without_suffix, text)` writes a value to files for a user, and returns their paths;
            `text` holds the text entries to store in a picture.
        digest: For references to weights only: `digest(value, part)` returns the text that a value adds to a key, or
            that one part of it adds (`digest(model, "vae")`); `part` is None for the whole.
        needs: `needs(value, part)` returns the digests of the weights that a process must hold in memory to compute
            with a value, or with one part of it (see `Pack.held`).
        keyed_as: For references only: the name of another type, as which values enter keys: a part of a model is keyed
            as the model.
        suffix: The ending of the names of files that hold encoded values.
        conversions: By the name of another type, how values of it are made of this one's: the hint of a link or a value
            that does not fit (`{"Image": "frames_of makes pictures of a video"}`).
    """

    type: type[T]
    name: str
    encode: Callable[[T], bytes] | None = None
    decode: Callable[[bytes], T] | None = None
    size: Callable[[T], int] | None = None
    view: Callable[[T], View | list[View]] | None = None
    save: Callable[[T, pathlib.Path, Mapping[str, str]], list[pathlib.Path]] | None = None
    digest: Callable[[T, str | None], str] | None = None
    needs: Callable[[T, str | None], frozenset[str]] | None = None
    keyed_as: str = ""
    suffix: str = ".safetensors"
    conversions: Mapping[str, str] = dataclasses.field(default_factory=dict)


_BUILT_IN: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "path": pathlib.Path,
    "any": Any,
    "null": type(None),
    "dict": dict,
    "tuple": tuple,
}
_registered: dict[type, SocketType[Any]] = {}
_by_name: dict[str, SocketType[Any]] = {}
_promised: dict[tuple[str, str], tuple[str, str]] = {("numpy", "ndarray"): ("array", "graphengine.values.arrays")}
_declared: dict[str, type] = {}
"""Classes in the annotations of nodes, by their names in files (`main.Mode`, `my_pack.Size`)."""
_declared_at: dict[tuple[str, str], type] = {}


def register_type(socket_type: SocketType[Any], /) -> None:
    """Register a socket type.

    Raises:
        ValueError: Another class is registered under this name.
    """
    other = _by_name.get(socket_type.name)
    if socket_type.name in _BUILT_IN or (
        other is not None and other.type.__qualname__ != socket_type.type.__qualname__
    ):
        raise ValueError(f"a socket type called {socket_type.name} is registered already")
    _registered[socket_type.type] = _by_name[socket_type.name] = socket_type


def promise_type(module: str, qualname: str, name: str, home: str) -> None:
    """Announce a socket type for a library's class without importing the library.

    The module `home` is imported when the first value of the class occurs or a file names the type, and must then
    register it (`register_type`).

    Args:
        module: The module that defines the class.
        qualname: The class's qualified name there.
        name: The type's name in files and messages.
        home: The module that registers the type.
    """
    _promised[module, qualname] = name, home


def socket_type(cls: type) -> SocketType[Any] | None:
    """The socket type that is registered for a class or its nearest base; None if there is none."""
    registered = _registered.get(cls)
    if registered is None:
        for base in cls.__mro__:
            promised = _promised.get((base.__module__, base.__qualname__))
            if promised is not None and base not in _registered:
                importlib.import_module(promised[1])
            if (registered := _registered.get(base)) is not None:
                break
    return registered


# --- types that nodes declare -----------------------------------------------------------------------------------------


def declare(annotation: Any, pack_of: Callable[[str], str]) -> None:
    """Declare the enums, dataclasses and named tuples in an annotation, and in their fields, as types of files.

    Files may then name them as types and hold values of them.

    Args:
        annotation: The annotation of a node's input or output.
        pack_of: Returns the name of a module's pack.
    """
    stack, seen = [annotation], set[Any]()
    while stack:
        part = strip(stack.pop())
        stack += [a for a in get_args(part) if not isinstance(a, str | int | float | bytes)]
        if not isinstance(part, type) or part in seen or get_origin(part) is not None:
            continue
        seen.add(part)
        if issubclass(part, enum.Enum):
            _name(part, pack_of(part.__module__))
        elif dataclasses.is_dataclass(part) or is_named_tuple(part):
            _name(part, pack_of(part.__module__))
            stack += field_types(part).values()


def _name(cls: type, pack: str) -> None:
    """Declare a class under its pack and name, or under its module if another class of the pack has that name."""
    _declared_at[cls.__module__, cls.__qualname__] = cls
    name = f"{pack}.{cls.__qualname__}"
    taken = _declared.get(name)
    if taken is not None and taken.__module__ != cls.__module__:
        name = f"{cls.__module__}.{cls.__qualname__}"
    _declared[name] = cls


def declared_as(cls: type) -> str | None:
    """The name in files of a declared class; None if it is not declared."""
    return next((name for name, known in _declared.items() if known is cls), None)


def declared_at(module: str, name: str) -> type | None:
    """The declared class of this name in a module; None if there is none."""
    return _declared_at.get((module, name))


def field_types(cls: type) -> dict[str, Any]:
    """The annotations of a class's fields; empty if they cannot be evaluated."""
    try:
        return typing.get_type_hints(cls)
    except Exception:  # names that are imported for type checkers only
        return {}


def conversion(source: Any, target: Any) -> str:
    """How values of `target` are made of those of `source`, as the source's type says; empty where it says nothing."""
    for member in union_members(strip(source)):
        known = socket_type(member) if isinstance(member, type) else None
        for wanted in union_members(strip(target)) if known is not None and known.conversions else ():
            if told := known.conversions.get(type_name(wanted), ""):  # type: ignore[union-attr]
                return told
    return ""


def is_reference(annotation: Any) -> bool:
    """Whether values of this type enter keys by their own digest."""
    members = [strip(m) for m in union_members(strip(annotation)) if m is not type(None)]
    return bool(members) and all(
        isinstance(m, type) and (known := socket_type(m)) is not None and known.digest is not None for m in members
    )


def union_members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; of any other type, the type itself."""
    if type(annotation) is type:
        return (annotation,)
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(m for arg in get_args(annotation) for m in union_members(arg))
    return (annotation,)


def strip(annotation: Any) -> Any:
    """Remove `Annotated` metadata, and replace a `NewType` by its supertype."""
    if type(annotation) is type:  # most annotations are plain classes
        return annotation
    while True:
        if get_origin(annotation) is typing.Annotated:
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        else:
            return annotation


def python_number(cls: Any) -> Any:
    """The Python class for a class of numpy numbers (`float` for `np.float32`); any other class unchanged."""
    if getattr(cls, "__module__", None) != "numpy" or not isinstance(cls, type):
        return cls
    import numpy

    classes: dict[type, type] = {numpy.bool_: bool, numpy.integer: int, numpy.floating: float}
    return next((python for base, python in classes.items() if issubclass(cls, base)), cls)


def is_protocol(annotation: Any) -> bool:
    """Whether an annotation is a `Protocol`, which only a type checker can check."""
    return type(annotation) is not type and bool(getattr(get_origin(annotation) or annotation, "_is_protocol", False))


def is_named_tuple(annotation: Any) -> bool:
    """Whether an annotation is a class of named tuples."""
    return isinstance(annotation, type) and issubclass(annotation, tuple) and hasattr(annotation, "_fields")


def fits(source: Any, target: Any, solved: Solved | None = None) -> bool:
    """Whether an output of type `source` may be linked to an input of type `target`.

    Args:
        source: The type of the output.
        target: The type of the input.
        solved: Collects the types of the target's type variables; a variable that occurs again must fit, or becomes
            the union of both types.
    """
    source, target = strip(source), strip(target)
    if target is Any or target is object or source is Any or source is target or is_protocol(target):
        return True
    if isinstance(source, TypeVar):  # an unsolved variable may be any type
        return True
    if isinstance(target, TypeVar):
        return _solve(source, target, solved)
    members = union_members(source)
    if len(members) > 1:
        return all(fits(m, target, solved) for m in members)
    targets = union_members(target)
    if get_origin(source) is Literal:
        return all(any(_literal_fits(value, t, solved) for t in targets) for value in get_args(source))
    if len(targets) > 1:
        plain = sorted(targets, key=lambda t: isinstance(t, TypeVar))  # a variable is tried last
        return any(fits(source, t, solved) for t in plain)
    if get_origin(target) is Literal:
        return False
    return _fits_class(source, target, solved)


def _literal_fits(value: Any, target: Any, solved: Solved | None) -> bool:
    if get_origin(target) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(target))
    return fits(type(value), target, solved)


def _solve(source: Any, target: TypeVar, solved: Solved | None) -> bool:
    if target.__constraints__ and not any(fits(source, c) for c in target.__constraints__):
        return False
    if target.__bound__ is not None and not fits(source, target.__bound__):
        return False
    if solved is None:
        return True
    known = solved.get(target)
    if known is None or fits(known, source):
        solved[target] = source
    elif not fits(source, known):
        # Two unrelated types: their union is what a type checker would infer as well.
        solved[target] = Union[known, source]  # noqa: UP007 - built at run time
    return True


def _fits_class(source: Any, target: Any, solved: Solved | None) -> bool:
    source_class, target_class = get_origin(source) or source, get_origin(target) or target
    if typing.is_typeddict(target_class):
        target_class = dict
    if source_class is type(None) or target_class is type(None):
        return source_class is target_class
    if not isinstance(source_class, type) or not isinstance(target_class, type):
        return bool(source == target)
    if source_class is int and target_class is float:
        return True
    if source_class is bool and target_class in (int, float):
        return False
    if not issubclass(source_class, target_class):
        number = python_number(source_class)
        return number is not source_class and _fits_class(number, target, solved)
    inner, wanted = get_args(source), get_args(target)
    if not inner or not wanted or len(inner) != len(wanted):
        return True
    return all(fits(a, b, solved) for a, b in zip(inner, wanted, strict=True))


def holds_path(annotation: Any) -> bool:
    """Whether values of a type are paths or hold paths: optional, in containers, or in fields of a class."""
    return _holds_path(annotation, frozenset())


def _holds_path(annotation: Any, above: frozenset[Any]) -> bool:
    annotation = strip(annotation)
    if isinstance(annotation, type) and get_origin(annotation) is None:
        if issubclass(annotation, pathlib.Path):
            return True
        has_fields = dataclasses.is_dataclass(annotation) or is_named_tuple(annotation)
        if annotation in above or not (has_fields or typing.is_typeddict(annotation)) or _is_weights(annotation):
            return False
        cls: Any = annotation
        return any(_holds_path(hint, above | {cls}) for hint in _field_types(cls))
    if get_origin(annotation) is Literal:
        return False
    return any(_holds_path(argument, above) for argument in get_args(annotation) if argument is not ...)


@functools.lru_cache
def _field_types(cls: type) -> tuple[Any, ...]:
    """The types of a class's fields; if they cannot be evaluated, `Path` if the text of one names it."""
    try:
        return tuple(typing.get_type_hints(cls).values())
    except Exception:  # a name that is imported for type checkers only
        written = map(str, vars(cls).get("__annotations__", {}).values())
        return (pathlib.Path,) if any(re.search(r"\bPath\b", text) for text in written) else ()


def _is_weights(cls: type) -> bool:
    """Whether a class is a reference to weights, which is identified by its digest."""
    registered = socket_type(cls)
    return registered is not None and registered.digest is not None


def has_variables(annotation: Any) -> bool:
    """Whether a type holds type variables."""
    if type(annotation) is type:
        return False
    annotation = strip(annotation)
    return isinstance(annotation, TypeVar) or any(has_variables(a) for a in get_args(annotation) if a is not ...)


def substitute(annotation: Any, solved: Solved) -> Any:
    """Replace the type variables in an annotation by the types in `solved`."""
    annotation = strip(annotation)
    if isinstance(annotation, TypeVar):
        return solved.get(annotation, annotation)
    if not solved or not has_variables(annotation):
        return annotation
    args = get_args(annotation)
    new = tuple(substitute(a, solved) for a in args)
    if get_origin(annotation) in (Union, types.UnionType):
        return Union[new]  # noqa: UP007 - built at run time
    origin = get_origin(annotation)
    return origin[new if len(new) > 1 else new[0]] if hasattr(origin, "__class_getitem__") else annotation


def type_name(annotation: Any) -> str:
    """The name of a type as files and messages write it: `int`, `list[Image]`, `str | null`."""
    annotation = strip(annotation)
    members = union_members(annotation)
    if len(members) > 1:
        return " | ".join(type_name(m) for m in members)
    if get_origin(annotation) is Literal:
        return " | ".join(repr(value) for value in get_args(annotation))
    if origin := get_origin(annotation):
        inner = ", ".join("..." if a is ... else type_name(a) for a in get_args(annotation))
        return f"{type_name(origin)}[{inner}]" if inner else type_name(origin)
    if annotation is Any:
        return "any"
    if annotation in (None, type(None)):
        return "null"
    if annotation is pathlib.Path:
        return "path"
    if isinstance(annotation, type) and annotation in _registered:
        return _registered[annotation].name
    if isinstance(annotation, type) and (promised := _promised.get((annotation.__module__, annotation.__qualname__))):
        return promised[0]
    return getattr(annotation, "__name__", str(annotation))


_parsing = threading.RLock()  # Python 3.11 counts nesting for all threads together, so parallel parsing may fail


def parse_type(text: str) -> Any:
    """Parse the name of a type, such as `int`, `list[Image]` or `str | null`.

    Raises:
        ValueError: It is no name of a type; the message says what is wrong.
    """
    try:
        with _parsing:
            tree = ast.parse(text.replace("None", "null").strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"{text!r} is no type") from None
    return _parse(tree, text)


def _parse(tree: ast.expr, text: str) -> Any:
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr):
        return Union[_parse(tree.left, text), _parse(tree.right, text)]  # noqa: UP007 - built at run time
    if isinstance(tree, ast.Subscript) and isinstance(tree.value, ast.Name) and tree.value.id == "list":
        return list[_parse(tree.slice, text)]  # type: ignore[misc]
    if isinstance(tree, ast.Subscript) and isinstance(tree.value, ast.Name) and tree.value.id == "tuple":
        parts = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
        return tuple[tuple(... if ast.unparse(p) == "..." else _parse(p, text) for p in parts)]  # type: ignore[misc]
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str | int):
        return Literal[tree.value]
    if isinstance(tree, ast.Name):
        if tree.id == "list":
            return list
        if tree.id in _BUILT_IN:
            return _BUILT_IN[tree.id]
        if (known := type_called(tree.id)) is not None:
            return known.type
        raise ValueError(f"no type is called {tree.id}; there are {', '.join(type_names())}")
    if isinstance(tree, ast.Attribute):
        name = ast.unparse(tree)
        if name in _declared:
            return _declared[name]
        same = sorted(known for known in _declared if known.rpartition(".")[2] == name.rpartition(".")[2])
        hint = f"; did you mean {' or '.join(same)}?" if same else ""
        raise ValueError(f"no type is called {name}: no node that is known here declares it{hint}")
    raise ValueError(f"{text!r} is no type; write for example int, list[int] or Image | null")


def type_names() -> list[str]:
    """The names of all types that files may use."""
    return [*_BUILT_IN, *sorted({*_by_name, *(name for name, _ in _promised.values())})]


def type_called(name: str) -> SocketType[Any] | None:
    """The socket type that is registered under a name; None if there is none."""
    if name not in _by_name:
        for known, home in _promised.values():
            if known == name:
                importlib.import_module(home)
    return _by_name.get(name)


