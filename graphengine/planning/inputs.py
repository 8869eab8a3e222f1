"""The inputs of a run: the declared inputs of a graph with their values, checked."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, final

from graphengine.declare.definition import NodeDef
from graphengine.errors import Problem, Where, WorkflowError, nearest
from graphengine.graph.data import GraphData
from graphengine.graph.elements import INPUTS
from graphengine.graph.validate import check_problems, default_problem, given_here, literal_problem, placed, too_many
from graphengine.planning.draws import draw_inputs, draw_literals
from graphengine.planning.plan import Plan
from graphengine.planning.task import Const, constant
from graphengine.values.literals import coerce


@final
class BoundInputs(Mapping[str, Const]):
    """The declared inputs of a graph with their values for one run: what `bind_inputs` makes, once.

    It may be given to `run` and to all that tells of the run, in the place of the inputs as they were given: nothing is
    checked and copied again then.

    Attributes:
        graph: Whose inputs these are: the graph that is run. It is a copy of the one that was given if numbers were
            drawn for literals in it (see `draws`).
        given: Those that were given, as they were given, or as they were drawn.
        base: Where relative paths among these start; None if the graph has no inputs.
        references: By node the references to weights that the run with these inputs made, and the ids of all nodes that
            were asked for them; None before a run.
        drawn: The numbers that were drawn, by the input (`seed`) or the place of the literal (`latent.seed`).
    """

    def __init__(
        self, graph: GraphData, given: Mapping[str, Any], base: Path | None, values: dict[str, Const]
    ) -> None:
        self.graph, self.given, self.base = graph, given, base
        self.references: tuple[Mapping[str, Any], frozenset[str]] | None = None
        self.drawn: Mapping[str, Any] = {}
        self._values, self._edition, self._source = values, graph.edition, graph

    def __getitem__(self, name: str) -> Const:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def keys(self) -> KeysView[str]:  # as those of a mapping, and faster
        return self._values.keys()

    def items(self) -> ItemsView[str, Const]:
        return self._values.items()

    def are_of(self, graph: GraphData) -> bool:
        """Whether these are the inputs of a graph as it is now."""
        if graph is self._source:
            return graph.edition == self._edition
        return graph is self.graph  # a copy that nobody changes

    def come_from(self, source: GraphData, drawn: Mapping[str, Any]) -> None:
        """Note the graph that was given, and what was drawn."""
        self.drawn, self._source, self._edition = drawn, source, source.edition

    def bind_again(self) -> None:
        """Take the values again from what was given: those that are here were changed in place."""
        self._values, self.references = bind_inputs(self.graph, self.given, self.base)._values, None

    def note_references(self, plan: Plan) -> None:
        """Keep the references that a run made: whoever tells of the run need not make them again."""
        self.references = {id: value for id, (value, _) in plan.references.items()}, frozenset(plan.keys)

    def of_part(self, part: GraphData) -> BoundInputs:
        """Those that a part of the graph has, made by `subgraph`."""
        given = {name: value for name, value in self.given.items() if name in part.inputs}
        values = {name: const for name, const in self._values.items() if name in part.inputs}
        return BoundInputs(part, given, self.base, values)


def bound_inputs(graph: GraphData, inputs: Mapping[str, Any], base: str | Path | None = None) -> BoundInputs:
    """The inputs of a graph: as they were bound to it, or bound to it now.

    Raises:
        WorkflowError: One is wrong, as in `bind_inputs`.
    """
    if type(inputs) is BoundInputs and inputs.are_of(graph):
        return inputs
    return bind_inputs(graph, inputs, base)


def as_given(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Inputs as they were given, whether they were bound since or not."""
    return inputs.given if type(inputs) is BoundInputs else inputs


def bind_inputs(graph: GraphData, inputs: Mapping[str, Any], base: str | Path | None = None) -> BoundInputs:
    """The declared inputs with their values, given or default.

    Args:
        inputs: As they were given; what was bound before is bound anew, with the numbers that were drawn then.
        base: Where relative paths among them start; by default the current folder.

    Raises:
        WorkflowError: One is unknown, missing or not what it is declared as; holds all such problems.
    """
    known: Mapping[str, Any] = {}
    if type(inputs) is BoundInputs:
        base = inputs.base if base is None else base
        known, inputs = inputs.drawn, inputs.given
    problems = []
    for name in inputs:
        if name not in graph.inputs:
            near = nearest(name, graph.inputs)
            hint = "" if near else f"it has {', '.join(graph.inputs) or 'none'}"
            problems.append(
                Problem("unknown input", f"{graph.name} has no input {name}", Where(node=INPUTS, socket=name),
                        nearest=near, hint=hint)
            )
    source, (graph, numbers) = graph, draw_literals(graph, known)
    inputs, drawn = draw_inputs(graph, inputs)
    bound: dict[str, Const] = {}
    current = Path.cwd() if graph.inputs else None
    start = current if base is None else Path(base).absolute()
    for name, declared in graph.inputs.items():
        if name in inputs:
            value, here = inputs[name], start
            problem = literal_problem(declared.socket_for(value), value, Where(node=INPUTS, socket=name))
        elif declared.required:
            problems.append(
                Problem("missing input", f"{graph.name} needs the input {name}", Where(node=INPUTS, socket=name),
                        hint=declared.help)
            )
            continue
        else:
            value, here = declared.default, graph.folder or current
            problem = default_problem(graph, declared)
        if problem is not None:
            problems.append(problem)
        bound[name] = constant(coerce(value, declared.type), here)
    if not problems and bound:
        for problem in _limits(graph, bound):
            socket = problem.where.socket
            is_default = problem.where.node == INPUTS and socket is not None and socket not in inputs
            problems.append(placed(graph, problem, (INPUTS, str(socket))) if is_default else problem)
    if problems:
        raise WorkflowError(problems)
    found = BoundInputs(graph, inputs, start, bound)
    found.come_from(source, drawn | numbers)
    return found


def _limits(graph: GraphData, bound: Mapping[str, Const]) -> list[Problem]:
    """What the sockets that inputs are linked to do not take, whatever the inputs are declared as."""
    found: dict[str, Problem] = _nulls(graph, {name for name, const in bound.items() if const.value is None})
    for id, socket_name, link in graph.bound_sockets():
        const, node = bound.get(link.port), graph.nodes[id]
        socket = node.sockets.get(socket_name)
        if const is None or socket is None or const.value is None:
            continue
        mapped = len(const.value) if socket_name in node.each and isinstance(const.value, list) else 0
        if (problem := too_many(mapped, Where(node=INPUTS, socket=link.port))) is not None:
            found.setdefault(link.port, problem)
            continue
        for value in const.value if socket_name in node.each and isinstance(const.value, list) else [const.value]:
            if (problem := literal_problem(socket, value, Where(node=INPUTS, socket=link.port))) is not None:
                found.setdefault(link.port, replace(problem, hint=f"as {id}.{socket_name} takes it"))
    for id in dict.fromkeys(id for id, *_ in graph.bound_sockets()):
        node = graph.nodes[id]
        if isinstance(node.kind, NodeDef) and node.kind.check_fn is not None and not node.each and not found:
            given = {name: bound[link.port].value for name, link in node.bound if link.port in bound}
            told = check_problems(node.kind, given_here(node) | {n: v for n, v in given.items() if v is not None}, id)
            found.update({f"{id}: {p.what}": p for p in told})
    return list(found.values())


def _nulls(graph: GraphData, names: set[str]) -> dict[str, Problem]:
    """Inputs that are null, by name, where a node that is computed in any case can do nothing with that: its parameter
    takes no null and has no default, or it is mapped over it."""
    found: dict[str, Problem] = {}
    if not names:
        return found
    certain = _certain(graph)
    for id, socket_name, link in graph.bound_sockets():
        node = graph.nodes[id]
        socket = node.sockets.get(socket_name)
        if link.port not in names or id not in certain or socket is None or socket.lazy:
            continue
        where, mapped = Where(node=INPUTS, socket=link.port), socket_name in node.each
        if mapped or (socket.required and literal_problem(socket, None, where) is not None):
            what = f"null cannot be mapped over by {id}" if mapped else f"{id}.{socket_name} takes no null"
            found.setdefault(link.port, Problem("no value", what, where, hint=f"give {link.port} a value"))
    return found


def _certain(graph: GraphData) -> set[str]:
    """The nodes that are computed for the outputs whatever the values are: not those behind a lazy socket."""
    wanted = [link.node for link in graph.outputs.values()] or list(graph.nodes)
    found: set[str] = set()
    while wanted:
        id = wanted.pop()
        if id in found or id not in graph.nodes:
            continue
        found.add(id)
        node = graph.nodes[id]
        for name, link in node.sources():
            socket = node.sockets.get(name)
            if socket is not None and not socket.lazy:
                wanted.append(link.node)
    return found
