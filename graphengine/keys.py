"""Keys: a Merkle hash of what a value is made of, by which values are found again.

A node's key holds its full name, its version (declared, else a hash of its code), the state of its pack, its literals
in canonical form, the keys of the outputs linked to it and the fingerprints of its files; never ids, positions,
titles or paths. The canonical form of everything is a tuple of plain Python values, and the hash is taken of its
`repr`, which is the same for equal tuples only.
"""

from __future__ import annotations

import dataclasses
import enum
import logging
import os
import weakref
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from graphengine.checksum import twin_of
from graphengine.definition import KeyTemplate, NodeDef
from graphengine.errors import NodeDefinitionError, NotStorable
from graphengine.literals import coerce
from graphengine.sockets import Socket
from graphengine.types import socket_type

if TYPE_CHECKING:
    from graphengine.codewalk import Followed
    from graphengine.elements import Input, Node
    from graphengine.graph import Graph

_log = logging.getLogger(__name__)

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
        try:
            content = registered.encode(value)
        except NotStorable as reason:
            raise NotData(str(reason)) from None
        return ("value", registered.name, blake2b(content, digest_size=16).digest())
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
_HERE = HERE.decode()


def is_of_process(key: bytes) -> bool:
    """Whether a key's value is remembered in this process only: something that its nodes read could not be followed."""
    return key.endswith(HERE)


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """What of a key comes from the node itself.

    Attributes:
        hash: Of its name, its version or code and data, the state of its pack.
        used: What its code was found to use; None where its author's version says it.
        unfollowed: What of that could not be followed, by name, and why; nothing where `.fingerprint` says what counts.
    """

    hash: bytes
    used: Followed | None = None
    unfollowed: Mapping[str, str] = dataclasses.field(default_factory=dict)


def identity(definition: NodeDef[..., Any]) -> bytes:
    """What of a key comes from the node itself: its name, its version or code, the state of its pack."""
    return identified(definition).hash


def identified(definition: NodeDef[..., Any]) -> Identity:
    """The identity of a node, as it was when `is_current` last found it changed."""
    known: Identity | None = definition.key_identity
    if known is None:
        known = definition.key_identity = _identify(definition)
    return known


def is_current(definition: NodeDef[..., Any]) -> bool:
    """Whether a node's identity still holds: nothing that its code uses has changed since. Else it is found anew when
    it is next asked for. Asked once in a run for each node."""
    known = definition.key_identity
    if known is None or known.used is None or known.used.stands():
        return True
    definition.key_identity = definition.key_template = None
    return False


def data_stands(definition: NodeDef[..., Any]) -> bool:
    """Whether the data that a node reads beside its inputs is what its key says."""
    known = definition.key_identity
    return known is None or known.used is None or known.used.data_stands()


def _identify(definition: NodeDef[..., Any]) -> Identity:
    from graphengine.pack import home, state

    version: Any = definition.version
    if version is not None and home(definition.fn.__module__) != "loose":  # the code of scripts changes at any time
        return Identity(digest((definition.full_name, version, state(definition))))
    from graphengine.codewalk import follow

    used = follow(definition.fn)
    hash = digest((definition.full_name, (version, used.hash), state(definition)))
    unfollowed = {} if definition.fingerprint_fn is not None or definition.cache != "disk" else used.unfollowed
    if unfollowed:
        _say(definition, unfollowed)
    return Identity(hash, used, unfollowed)


_said: set[tuple[str, str]] = set()


def _say(definition: NodeDef[..., Any], unfollowed: Mapping[str, str]) -> None:
    """Say once that a node is remembered in this process only."""
    from graphengine.pack import home

    new = [name for name in unfollowed if (definition.full_name, name) not in _said]
    _said.update((definition.full_name, name) for name in new)
    if not new:
        return
    objects = "; ".join(f"{name} ({unfollowed[name]})" for name in new)
    versions = "" if home(definition.fn.__module__) == "loose" else "declare a version of it (@node(version=1)), or "
    _log.warning(
        "%s reads what its key cannot follow: %s. Its results are remembered in this process only; to keep them, %s"
        "make this an input, or say with .fingerprint what of it decides the result (docs/keys.md)",
        definition.full_name, objects, versions,
    )  # fmt: skip


def _constant(value: Any) -> Any:
    try:
        return canonical(value)
    except NotData:  # a function or an object: only its name can be told
        return getattr(value, "__qualname__", type(value).__qualname__)


def _template(definition: NodeDef[..., Any]) -> KeyTemplate:
    known = identified(definition)
    names, defaults = tuple(definition.sockets), tuple(map(_default, definition.sockets.values()))
    definition.key_template = (blake2b(known.hash, digest_size=16), names, defaults, bool(known.unfollowed))
    return definition.key_template


def _default(socket: Socket) -> Any:
    try:
        return canonical(coerce(socket.default, socket.type), socket.uses)
    except NotData:  # it is the same object in every call of this process
        return ("object", token(socket.default), HERE)


def node_key(definition: NodeDef[..., Any], tokens: Mapping[str, Any], salt: Any = None) -> bytes:
    """The key of a call from the tokens of its inputs; what is not given stands as its default."""
    start, names, defaults, here = definition.key_template or _template(definition)
    hash = start.copy()
    if salt is not None:
        hash.update(b"salt" + digest(salt))
    text = repr([*map(tokens.get, names, defaults)])
    hash.update(text.encode())  # repr escapes lone surrogates, so this always encodes.
    key: bytes = hash.digest()
    return key + HERE if here or _HERE in text else key


def own_fingerprint(definition: NodeDef[..., Any], values: Mapping[str, Any]) -> Any:
    """What the `.fingerprint` function of a node adds to the key of a call with these inputs.

    Raises:
        NodeDefinitionError: It returns what has no canonical form.
        Exception: Whatever it raises itself.
    """
    assert definition.fingerprint_fn is not None
    value = definition.fingerprint_fn(**{name: twin_of(value) for name, value in values.items()})
    try:
        return canonical(value)
    except NotData as reason:
        raise NodeDefinitionError(
            f"the fingerprint of {definition.full_name} cannot enter a key ({reason}): return a text, a number or bytes"
        ) from None


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
        return digest((name, sorted(node.each) + ["keep going"] * node.keep_going, args))

    def written(node: Node, name: str, value: Any) -> Any:
        """A literal as its socket takes it: a file holds the text of an enum or a path."""
        socket = node.sockets.get(name)
        literal = name in node.literals and socket is not None and name not in node.each
        try:
            return coerce(value, socket.type) if literal else value  # type: ignore[union-attr]
        except ValueError:
            return value

    def default(declared: Input) -> Any:
        try:
            return _constant(coerce(declared.default, declared.type))
        except ValueError:
            return _constant(declared.default)

    for id in topological(graph):
        known[id] = of(graph.nodes[id])
    inputs = [
        (i.name, repr(i.type), i.required, default(i), repr(i.range), i.choices and repr(i.choices.values()))
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
