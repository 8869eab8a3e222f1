"""Steps: the calls that a value comes from, with their arguments, read from a graph without running it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphengine.graph.combine import subgraph
from graphengine.graph.data import GraphData
from graphengine.graph.elements import INPUTS, Link
from graphengine.graph.order import topological
from graphengine.graph.selection import link_of
from graphengine.planning.inputs import bound_inputs
from graphengine.planning.plan import give_back, take_plan
from graphengine.values.literals import coerce


@dataclass(frozen=True, slots=True)
class Step:
    """A call that a value comes from.

    Attributes:
        node: The full name of the node.
        inputs: By input, defaults included: a literal, another step for a link, or a list of these.
        value: For a node that makes references to weights: the reference.
    """

    node: str
    inputs: Mapping[str, Any]
    value: Any = None


def steps(
    graph: GraphData, inputs: Mapping[str, Any], output: str, item: int | None = None, base: Path | None = None
) -> Any:
    """The calls that an output comes from: the last one, with those before it among its inputs.

    Calls inside workflows used as nodes are included; of a mapped node, only the call for the item.

    Args:
        graph, inputs: What was run.
        output: A declared output's name, or a node's id.
        item: The number of the item, if the output is a list.
        base: The folder at which relative paths among the inputs start; by default the current one.
    """
    bound = bound_inputs(graph, inputs, base)
    graph = bound.graph
    values = {name: const.value for name, const in bound.items()}
    return _steps(graph, values, [link_of(graph, output)], item, references(graph, bound, output))[0]


def _steps(
    graph: GraphData, inputs: Mapping[str, Any], links: list[Link], item: int | None, made: Mapping[str, Any],
    above: tuple[GraphData, ...] = (),
) -> list[Any]:
    part = subgraph(graph, links)
    known: dict[str, Any] = {}

    def of(value: Any) -> Any:
        if type(value) is list:
            return [of(v) for v in value]
        if type(value) is not Link:
            return value
        if value.node == INPUTS:
            return inputs.get(value.port)
        source = known.get(value.node, graph.values.get(value.port))
        if isinstance(source, dict):  # a workflow used as a node
            return source.get(value.port or next(iter(source), ""))
        return source

    for id in topological(part):
        node = graph.nodes[id]
        given = {name: of(value) for name, value in node.args.items()}
        for name in node.each:
            if item is not None and isinstance(given.get(name), list) and item < len(given[name]):
                given[name] = given[name][item]
        sockets = node.sockets
        # A null that comes through a declared input stands for the default of what it is linked to.
        whole = {n: s.default for n, s in sockets.items()} | {n: v for n, v in given.items() if v is not None}
        if isinstance(node.kind, GraphData) and any(node.kind is outer for outer in (*above, graph)):
            known[id] = dict.fromkeys(node.kind.outputs)  # how often it is used in itself is known when it runs
        elif isinstance(node.kind, GraphData):
            values = {name: coerce(whole.get(name), declared.type) for name, declared in node.kind.inputs.items()}
            outputs = node.kind.outputs
            found = _steps(node.kind, values, list(outputs.values()), item, {}, (*above, graph))
            known[id] = dict(zip(outputs, found, strict=True))
        else:
            known[id] = Step(node.type, whole, made.get(id))
    return [of(link) for link in links]


def references(
    graph: GraphData, inputs: Mapping[str, Any], output: str, base: Path | None = None
) -> dict[str, Any]:
    """The references to weights that an output needs, by node: as the run with these bound inputs made them, else
    made now."""
    bound = bound_inputs(graph, inputs, base)
    graph = bound.graph
    link = link_of(graph, output)
    needed = subgraph(graph, [link]).nodes
    if bound.references is None or not bound.references[1].issuperset(needed):
        plan = take_plan(graph, bound, None)
        plan.assign([link.node] if link.node in graph.nodes else [])
        bound.note_references(plan)
        give_back(plan)
    assert bound.references is not None
    return {id: value for id, value in bound.references[0].items() if id in needed}
