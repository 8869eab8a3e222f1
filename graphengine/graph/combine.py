"""Graphs made from graphs: merging two, extracting a subgraph, copying."""

from __future__ import annotations

from typing import TypeVar

from graphengine.graph.data import GraphData, Node
from graphengine.graph.elements import INPUTS, VALUES, Link, map_links

G = TypeVar("G", bound=GraphData)


def merge(graph: GraphData, other: GraphData, prefix: str = "") -> dict[str, str]:
    """Add another graph's nodes, inputs, values and outputs to a graph; returns the new id of each of its nodes.

    An id that is taken gets a number. Inputs with the same name become one input; outputs whose name is taken are left
    out.

    Args:
        graph: The graph that is changed.
        other: The graph whose parts are added.
        prefix: Put before the ids and the names of values.
    """
    ids: dict[str, str] = {}
    taken = dict.fromkeys(graph.nodes)
    for id in other.nodes:
        ids[id] = graph.free_name(prefix + id, taken)
        taken[ids[id]] = None
    values = {name: graph.free_name(prefix + name, graph.values) for name in other.values}

    def renamed(link: Link) -> Link:
        if link.node == VALUES:
            return Link(VALUES, values.get(link.port, link.port))
        return Link(ids.get(link.node, link.node), link.port)

    for name, value in other.values.items():
        graph.values[values[name]] = value
    for name, declared in other.inputs.items():
        graph.inputs.setdefault(name, declared)
    for id, node in other.nodes.items():
        args = {name: map_links(value, renamed) for name, value in node.args.items()}
        graph.put(ids[id], Node(node.kind, args, node.each, node.version, node.workflow, node.ui, node.keep_going))
    for name, link in other.outputs.items():
        graph.outputs.setdefault(name, renamed(link))
    return ids


def subgraph(graph: G, links: list[Link]) -> G:
    """Make a graph with only the nodes, inputs and values that some links need."""
    keep, stack = set[str](), [link.node for link in links]
    while stack:
        id = stack.pop()
        if id in graph.nodes and id not in keep:
            keep.add(id)
            stack.extend(link.node for _, link in graph.nodes[id].sources())
    part = type(graph)(graph.title, graph.description)
    part.file, part.base, part.ui = graph.file, graph.base, dict(graph.ui)
    used = {link for id in keep for _, link in graph.nodes[id].sources()} | set(links)
    part.inputs = {n: i for n, i in graph.inputs.items() if Link(INPUTS, n) in used}
    part.values = {n: v for n, v in graph.values.items() if Link(VALUES, n) in used}
    for id, node in graph.nodes.items():
        if id in keep:
            part.put(id, node)
    part.outputs = {n: link for n, link in graph.outputs.items() if link in links or link.node in keep}
    return part


def copy(graph: G) -> G:
    """Copy a graph; `Node` objects, which never change, are shared."""
    twin = type(graph)(graph.title, graph.description)
    merge(twin, graph)
    twin.inputs, twin.outputs, twin.values = dict(graph.inputs), dict(graph.outputs), dict(graph.values)
    twin.ui, twin.file, twin.base, twin.lines = dict(graph.ui), graph.file, graph.base, graph.lines
    twin.problems_at_load = list(graph.problems_at_load)
    return twin
