"""Type inference: the types of nodes' outputs; for nodes with type variables, they follow from the inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Union, get_args, get_origin

from graphengine.declare.definition import NodeDef
from graphengine.graph.data import GraphData, Node
from graphengine.graph.elements import INPUTS, VALUES, Link
from graphengine.values.socket_types import Solved, fits, strip, substitute, union_members


def output_types(graph: GraphData, id: str) -> dict[str, Any]:
    """The types of a node's outputs by port, with type variables replaced.

    The port '' is the only output, or the tuple of all. Results are kept in `graph.types`.
    """
    known = graph.types.get(id)
    if known is not None:
        return known
    here = graph.nodes.get(id)
    if here is not None and isinstance(here.kind, NodeDef) and not here.kind.is_generic:
        known = graph.types[id] = _types(graph, here)
        return known
    stack, entered, unsure = [(graph, id)], set[tuple[int, str]](), set[tuple[int, str]]()
    while stack:
        owner, current = stack[-1]
        node = owner.nodes.get(current)
        if node is None or (current in owner.types and (hash(owner), current) not in unsure):
            stack.pop()
            continue
        if (hash(owner), current) not in entered:
            entered.add((hash(owner), current))
            if isinstance(node.kind, GraphData):
                owner.types[current] = {"": Any}  # a first guess, in case the graph uses itself
                unsure.add((hash(owner), current))
            before = [b for b in _needed(owner, current, node) if b[1] not in b[0].types]
            if waiting := [b for b in before if (hash(b[0]), b[1]) not in entered]:
                stack.extend(waiting)
                continue
        owner.types[current] = _types(owner, node)
        unsure.discard((hash(owner), current))
        stack.pop()
    return graph.types.get(id, {})


def output_type(graph: GraphData, link: Link) -> Any:
    """The type of the value that a link carries; Any if it cannot be known."""
    if link.node == INPUTS:
        return graph.input_type(link.port) if link.port in graph.inputs else Any
    if link.node == VALUES:
        return type(graph.values[link.port]) if link.port in graph.values else Any
    known = graph.types.get(link.node)
    return (output_types(graph, link.node) if known is None else known).get(link.port, Any)


def declared_types(graph: GraphData) -> dict[str, Any]:
    """The types of a graph's declared outputs."""
    return {name: output_type(graph, link) for name, link in graph.outputs.items()}


def _needed(graph: GraphData, id: str, node: Node) -> list[tuple[GraphData, str]]:
    """The nodes whose output types must be known before those of this node."""
    if isinstance(node.kind, GraphData):
        return [(node.kind, link.node) for link in node.kind.outputs.values() if link.node in node.kind.nodes]
    return [(graph, source) for source in sources_of(graph, id)] if _is_generic(node) else []


def _is_generic(node: Node) -> bool:
    return isinstance(node.kind, NodeDef) and node.kind.is_generic


def _types(graph: GraphData, node: Node) -> dict[str, Any]:
    kind = node.kind
    if isinstance(kind, str):
        return {"": Any}
    if isinstance(kind, NodeDef):
        found = dict(kind.outputs)
        found.setdefault("", kind.result)
        if kind.is_generic:
            solved: Solved = {}
            for name, value in node.args.items():
                if name in kind.sockets:
                    source = type_of(graph, value)
                    if name in node.each:
                        source = item_type(source) or Any
                    fits(source, kind.sockets[name].type, solved)
            found = {port: substitute(t, solved) for port, t in found.items()}
    else:
        found = declared_types(kind)
        if len(found) == 1:
            found[""] = next(iter(found.values()))
    if node.each:
        return {port: list[t] for port, t in found.items()}  # type: ignore[valid-type]
    return found


def type_of(graph: GraphData, value: Any) -> Any:
    """The type of an argument: a link, a list with links, or a literal."""
    if type(value) is Link:
        return output_type(graph, value)
    if type(value) is list:
        return list[common_type([type_of(graph, v) for v in value])]  # type: ignore[misc]
    return type(value)


def common_type(types: Sequence[Any]) -> Any:
    """A type that all of these fit: their union; Any if there are none."""
    distinct = list(dict.fromkeys(t for t in types if t is not Any))
    if not distinct or len(distinct) == 1:
        return distinct[0] if distinct else Any
    return Union[tuple(distinct)]  # noqa: UP007 - built at run time


def item_type(annotation: Any) -> Any:
    """The type of a list's items; None if the type is no list."""
    annotation = strip(annotation)
    if annotation is Any:
        return Any
    lists = [t for t in union_members(annotation) if (get_origin(t) or t) is list]
    if not lists:
        return None
    return (get_args(lists[0]) or (Any,))[0]


def sources_of(graph: GraphData, id: str) -> Iterator[str]:
    """The ids of the nodes whose outputs a node takes."""
    return iter(dict.fromkeys(link.node for _, link in graph.nodes[id].sources() if link.node in graph.nodes))
