"""Running graphs: `run(graph, want, inputs)`, with a memory that everything in this process shares."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphengine.cache import Store
from graphengine.declare.building import not_building
from graphengine.declare.definition import NodeDef
from graphengine.declare.registry import modules
from graphengine.errors import GraphEngineError, Problem, Spoiled, WorkflowError, shorten
from graphengine.events import Listener, Reuse
from graphengine.execution.display import showing
from graphengine.execution.evaluate import Evaluation
from graphengine.execution.launcher import Cancellation
from graphengine.execution.runner import Runner, ThreadRunner
from graphengine.graph.data import GraphData
from graphengine.graph.order import packs_of
from graphengine.graph.revalidate import check_changes
from graphengine.graph.selection import wanted_links
from graphengine.keys.files import confining
from graphengine.pack import environment, pack_of
from graphengine.planning.inputs import bound_inputs
from graphengine.planning.plan import forget_plans, give_back, take_plan
from graphengine.planning.task import Stage
from graphengine.system.devices import check_device
from graphengine.system.threads import leavable
from graphengine.values.canonical import canonical, digest

RUNS = 4
"""How often a run is begun at most, where values are found changed in place."""


@functools.cache
def shared_store() -> Store:
    """The memory of this process."""
    return Store()


@functools.cache
def shared_runner() -> Runner:
    """The threads of this process: one call that needs the device at a time."""
    return ThreadRunner()


@dataclass(repr=False)
class Result(Mapping[str, Any]):
    """What a run gave: its outputs by name, as a mapping.

    Attributes:
        outputs: The wanted values by name.
        made: By name, facts about the computation (device, batch, ...).
        reuse: By node, whether its value was computed or reused.
        seconds: By node that was computed, how long it took.
        elapsed: Seconds of the whole run.
    """

    outputs: dict[str, Any]
    made: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    reuse: dict[str, Reuse] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    elapsed: float = 0.0

    def __getitem__(self, name: str) -> Any:
        return self.outputs[name]

    def __iter__(self) -> Any:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={shorten(value)}" for name, value in self.outputs.items())
        return f"<Result {given or 'without outputs'}; {len(self.reuse)} nodes, {self.elapsed:.2f} s>"

    def _repr_html_(self) -> str:
        from graphengine.show.report import result_html

        return result_html(self)


def run(
    graph: GraphData,
    want: Any = None,
    inputs: Mapping[str, Any] | None = None,
    *,
    store: Store | None = None,
    runner: Runner | None = None,
    listeners: Sequence[Listener] = (),
    device: str | None = None,
    exact: bool = False,
    roots: Sequence[str | Path] | None = None,
    base: str | Path | None = None,
    cancellation: Cancellation | None = None,
    limit: int = 100_000,
    progress: bool = True,
    keep_going: bool = False,
) -> Result:
    """Evaluate what is wanted of a graph.

    Args:
        want: A reference, an output's name, a node's id, or a list of these. None: all declared outputs (or, where
            none are declared, what nobody takes anything from) and the nodes that act, such as those that save.
        inputs: Values of the declared inputs, or these as `bind_inputs` has bound them.
        store: The memory; by default this process's, in memory only.
        runner: Where nodes that need the device are computed; by default on this process's threads.
        listeners: Told of every event, on whichever thread it happens.
        device: Where nodes compute, as torch writes it; by default as their pack says.
        exact: Share values only with runs that compute in the very same way, and join no calls.
        roots: Folders that file parameters may not leave; None allows all.
        base: Where relative paths among `inputs` start; by default the current folder. Those in a workflow file
            start in its folder.
        cancellation: Asks the run to stop.
        limit: How many expansions (loops, subgraphs, maps) are allowed.
        progress: Show bars after half a second of work, where standard error is a terminal or this is a notebook; the
            environment variable GRAPHENGINE_PROGRESS=0 silences them everywhere.
        keep_going: After a failure, compute all that does not depend on it. By default nothing more is begun, and
            only what runs is finished.

    Raises:
        WorkflowError: The graph or the inputs are wrong; holds all problems.
        NodeError: A node raised. Its `result` holds the outputs that were made, its `failures` what else failed.
        Cancelled: It was cancelled. It ends at once: what does not look whether it was cancelled is left with its
            thread, and named in a warning.
        Exhausted: A run that can be cancelled has a thread of its own, and this process has none for it.
    """
    start = time.perf_counter()
    if device is not None:
        check_device(device)
    check_changes(graph)
    names, links, extra = wanted_links(graph, want)
    options = (store or shared_store(), runner or shared_runner(), listeners, device, exact, cancellation)
    before: Evaluation | None = None
    bound = bound_inputs(graph, {} if inputs is None else inputs, base)
    graph = bound.graph
    for _ in range(RUNS):
        if before is not None:
            bound.bind_again()
        evaluation = Evaluation(*options, limit=limit, before=before, keep_going=keep_going)
        with not_building(), confining():
            salt = salt_of(graph, device, None if runner is None else runner.environment) if exact else None
            plan = take_plan(graph, bound, roots, salt)
            evaluation.inputs = bound
            work = functools.partial(evaluation.run, plan, [*links, *extra], len(links), acting=want is None)
            try:
                with showing(evaluation, _title(graph)) if progress else nullcontext():
                    leavable(work, cancellation and evaluation.cancellation, evaluation.leave, graph.name)
            except Spoiled as error:
                spoiled, before = str(error), evaluation
                forget_plans(graph)  # literals in them may be what was changed
                continue
            except GraphEngineError as error:
                if error in evaluation.failures:
                    bound.note_references(plan)
                    error.result = _result(names, evaluation, time.perf_counter() - start)
                    error.failures = tuple(evaluation.failures)
                raise
        if bound is inputs:  # others have it as well
            bound.note_references(plan)
        give_back(plan)
        return _result(names, evaluation, time.perf_counter() - start)
    sentence = f"{spoiled}, again and again: something outside this run keeps it and writes into it"
    raise WorkflowError(Problem("changed in place", sentence, hint="let the node that makes it return a copy"))


def _title(graph: GraphData) -> str:
    return graph.title or (graph.file.stem if graph.file is not None else graph.name)


def _result(names: list[str], evaluation: Evaluation, elapsed: float) -> Result:
    wanted = {name: goal for name, goal in zip(names, evaluation.goals, strict=False) if goal.stage == Stage.DONE}
    return Result(
        {name: goal.value for name, goal in wanted.items()},
        {name: goal.made for name, goal in wanted.items()},
        evaluation.reuse,
        evaluation.seconds,
        elapsed,
    )


def salt_of(graph: GraphData, device: str | None = None, elsewhere: Mapping[str, Any] | None = None) -> bytes:
    """How this process computes, and the runner's workers: what exact runs share only with their like."""
    packs = set(packs_of(graph))
    if any(node.kind.expand for node in graph.nodes.values() if isinstance(node.kind, NodeDef)) or graph.parts:
        packs |= {pack_of(module) for module in modules()}  # an expansion may use nodes of any of them
    here = canonical(environment(sorted(packs, key=lambda pack: pack.name)))
    there = here if elsewhere is None else canonical(elsewhere)
    return digest(("exact", device, here) if there == here else ("exact", device, here, there))
