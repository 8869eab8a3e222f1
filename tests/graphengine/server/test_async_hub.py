"""The hub of events: nothing is missed by those who read slowly, come late, or come while things happen."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graphengine.events import Event, Kind
from graphengine.server.async_hub import MOST_OF_USER, AsyncHub
from graphengine.server.problems import ApiError
from graphengine.server.tokens import Caller
from graphengine.service.job_events import JobEvent
from graphengine.service.jobs.job import Change, JobEventKind, NewJob
from graphengine.service.jobs.queue import Queue
from graphengine.service.service import Service
from graphengine.service.watcher import MOST_KEPT
from graphengine.service.workers.inline import InlineRunner


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service that runs nothing, with one job in its queue."""
    queue = Queue(tmp_path / "queue.sqlite", synchronous="NORMAL")
    queue.submit(NewJob({}))
    yield Service(queue, InlineRunner())
    queue.close()


def many(queue: Queue, count: int) -> None:
    """Record changes of the job, in one transaction."""
    with queue.write() as base:
        for number in range(count):
            queue.tell(base, 1, JobEventKind.PREFERRED, priority=number)


def test_clients_elsewhere_are_given_no_commands_for_this_machine(service: Service) -> None:
    async def watch() -> dict[str, Any]:
        hub = AsyncHub(service)
        hub.start()
        events = hub.watch(service.queue.get(1))
        assert (await anext(events)).kind == "queued"
        with service.queue.write() as base:
            service.queue.tell(base, 1, JobEventKind.RUNNING, attempt=1)
        assert (await anext(events)).kind == "running"
        facts = {"error": "job 1 has given no sign on w1; `graphengine queue cancel 1` ends it", "worker": "w1"}
        await asyncio.to_thread(service.tell, JobEvent(1, JobEventKind.SILENT, facts=facts))
        silent = await anext(events)
        hub.close()
        assert silent.kind == "silent"
        return silent.data

    assert asyncio.run(watch()).keys() == {"time"}


def test_who_reads_slowly_is_told_all(service: Service) -> None:
    async def watch() -> list[int]:
        hub, found = AsyncHub(service), []
        hub.start()
        events = hub.watch(service.queue.get(1))
        assert (await anext(events)).kind == "queued"
        for _ in range(3):  # more than is kept for a watcher, and more than a page of the log
            many(service.queue, 2 * MOST_KEPT)
            found.append(int((await anext(events)).data["priority"]))
        service.queue.cancel(1)
        async for told in events:
            if told.kind == "preferred":
                found.append(int(told.data["priority"]))
        assert (told.kind, told.last) == ("cancelled", True)
        assert hub.watching == 0
        hub.close()
        return found

    assert asyncio.run(watch()) == list(range(2 * MOST_KEPT)) * 3


def test_who_comes_late_is_told_the_end(service: Service) -> None:
    service.queue.cancel(1)
    known = service.queue.last_change()

    async def watch() -> list[tuple[int | None, str]]:
        hub = AsyncHub(service)
        hub.start()
        found = [(told.number, told.kind) async for told in hub.watch(service.queue.get(1), known)]
        hub.close()
        return found

    assert asyncio.run(watch()) == [(None, "cancelled")]  # in no log: it was told before


def test_silence_and_the_end_of_the_hub(service: Service) -> None:
    async def watch() -> list[str]:
        hub, found = AsyncHub(service), []
        hub.start()
        async for told in hub.watch(service.queue.get(1), silence=0.01):
            found.append(told.kind)
            if found[-2:] == ["", ""]:
                hub.close()
        assert not await hub.ended(service.queue.get(1), 0.01)
        return found

    assert asyncio.run(watch()) == ["queued", "", ""]


@pytest.mark.parametrize("known", [0, 1])
def test_a_job_runs_before_it_makes_progress(tmp_path: Path, known: int) -> None:
    """Also where the hub's reader of the log comes late, and where the client has come before the job runs or after."""
    open_log = threading.Event()

    class LateQueue(Queue):
        def changes(self, after: int = 0, limit: int = 1000, job: int | None = None) -> list[Change]:
            if job is None:  # the hub's own reading
                open_log.wait(60)
            return super().changes(after, limit, job)

    queue = LateQueue(tmp_path / "queue.sqlite", synchronous="NORMAL")
    queue.submit(NewJob({}))
    service = Service(queue, InlineRunner())

    def run(*steps: int) -> None:
        with queue.write() as base:
            queue.tell(base, 1, JobEventKind.RUNNING)
        for step in steps:
            service.tell(JobEvent(1, Kind.PROGRESS, Event(Kind.PROGRESS, 0, "n", "t", step=step, total=4)))

    async def watch() -> list[str]:
        hub, seen = AsyncHub(service), list[str]()
        hub.start()
        events = hub.watch(queue.get(1), known)
        if not known:
            seen.append((await anext(events)).kind)
        coming = asyncio.ensure_future(anext(events))
        await until_waits(hub)
        await asyncio.to_thread(run, 1, 2)
        seen += [(await coming).kind, (await anext(events)).kind, (await anext(events)).kind]
        with queue.write() as base:  # the service was stopped, and another run begins
            queue.tell(base, 1, JobEventKind.LEFT)
        open_log.set()
        seen.append((await anext(events)).kind)
        open_log.clear()
        await asyncio.to_thread(run, 3)
        seen += [(await anext(events)).kind, (await anext(events)).kind]
        queue.cancel(1)
        open_log.set()
        seen += [event.kind async for event in events]
        hub.close()
        return seen

    seen = asyncio.run(watch())
    queue.close()
    whole = ["queued", "running", "progress", "progress", "left", "running", "progress", "cancelled"]
    assert seen == whole[known:]


async def until_waits(hub: AsyncHub) -> None:
    """Wait until the hub's one watcher waits for news."""
    while not any(watcher._wake.args[0]._waiters for watcher in hub._watchers):  # type: ignore[attr-defined]
        await asyncio.sleep(0)


def test_one_user_leaves_places_to_others(service: Service) -> None:
    async def watch() -> None:
        hub, job, ann, ben = AsyncHub(service), service.queue.get(1), Caller("ann"), Caller("ben")
        hub.start()
        streams = [hub.watch(job, caller=ann) for _ in range(MOST_OF_USER)]
        for stream in streams:
            await anext(stream)
        with pytest.raises(ApiError, match="at most 500") as refused:
            await anext(hub.watch(job, caller=ann))
        assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "5")
        assert not await hub.ended(job, 60, ann)
        for caller in (ben, Caller("root", admin=True), None):
            streams.append(hub.watch(job, caller=caller))
            await anext(streams[-1])
        await streams[0].aclose()
        again = hub.watch(job, caller=ann)
        await anext(again)
        for stream in (*streams, again):
            await stream.aclose()
        hub.close()

    asyncio.run(watch())
