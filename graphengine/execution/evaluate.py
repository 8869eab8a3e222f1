"""Evaluating a graph: what is wanted is looked up by its key, what is not there is computed from its inputs.

An `Evaluation` serves one run, on the thread that called it. Tasks move through their stages (see `task`) as what they
wait for comes; nothing recurses and nothing waits on a thread of its own. What needs no device is computed in place,
the rest goes to the runner, many ready calls at once.

The module is long because the stages of a task, with what each may wait for, are one state machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from graphengine.cache import Entry
from graphengine.declare.definition import NodeDef
from graphengine.errors import GraphEngineError, NodeError, Problem, Spoiled, WorkflowError, text_of
from graphengine.events import Event, Kind, Reuse
from graphengine.execution.expand import Expander
from graphengine.execution.guard import handed_out
from graphengine.execution.launcher import Launcher
from graphengine.graph.elements import Link
from graphengine.keys.call_key import node_key
from graphengine.planning.arguments import is_computed_anew, make_reference, own_salt, token_of, value_of
from graphengine.planning.plan import Plan
from graphengine.planning.task import Port, Stage, Task, follow, is_tolerated, is_volatile, made_of, tasks_of
from graphengine.values.canonical import NotData, canonical, digest
from graphengine.values.socket_types import is_named_tuple

_unique = itertools.count()
LARGEST_EFFECT = 1_000_000
"""Bytes up to which the result of a node with a side effect is kept to the end of its run."""


def _is_placed(task: Task) -> bool:
    """Whether a task's error stands in the place of its value."""
    return task.stage == Stage.FAILED and is_tolerated(task)


class Evaluation(Launcher):
    """One run of one graph.

    Args:
        limit: How many expansions are allowed.
        before: The attempt that ended because a value was found changed in place; this one computes alone.
        keep_going: After a failure, compute all that does not depend on it; else nothing more is begun.
        others: As for `Launcher`.

    Attributes:
        goals: A task for each wanted link; it is done if that was made, also where the run failed.
        failures: What nodes failed with.
    """

    def __init__(
        self, *others: Any, limit: int = 100_000, before: Evaluation | None = None, keep_going: bool = False
    ) -> None:
        super().__init__(*others)
        self.alone = before is not None
        self.keep_going = keep_going
        self.goals: list[Task] = []
        self.failures: list[GraphEngineError] = []
        self.reuse: dict[str, Reuse] = {}
        self.seconds: dict[str, float] = {}
        self.effects: dict[Any, list[Entry]] = {}  # results of side effects: a run that begins again takes them
        self._done: dict[Any, list[Entry]] = {}
        if before is not None:
            self.number, self.seconds, self._done = before.number, before.seconds, dict(before._done)
            for effect, entries in before.effects.items():
                self._done[effect] = [*entries, *self._done.get(effect, ())]
        self._before = {} if before is None else before.reuse
        self._agenda: list[Task] = []
        self._wanted: list[Task] = []
        self.acting = False
        self._needed = 0
        self._expander = Expander(self, limit)
        self._in_place: Callable[[NodeDef[..., Any]], bool] | None = getattr(self.runner, "in_place", None)

    def expected(self) -> int:
        """How many nodes it may need, as far as that is known by now: those in expansions come as these are made."""
        return self._needed + self._expander.more

    # --- the run --------------------------------------------------------------------------------------------------

    def run(self, plan: Plan, links: Sequence[Link], outputs: int, acting: bool = False) -> list[Task]:
        """Evaluate the wanted links of a plan's graph; returns for each a task that holds its value.

        Args:
            outputs: How many of them, from the first, go to a caller, who gets copies.
            acting: Nodes that act inside expansions do so too.

        Raises:
            Spoiled: A value was found changed in place; the run should begin again.
        """
        self.acting = acting
        start = perf_counter()
        if not self.alone:
            self.emit(Kind.RUN_STARTED)
        self.cancellation.on_cancel(self.leave_all)
        try:
            self.plan = plan
            plan.assign((link.node for link in links if link.node in plan.graph.nodes), self.keep_going)
            goals = self.goals = self._goals(plan, links)
            self._wanted = list(goals)
            for goal in reversed(goals):
                self._want(goal)
            self._loop()
            if self.failures:
                self._settle(goals)
            for goal in goals[:outputs]:
                if goal.stage == Stage.DONE:
                    goal.value = handed_out(goal.links[0][1], goal.value)
            if self.failures:
                raise self.failures[0]
        except Spoiled:
            self.abandon()
            raise
        except BaseException as error:
            self.abandon()
            if isinstance(error, NodeError) and error.node != self._failed_node:  # before it was a task
                self.emit(Kind.NODE_FAILED, error.node, error.type, error=text_of(error.__cause__ or error))
            self.emit(Kind.RUN_FAILED, error=text_of(error) or type(error).__name__, seconds=perf_counter() - start)
            raise
        finally:
            self.cancellation.forget(self.leave_all)
        for id, reuse in self._before.items():
            if reuse is Reuse.COMPUTED and id in self.reuse:
                self.reuse[id] = reuse
        self.emit(Kind.RUN_FINISHED, seconds=perf_counter() - start)
        return goals

    def _goals(self, plan: Plan, links: Sequence[Link]) -> list[Task]:
        scope = self._materialise(plan, links)
        return [Task("", None, [("", self._expander.source(plan, scope, link))], {}) for link in links]

    def _materialise(self, plan: Plan, links: Sequence[Link]) -> dict[str, Task]:
        """Tasks for the wanted nodes and what they need, no further than what is remembered already."""
        keys, nodes, values, sums, peek = plan.keys, plan.graph.nodes, plan.values, plan.sums, self.store.peek
        lookup = Stage.LOOKUP
        tasks: dict[str, Task] = {}
        merged: dict[bytes, Task] = {}
        fresh: list[Task] = []
        wrong: list[tuple[Task, NodeError]] = []
        stack = [link.node for link in reversed(links) if link.node in keys]
        while stack:
            id = stack.pop()
            if id in tasks:
                continue
            key = keys[id]
            node = nodes[id]
            if key is None:
                task = tasks[id] = Task(id, node, [], {})
                reference = plan.references.get(id)
                if reference is not None:
                    task.entry, task.stage = Entry(reference[0], cost=reference[1]), lookup
                    continue
            else:
                known = merged.get(key)
                if known is not None:
                    tasks[id] = known
                    known.aliases = [*(known.aliases or ()), id]
                    continue
                task = merged[key] = tasks[id] = Task(id, node, [], values[id])
                task.key, task.stage = key, lookup
                if sums and id in sums:
                    task.sums = sums[id]
                entry = peek(key)
                if entry is not None and self.alone:
                    entry = self.store.renew(key, entry)
                if entry is not None:
                    task.entry = entry
                    continue
            fresh.append(task)
            stack.extend(reversed(node.before))
        for task in fresh:
            if task.key is None:
                try:
                    self._expander.wire(plan, tasks, task)
                except NodeError as error:
                    if not self.keep_going:
                        raise
                    wrong.append((task, error))
                continue
            task.links = [
                (name, Port(tasks[link.node], link.port) if link.port else tasks[link.node])
                for name, link in task.node.links  # type: ignore[union-attr]
                if link.node in tasks
            ]
            for name, items in task.node.lists:  # type: ignore[union-attr]
                task.links.append((name, self._expander.listed(plan, tasks, items)))
        for task, reason in wrong:
            self._fail(task, reason)
        self._needed = len(tasks)
        if not self.store.persistent and len(merged) == len(tasks):
            self._want_all(fresh)
        return tasks

    def _want_all(self, tasks: list[Task]) -> None:
        """Where all keys are known and nothing more can be remembered, all of it is wanted: say so at once."""
        first: list[Task] = []
        ready, done = Stage.READY, Stage.DONE
        for task in tasks:
            task.wanted, task.stage = True, ready
            for _, source in task.links:
                for before in (source,) if type(source) is Task else tasks_of(source):
                    if before.entry is not None:
                        self.finish(before, before.entry, Reuse.MEMORY)
                    elif before.stage != done:
                        task.pending += 1
                        if before.waiters is None:
                            before.waiters = [task]
                        else:
                            before.waiters.append(task)
            if not task.pending:
                first.append(task)
        self._agenda.extend(reversed(first))  # taken from its end

    def _loop(self) -> None:
        agenda, advance = self._agenda, self._advance
        while True:
            while agenda and not self.stopping:
                advance(agenda.pop())
            self._go_on()
            if self.ready and not self.stopping:
                self.submit()
                continue
            if all(goal.stage == Stage.DONE for goal in self._wanted) or (self.failures and not self.outstanding):
                return
            if not self.outstanding:
                self._stalled()
            task, outcome = self.arrived.get()
            if task is None:
                continue  # woken by a cancellation
            self.outstanding -= 1
            self.arrive(task, outcome)

    def _settle(self, goals: Sequence[Task]) -> None:
        """After a failure, give the goals their values whose values are there."""
        for goal in goals:
            if goal.stage == Stage.DONE:
                continue
            _, source = goal.links[0]
            source = follow(source)
            for task in tasks_of(source):
                if task.stage == Stage.LOOKUP:
                    self._look_up(task)
            if all(task.stage == Stage.DONE or _is_placed(task) for task in tasks_of(source)):
                goal.value, goal.made, goal.stage = value_of(source), made_of(source), Stage.DONE

    def _stalled(self) -> None:
        raise WorkflowError(
            Problem("needs itself", "nodes wait for each other's results", hint="a node cannot need its own result")
        )

    # --- the stages -----------------------------------------------------------------------------------------------

    def _want(self, task: Task) -> None:
        task.wanted = True
        self._agenda.append(task)

    def act(self, task: Task) -> None:
        """Require a node with side effects inside an expansion, though nobody takes anything from it."""
        self._wanted.append(task)
        self._want(task)

    def need_key(self, task: Task, waiter: Task) -> None:
        """Let a task wait until another's key (or what it became) is known."""
        if task.key_waiters is None:
            task.key_waiters = []
        task.key_waiters.append(waiter)
        waiter.pending += 1
        self._agenda.append(task)

    def need_value(self, task: Task, waiter: Task) -> None:
        """Let a task wait for another's value."""
        if task.stage == Stage.FAILED:
            if waiter.node is not None:
                self._spread([waiter], task.value)
            elif not is_tolerated(task):
                waiter.pending += 1  # for ever
            return
        if task.waiters is None:
            task.waiters = []
        task.waiters.append(waiter)
        waiter.pending += 1
        task.wanted = True
        self._agenda.append(task)

    def wake(self, waiters: list[Task]) -> None:
        """Count what these tasks waited for as come; those that wait for nothing more go on."""
        for waiter in reversed(waiters):
            waiter.pending -= 1
            if not waiter.pending:
                self._agenda.append(waiter)

    def _advance(self, task: Task) -> None:
        """Move a task on as far as it can go now."""
        if task.pending or task.stage >= Stage.RUNNING:
            return
        if task.stage != Stage.READY:
            self._go_on()
            if task.stage == Stage.KEY and not self._find_key(task):
                return
            if not task.wanted or task.stage == Stage.DONE:
                return
            if task.stage == Stage.LOOKUP and self._look_up(task):
                return
            task.stage = Stage.READY
            for _, source in reversed(task.links):
                for before in reversed(tasks_of(source)):
                    if before.stage != Stage.DONE:
                        self.need_value(before, task)
            if task.pending or task.stage == Stage.FAILED:
                return
        if task.node is None:
            task.value, task.made = value_of(task.links[0][1]), made_of(task.links[0][1])
            task.stage = Stage.DONE
        elif (kind := task.node.kind).on == "here" and (  # type: ignore[union-attr]
            self._in_place is None or self._in_place(kind)  # type: ignore[arg-type]
        ):
            self.compute(task, kind)  # type: ignore[arg-type]
        else:
            task.stage = Stage.RUNNING
            self.ready.append(task)

    def _find_key(self, task: Task) -> bool:
        """Find out a task's key; False if it must wait for what its inputs are."""
        node = task.node
        if node is not None and (node.each or not isinstance(node.kind, NodeDef) or node.kind.expand):
            if task.became is None and task.children is None:
                self._expand(task)
            return False
        kind = node.kind if node is not None else None
        assert kind is None or isinstance(kind, NodeDef)
        early = kind is not None and (kind.makes_reference or kind.fingerprint_fn is not None)
        for n in reversed(range(len(task.links))):
            name, source = task.links[n]
            source = follow(source)
            task.links[n] = (name, source)
            for before in reversed(tasks_of(source)):
                if before.stage == Stage.KEY:
                    self.need_key(before, task)
                elif before.stage != Stage.DONE and (
                    before.key is None or early or (kind is not None and name in kind.files)
                ):
                    self.need_value(before, task)
        if task.pending or task.stage == Stage.FAILED:
            return False
        if kind is None:  # a wanted output
            task.stage = Stage.INPUTS
            return True
        try:
            self._key(task, kind)
        except BaseException as error:
            self.fail(task, error)
            return False
        task.stage = Stage.LOOKUP
        if kind.makes_reference and not self._refer(task, kind):
            return False
        self._keyed(task)
        return True

    def _expand(self, task: Task) -> None:
        try:
            expanded = self._expander.expand(task)
        except (NodeError, WorkflowError) as error:
            self._fail(task, error)
            return
        if expanded:
            self._keyed(task)

    def _fail(self, task: Task, error: GraphEngineError) -> None:
        """A task fails before it is computed."""
        self.emit(Kind.NODE_FAILED, task.id, task.node.type if task.node is not None else "", error=str(error))
        self._failed_node = task.id
        self.failed(task, error)

    def _keyed(self, task: Task) -> None:
        if task.key_waiters is not None:
            waiters, task.key_waiters = task.key_waiters, None
            self.wake(waiters)

    def _key(self, task: Task, kind: NodeDef[..., Any]) -> None:
        plan = self.plan
        tokens = task.tokens = dict(task.tokens or {})
        links = []
        for name, source in task.links:
            socket = kind.sockets[name]
            task.volatile = task.volatile or is_volatile(source)
            if socket.file is not None:
                task.values[name], tokens[name], sum = plan.resolver.linked(kind, name, source)
                if sum is not None:
                    task.sums = {**(task.sums or {}), name: sum}
            else:
                links.append((name, source))
                tokens[name] = token_of(source, socket.uses)
        task.links = links
        if kind.makes_reference:
            return
        salt = plan.salt
        if kind.fingerprint_fn is not None:  # its links are done
            salt = own_salt(kind, self.arguments(task), salt)
        if is_computed_anew(kind):
            if kind.output:
                task.effect = (task.id, node_key(kind, tokens, salt))
            task.volatile = True
            salt = (salt, "never", next(_unique))
        plan.ask(kind)
        task.key = node_key(kind, tokens, salt)

    def _refer(self, task: Task, kind: NodeDef[..., Any]) -> bool:
        """Make a reference in place: what it is keyed by is its own digest; False if that failed."""
        try:
            value, seconds = make_reference(kind, self.arguments(task))
        except BaseException as error:
            self.fail(task, error)
            return False
        try:
            canonical(value)
        except NotData:  # it holds an object of this process
            task.volatile, task.key = True, digest(("volatile", next(_unique)))
        self.finish(task, Entry(value, cost=seconds), Reuse.COMPUTED)
        return True

    def _look_up(self, task: Task) -> bool:
        entry = task.entry
        if entry is not None:
            self.finish(task, entry, Reuse.COMPUTED if task.key is None else Reuse.MEMORY)
            return True
        if task.effect is not None and (done := self._done.get(task.effect)):
            self.finish(task, done.pop(), Reuse.COMPUTED)
            return True
        found = None if task.volatile else self.store.find(task.key)  # type: ignore[arg-type]
        if found is not None and self.alone:
            renewed = self.store.renew(task.key, found[0])  # type: ignore[arg-type]
            found = None if renewed is None else (renewed, found[1])
        if found is None:
            return False
        self.finish(task, found[0], Reuse.DISK if found[1] else Reuse.MEMORY)
        return True

    def finish(self, task: Task, entry: Entry, reuse: Reuse) -> None:
        """Give a task its value, tell the listeners, and wake what waits for it."""
        value, node = entry.value, task.node
        if type(value) is tuple and is_named_tuple(node.kind.result):  # type: ignore[union-attr]
            value = node.kind.result(*value)  # type: ignore[union-attr]
        task.value, task.made, task.stage = value, entry.made, Stage.DONE
        task.links, task.entry = [], None
        if entry.sum is not None:
            task.sum = entry.sum
        if task.effect is not None and entry.size < LARGEST_EFFECT:
            self.effects.setdefault(task.effect, []).append(entry)
        self.reuse[task.id] = reuse
        if reuse is Reuse.COMPUTED:
            self.seconds[task.id] = entry.cost
        if self.listeners:
            seconds = entry.cost if reuse is Reuse.COMPUTED else None
            type_ = node.kind.full_name  # type: ignore[union-attr]
            event = Event(Kind.NODE_FINISHED, self.number, task.id, type_, reuse, seconds, value)
            for listener in self.listeners:
                listener(event)
        if task.aliases is not None:
            for alias in task.aliases:
                self.reuse[alias] = Reuse.JOINED
                self.emit(Kind.NODE_FINISHED, alias, node.type if node else "", reuse=Reuse.JOINED, value=value)
        waiters = task.waiters
        if waiters is not None:
            task.waiters = None
            if len(waiters) > 1:
                self.wake(waiters)
            else:
                waiter = waiters[0]
                waiter.pending -= 1
                if not waiter.pending:
                    self._agenda.append(waiter)

    def failed(self, task: Task, failure: GraphEngineError) -> None:
        """Give a task, and all that depends on it, an error in place of a value."""
        self._spread([task], failure)

    def _spread(self, tasks: list[Task], failure: GraphEngineError) -> None:
        """Let tasks, and all that wait for them, fail. An error that stands in the place of a list's item is the run's
        only where something depends on it that stands in no such place."""
        stack = list(tasks)
        while stack:
            task = stack.pop()
            if task.stage in (Stage.DONE, Stage.FAILED):
                continue
            task.stage, task.value, task.links = Stage.FAILED, failure, []
            if not is_tolerated(task):
                if failure not in self.failures:
                    self.failures.append(failure)
                self.stopping = self.stopping or not self.keep_going
                continue
            for waiter in (*(task.waiters or ()), *(task.key_waiters or ())):
                waiter.pending -= 1
                if waiter.node is not None:
                    stack.append(waiter)
                elif not waiter.pending:
                    self._agenda.append(waiter)
            task.waiters = task.key_waiters = None

    def retry(self, task: Task) -> None:
        """Look a task up again: whoever computed its value for this run did not end."""
        task.stage = Stage.LOOKUP
        self._agenda.append(task)
