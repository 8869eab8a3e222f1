"""Numbers drawn where -1 or null is given, such as seeds: before keys are made, so that keys and records hold them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from graphengine.declare.definition import NodeDef
from graphengine.declare.sockets import Range, is_undrawn
from graphengine.graph.combine import copy
from graphengine.graph.data import GraphData, Node
from graphengine.graph.elements import INPUTS, Input

HIGHEST = 2**32 - 1
"""The highest number that is drawn: that of the WebUI's seeds."""

Limits = tuple[int, int]


def draw_literals(graph: GraphData, known: Mapping[str, Any] | None = None) -> tuple[GraphData, dict[str, Any]]:
    """Draw the numbers that literals of a graph, and of the graphs used as nodes in it, ask for.

    Args:
        known: Numbers that were drawn for the graph before: they stay.

    Returns:
        The graph itself if there are none, else a copy that holds the numbers; and these by their place, `node.input`.
    """
    if not any(True for part in graph.with_parts() for _ in _literals_of(part, nested=part is not graph)):
        return graph, {}
    drawn: dict[str, Any] = {}
    return _with_numbers(graph, known or {}, drawn, "", {}), drawn


def draw_inputs(graph: GraphData, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw the numbers that the values of declared inputs ask for.

    An input that is not given and whose default is -1 is drawn as well. One whose default is null stays the default of
    the parameter that it is linked to.

    Returns:
        The inputs with the numbers, and the numbers alone.
    """
    wanted = {name: value for name, value in given.items() if is_undrawn(value)}
    for name, declared in graph.inputs.items():
        if name not in given and declared.default is not None and is_undrawn(declared.default):
            wanted[name] = declared.default
    drawn: dict[str, Any] = {}
    for name, value in wanted.items():
        limits = _limits_of_input(graph, name, ()) if name in graph.inputs else None
        if limits is not None:
            drawn[name] = draw(value, limits)
    return dict(given) | drawn, drawn


def draw(value: Any, limits: Limits = (0, HIGHEST)) -> Any:
    """A number drawn for -1 or null, also in a list; other values as they are."""
    if isinstance(value, list):
        return [draw(item, limits) for item in value]
    low, high = limits
    return low + secrets.randbelow(high - low + 1) if is_undrawn(value) else value


# --- where numbers are drawn ------------------------------------------------------------------------------------------


def _limits_of(kind: NodeDef[..., Any] | GraphData | str, name: str, above: tuple[GraphData, ...]) -> Limits | None:
    """The limits of the numbers that an input of a node draws; None if it draws none."""
    if isinstance(kind, NodeDef):
        return _within((0, HIGHEST), kind.sockets[name].range) if name in kind.drawn else None
    return None if isinstance(kind, str) else _limits_of_input(kind, name, above)


def _limits_of_input(graph: GraphData, name: str, above: tuple[GraphData, ...]) -> Limits | None:
    """The limits of the numbers drawn for a declared input, which are those of all that it is linked to."""
    if graph in above:  # it is used in itself
        return None
    found: Limits | None = None
    for id, socket, link in graph.bound_sockets():
        if link.port == name and (limits := _limits_of(graph.nodes[id].kind, socket, (*above, graph))) is not None:
            found = limits if found is None else (max(found[0], limits[0]), min(found[1], limits[1]))
    return None if found is None else _within(found, graph.inputs[name].range)


def _within(limits: Limits, range: Range | None) -> Limits:
    low, high = limits
    if range is not None:
        low = low if range.min is None else max(low, int(range.min))
        high = high if range.max is None else min(high, int(range.max))
    return low, max(low, high)


def _literals_of(graph: GraphData, nested: bool) -> Iterator[tuple[str, str, Any, Limits]]:
    """The literals of a graph for which numbers are drawn, as (node id, input, literal, limits).

    Args:
        nested: It is used as a node: the defaults of its declared inputs are literals too.
    """
    for id, name, value in graph.undrawn():
        limits = _limits_of(graph.nodes[id].kind, name, ())
        if limits is not None:
            yield id, name, value, limits
    for name, declared in graph.inputs.items() if nested else ():
        if declared.default is not None and is_undrawn(declared.default):
            limits = _limits_of_input(graph, name, ())
            if limits is not None:
                yield INPUTS, name, declared.default, limits


def _with_numbers(
    graph: GraphData, known: Mapping[str, Any], drawn: dict[str, Any], place: str, twins: dict[int, GraphData]
) -> GraphData:
    """A copy of a graph, and of the graphs used as nodes in it, with numbers in place of literals that ask for them."""
    twin = twins[id(graph)] = copy(graph)
    for at, name, value, limits in _literals_of(graph, nested=bool(place)):
        where = f"{place}{at}.{name}"
        number = drawn[where] = known[where] if where in known else draw(value, limits)
        if at == INPUTS:
            twin.inputs[name] = _with_default(twin.inputs[name], number)
        else:
            node = twin.nodes[at]
            twin.put(at, _like(node, node.kind, {**node.args, name: number}))
    for at, part in graph.parts.items():
        node = twin.nodes[at]
        kind = twins.get(id(part)) or _with_numbers(part, known, drawn, f"{place}{at}.", twins)
        twin.put(at, _like(node, kind, node.args))
    return twin


def _with_default(declared: Input, value: Any) -> Input:
    return replace(declared, default=value)


def _like(node: Node, kind: Any, args: Mapping[str, Any]) -> Node:
    return Node(kind, args, node.each, node.version, node.workflow, node.ui, node.keep_going)
