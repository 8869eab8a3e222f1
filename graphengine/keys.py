"""Keys: a Merkle hash of what a value is made of, by which values are found again.

A node's key holds its full name, its version (declared, else a hash of its code), the state of its pack, its literals
in canonical form, the keys of the outputs linked to it and the fingerprints of its files; never ids, positions,
titles or paths. The canonical form of everything is a tuple of plain Python values, and the hash is taken of its
`repr`, which is the same for equal tuples only.
"""

from __future__ import annotations

import dataclasses
import dis
import enum
import functools
import os
import types
from collections.abc import Iterator, Mapping, Set
from hashlib import blake2b
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from graphengine.definition import NodeDef
from graphengine.sockets import Socket
from graphengine.types import coerce, socket_type

if TYPE_CHECKING:
    from graphengine.elements import Node
    from graphengine.graph import Graph

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
        return ("enum", kind.__module__, kind.__qualname__, canonical(value.value))
    if isinstance(value, PurePath):
        return ("path", str(value))
    registered = socket_type(kind)
    if registered is not None and registered.digest is not None:
        return ("reference", registered.name, registered.digest(value, part))
    if registered is not None and registered.encode is not None:
        return ("value", registered.name, blake2b(registered.encode(value), digest_size=16).digest())
    if kind is set or kind is frozenset:
        return ("set", *sorted((canonical(v, part) for v in value), key=repr))
    if isinstance(value, tuple):
        return ("tuple", kind.__module__, kind.__qualname__, *[canonical(v, part) for v in value])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(f.name, canonical(getattr(value, f.name))) for f in dataclasses.fields(value)]
        return ("fields", kind.__module__, kind.__qualname__, *fields)
    if hasattr(value, "tobytes") and hasattr(value, "dtype") and hasattr(value, "shape"):
        if getattr(value.dtype, "hasobject", False):
            raise NotData("an array of objects is no data")
        content = blake2b(value.tobytes(), digest_size=16).digest()
        return ("array", str(value.dtype), tuple(value.shape), content)
    raise NotData(f"{kind.__name__} is no data")


Watch = list[tuple[Mapping[str, Any], str, Any]]
"""Names of modules and what they stood for: what was found by them holds while they stand for the same objects."""


def identity(definition: NodeDef[..., Any]) -> bytes:
    """What of a key comes from the node itself: its name, its version or code, the state of its pack."""
    return _identity(definition)[0]


def is_current(definition: NodeDef[..., Any]) -> bool:
    """Whether the keys that were made of a node still hold: nothing that its code uses was defined again since."""
    known = definition.key_identity
    return known is None or not known[1] or _stands(known[1])


def _identity(definition: NodeDef[..., Any]) -> tuple[bytes, Watch]:
    known = definition.key_identity
    if known is None or (known[1] and not _stands(known[1])):
        from graphengine.pack import home, state

        version: Any = definition.version
        watch: Watch = []
        if version is None or home(definition.fn.__module__) == "loose":  # the code of scripts changes at any time
            walk = _Walk()
            version = (version, digest(walk.root(definition.fn)))
            watch = walk.watch if home(definition.fn.__module__) == "loose" else []
        known = (digest((definition.full_name, version, state(definition))), watch)
        definition.key_identity = known
    return known


def _stands(watch: Watch) -> bool:
    return all(space.get(name) is value for space, name, value in watch)


def code_hash(function: Any) -> bytes:
    """A hash of a function's code, constants, defaults, the data it closes over, and what it uses of its module."""
    return digest(_Walk().root(function))


class _Walk:
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
        from graphengine.pack import home

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
        from graphengine.pack import home

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
    from graphengine.pack import home

    return home(value.__module__ or "") == "loose"


def _named(value: Any) -> Any:
    """What stands for something of a library or a pack: its name, and for a pack its state."""
    from graphengine.pack import home, pack_of, stamp

    name = str(getattr(value, "__module__", None) or getattr(value, "__name__", ""))
    state = stamp(pack_of(name)) if home(name) == "pack" else ()
    return ("named", name, getattr(value, "__qualname__", ""), state)


_tokens: dict[int, tuple[bytes, Any]] = {}


def token(value: Any) -> bytes:
    """What stands for an object that has no canonical form: never the same for two, in this process or another."""
    known = _tokens.get(id(value))
    if known is None:
        known = _tokens.setdefault(id(value), (os.urandom(16), value))  # kept, so that its id is nobody else's
    return known[0]


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
    from graphengine.pack import loose_sources

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


def _constant(value: Any) -> Any:
    try:
        return canonical(value)
    except NotData:  # a function or an object: only its name can be told
        return getattr(value, "__qualname__", type(value).__qualname__)


def _template(definition: NodeDef[..., Any]) -> tuple[Any, list[tuple[str, Any]], Watch]:
    """The hash that all keys of a node begin with, to be copied, and the tokens of its defaults."""
    known, watch = _identity(definition)
    defaults = [(name, _default(socket)) for name, socket in definition.sockets.items()]
    definition.key_template = (blake2b(known, digest_size=16), defaults, watch)
    return definition.key_template


def _default(socket: Socket) -> Any:
    try:
        return canonical(coerce(socket.default, socket.type), socket.uses)
    except NotData:  # it is the same object in every call of this process
        return ("object", token(socket.default))


def node_key(definition: NodeDef[..., Any], tokens: Mapping[str, Any], salt: Any = None) -> bytes:
    """The key of a call from the tokens of its inputs; what is not given stands as its default."""
    template = definition.key_template
    if template is None or (template[2] and not _stands(template[2])):
        template = _template(definition)
    hash = template[0].copy()
    if salt is not None:
        hash.update(b"salt" + digest(salt))
    # repr escapes lone surrogates, so this always encodes.
    hash.update(repr([tokens.get(name, default) for name, default in template[1]]).encode())
    return hash.digest()  # type: ignore[no-any-return]


def graph_key(graph: Graph) -> str:
    """A hash of what a graph says: its nodes without their ids, its inputs and outputs by name."""
    from graphengine.graph import Graph

    keys: dict[int, str] = {}
    stack, entered = [graph], set[int]()
    while stack:
        current = stack[-1]
        if hash(current) not in entered:  # the graphs that are used in it come first
            entered.add(hash(current))
            parts = [node.kind for node in current.nodes.values() if isinstance(node.kind, Graph)]
            stack.extend(part for part in parts if hash(part) not in entered)
            continue
        stack.pop()
        if hash(current) not in keys:
            keys[hash(current)] = _graph_key(current, keys)
    return keys[hash(graph)]


def _graph_key(graph: Graph, keys: Mapping[int, str]) -> str:
    from graphengine.elements import INPUTS, VALUES, Link, map_links

    known: dict[str, bytes] = {}

    def token(link: Link) -> Any:
        if link.node == VALUES:
            return _constant(graph.values.get(link.port))  # as the literal that it stands for
        if link.node == INPUTS:
            return (INPUTS, link.port)
        return (known.get(link.node, b"cycle" if link.node in graph.nodes else b"dangling"), link.port)

    def of(node: Node) -> bytes:
        name = keys.get(hash(node.kind), 'itself') if not isinstance(node.kind, str | NodeDef) else node.type
        args = [(n, _links_or_constant(map_links(written(node, n, v), token))) for n, v in sorted(node.args.items())]
        return digest((name, sorted(node.each), args))

    def written(node: Node, name: str, value: Any) -> Any:
        """A literal as its socket takes it: a file holds the text of an enum or a path."""
        socket = node.sockets.get(name)
        literal = name in node.literals and socket is not None and name not in node.each
        try:
            return coerce(value, socket.type) if literal else value  # type: ignore[union-attr]
        except ValueError:
            return value

    for id in topological(graph):
        known[id] = of(graph.nodes[id])
    inputs = [
        (i.name, repr(i.type), i.required, _constant(i.default), repr(i.range), i.choices and repr(i.choices.values()))
        for i in graph.inputs.values()
    ]
    outputs = [(name, token(link)) for name, link in graph.outputs.items()]
    return digest((sorted(known.values()), sorted(inputs, key=repr), sorted(outputs))).hex()


def _links_or_constant(value: Any) -> Any:
    if type(value) is list:
        return [_links_or_constant(v) for v in value]
    return value if type(value) is tuple else _constant(value)


def topological(graph: Graph) -> list[str]:
    """All ids, sources first; those on a cycle come in any order."""
    order: list[str] = []
    seen: set[str] = set()
    for start in graph.nodes:
        stack = [(start, False)]
        while stack:
            id, entered = stack.pop()
            if entered:
                order.append(id)
            elif id not in seen and id in graph.nodes:
                seen.add(id)
                stack.append((id, True))
                stack.extend((link.node, False) for _, link in graph.nodes[id].sources())
    return order
