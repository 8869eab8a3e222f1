"""The queue against a model of it: whatever users, two services and their clock do, in any order, both say the same."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.job import NewJob, State
from graphengine.service.jobs.lease import Lease, take
from graphengine.service.jobs.queue import LeaseLost, Queue, QueueFull
from graphengine.service.retry import SERVICES

USERS = ("", "ann", "bob")
SECONDS = 15.0
GIVEN_UP, OUTLIVED = "failed after so many services", "lost more often than that, by few services"
ENDS = {State.DONE, State.FAILED, State.CANCELLED}

users = st.sampled_from(USERS)
services = st.sampled_from((0, 1))
numbers = st.integers(0, 1_000_000)


@dataclass
class Known:
    """A job as it must be."""

    user: str
    priority: int
    state: State = State.QUEUED
    attempt: int = 0
    worker: str = ""
    """The service that began it last."""
    dead: set[str] = field(default_factory=set)
    """The services that were lost with it."""
    lost: int = 0
    """Its attempts that were lost."""
    cancelling: bool = False
    files: bool = False


class Machine(RuleBasedStateMachine):
    """Two programs with a queue each, over one file, and what that file must hold."""

    steps = 0
    """Of all runs."""
    happened: ClassVar[Counter[str]] = Counter()
    """What is rare, of all runs."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.now = 1000.0
        self.jobs: dict[int, Known] = {}
        self.line: list[int] = []  # the numbers of those that wait, in their order
        self.highest = 0
        self.ends: Counter[int] = Counter()
        self.paused: set[str] = set()
        self.limits: dict[str, int] = {}
        self.leases: list[Lease | None] = [None, None]
        self.lives = [0, 0]  # how often each service was begun anew
        self.epoch, self.until, self.lasts = 0, 0.0, 0.0
        self.queues = [self.open(), self.open()]

    def open(self) -> Queue:
        return Queue(self.folder / "q.sqlite", lambda: self.now, "NORMAL")

    def teardown(self) -> None:
        for queue in self.queues:
            queue.close()
        shutil.rmtree(self.folder)

    def pick(self, number: int, *states: State) -> int | None:
        """A job in one of these states; any where none is named."""
        fit = [id for id, job in self.jobs.items() if not states or job.state in states]
        return fit[number % len(fit)] if fit else None

    # --- time, processes ----------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.take(0, recover=True)

    @rule(seconds=st.sampled_from((1.0, 4.0, 16.0, 16.0, 3600.0, -20.0, -86400.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(service=services)
    def restart(self, service: int) -> None:
        """A program dies, with whatever lease it has, and is begun anew."""
        self.queues[service].close()
        self.queues[service] = self.open()
        self.leases[service] = None
        self.lives[service] += 1

    @rule(service=services, recover=st.booleans())
    def take(self, service: int, recover: bool) -> None:
        free = not self.now < self.until <= self.now + 2 * self.lasts
        lease = take(self.queues[service], f"service {service}", SECONDS)
        assert (lease is not None) == free
        if lease is None:
            return
        self.leases[service] = lease
        self.epoch, self.until, self.lasts = self.epoch + 1, self.now + SECONDS, SECONDS
        assert lease.epoch == self.epoch
        if recover:  # else it dies before
            left = [id for id, job in self.jobs.items() if job.state is State.RUNNING]
            assert lease.recover() == left
            self.go_back(*left, lost=True)

    def fenced(self, service: int) -> Lease | None:
        """The lease of a service that has one; what it does must fail if it is not the newest."""
        lease = self.leases[service]
        if lease is not None and lease.epoch != self.epoch:
            with pytest.raises(LeaseLost):
                lease.renew()
            with pytest.raises(LeaseLost):
                lease.release()
            for id in self.jobs:
                for act in (lease.done, lease.lost, lease.left):
                    with pytest.raises(LeaseLost):
                        act(id, self.jobs[id].attempt, "stale")
                with pytest.raises(LeaseLost):
                    lease.claim(id, "stale")
                break
            self.leases[service] = lease = None
        return lease

    @rule(service=services)
    def renew(self, service: int) -> None:
        if (lease := self.fenced(service)) is not None:
            lease.renew()
            self.until = self.now + SECONDS

    @rule(service=services)
    def release(self, service: int) -> None:
        if (lease := self.fenced(service)) is not None:
            lease.release()
            self.epoch, self.until = self.epoch + 1, 0.0

    # --- what a service does ------------------------------------------------------------------------------------------

    @rule(service=services, number=numbers)
    def claim(self, service: int, number: int) -> None:
        id, lease = self.pick(number), self.fenced(service)
        if id is None or lease is None:
            return
        self.begins(lease, id, f"service {service}, life {self.lives[service]}")

    def begins(self, lease: Lease, id: int, worker: str) -> None:
        job, known = lease.claim(id, worker), self.jobs[id]
        assert (job is not None) == (known.state is State.QUEUED)
        if job is not None:
            known.state, known.attempt, known.files = State.RUNNING, known.attempt + 1, False
            known.worker = worker
            self.line.remove(id)
            assert (job.id, job.attempt, job.state, job.worker) == (id, known.attempt, State.RUNNING, worker)

    @rule(service=services, number=numbers, first=st.integers(0, 20), among=st.sampled_from((2, SERVICES - 1, 100)),
          times=st.integers(1, SERVICES + 5))  # fmt: skip
    def is_lost_again_and_again(self, service: int, number: int, first: int, among: int, times: int) -> None:
        """A job loses one service after another, of so many: seldom would that happen by the other rules."""
        if self.fenced(service) is None:
            self.now = max(self.now, self.until)
            self.take(service, recover=True)
        if self.pick(number, State.QUEUED) is None:
            self.submit(service, "", 0, 1)
        id, lease = self.pick(number, State.QUEUED), self.leases[service]
        if id is None:  # no more may wait
            return
        assert lease is not None
        known = self.jobs[id]
        for n in range(first, first + times):
            self.begins(lease, id, f"service {n % among} of {among}")
            assert lease.lost(id, known.attempt, "lost")
            self.go_back(id, lost=True)
            if known.state in ENDS:
                break

    @rule(service=services, number=numbers, outcome=st.sampled_from(("done", "failed", "cancelled", "lost", "left")),
          old=st.booleans())  # fmt: skip
    def ends_attempt(self, service: int, number: int, outcome: str, old: bool) -> None:
        id, lease = self.pick(number, State.RUNNING, State.RUNNING) or self.pick(number), self.fenced(service)
        if id is None or lease is None:
            return
        known = self.jobs[id]
        attempt = max(1, known.attempt - old)
        given = {"done": ({"files": []},), "cancelled": ()}.get(outcome, (outcome,))
        news = getattr(lease, outcome)(id, attempt, *given)
        assert news == (known.state is State.RUNNING and attempt == known.attempt)
        if not news:
            return
        if outcome in ("lost", "left"):
            self.go_back(id, lost=outcome == "lost")
        else:
            self.ended(id, State(outcome))

    @rule(service=services, number=numbers)
    def announces_files(self, service: int, number: int) -> None:
        id, lease = self.pick(number, State.RUNNING), self.fenced(service)
        if id is not None and lease is not None:
            lease.writes(id, self.jobs[id].attempt, {"a": "1:2"})
            self.jobs[id].files = True

    def go_back(self, *ids: int, lost: bool) -> None:
        """Jobs that ran wait again, at once, unless one is to be cancelled or has lost too many services."""
        for id in ids:
            known = self.jobs[id]
            if lost:
                known.lost += 1
                known.dead.add(known.worker)
            if known.cancelling:
                self.ended(id, State.CANCELLED)
            elif len(known.dead) >= SERVICES:
                self.ended(id, State.FAILED)
                self.happened[GIVEN_UP] += 1
            else:
                known.state = State.QUEUED
                if known.lost > SERVICES:
                    self.happened[OUTLIVED] += 1
        self.comes_into_line(*(id for id in ids if self.jobs[id].state is State.QUEUED))

    def ended(self, id: int, state: State) -> None:
        known = self.jobs[id]
        known.state, known.cancelling = state, False
        self.ends[id] += 1
        if id in self.line:
            self.line.remove(id)

    def comes_into_line(self, *ids: int) -> None:
        """Jobs wait: all others keep their order, priorities are kept; the rest of it is the queue's."""
        rows = self.queues[0].read(
            "select id from jobs where state = 'queued' order by priority desc, coalesce(place, id), id"
        )
        now = [id for (id,) in rows]
        assert [id for id in now if id not in ids] == [id for id in self.line if id not in ids]
        priorities = [self.jobs[id].priority for id in now if id in self.jobs]
        assert priorities == sorted(priorities, reverse=True)
        self.line = now

    # --- what users do ------------------------------------------------------------------------------------------------

    @rule(queue=services, user=users, priority=st.integers(-1, 1), count=st.integers(1, 3))
    def submit(self, queue: int, user: str, priority: int, count: int) -> None:
        limit = self.limits.get(user, self.limits.get(""))
        waiting = sum(job.user == user and job.state is State.QUEUED for job in self.jobs.values())
        jobs = [NewJob({"files": ""}, user, priority) for _ in range(count)]
        if limit is not None and waiting + count > limit:
            with pytest.raises(QueueFull):
                self.queues[queue].submit(*jobs)
            return
        ids = self.queues[queue].submit(*jobs)
        assert ids == list(range(self.highest + 1, self.highest + count + 1))  # no number is ever given again
        self.highest += count
        self.jobs |= {id: Known(user, priority) for id in ids}
        self.comes_into_line(*ids)

    @rule(queue=services, number=numbers)
    def cancel(self, queue: int, number: int) -> None:
        id = self.pick(number)
        if id is None:
            return
        known = self.jobs[id]
        state = self.queues[queue].cancel(id)
        if known.state is State.QUEUED:
            self.ended(id, State.CANCELLED)
        known.cancelling |= known.state is State.RUNNING
        assert state is known.state

    @rule(queue=services, number=numbers)
    def delete(self, queue: int, number: int) -> None:
        id = self.pick(number)
        if id is None:
            return
        if self.jobs[id].state in ENDS:
            self.queues[queue].delete(id)
            del self.jobs[id]
        else:
            with pytest.raises(QueueError, match="cancel it first"):
                self.queues[queue].delete(id)

    @rule(queue=services, number=numbers, before=st.none() | numbers)
    def move(self, queue: int, number: int, before: int | None) -> None:
        id = self.pick(number)
        if id is None:
            return
        other = None if before is None else self.pick(before)
        waits = [one for one in (id, other) if one is not None and self.jobs[one].state is State.QUEUED]
        if len(waits) < 1 + (before is not None) or other == id:
            with pytest.raises(QueueError):
                self.queues[queue].move(id, other)
            return
        rest = [one for one in self.line if one != id]
        place = 0 if other is None else rest.index(other)
        if rest:
            self.jobs[id].priority = self.jobs[rest[place]].priority
        right = [*rest[:place], id, *rest[place:]]
        self.queues[queue].move(id, other)
        self.comes_into_line(id)
        assert self.line == right

    @rule(queue=services, number=numbers, priority=st.integers(-1, 1))
    def prefer(self, queue: int, number: int, priority: int) -> None:
        id = self.pick(number)
        if id is not None:
            self.queues[queue].prefer(priority, id)
            if self.jobs[id].state is State.QUEUED:
                self.jobs[id].priority = priority
                self.comes_into_line(id)

    @rule(queue=services, user=users)
    def pause(self, queue: int, user: str) -> None:
        self.queues[queue].pause(user)
        self.paused.add(user)

    @rule(queue=services, user=users)
    def resume(self, queue: int, user: str) -> None:
        self.queues[queue].resume(user)
        self.paused.discard(user)

    @rule(queue=services, user=users, limit=st.none() | st.integers(0, 5))
    def limit(self, queue: int, user: str, limit: int | None) -> None:
        self.queues[queue].set_limit(limit, user)
        self.limits.pop(user, None)
        if limit is not None:
            self.limits[user] = limit

    # --- what is always so --------------------------------------------------------------------------------------------

    @invariant()
    def both_say_the_same(self) -> None:
        type(self).steps += 1
        for queue in self.queues:
            found = {job.id: job for job in queue.history(limit=10_000)}
            assert found.keys() == self.jobs.keys()
            for id, known in self.jobs.items():
                job = found[id]
                said = (job.user, job.priority, job.state, job.attempt, job.cancelling)
                assert said == (known.user, known.priority, known.state, known.attempt, known.cancelling), id
                assert (job.ended is not None) == (job.state in ENDS)
            shown = [] if "" in self.paused else [id for id in self.line if self.jobs[id].user not in self.paused]
            assert [job.id for job in queue.waiting()] == shown
            running = [id for id, known in self.jobs.items() if known.state is State.RUNNING]
            assert [job.id for job in queue.running()] == running
            assert set(queue.unfinished()) == {*running, *self.line}

    @invariant()
    def each_end_is_told_once(self) -> None:
        told = Counter(change.job for change in self.queues[0].changes(limit=100_000) if change.kind in set(ENDS))
        assert told == self.ends

    @precondition(lambda self: bool(self.jobs))
    @rule(number=numbers)
    def attempts_are_kept(self, number: int) -> None:
        id = self.pick(number)
        assert id is not None
        known, attempts = self.jobs[id], self.queues[1].attempts(id)
        assert [attempt.number for attempt in attempts] == list(range(1, known.attempt + 1))
        assert [attempt.outcome for attempt in attempts].count("lost") == known.lost
        running = [attempt.number for attempt in attempts if attempt.outcome == "running"]
        assert running == ([known.attempt] if known.state is State.RUNNING else [])
        assert not attempts or bool(attempts[-1].files) == known.files


def play(examples: int, steps: int, derandomize: bool) -> int:
    """Run the machine; how many steps it took."""
    Machine.steps = 0
    Machine.happened.clear()
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=derandomize, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
    return Machine.steps


def test_some_hundred_steps() -> None:
    assert play(8, 50, derandomize=True) > 300
    assert Machine.happened.keys() == {GIVEN_UP, OUTLIVED}


@pytest.mark.slow
def test_ten_thousand_steps(capsys: pytest.CaptureFixture[str]) -> None:
    steps = play(260, 50, derandomize=False)
    with capsys.disabled():
        print(f"\n{steps} steps, {dict(Machine.happened)}")
    assert steps >= 10_000
    assert Machine.happened.keys() == {GIVEN_UP, OUTLIVED}
