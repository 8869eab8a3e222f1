"""The types of nodes' outputs: declared, or found from what is linked to nodes with type variables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Union, get_args, get_origin

from graphengine.definition import NodeDef
from graphengine.elements import Link, Node
from graphengine.graph import Graph
from graphengine.types import Solved, fits, strip, substitute, union_members


def output_types(graph: Graph, id: str) -> dict[str, Any]:
    """The types of a node's outputs by port ('' is the only one, or the whole tuple), generics solved."""
    known = graph._types.get(id)
    if known is not None:
        return known
    here = graph.nodes.get(id)
    if here is not None and isinstance(here.kind, NodeDef) and not here.kind.is_generic:
        known = graph._types[id] = _types(graph, here)
        return known
    stack, entered, unsure = [(graph, id)], set[tuple[int, str]](), set[tuple[int, str]]()
    while stack:
        owner, current = stack[-1]
        node = owner.nodes.get(current)
        if node is None or (current in owner._types and (hash(owner), current) not in unsure):
            stack.pop()
            continue
        if (hash(owner), current) not in entered:
            entered.add((hash(owner), current))
            if isinstance(node.kind, Graph):
                owner._types[current] = {"": Any}  # where it is used in itself, this is asked for again
                unsure.add((hash(owner), current))
            before = [b for b in _needed(owner, current, node) if b[1] not in b[0]._types]
            if waiting := [b for b in before if (hash(b[0]), b[1]) not in entered]:
                stack.extend(waiting)
                continue
        owner._types[current] = _types(owner, node)
        unsure.discard((hash(owner), current))
        stack.pop()
    return graph._types.get(id, {})


def _needed(graph: Graph, id: str, node: Node) -> list[tuple[Graph, str]]:
    """The nodes whose output types decide those of this one."""
    if isinstance(node.kind, Graph):
        return [(node.kind, link.node) for link in node.kind.outputs.values() if link.node in node.kind.nodes]
    return [(graph, source) for source in sources_of(graph, id)] if _is_generic(node) else []


def _is_generic(node: Node) -> bool:
    return isinstance(node.kind, NodeDef) and node.kind.is_generic


def _types(graph: Graph, node: Node) -> dict[str, Any]:
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
        found = kind.outputs_types
        if len(found) == 1:
            found[""] = next(iter(found.values()))
    if node.each:
        return {port: list[t] for port, t in found.items()}  # type: ignore[valid-type]
    return found


def type_of(graph: Graph, value: Any) -> Any:
    """The type of an argument: a link's, a list's by its items, a literal's."""
    if type(value) is Link:
        return graph._types[value.node].get(value.port, Any) if value.node in graph._types else graph.output_type(value)
    if type(value) is list:
        return list[common_type([type_of(graph, v) for v in value])]  # type: ignore[misc]
    return type(value)


def common_type(types: Sequence[Any]) -> Any:
    """One type that all of these fit: their union, or Any for none."""
    kinds = list(dict.fromkeys(t for t in types if t is not Any))
    if not kinds or len(kinds) == 1:
        return kinds[0] if kinds else Any
    return Union[tuple(kinds)]  # noqa: UP007 - built at run time


def item_type(annotation: Any) -> Any:
    """The type of a list's items; None where it is no list."""
    annotation = strip(annotation)
    if annotation is Any:
        return Any
    kinds = [t for t in union_members(annotation) if (get_origin(t) or t) is list]
    if not kinds:
        return None
    return (get_args(kinds[0]) or (Any,))[0]


def sources_of(graph: Graph, id: str) -> Iterator[str]:
    """The nodes that a node takes something from."""
    return iter(dict.fromkeys(link.node for _, link in graph.nodes[id].sources() if link.node in graph.nodes))
