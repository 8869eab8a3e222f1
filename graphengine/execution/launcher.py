"""Starts the calls of a run that are ready, in place or on the runner, each key once, and hands on their values.

The module is long because a call in place and a call by the runner begin, are guarded and end in one way, and because
`RunContext`, what a node sees of its run, is made here.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

from graphengine.cache import Entry, Flight, Store
from graphengine.cache.memory import NOTHING
from graphengine.cache.store import WORTH_WRITING
from graphengine.declare.context import Context
from graphengine.declare.definition import NodeDef
from graphengine.errors import (
    Cancelled,
    Exhausted,
    GraphEngineError,
    Lost,
    NodeError,
    Spoiled,
    WorkflowError,
    short_path,
    text_of,
)
from graphengine.events import Event, Kind, Listener, Reuse
from graphengine.execution.guard import guard_of
from graphengine.execution.runner import Call, Runner, on_device_thread
from graphengine.graph.combine import subgraph
from graphengine.graph.elements import Link
from graphengine.keys.call_key import data_stands, is_of_process
from graphengine.pack import environment
from graphengine.planning.arguments import value_of
from graphengine.planning.inputs import BoundInputs
from graphengine.planning.plan import Plan
from graphengine.planning.task import Stage, Task, made_of, merge_made, tasks_of
from graphengine.values.checksum import twin_of

_log = logging.getLogger(__name__)
_runs = itertools.count(1)


class Cancellation:
    """Asks a run to stop; from any thread, any number of times."""

    def __init__(self) -> None:
        self.cancelled = False
        self._told: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """Ask the run to stop, and call all that is to be called then."""
        self.cancelled = True
        for tell in list(self._told):
            tell()

    def on_cancel(self, tell: Callable[[], None]) -> None:
        """Call `tell` when it is cancelled; at once, where it was cancelled before."""
        self._told.append(tell)
        if self.cancelled:
            tell()

    def forget(self, tell: Callable[[], None]) -> None:
        """No longer call `tell` when it is cancelled."""
        self._told.remove(tell)


class Launcher(ABC):
    """The half of a run that computes. The other half, which decides what is computed, is `evaluate.Evaluation`.

    Args:
        store, runner: Shared with all other runs.
        listeners: Told of every event.
        device: Where nodes compute; None is as their pack says.
        exact: Be joined with nothing.
        cancellation: Asks the run to stop.

    Attributes:
        plan, inputs: Of the whole graph.
        alone: Compute everything on copies that nobody else holds, since a value was found changed (see `guard`).
    """

    plan: Plan
    inputs: BoundInputs
    alone = False

    def __init__(
        self,
        store: Store,
        runner: Runner,
        listeners: Sequence[Listener] = (),
        device: str | None = None,
        exact: bool = False,
        cancellation: Cancellation | None = None,
    ) -> None:
        self.store, self.runner, self.device, self.exact = store, runner, device, exact
        self.cancellation = cancellation or Cancellation()
        self.number = next(_runs)
        self.ready: list[Task] = []
        self.outstanding = 0
        self.arrived: queue.SimpleQueue[tuple[Task | None, Any]] = queue.SimpleQueue()
        self.listeners = list(listeners)
        self._wants: dict[bytes, Task] = {}
        self._flying: dict[Flight, Task] = {}
        self._unsent: list[Flight] = []
        self._here: Flight | None = None
        self._lock = threading.Lock()
        # A run inside a node for the device must not wait for a call that is queued behind that node.
        self._nested = on_device_thread()
        self._failed_node: str | None = None
        self.stopping = False

    @abstractmethod
    def finish(self, task: Task, entry: Entry, reuse: Reuse) -> None:
        """A task has its value."""

    @abstractmethod
    def failed(self, task: Task, failure: GraphEngineError) -> None:
        """A task has an error in place of a value."""

    @abstractmethod
    def retry(self, task: Task) -> None:
        """What a task waited for was not computed to its end."""

    def arguments(self, task: Task) -> dict[str, Any]:
        arguments = dict(task.values)
        for name, source in task.links:
            arguments[name] = source.value if type(source) is Task else value_of(source)
        return arguments

    def _reserve(self, task: Task) -> Flight | None:
        """A flight to compute; None if the value came meanwhile or somebody else computes it."""
        if task.volatile or (self._nested and task.node.kind.on == "device"):  # type: ignore[union-attr]
            return Flight(None, self, task)
        key: bytes = task.key  # type: ignore[assignment]
        found = self.store.reserve(key, self, task)
        if self.alone and type(found) is Entry:
            found = self.store.renew(key, found) or self.store.reserve(key, self, task)
        if type(found) is Flight:
            return found
        task.stage = Stage.RUNNING
        if found is None:
            self._wants[key] = task
            self.outstanding += 1
        else:
            self.finish(task, found, Reuse.MEMORY)  # type: ignore[arg-type]
        return None

    # Callbacks of a flight, called on any thread.

    def landed(self, task: Task, outcome: Any) -> None:
        self.arrived.put((task, outcome))

    @property
    def watching(self) -> bool:
        return any(getattr(listener, "previews", True) for listener in self.listeners)

    def under_way(self) -> list[tuple[str, str]]:
        """Ids and types of the nodes that are being computed, or wait for the runner. Called on any thread."""
        with self._lock:
            tasks = [*self._flying.values(), *self._wants.copy().values()]
        here = self._here
        if here is not None:
            tasks += here.wanted_by.values()
        return [(task.id, task.node.type) for task in tasks if task.node is not None]

    def told(self, task: Task, kind: str, facts: dict[str, Any]) -> None:
        if self.listeners:
            self.emit(Kind(kind), task.id, task.node.type if task.node is not None else "", **facts)

    def compute(self, task: Task, kind: NodeDef[..., Any]) -> None:
        """Compute in place."""
        flight = self._reserve(task)
        if flight is None:
            return
        made = NOTHING
        arguments = dict(task.values)
        guarded = self.alone or task.sums
        for name, source in task.links:
            if type(source) is Task:
                arguments[name] = source.value
                if source.sum is not None:
                    guarded = True
                if source.made is not NOTHING:
                    made = {**made, **source.made}
            else:
                arguments[name] = value_of(source)
                made = {**made, **made_of(source)}
                guarded = True
        context: RunContext | None = None
        self._here = flight
        if self.cancellation.cancelled:
            self._go_on()
        for listener in self.listeners:
            listener(Event(Kind.NODE_STARTED, self.number, task.id, kind.full_name))
        if kind.context_parameter is not None:
            context = arguments[kind.context_parameter] = RunContext(self, task, flight, kind)
        start = perf_counter()
        try:
            value = self._guarded(task, kind.compute, arguments) if guarded else kind.compute(**arguments)
        except BaseException as error:
            self.store.land(flight, error)
            self._here = None
            arguments.pop(kind.context_parameter or "", None)
            self.fail(task, error, arguments)
            return
        cost = perf_counter() - start
        if context is not None and context.facts:
            made = {**made, **context.facts}
        keep = kind.cache if cost < WORTH_WRITING else self._keep(task, kind, cost)
        entry = self.store.land(flight, value, made, cost, keep)
        self._here = None
        if type(entry) is not Entry:  # it cannot be kept
            arguments.pop(kind.context_parameter or "", None)
            self.fail(task, entry, arguments)  # type: ignore[arg-type]
            return
        self.finish(task, entry, Reuse.COMPUTED)

    def _guarded(self, task: Task, fn: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Call a function whose inputs can be changed in place."""
        guard = guard_of(task.links, self.alone, task)
        value = fn(**arguments) if guard is None else guard.call(fn, arguments)
        return twin_of(value) if self.alone else value

    def submit(self) -> None:
        """Hand all ready calls to the runner at once."""
        ready, self.ready = self.ready, []
        calls = []
        for task in ready:
            flight = self._reserve(task)
            if flight is not None:
                with self._lock:
                    self._flying[flight] = task
                self._unsent.append(flight)
                calls.append(self._call(task, flight))
        self._go_on()
        self.outstanding += len(calls)
        self.runner.submit(calls)  # also none: what it needs is computed for others already
        self._unsent = []

    def _go_on(self) -> None:
        """Raise if the run was cancelled just before what it computes was reserved."""
        if self.cancellation.cancelled:
            raise Cancelled("the run was cancelled")

    def _call(self, task: Task, flight: Flight) -> Call:
        assert task.node is not None
        kind = task.node.kind
        assert isinstance(kind, NodeDef)
        assert task.key is not None
        context = RunContext(self, task, flight, kind)
        inherited = self._made(task)

        def landed(outcome: Any, seconds: float, facts: Mapping[str, Any]) -> None:
            if flight.has_landed:  # it was left, and has ended after all
                return
            try:
                made = {**inherited, **facts, **context.facts} or NOTHING
                if self.alone and not isinstance(outcome, BaseException):
                    outcome = twin_of(outcome)
                keep = self._keep(task, kind, seconds) if call.kept else "never"
                entry = self.store.land(flight, outcome, made, seconds, keep)
            except BaseException as error:  # whatever it is, the run waits for this call
                entry = self.store.land(flight, error)
            self.arrived.put((task, (flight, entry)))

        self.emit(Kind.NODE_STARTED, task.id, kind.full_name)
        tokens = task.tokens or self.plan.tokens.get(task.id, {})
        task.depth = 1 + max((t.depth for _, source in task.links for t in tasks_of(source)), default=0)
        order = (self.number, -task.depth)
        guard = guard_of(task.links, self.alone, task)
        call = Call(kind, self.arguments(task), task.key, tokens, context, self.exact, order, landed, guard)
        return call

    def _keep(self, task: Task, kind: NodeDef[..., Any], seconds: float) -> str:
        """Where a value is remembered: what came of data that a key cannot follow, in this process only."""
        if task.volatile:
            return "never"
        if seconds < WORTH_WRITING or kind.cache != "disk" or not self.store.persistent:
            return kind.cache
        return "disk" if not is_of_process(task.key or b"") and data_stands(kind) else "memory"

    def _made(self, task: Task) -> Mapping[str, Any]:
        return merge_made(made_of(source) for _, source in task.links)

    def arrive(self, task: Task, outcome: Any) -> None:
        """What a runner or another run computed has come."""
        if isinstance(outcome, tuple):
            flight, outcome = outcome
            with self._lock:
                self._flying.pop(flight, None)
            reuse = Reuse.COMPUTED
        else:
            assert task.key is not None
            self._wants.pop(task.key, None)
            reuse = Reuse.JOINED
        if isinstance(outcome, Lost) and reuse is Reuse.JOINED:
            self.retry(task)
        elif isinstance(outcome, BaseException):
            self.fail(task, outcome)
        else:
            self.finish(task, outcome, reuse)

    def fail(self, task: Task, error: BaseException, arguments: Mapping[str, Any] | None = None) -> None:
        """A node has failed; what else was computed stays remembered."""
        if isinstance(error, Cancelled) and self.cancellation.cancelled:
            raise Cancelled("the run was cancelled") from error
        if isinstance(error, Spoiled):
            raise Spoiled(f"node {task.id}: {error}") from error
        if isinstance(error, Cancelled) and self.stopping:
            return  # it had not begun when another failed
        if isinstance(error, KeyboardInterrupt):
            raise error
        type_ = task.node.type if task.node is not None else ""
        if arguments is None:
            arguments = dict(task.values) | {
                name: value_of(s) for name, s in task.links if all(t.stage == Stage.DONE for t in tasks_of(s))
            }
        self._failed_node = task.id
        try:
            self.emit(Kind.NODE_FAILED, task.id, type_, error=f"{type(error).__name__}: {text_of(error)}")
        except Exception:  # the node's own error is the one to be told
            _log.exception("a listener failed")
        if isinstance(error, WorkflowError):
            problems = [p.at(node=f"{task.id}/{p.where.node or ''}".rstrip("/")) for p in error.problems]
            self.failed(task, WorkflowError(problems))
        else:
            self.failed(task, NodeError(task.id, type_, arguments, error))

    def leave_all(self) -> None:
        """No longer want anything; computations that nobody else wants are cancelled. Called on any thread."""
        wants = list(self._wants)
        for key in wants:
            self.store.leave(key, self)
        with self._lock:
            flights = list(self._flying)
        if self._here is not None:
            flights.append(self._here)
        for flight in flights:
            if flight.key is None:
                flight.cancelled = True
            else:
                self.store.leave(flight.key, self)
        self.arrived.put((None, None))
        if (wants or flights) and hasattr(self.runner, "unwanted"):
            try:
                self.runner.unwanted()
            except Exhausted as error:
                _log.warning("nodes that nobody wants any more may hold up others: %s", error)

    def abandon(self) -> None:
        """The run ends before its time: what it reserved and did not hand on will not be computed."""
        self.leave_all()
        for flight in [*self._unsent, *([] if self._here is None else [self._here])]:
            self.store.land(flight, Cancelled("the run that computed it has ended"))
        self._here, self._unsent = None, []

    def leave(self) -> None:
        """The run has ended for all others, though its thread has not: nobody hears of it or waits for it any more."""
        self.emit(Kind.RUN_FAILED, error="the run was cancelled")
        self.listeners.clear()
        self.abandon()

    # --- what others are told ---------------------------------------------------------------------------------------

    def emit(self, kind: Kind, node: str = "", type: str = "", **facts: Any) -> None:
        if self.listeners:
            event = Event(kind, self.number, node, type, **facts)
            for listener in self.listeners:
                listener(event)


class RunContext(Context):
    """The context of a call: it speaks for all who want its result."""

    def __init__(self, launcher: Launcher, task: Task, flight: Flight, kind: NodeDef[..., Any]) -> None:
        self._launcher, self._flight, self._kind = launcher, flight, kind
        self.node, self.exact = task.id, launcher.exact
        self.made = {name: made_of(source) for name, source in task.links}
        self.facts: dict[str, Any] = {}
        self._begun = False

    def begin(self) -> None:
        self._begun = True
        self.facts.clear()  # of a batch that came to nothing

    @property
    def device(self) -> str:  # type: ignore[override]
        if self._launcher.device is not None:
            return self._launcher.device
        return str(environment([self._kind.module_pack]).get("device", "cpu"))

    @property
    def watched(self) -> bool:  # type: ignore[override]
        return any(who.watching for who in self._flight.wanted_by)

    @property
    def cancelled(self) -> bool:
        return self._flight.cancelled or (self._launcher.stopping and not self._begun)

    def check_cancelled(self) -> None:
        if self._flight.cancelled:
            raise Cancelled(f"{short_path(self.node)} was cancelled")

    def progress(self, step: int, total: int) -> None:
        self.check_cancelled()
        self._flight.tell("progress", {"step": step, "total": total})

    def preview(self, value: Any) -> None:
        self._flight.tell("preview", {"value": value})

    def making(self, socket: str, value: Any) -> Mapping[str, str]:
        from graphengine.provenance.describe import chunks

        plan = self._launcher.plan
        node = plan.graph.nodes.get(self.node)
        link = node.args.get(socket) if node is not None else None
        if type(link) is not Link or link.node not in plan.graph.nodes:
            return {}  # inside an expansion, or no result of a node
        part = subgraph(plan.graph, [link])
        inputs = self._launcher.inputs.of_part(part)
        inputs.note_references(plan)
        return chunks(part, inputs, str(link), value, self.made[socket], exact=self.exact)

    def note(self, **facts: Any) -> None:
        self.facts.update(facts)
