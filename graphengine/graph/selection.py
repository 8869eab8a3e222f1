"""Selection of what a run must compute: by an output's name, a node's id, a reference, a link, or a list of these."""

from __future__ import annotations

from typing import Any

from graphengine.errors import WorkflowError
from graphengine.graph.data import GraphData
from graphengine.graph.elements import INPUTS, VALUES, Link, Ref
from graphengine.graph.order import acts
from graphengine.graph.validate import link_problems


def link_of(graph: GraphData, want: Ref | Link | str | Any) -> Link:
    """The link for a reference, a declared output's name or a node's id in a graph.

    Raises:
        WorkflowError: There is no such node or output, or the reference is of another graph.
    """
    if isinstance(want, Ref):
        if want._graph is not graph:
            raise WorkflowError(f"{want._link} belongs to another graph")
        return want._link
    if not isinstance(want, Link):
        if want in graph.outputs:
            return graph.outputs[want]
        node, _, port = str(want).partition(".")
        want = Link(node, port)
    if want.node not in (INPUTS, VALUES):
        graph.node(want.node)
    if problems := list(link_problems(graph, want)):
        raise WorkflowError(problems)
    return want


def wanted_links(graph: GraphData, want: Any) -> tuple[list[str], list[Link], list[Link]]:
    """Select what to compute.

    Args:
        graph: The graph.
        want: What is wanted; None: the declared outputs, or without any, the nodes whose outputs no other node takes.

    Returns:
        The names of the results, their links, and the links of further nodes that have effects and therefore run too.
    """
    if want is not None:
        wants = list(want) if isinstance(want, list | tuple) else [want]
        links = [link_of(graph, w) for w in wants]
        return [f"{n}:{link}" for n, link in enumerate(links)], links, []
    acting = [id for id, node in graph.nodes.items() if acts(node.kind)]
    if graph.outputs:
        return list(graph.outputs), list(graph.outputs.values()), [Link(id) for id in acting]
    ids = list(dict.fromkeys([*graph.leaves(), *acting]))
    return ids, [Link(id) for id in ids], []
