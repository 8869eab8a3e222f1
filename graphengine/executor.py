"""Evaluating a graph: what is wanted is looked up by its key, what is not there is computed from its inputs.

One drive evaluates one run, on the thread that called it. Tasks move through their stages (see `task`) as what they
wait for comes; nothing recurses and nothing waits on a thread of its own. What needs no device is computed in place,
the rest goes to the runner, many ready calls at once.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

from graphengine.cache import Entry, Flight, Store
from graphengine.cache.memory import NOTHING
from graphengine.context import Context
from graphengine.errors import Cancelled, GraphEngineError, Lost, NodeError, Problem, WorkflowError
from graphengine.events import Event, Kind, Listener, Reuse
from graphengine.expand import Expander
from graphengine.graph import Link
from graphengine.keys import canonical, node_key
from graphengine.definition import NodeDef
from graphengine.pack import environment
from graphengine.plan import Plan, literal
from graphengine.runner import Call, Runner
from graphengine.task import (
    DONE,
    INPUTS,
    KEY,
    LOOKUP,
    READY,
    RUNNING,
    Const,
    Many,
    Port,
    Task,
    follow,
    is_volatile,
    made_of,
    merge_made,
    tasks_of,
    token_of,
    value_of,
)
from graphengine.types import is_named_tuple

_runs = itertools.count(1)
_unique = itertools.count()


class Cancellation:
    """Asks a run to stop; from any thread, any number of times."""

    def __init__(self) -> None:
        self.cancelled = False
        self._told: list[Callable[[], None]] = []

    def cancel(self) -> None:
        self.cancelled = True
        for tell in list(self._told):
            tell()


class Drive:
    """One run of one graph.

    Args:
        store, runner: Shared with all other runs.
        device: Where nodes compute; None is as their pack says.
        exact: Share only with what was computed in the same way, and be joined with nothing.
        limit: How many expansions are allowed.
    """

    def __init__(
        self,
        store: Store,
        runner: Runner,
        listeners: Sequence[Listener] = (),
        device: str | None = None,
        exact: bool = False,
        cancellation: Cancellation | None = None,
        limit: int = 100_000,
    ) -> None:
        self.store, self.runner, self.device, self.exact = store, runner, device, exact
        self.cancellation = cancellation or Cancellation()
        self.number = next(_runs)
        self.reuse: dict[str, Reuse] = {}
        self.seconds: dict[str, float] = {}
        self._listeners = list(listeners)
        self._agenda: list[Task] = []
        self._ready: list[Task] = []
        self._landed: queue.SimpleQueue[tuple[Task | None, Any]] = queue.SimpleQueue()
        self._outstanding = 0
        self._wants: dict[bytes, Task] = {}
        self._alone: set[Flight] = set()
        self._expander = Expander(self, limit)
        self._lock = threading.Lock()
        self._disk = store.disk

    # --- the run --------------------------------------------------------------------------------------------------

    def run(self, plan: Plan, links: Sequence[Link]) -> list[Task]:
        """Evaluate the wanted links of a plan's graph; returns for each a task that holds its value."""
        start = perf_counter()
        self.emit(Kind.RUN_STARTED)
        self.cancellation._told.append(self._leave_all)
        try:
            self.plan = plan
            plan.assign(link.node for link in links if link.node in plan.graph.nodes)
            goals = self._goals(plan, links)
            for goal in goals:
                self._want(goal)
            self._loop(goals)
        except BaseException as error:
            self._leave_all()
            self.emit(Kind.RUN_FAILED, error=str(error) or type(error).__name__, seconds=perf_counter() - start)
            raise
        finally:
            self.cancellation._told.remove(self._leave_all)
        self.emit(Kind.RUN_FINISHED, seconds=perf_counter() - start)
        return goals

    def _goals(self, plan: Plan, links: Sequence[Link]) -> list[Task]:
        scope = self._materialise(plan, links)
        return [Task("", None, [("", self._expander.source(plan, scope, link))], {}) for link in links]

    def _materialise(self, plan: Plan, links: Sequence[Link]) -> dict[str, Task]:
        """Tasks for the wanted nodes and what they need, no further than what is remembered already."""
        keys, find = plan.keys, self.store.memory.entries.get
        tasks: dict[str, Task] = {}
        merged: dict[bytes, Task] = {}
        fresh: list[Task] = []
        stack = [link.node for link in links if link.node in keys]
        while stack:
            id = stack.pop()
            if id in tasks:
                continue
            key = keys[id]
            node = plan.graph.nodes[id]
            if key is None:
                task = tasks[id] = Task(id, node, [], {})
                reference = plan.references.get(id)
                if reference is not None:
                    task.entry, task.stage = Entry(reference[0], cost=reference[1]), LOOKUP
                    continue
            else:
                known = merged.get(key)
                if known is not None:
                    tasks[id] = known
                    continue
                task = merged[key] = tasks[id] = Task(id, node, [], plan.values[id])
                task.key, task.stage = key, LOOKUP
                task.entry = find(key)
                if task.entry is not None:
                    continue
            fresh.append(task)
            stack.extend(node.before)
        for task in fresh:
            self._expander.wire(plan, tasks, task)
        if self._disk is None and len(merged) == len(tasks):
            self._want_all(fresh)
        return tasks

    def _want_all(self, tasks: list[Task]) -> None:
        """Where all keys are known and nothing more can be remembered, all of it is wanted: say so at once."""
        for task in tasks:
            task.wanted, task.stage = True, READY
            for _, source in task.links:
                for before in tasks_of(source):
                    if before.entry is not None:
                        self._finish(before, before.entry, Reuse.MEMORY)
                    elif before.stage != DONE:
                        task.pending += 1
                        if before.waiters is None:
                            before.waiters = [task]
                        else:
                            before.waiters.append(task)
            if not task.pending:
                self._agenda.append(task)

    def _loop(self, goals: list[Task]) -> None:
        agenda, advance = self._agenda, self._advance
        cancellation = self.cancellation
        while True:
            while agenda and not cancellation.cancelled:
                advance(agenda.pop())
            if cancellation.cancelled:
                raise Cancelled("the run was cancelled")
            if self._ready:
                self._submit()
            if all(goal.stage == DONE for goal in goals):
                return
            if not self._outstanding:
                self._stalled(goals)
            task, outcome = self._landed.get()
            if task is None:
                continue  # woken by a cancellation
            self._outstanding -= 1
            self._land(task, outcome)

    def _stalled(self, goals: list[Task]) -> None:
        raise WorkflowError(
            Problem("needs itself", "nodes wait for each other's results", hint="a node cannot need its own result")
        )

    # --- the stages -----------------------------------------------------------------------------------------------

    def _want(self, task: Task) -> None:
        task.wanted = True
        self._agenda.append(task)

    def need_key(self, task: Task, waiter: Task) -> None:
        """Let a task wait until another's key (or what it became) is known."""
        if task.key_waiters is None:
            task.key_waiters = []
        task.key_waiters.append(waiter)
        waiter.pending += 1
        self._agenda.append(task)

    def need_value(self, task: Task, waiter: Task) -> None:
        """Let a task wait for another's value."""
        if task.waiters is None:
            task.waiters = []
        task.waiters.append(waiter)
        waiter.pending += 1
        task.wanted = True
        self._agenda.append(task)

    def wake(self, waiters: list[Task]) -> None:
        for waiter in waiters:
            waiter.pending -= 1
            if not waiter.pending:
                self._agenda.append(waiter)

    def _advance(self, task: Task) -> None:
        """Move a task on as far as it can go now."""
        if task.pending or task.stage >= RUNNING:
            return
        if task.stage != READY:
            if task.stage == KEY and not self._find_key(task):
                return
            if not task.wanted or task.stage == DONE:
                return
            if task.stage == LOOKUP and self._look_up(task):
                return
            task.stage = READY
            for _, source in task.links:
                for before in tasks_of(source):
                    if before.stage != DONE:
                        self.need_value(before, task)
            if task.pending:
                return
        if task.node is None:
            task.value, task.made = value_of(task.links[0][1]), made_of(task.links[0][1])
            task.links, task.stage = [], DONE
        elif task.node.kind.on == "here":  # type: ignore[union-attr]
            self._compute(task, task.node.kind)  # type: ignore[arg-type]
        else:
            task.stage = RUNNING
            self._ready.append(task)

    def _find_key(self, task: Task) -> bool:
        """Find out a task's key; False if it must wait for what its inputs are."""
        node = task.node
        if node is not None and (node.each or not isinstance(node.kind, NodeDef) or node.kind.expand):
            if task.became is None and task.children is None and self._expander.expand(task):
                self._keyed(task)
            return False
        kind = node.kind if node is not None else None
        assert kind is None or isinstance(kind, NodeDef)
        early = kind is not None and (kind.makes_reference or kind.fingerprint_fn is not None)
        for n, (name, source) in enumerate(task.links):
            source = follow(source)
            task.links[n] = (name, source)
            for before in tasks_of(source):
                if before.stage == KEY:
                    self.need_key(before, task)
                elif before.stage != DONE and (
                    before.key is None or early or (kind is not None and name in kind.files)
                ):
                    self.need_value(before, task)
        if task.pending:
            return False
        if kind is None:  # a wanted output
            task.stage = INPUTS
            return True
        try:
            self._key(task, kind)
        except GraphEngineError as error:
            self._failed(task, error)
        task.stage = LOOKUP
        if kind.makes_reference:
            self._refer(task, kind)
        self._keyed(task)
        return True

    def _keyed(self, task: Task) -> None:
        if task.key_waiters is not None:
            waiters, task.key_waiters = task.key_waiters, None
            self.wake(waiters)

    def _key(self, task: Task, kind: NodeDef[..., Any]) -> None:
        plan, hashed = self.plan, not kind.makes_reference
        tokens = task.tokens = dict(task.tokens or {})
        links = []
        for name, source in task.links:
            socket = kind.sockets[name]
            task.volatile = task.volatile or is_volatile(source)
            if socket.file is not None and type(source) is not Many:
                base = source.base if type(source) is Const else None
                task.values[name], tokens[name] = literal(
                    socket, value_of(source), base or plan.base, plan.roots, hashed
                )
            else:
                links.append((name, source))
                tokens[name] = token_of(source, socket.uses)
        task.links = links
        if kind.makes_reference:
            return
        salt = plan.salt
        if kind.fingerprint_fn is not None:
            values = task.values | {name: value_of(source) for name, source in links}
            salt = (salt, canonical(kind.fingerprint_fn(**values)))
        if kind.cache == "never" or kind.output:
            task.volatile = True
            salt = (salt, "never", next(_unique))
        task.key = node_key(kind, tokens, salt)

    def _refer(self, task: Task, kind: NodeDef[..., Any]) -> None:
        """Make a reference in place: what it is keyed by is its own digest."""
        arguments = self._arguments(task)
        start = perf_counter()
        try:
            value = kind.fn(**arguments)
        except Exception as error:
            self._failed(task, error)
        self._finish(task, Entry(value, cost=perf_counter() - start), Reuse.COMPUTED)

    def _look_up(self, task: Task) -> bool:
        entry = task.entry
        if entry is not None:
            self._finish(task, entry, Reuse.COMPUTED if task.key is None else Reuse.MEMORY)
            return True
        if task.volatile or self._disk is None:
            return False  # what is in memory by now is found when the key is reserved
        found = self.store.find(task.key)  # type: ignore[arg-type]
        if found is None:
            return False
        self._finish(task, found[0], Reuse.DISK if found[1] else Reuse.MEMORY)
        return True

    # --- computing ------------------------------------------------------------------------------------------------

    def _arguments(self, task: Task) -> dict[str, Any]:
        arguments = dict(task.values)
        for name, source in task.links:
            if type(source) is Port and not source.port:
                arguments[name] = source.task.value
            else:
                arguments[name] = value_of(source)
        return arguments

    def _reserve(self, task: Task) -> Flight | None:
        """A flight to compute; None if the value came meanwhile or somebody else computes it."""
        assert task.key is not None
        if task.volatile:
            flight = Flight(None, self, task)
            with self._lock:
                self._alone.add(flight)
            return flight
        found = self.store.reserve(task.key, self, task)
        if type(found) is Flight:
            self._wants[task.key] = task
            return found
        task.stage = RUNNING
        if found is None:
            self._wants[task.key] = task
            self._outstanding += 1
        else:
            self._finish(task, found, Reuse.MEMORY)  # type: ignore[arg-type]
        return None

    # what a flight says to who wants it; called on any thread

    def landed(self, task: Task, outcome: Any) -> None:
        self._landed.put((task, outcome))

    def told(self, task: Task, kind: str, facts: dict[str, Any]) -> None:
        if self._listeners:
            self.emit(Kind(kind), task.id, task.node.type if task.node is not None else "", **facts)

    def _compute(self, task: Task, kind: NodeDef[..., Any]) -> None:
        """Compute in place."""
        flight = self._reserve(task)
        if flight is None:
            return
        made = NOTHING
        arguments = dict(task.values)
        for name, source in task.links:
            if type(source) is Port and not source.port:
                arguments[name] = source.task.value
                if source.task.made is not NOTHING:
                    made = {**made, **source.task.made}
            else:
                arguments[name] = value_of(source)
                made = {**made, **made_of(source)}
        context: RunContext | None = None
        if self._listeners:
            self.emit(Kind.NODE_STARTED, task.id, kind.full_name)
        if kind.context_parameter is not None:
            context = arguments[kind.context_parameter] = RunContext(self, task, flight, kind)
        start = perf_counter()
        try:
            value = kind.fn(**arguments)
        except BaseException as error:
            self._settle(flight)
            self.store.land(flight, error)
            arguments.pop(kind.context_parameter or "", None)
            self._failed(task, error, arguments)
        cost = perf_counter() - start
        if context is not None and context.facts:
            made = {**made, **context.facts}
        self._settle(flight)
        entry = self.store.land(flight, value, made, cost, "never" if task.volatile else kind.cache)
        self._finish(task, entry, Reuse.COMPUTED)  # type: ignore[arg-type]

    def _submit(self) -> None:
        """Hand all ready calls to the runner at once."""
        ready, self._ready = self._ready, []
        calls = []
        for task in ready:
            flight = self._reserve(task)
            if flight is not None:
                calls.append(self._call(task, flight))
        self._outstanding += len(calls)
        if calls:
            self.runner.submit(calls)

    def _call(self, task: Task, flight: Flight) -> Call:
        assert task.node is not None
        kind = task.node.kind
        assert isinstance(kind, NodeDef)
        assert task.key is not None
        context = RunContext(self, task, flight, kind)
        inherited = self._made(task)
        keep = "never" if task.volatile else kind.cache

        def landed(outcome: Any, seconds: float, together: int) -> None:
            made = inherited
            if not isinstance(outcome, BaseException):
                made = {**inherited, **_facts_of(kind), **context.facts}
                if together > 1:
                    made["batch"] = together
            entry = self.store.land(flight, outcome, made, seconds, keep)
            self._landed.put((task, (flight, entry)))

        self.emit(Kind.NODE_STARTED, task.id, kind.full_name)
        tokens = task.tokens or self.plan.tokens.get(task.id, {})
        return Call(kind, self._arguments(task), task.key, tokens, context, self.exact, landed)

    def _made(self, task: Task) -> Mapping[str, Any]:
        return merge_made(made_of(source) for _, source in task.links)

    def _land(self, task: Task, outcome: Any) -> None:
        """What a runner or another run computed has come."""
        if isinstance(outcome, tuple):
            flight, outcome = outcome
            self._settle(flight)
            reuse = Reuse.COMPUTED
        else:
            assert task.key is not None
            self._wants.pop(task.key, None)
            reuse = Reuse.JOINED
        if isinstance(outcome, Lost) and reuse is Reuse.JOINED:
            task.stage = LOOKUP  # it was not computed to its end: look again, and else compute it here
            self._agenda.append(task)
        elif isinstance(outcome, BaseException):
            self._failed(task, outcome)
        else:
            self._finish(task, outcome, reuse)

    def _settle(self, flight: Flight) -> None:
        if flight.key is not None:
            self._wants.pop(flight.key, None)
        else:
            with self._lock:
                self._alone.discard(flight)

    def _finish(self, task: Task, entry: Entry, reuse: Reuse) -> None:
        value, node = entry.value, task.node
        if type(value) is tuple and is_named_tuple(node.kind.result):  # type: ignore[union-attr]
            value = node.kind.result(*value)  # type: ignore[union-attr]
        task.value, task.made, task.stage = value, entry.made, DONE
        task.links, task.entry = [], None
        self.reuse[task.id] = reuse
        if reuse is Reuse.COMPUTED:
            self.seconds[task.id] = entry.cost
        if self._listeners:
            seconds = entry.cost if reuse is Reuse.COMPUTED else None
            self.emit(Kind.NODE_FINISHED, task.id, node.type if node else "", reuse=reuse, seconds=seconds, value=value)
        if task.waiters is not None:
            waiters, task.waiters = task.waiters, None
            self.wake(waiters)

    def _failed(self, task: Task, error: BaseException, arguments: Mapping[str, Any] | None = None) -> None:
        """End the run for an error of a node; what else was computed stays remembered."""
        if isinstance(error, Cancelled) and self.cancellation.cancelled:
            raise Cancelled("the run was cancelled") from error
        if not isinstance(error, Exception):
            raise error
        type_ = task.node.type if task.node is not None else ""
        if arguments is None:
            arguments = dict(task.values) | {
                name: value_of(s) for name, s in task.links if all(t.stage == DONE for t in tasks_of(s))
            }
        self.emit(Kind.NODE_FAILED, task.id, type_, error=f"{type(error).__name__}: {error}")
        if isinstance(error, WorkflowError):
            raise WorkflowError([p.at(node=f"{task.id}/{p.where.node or ''}".rstrip("/")) for p in error.problems])
        raise NodeError(task.id, type_, arguments, error) from error

    def _leave_all(self) -> None:
        """No longer want anything; computations that nobody else wants are cancelled."""
        for key in list(self._wants):
            self.store.leave(key, self)
        with self._lock:
            for flight in self._alone:
                flight.cancelled = True
        self._landed.put((None, None))

    # --- what others are told ---------------------------------------------------------------------------------------

    def emit(self, kind: Kind, node: str = "", type: str = "", **facts: Any) -> None:
        if self._listeners:
            event = Event(kind, self.number, node, type, **facts)
            for listener in self._listeners:
                listener(event)


def _facts_of(kind: NodeDef[..., Any]) -> Mapping[str, Any]:
    return environment([kind.module_pack]) if kind.on == "device" else NOTHING


class RunContext(Context):
    """The context of a call: it speaks for all who want its result."""

    def __init__(self, drive: Drive, task: Task, flight: Flight, kind: NodeDef[..., Any]) -> None:
        self._drive, self._flight, self._kind = drive, flight, kind
        self.node, self.exact = task.id, drive.exact
        self.made = {name: made_of(source) for name, source in task.links}
        self.facts: dict[str, Any] = {}

    @property
    def device(self) -> str:  # type: ignore[override]
        if self._drive.device is not None:
            return self._drive.device
        return str(environment([self._kind.module_pack]).get("device", "cpu"))

    @property
    def cancelled(self) -> bool:
        return self._flight.cancelled

    def check_cancelled(self) -> None:
        if self._flight.cancelled:
            raise Cancelled(f"{self.node} was cancelled")

    def progress(self, step: int, total: int) -> None:
        self.check_cancelled()
        self._flight.tell("progress", {"step": step, "total": total})

    def preview(self, value: Any) -> None:
        self._flight.tell("preview", {"value": value})

    def note(self, **facts: Any) -> None:
        self.facts.update(facts)
