"""Validating a graph before it runs: only what changed since it was found right, and what that may make wrong."""

from __future__ import annotations

from collections.abc import Iterator

from graphengine.declare.definition import NodeDef
from graphengine.errors import Problem
from graphengine.graph import validate
from graphengine.graph.data import GraphData, Node
from graphengine.graph.elements import INPUTS, VALUES, Link
from graphengine.graph.invalidate import forget_types, has_other_parts, is_changed, note_all_right


def check_changes(graph: GraphData) -> None:
    """Validate what was not validated since it last changed.

    Raises:
        WorkflowError: Something is wrong; holds all problems of the graph.
    """
    changed = [part for part in graph.with_parts() if is_changed(part)]
    if not changed:
        return
    if any(map(has_other_parts, changed)):  # what is used as a node has other inputs now, or gives something else
        validate.check(graph)
        return
    forget_types(changed)
    found = [problem for part in changed for problem in _problems_of_changes(part)]
    if graph.parts:
        found += validate.endless(graph)
    if any(problem.severity == "error" for problem in found):
        validate.check(graph)  # tells what else is wrong as well
    for part in changed:
        note_all_right(part)


def warnings(graph: GraphData) -> list[Problem]:
    """The warnings about a graph, remembered where it has not changed since all of it was validated."""
    known = graph.validated.warnings
    if known is None or any(map(is_changed, graph.with_parts())):
        known = validate.problems(graph)
    return [problem for problem in known if problem.severity == "warning"]


def _problems_of_changes(graph: GraphData) -> Iterator[Problem]:
    """What is wrong with a graph because of what changed in it."""
    yield from graph.problems_at_load
    for id in _may_be_wrong(graph):
        yield from validate.node_problems(graph, id)
    for declared in graph.inputs.values():
        if (problem := validate.default_problem(graph, declared)) is not None:
            yield problem
    for link in graph.outputs.values():
        yield from validate.link_problems(graph, link)
    if graph.validated.may_cycle:
        yield from validate.cycles(graph)


def _may_be_wrong(graph: GraphData) -> list[str]:
    """The nodes that changed, and those that take something whose type may have changed thereby."""
    known = graph.validated
    found, other = dict.fromkeys(known.pending), list(known.made_other)
    edited = {kind for kind, validator in known.validators.items() if kind.check_fn is not validator}
    redeclared = {Link(INPUTS, name) for name, declared in known.inputs.items()
                  if graph.inputs.get(name) is not declared}  # fmt: skip
    redeclared |= {Link(VALUES, name) for name, kind in known.values.items()
                   if name not in graph.values or type(graph.values[name]) is not kind}  # fmt: skip
    if edited or redeclared:
        for id, node in graph.nodes.items():
            if node.kind in edited:
                found[id] = None
            if redeclared and any(link in redeclared for _, link in node.sources()):
                found[id] = None
                if _is_generic(node):
                    other.append(id)
    takers = graph.consumers() if other else {}
    seen = set[str]()
    while other:
        id = other.pop()
        if id in seen:
            continue
        seen.add(id)
        for taker in takers.get(id, ()):
            found[taker] = None
            if _is_generic(graph.nodes[taker]):
                other.append(taker)
    return [id for id in found if id in graph.nodes]


def _is_generic(node: Node) -> bool:
    """Whether the type of what a node makes depends on what it takes."""
    return isinstance(node.kind, NodeDef) and node.kind.is_generic
