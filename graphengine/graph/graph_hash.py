"""Hashes of graphs, by whose content they are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphengine.declare.definition import NodeDef
from graphengine.graph.data import GraphData, Node
from graphengine.graph.elements import INPUTS, VALUES, Input, Link, map_links
from graphengine.graph.order import topological
from graphengine.values.canonical import NotData, canonical, digest
from graphengine.values.literals import coerce


def graph_key(graph: GraphData) -> str:
    """Hash the content of a graph: its nodes without their ids, its inputs and outputs by name; 32 hex digits."""
    keys: dict[int, str] = {}
    stack, entered = [graph], set[int]()
    while stack:
        current = stack[-1]
        if hash(current) not in entered:  # the graphs that it uses as nodes are hashed first
            entered.add(hash(current))
            parts = [node.kind for node in current.nodes.values() if isinstance(node.kind, GraphData)]
            stack.extend(part for part in parts if hash(part) not in entered)
            continue
        stack.pop()
        if hash(current) not in keys:
            keys[hash(current)] = _graph_key(current, keys)
    return keys[hash(graph)]


def _graph_key(graph: GraphData, keys: Mapping[int, str]) -> str:
    known: dict[str, bytes] = {}

    def token(link: Link) -> Any:
        if link.node == VALUES:
            return _constant(graph.values.get(link.port))  # counts as the literal itself
        if link.node == INPUTS:
            return (INPUTS, link.port)
        return (known.get(link.node, b"cycle" if link.node in graph.nodes else b"dangling"), link.port)

    def of(node: Node) -> bytes:
        name = keys.get(hash(node.kind), 'itself') if not isinstance(node.kind, str | NodeDef) else node.type
        args = [(n, _links_or_constant(map_links(written(node, n, v), token))) for n, v in sorted(node.args.items())]
        return digest((name, sorted(node.each) + ["keep going"] * node.keep_going, args))

    def written(node: Node, name: str, value: Any) -> Any:
        """A literal converted to its socket's type, since files hold enums and paths as texts."""
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


def _constant(value: Any) -> Any:
    try:
        return canonical(value)
    except NotData:  # a function or an object, of which only the name is known
        return getattr(value, "__qualname__", type(value).__qualname__)
