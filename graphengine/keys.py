"""Keys: a Merkle hash of what a value is made of, by which values are found again.

A node's key holds its full name, its version (declared, else a hash of its code), the state of its pack, its literals
in canonical form, the keys of the outputs linked to it and the fingerprints of its files; never ids, positions,
titles or paths. The canonical form of everything is a tuple of plain Python values, and the hash is taken of its
`repr`, which is the same for equal tuples only.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
from collections.abc import Mapping
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
        return ("enum", kind.__qualname__, canonical(value.value))
    if isinstance(value, PurePath):
        return ("path", str(value))
    registered = socket_type(kind)
    if registered is not None and registered.digest is not None:
        return ("reference", registered.name, registered.digest(value, part))
    if registered is not None and registered.encode is not None:
        return ("value", registered.name, blake2b(registered.encode(value), digest_size=16).digest())
    if isinstance(value, tuple):
        return ("list", *[canonical(v, part) for v in value])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(f.name, canonical(getattr(value, f.name))) for f in dataclasses.fields(value)]
        return ("fields", kind.__qualname__, *fields)
    if hasattr(value, "tobytes") and hasattr(value, "dtype") and hasattr(value, "shape"):
        content = blake2b(value.tobytes(), digest_size=16).digest()
        return ("array", str(value.dtype), tuple(value.shape), content)
    raise NotData(f"{kind.__name__} is no data")


@functools.cache
def identity(definition: NodeDef[..., Any]) -> bytes:
    """What of a key comes from the node itself: its name, its version or code, the state of its pack."""
    from graphengine.pack import stamp

    version = definition.version if definition.version is not None else code_hash(definition.fn)
    return digest((definition.full_name, version, stamp(definition.module_pack)))


def code_hash(function: Any) -> bytes:
    """A hash of a function's code, constants, defaults, the data it closes over, and what it uses of its module."""
    return digest(_function(function, set()))


def _function(function: Any, seen: set[types.CodeType]) -> Any:
    code = function.__code__
    if code in seen:
        return function.__qualname__
    seen.add(code)
    cells = [_used(cell.cell_contents, function, seen) for cell in function.__closure__ or () if _is_filled(cell)]
    names = [(name, function.__globals__[name]) for name in sorted(_names(code)) if name in function.__globals__]
    return (
        _code(code),
        _constant(function.__defaults__),
        _constant(function.__kwdefaults__),
        cells,
        [(name, _used(value, function, seen)) for name, value in names],
    )


def _used(value: Any, by: Any, seen: set[types.CodeType]) -> Any:
    """What something that a function uses adds to its hash: functions of its own module their code, constants their
    value, everything else (which may change while the program runs) only its name."""
    if isinstance(value, NodeDef):
        if value.version is not None:
            return (value.name, value.version)
        value = value.fn
    if isinstance(value, types.FunctionType) and value.__module__ == by.__module__:
        return _function(value, seen)
    if type(value) in PLAIN or isinstance(value, enum.Enum) or type(value) in (tuple, frozenset):
        return _constant(value)
    return getattr(value, "__qualname__", type(value).__qualname__)


def _names(code: types.CodeType) -> set[str]:
    inner = [_names(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*inner)


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _code(code: types.CodeType) -> tuple[Any, ...]:
    return (code.co_code, code.co_names, code.co_varnames, tuple(_constant(c) for c in code.co_consts))


def _constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return _code(value)
    if isinstance(value, frozenset):
        return sorted(map(repr, value))
    try:
        return canonical(value)
    except NotData:  # another function or an object: only its name can be told
        return getattr(value, "__qualname__", type(value).__qualname__)


@functools.cache
def _template(definition: NodeDef[..., Any], salt: Any) -> tuple[Any, list[tuple[str, Any]]]:
    """The hash that all keys of a node begin with, to be copied, and the tokens of its defaults."""
    defaults = [(name, _default(socket)) for name, socket in definition.sockets.items()]
    return blake2b(digest((identity(definition), salt)), digest_size=16), defaults


def _default(socket: Socket) -> Any:
    try:
        return canonical(coerce(socket.default, socket.type), socket.uses)
    except NotData:  # it is the same object in every call of this process
        return ("object", id(socket.default))


def node_key(definition: NodeDef[..., Any], tokens: Mapping[str, Any], salt: Any = None) -> bytes:
    """The key of a call from the tokens of its inputs; what is not given stands as its default."""
    prefix, defaults = _template(definition, salt)
    hash = prefix.copy()
    # repr escapes lone surrogates, so this always encodes.
    hash.update(repr([tokens.get(name, default) for name, default in defaults]).encode())
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
