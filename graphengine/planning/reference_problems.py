"""Problems of nodes that make references to weights, found by making them: what does not fit is told before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphengine.declare.definition import NodeDef
from graphengine.declare.sockets import UNKNOWN, File, Unknown
from graphengine.errors import FileError, NodeError, Problem, Where, WorkflowError, text_of
from graphengine.graph.data import GraphData, Node, folder_of
from graphengine.graph.elements import INPUTS, Link
from graphengine.graph.order import topological
from graphengine.graph.validate import placed
from graphengine.planning.inputs import BoundInputs, bind_inputs
from graphengine.planning.plan import Plan, give_back, take_plan


def reference_problems(graph: GraphData, bound: BoundInputs | None = None) -> list[Problem]:
    """List the problems of a graph's references.

    Configurations, headers and checksums of files on this machine are read, no weights are loaded. What may have to be
    fetched from a network is not looked at, nor what is made of it; of missing files `missing_files` tells.

    Args:
        graph: A graph without errors.
        bound: Its inputs; by default all at their defaults, and where one has none there are no problems to find.
    """
    try:
        bound = bind_inputs(graph, {}) if bound is None else bound
    except WorkflowError:
        return []
    graph = bound.graph
    problems, left = [], set[str]()
    plan = take_plan(graph, bound, None)
    for id in topological(graph):
        node = graph.nodes[id]
        if any(source in left for source in node.before):
            left.add(id)
        elif not isinstance(node.kind, NodeDef) or not node.kind.makes_reference or node.each:
            continue
        elif _is_remote(graph, id, bound):
            left.add(id)
        else:
            try:
                plan.assign([id])
            except NodeError as error:
                left.add(id)
                if not isinstance(error.__cause__, FileError):
                    problem = Problem("wrong weights", text_of(error.__cause__ or error), Where(node=error.node))
                    problems.append(placed(graph, problem, ("nodes", id)))
    for id, node in graph.nodes.items():
        if isinstance(node.kind, NodeDef) and node.kind.foresee_fn is not None and not node.each:
            sentences = node.kind.foresee_fn(_known(graph, id, bound, plan))
            problems += [placed(graph, Problem("invalid", one, Where(node=id)), ("nodes", id)) for one in sentences]
    give_back(plan)
    return problems


def _known(graph: GraphData, id: str, bound: BoundInputs, plan: Plan) -> dict[str, Any]:
    """What is known of a node's inputs before anything is computed.

    In place of what a link will bring stands an `Unknown`, with what is known of the inputs of the node that makes it.
    """
    node = graph.nodes[id]

    def several(source: Node) -> Any:
        """What a mapped node makes: as many values as the lists have that it is mapped over."""
        lists = [value(source.args.get(name)) for name in source.each]
        counts = {len(one) if isinstance(one, list | tuple) else None for one in lists}
        count = counts.pop() if len(counts) == 1 else None
        return UNKNOWN if count is None else [UNKNOWN] * count

    def made_by(source: Node) -> Any:
        if source.each or not isinstance(source.kind, NodeDef):
            return several(source)
        inputs = {name: value(argument, deep=False) for name, argument in source.args.items()}
        return Unknown(source.kind.full_name, inputs)

    def value(argument: Any, deep: bool = True) -> Any:
        if isinstance(argument, list):
            return [value(one, deep) for one in argument]
        if not isinstance(argument, Link):
            return argument
        if argument.node == INPUTS:
            return bound[argument.port].value if argument.port in bound else UNKNOWN
        made = plan.references.get(argument.node)
        if made is None:
            return made_by(graph.nodes[argument.node]) if deep and argument.node in graph.nodes else UNKNOWN
        return getattr(made[0], argument.port) if argument.port and isinstance(made[0], tuple) else made[0]

    return {name: value(argument) for name, argument in node.args.items()}


def _is_remote(graph: GraphData, id: str, bound: BoundInputs) -> bool:
    """Whether a node names what is no file on this machine."""
    node = graph.nodes[id]
    assert isinstance(node.kind, NodeDef)
    given = node.literals | {name: bound[link.port].value for name, link in node.bound if link.port in bound}
    of_caller = {name for name, link in node.bound if link.port in bound.given}
    bases = {name: bound.base if name in of_caller else None for name in node.kind.files}
    return any(
        _is_name(given.get(name), rule, bases[name] or folder_of(graph)) for name, rule in node.kind.files.items()
    )


def _is_name(value: Any, rule: File, base: Path) -> bool:
    named = rule.names and isinstance(value, str) and value not in rule.known
    return named and not (base / Path(value).expanduser()).exists()
