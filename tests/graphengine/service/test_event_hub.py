"""The hub of events on threads, as the socket uses it: log and steps in one order, and nothing missed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graphengine.events import Event, Kind
from graphengine.service.event_hub import EventHub
from graphengine.service.job_events import JobEvent
from graphengine.service.jobs.job import Change, Job, JobEventKind, NewJob
from graphengine.service.jobs.queue import Queue
from graphengine.service.watcher import MOST_KEPT, NOTHING, Watcher, WatchEvent
from graphengine.values.socket_types import View
from tests.graphengine.sample import until

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100"
    "c9fe92ef0000000049454e44ae426082"
)


class LateQueue(Queue):
    """A queue whose log is late for who reads the changes of all jobs, until it is opened."""

    open: threading.Event
    is_asked: threading.Event

    def changes(self, after: int = 0, limit: int = 1000, job: int | None = None) -> list[Change]:
        """The changes, late."""
        if threading.current_thread().name == "graphengine-events":
            self.is_asked.set()
            self.open.wait(60)
        return super().changes(after, limit, job)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[LateQueue]:
    """A queue with two jobs."""
    queue = LateQueue(tmp_path / "queue.sqlite", synchronous="NORMAL")
    queue.open, queue.is_asked = threading.Event(), threading.Event()
    queue.submit(NewJob({}), NewJob({}))
    yield queue
    queue.open.set()
    queue.close()


def tell(queue: Queue, job: int, kind: JobEventKind) -> None:
    """Write a change into the log."""
    with queue.write() as base:
        queue.tell(base, job, kind)


def step(hub: EventHub, job: int, step: int, kind: Kind = Kind.PROGRESS, value: Any = None) -> None:
    """Have a job make progress."""
    hub.hear(JobEvent(job, kind, Event(kind, 0, f"n{step}", "t", step=step, total=9, value=value)))


def short(events: list[WatchEvent]) -> list[tuple[int, str]]:
    """Events by their jobs and kinds."""
    return [(event.job, event.kind) for event in events]


def test_of_all_jobs_each_runs_before_its_steps_and_ends_after_them(queue: LateQueue) -> None:
    hub = EventHub(queue)
    with hub.watching(None, queue.last_change()) as watcher:
        batches = watcher.batches(silence=60)
        tell(queue, 1, JobEventKind.RUNNING)
        step(hub, 1, 1)
        assert short(next(batches)) == [(1, "running"), (1, "progress")]
        for job in (2, 1):
            if job == 2:
                tell(queue, job, JobEventKind.RUNNING)
            step(hub, job, 2)
            tell(queue, job, JobEventKind.DONE)
        told = list[WatchEvent]()
        while sum(event.last for event in told) < 2:
            told += next(batches)
            queue.open.set()
    assert short(told) == [(2, "running"), (2, "progress"), (2, "done"), (1, "progress"), (1, "done")]
    assert [event.number for event in told if event.number] == [4, 5, 6]
    hub.close()


def begin(hub: EventHub, queue: Queue, job: int, attempt: int) -> None:
    """Begin an attempt at a job, which ends the one before."""
    with queue.write() as base:
        if attempt > 1:
            queue.tell(base, job, JobEventKind.LEFT)
        queue.tell(base, job, JobEventKind.RUNNING, attempt=attempt)
    hub.hear(JobEvent(job, JobEventKind.RUNNING, facts={"attempt": attempt}))


@pytest.mark.parametrize("job", [1, None])
def test_another_run_begins_before_its_steps(queue: LateQueue, job: int | None) -> None:
    """Also where the log is read late; steps of the run before that were not told yet are not told any more."""
    hub = EventHub(queue)
    with hub.watching(job, queue.last_change()) as watcher:
        batches = watcher.batches(silence=60)
        begin(hub, queue, 1, 1)
        step(hub, 1, 1)
        assert short(next(batches)) == [(1, "running"), (1, "progress")]
        step(hub, 1, 2)
        begin(hub, queue, 1, 2)
        step(hub, 1, 3)
        told = next(batches)
        assert [(event.kind, event.data.get("step")) for event in told] == [
            ("left", None), ("running", None), ("progress", 3)
        ]  # fmt: skip
        tell(queue, 1, JobEventKind.DONE)
        queue.open.set()
        assert short(next(batches)) == [(1, "done")]
    hub.close()


def test_the_log_is_not_read_again_for_steps_after_a_change_that_was_told(queue: LateQueue) -> None:
    hub = EventHub(queue)
    with hub.watching(1) as watcher:
        assert queue.is_asked.wait(60)  # the hub's own reading has begun
        assert short(watcher.read()) == [(1, "queued")]
        begin(hub, queue, 1, 1)
        step(hub, 1, 1)
        assert watcher.take() is None
        watcher.change(queue.changes(job=1)[-1])  # as the hub does
        assert short(watcher.take() or []) == [(1, "running"), (1, "progress")]
    hub.close()


def test_steps_that_come_just_before_they_are_taken_wait_for_the_log(queue: LateQueue) -> None:
    hub = EventHub(queue)
    with hub.watching(1) as watcher:
        assert queue.is_asked.wait(60)  # the hub's own reading has begun
        assert short(watcher.read()) == [(1, "queued")]
        assert watcher.take() == []
        begin(hub, queue, 1, 1)
        step(hub, 1, 1)
        assert watcher.take() is None
        assert short(watcher.read()) == [(1, "running"), (1, "progress")]
    hub.close()


@pytest.mark.parametrize("job", [1, None])
def test_the_last_steps_come_before_the_end(queue: LateQueue, job: int | None) -> None:
    """Also those that are made, with the end, while the log is read."""
    hub = EventHub(queue)
    get = queue.get

    def go_on(id: int) -> Job:
        found = get(id)
        begin(hub, queue, 1, 1)
        step(hub, 1, 1)
        tell(queue, 1, JobEventKind.DONE)
        return found

    with hub.watching(job, queue.last_change()) as watcher:
        if job is None:
            begin(hub, queue, 1, 1)
            assert short(watcher.read()) == [(1, "running")]
            assert queue.is_asked.wait(60)  # the hub's own reading is not that which is replaced
            changes = queue.changes

            def meanwhile(*given: Any) -> list[Change]:
                step(hub, 1, 1)
                tell(queue, 1, JobEventKind.DONE)
                return changes(*given)

            queue.changes = meanwhile  # type: ignore[method-assign]
            watcher.lag()
            assert short(watcher.read()) == [(1, "progress"), (1, "done")]
        else:
            queue.get = go_on  # type: ignore[method-assign]
            assert watcher.read() == []
            assert short(watcher.read()) == [(1, "running"), (1, "progress"), (1, "done")]
    hub.close()


def test_no_preview_of_a_node_comes_after_its_end(queue: LateQueue) -> None:
    drawing, gate = threading.Event(), threading.Event()

    class SlowView(View):
        def __getattribute__(self, name: str) -> Any:
            if name == "png":
                drawing.set()
                gate.wait(60)
            return super().__getattribute__(name)

    hub = EventHub(queue, lambda: {1: {}})
    with hub.watching(1, queue.last_change()) as watcher:
        begin(hub, queue, 1, 1)
        assert short(watcher.read()) == [(1, "running")]
        step(hub, 1, 1, Kind.PREVIEW, SlowView(PNG))
        assert drawing.wait(60)
        step(hub, 1, 1, Kind.NODE_FINISHED)
        step(hub, 1, 2, Kind.PREVIEW, View(PNG))
        gate.set()
        told = list[WatchEvent]()
        while not told or told[-1].kind != "preview":
            told += next(watcher.batches(silence=60))
    assert [(event.kind, event.data["node"]) for event in told] == [("node_finished", "n1"), ("preview", "n2")]
    hub.close()


def test_who_reads_slowly_keeps_the_latest_steps_and_all_changes(queue: LateQueue) -> None:
    hub = EventHub(queue)
    with hub.watching(1, most_live=8) as watcher:
        batches = watcher.batches(silence=60)
        assert short(next(batches)) == [(1, "queued")]
        tell(queue, 1, JobEventKind.RUNNING)
        for number in range(100):
            step(hub, 1, 1 + number % 2)
        for _ in range(2 * MOST_KEPT):
            tell(queue, 1, JobEventKind.PREFERRED)
        tell(queue, 1, JobEventKind.DONE)
        queue.open.set()
        told = [event for batch in batches for event in batch]
    numbers = [event.number for event in told if event.number]
    assert numbers == [*range(3, 5 + 2 * MOST_KEPT)]
    steps = [event.data["step"] for event in told if event.kind == "progress"]
    assert steps[-2:] in ([1, 2], [2, 1])
    assert len(steps) <= 8
    assert told[-1].last
    hub.close()


def test_a_watcher_without_a_hub_reads_the_log(queue: LateQueue) -> None:
    assert short(Watcher(queue, None).read()) == [(1, "queued"), (2, "queued")]
    queue.cancel(1)
    assert short(Watcher(queue, 1, 1).read()) == [(1, "cancelled")]
    (end,) = Watcher(queue, 1, queue.last_change()).read()
    assert (end.kind, end.number, end.last) == ("cancelled", None, True)


def test_nothing_is_read_while_nobody_watches(queue: LateQueue) -> None:
    queue.open.set()
    hub = EventHub(queue)

    def reading() -> bool:
        return any(thread.name == "graphengine-events" for thread in threading.enumerate())

    until(lambda: not reading())  # of other tests
    for _ in range(2):  # it ends, and begins anew
        with hub.watching(None, queue.last_change()) as watcher:
            batches = watcher.batches(silence=60)
            tell(queue, 1, JobEventKind.PREFERRED)
            assert short(next(batches)) == [(1, "preferred")]
            assert reading()
        until(lambda: not reading())
    hub.close()
    with hub.watching(1) as watcher:
        assert list(watcher.batches(silence=60)) == []


def test_previews_are_for_those_who_want_them(queue: LateQueue) -> None:
    hub = EventHub(queue, lambda: {1: {"node": "n1", "type": "t", "step": 1, "total": 9}})
    with hub.watching(1, previews=False) as blind, hub.watching(2) as other:
        assert not hub.wants_previews(1)
        assert hub.wants_previews(2)
        with hub.watching(None, queue.last_change()) as seeing:
            assert hub.wants_previews(1)
            step(hub, 1, 1, Kind.PREVIEW, View(PNG))
            (event,) = next(seeing.batches(silence=60))
        assert (event.kind, event.data["node"], event.data["step"], event.data["total"]) == ("preview", "n1", 1, 9)
        assert event.data["type"] == "image/png"
        assert short(blind.read()) == [(1, "queued"), (1, "progress")]  # where it is now, for who comes late
        assert short(other.read()) == [(2, "queued")]
    assert not hub.wants_previews(2)
    hub.close()


def test_silence_is_a_sign(queue: LateQueue) -> None:
    hub = EventHub(queue)
    with hub.watching(1, queue.last_change()) as watcher:
        assert next(watcher.batches(silence=0.01)) == [NOTHING]
    hub.close()
