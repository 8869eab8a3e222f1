"""Notes which nodes of a graph must be validated again after a change."""

from __future__ import annotations

from collections.abc import Iterable

from graphengine.declare.definition import NodeDef
from graphengine.graph.data import GraphData
from graphengine.graph.elements import INPUTS, VALUES
from graphengine.graph.validated import same, types_of


def is_changed(graph: GraphData) -> bool:
    """Whether something of a graph is to be validated before it runs; the graphs used in it count by what they are
    from outside."""
    known = graph.validated
    return (
        bool(known.pending or known.made_other or known.may_cycle)
        or graph.edition[0] != known.right
        or any(kind.check_fn is not validator for kind, validator in known.validators.items())
        or (bool(graph.problems_at_load) and any(problem.severity == "error" for problem in graph.problems_at_load))
        or (bool(graph.parts) and has_other_parts(graph))
    )


def has_other_parts(graph: GraphData) -> bool:
    """Whether a graph that is used as a node in this one changed since this one's nodes were found right with it."""
    known = graph.validated.parts
    if not graph.parts:
        return False
    for key, part in {hash(part): part for part in graph.parts.values()}.items():
        if key in known and known[key][1] != part.edition:
            return True
    return False


def note_right(graph: GraphData, id: str) -> None:
    """Note that a node was found right, and with what."""
    known, node = graph.validated, graph.nodes[id]
    known.pending.pop(id, None)
    if isinstance(node.kind, NodeDef):
        known.validators.setdefault(node.kind, node.kind.check_fn)
    if node.bound or node.lists:
        for _, link in node.sources():
            if link.node == INPUTS:
                known.inputs.setdefault(link.port, graph.inputs[link.port])
            elif link.node == VALUES:
                known.values.setdefault(link.port, type(graph.values[link.port]))


def note_all_right(graph: GraphData) -> None:
    """Note that all of a graph was found right as it is now, what is used in it included."""
    known = graph.validated
    known.pending.clear()
    known.made_other.clear()
    known.may_cycle = False
    known.inputs, known.values = dict(graph.inputs), types_of(graph.values)
    known.parts = {hash(part): (part, part.edition) for part in graph.parts.values()}
    kinds = (node.kind for node in graph.nodes.values())
    known.validators = {kind: kind.check_fn for kind in kinds if isinstance(kind, NodeDef)}
    known.right = graph.edition[0]
    known.warnings = None


def forget_types(graphs: Iterable[GraphData]) -> None:
    """Forget the types that were found before something changed; to be called before these graphs are validated."""
    graphs = list(graphs)
    has_other = any(map(has_other_parts, graphs))
    for graph in graphs:
        known = graph.validated
        if graph.parts and has_other:
            known.begin_edition()
        if graph.parts or not same(known.inputs, graph.inputs) or known.values != types_of(graph.values):
            graph.types.clear()
