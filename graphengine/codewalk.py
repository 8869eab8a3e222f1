"""What a function's code uses, as a canonical form: the version of a node that declares none."""

from __future__ import annotations

import dataclasses
import dis
import functools
import types
from collections.abc import Iterator, Set
from typing import Any

from graphengine.definition import NodeDef
from graphengine.keys import PLAIN, Watch, canonical, digest, graph_key, identity, token
from graphengine.pack import home, loose_sources, pack_of, stamp


def code_hash(function: Any) -> bytes:
    """A hash of a function's code, constants, defaults, the data it closes over, and what it uses of its module."""
    return digest(Walk().root(function))


class Walk:
    """What a function's code uses, followed through the functions and classes of all modules that belong to no
    installed distribution and no pack; for a pack stands its state, for a library a name.

    Data is taken as it is when the node is first used. What a function closes over and has no canonical form makes
    the key one of this process and this object; what a module holds (a lock, a list of calls) is told by its class.
    """

    def __init__(self) -> None:
        self.seen: dict[int, tuple[int, Any]] = {}
        self.watch: Watch = []

    def root(self, function: Any) -> Any:
        try:
            return self.function(function) if isinstance(function, types.FunctionType) else self.used(function)
        except RecursionError:
            return token(function)

    def function(self, function: types.FunctionType) -> Any:
        if (again := self._again(function)) is not None:
            return again
        code, space = function.__code__, function.__globals__
        names, stored, imports = _facts(code)
        cells = [self.used(cell.cell_contents) for cell in function.__closure__ or () if _is_filled(cell)]
        found = []
        for name in sorted(names - stored):
            if name in space:
                self.watch.append((space, name, space[name]))
                found.append((name, self.used(space[name], names, strict=False)))
        return (
            _code(code),
            [self.used(value) for value in function.__defaults__ or ()],
            [(name, self.used(value)) for name, value in sorted((function.__kwdefaults__ or {}).items())],
            cells,
            found,
            [(name, _sources_of(name)) for name in sorted(imports)],
        )

    def used(self, value: Any, names: Set[str] = frozenset(), strict: bool = True) -> Any:
        """What something that a function uses adds to its hash."""
        kind = type(value)
        if kind in PLAIN:
            return value
        if kind is NodeDef:
            if value.version is not None and home(value.fn.__module__) != "loose":
                return ("node", value.full_name, value.version)
            value, kind = value.fn, type(value.fn)
        if kind is types.FunctionType:
            return self.function(value) if value.__closure__ or _is_loose(value) else _named(value)
        if isinstance(value, type):
            return self._class(value) if _is_loose(value) else _named(value)
        if kind is types.ModuleType:
            return self._module(value, names)
        if kind is types.MethodType:
            return ("method", self.used(value.__func__), self.used(value.__self__, strict=strict))
        if kind is types.BuiltinFunctionType:
            owner = value.__self__
            bare = owner is None or isinstance(owner, types.ModuleType)
            return _named(value) if bare else ("method", value.__qualname__, self.used(owner, strict=strict))
        if kind in CONTAINERS or kind is functools.partial or dataclasses.is_dataclass(value):
            return self._again(value) or (kind.__qualname__, *self._parts(value, strict))
        if isinstance(getattr(value, "__wrapped__", None), types.FunctionType):  # functools.cache, say
            return ("wraps", self.used(value.__wrapped__))
        return self._object(value, strict)

    def _object(self, value: Any, strict: bool) -> Any:
        from graphengine.graph import Graph

        kind = type(value)
        if isinstance(value, Graph):
            inside = sorted({identity(n.kind) for n in value.nodes.values() if isinstance(n.kind, NodeDef)})
            return ("graph", graph_key(value), inside)
        try:
            return (canonical(value), self.used(kind))
        except Exception:  # it has no canonical form, or its own code fails
            pass
        if kind.__module__ in NAMED or kind.__module__.partition(".")[0] == "graphengine":
            return ("named", repr(value) if kind.__module__ in NAMED else kind.__qualname__)
        return ("object", token(value)) if strict else ("a", self.used(kind))

    def _parts(self, value: Any, strict: bool) -> Iterator[Any]:
        if isinstance(value, dict):
            yield from sorted(((self.used(k), self.used(v, strict=strict)) for k, v in value.items()), key=repr)
        elif isinstance(value, set | frozenset):
            yield from sorted((self.used(v, strict=strict) for v in value), key=repr)
        elif isinstance(value, list | tuple):
            yield from (self.used(v, strict=strict) for v in value)
        elif isinstance(value, functools.partial):
            yield from (self.used(v, strict=strict) for v in (value.func, value.args, value.keywords))
        else:
            yield self.used(type(value))
            yield from (self.used(getattr(value, f.name, None), strict=strict) for f in dataclasses.fields(value))

    def _class(self, cls: type) -> Any:
        if (again := self._again(cls)) is not None:
            return again
        found = []
        for name, value in vars(cls).items():
            if name in UNUSED:
                continue
            if isinstance(value, property):
                value = (value.fget, value.fset, value.fdel)
            elif isinstance(value, staticmethod | classmethod):
                value = (type(value).__name__, value.__func__)
            elif isinstance(value, functools.cached_property):
                value = value.func
            found.append((name, self.used(value, strict=False)))
        return ("class", _named(cls), [self.used(base) for base in cls.__bases__], found)

    def _module(self, module: types.ModuleType, names: Set[str]) -> Any:
        if home(module.__name__) != "loose":
            return _named(module)
        if (again := self._again(module)) is not None:
            return again
        found, space = [], vars(module)
        for name in sorted(names & space.keys()):
            self.watch.append((space, name, space[name]))
            found.append((name, self.used(space[name], names, strict=False)))
        return ("module", module.__name__, found)

    def _again(self, value: Any) -> Any:
        """For what was met before: its number (it may use itself). It is kept, so that its id is nobody else's."""
        if id(value) in self.seen:
            return ("again", self.seen[id(value)][0])
        self.seen[id(value)] = (len(self.seen), value)
        return None


CONTAINERS = frozenset({list, tuple, dict, set, frozenset})
NAMED = frozenset({"torch", "typing", "types", "re", "numpy.dtypes"})
"""Modules whose objects are told apart by their text: dtypes, type variables, patterns."""
UNUSED = frozenset({"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__firstlineno__",
                    "__static_attributes__", "__annotate__", "__annotations_cache__", "_abc_impl",
                    "__abstractmethods__", "__dataclass_params__", "__dataclass_fields__"})  # fmt: skip


def _is_loose(value: Any) -> bool:
    return home(value.__module__ or "") == "loose"


def _named(value: Any) -> Any:
    """What stands for something of a library or a pack: its name, and for a pack its state."""
    name = str(getattr(value, "__module__", None) or getattr(value, "__name__", ""))
    state = stamp(pack_of(name)) if home(name) == "pack" else ()
    return ("named", name, getattr(value, "__qualname__", ""), state)


def _facts(code: types.CodeType) -> tuple[set[str], set[str], set[str]]:
    """The names that code uses, the global ones that it sets itself, and the modules that it imports."""
    names, stored, imports = set(code.co_names), set[str](), set[str]()
    for step in dis.get_instructions(code):
        if step.opname == "STORE_GLOBAL":
            stored.add(step.argval)
        elif step.opname == "IMPORT_NAME":
            imports.add(step.argval)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            for mine, more in zip((names, stored, imports), _facts(inner), strict=True):
                mine |= more
    return names, stored, imports


def _sources_of(module: str) -> Any:
    """The state of a module that a function imports itself, which need not be imported yet."""
    return loose_sources(module)


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _code(code: types.CodeType) -> tuple[Any, ...]:
    constants = tuple(_code_constant(c) for c in code.co_consts)
    return (code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_exceptiontable, constants)


def _code_constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return _code(value)
    if isinstance(value, tuple):
        return ("tuple", *map(_code_constant, value))
    return ("set", *sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)
