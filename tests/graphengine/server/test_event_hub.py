"""The hub of events: nothing is missed by those who read slowly, come late, or come while things happen."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphengine.server.event_hub import MOST_KEPT, EventHub
from graphengine.service.jobs.job import JobEventKind, NewJob
from graphengine.service.jobs.queue import Queue
from graphengine.service.service import Service
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


def test_who_reads_slowly_is_told_all(service: Service) -> None:
    async def watch() -> list[int]:
        hub, found = EventHub(service), []
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
        hub = EventHub(service)
        hub.start()
        found = [(told.number, told.kind) async for told in hub.watch(service.queue.get(1), known)]
        hub.close()
        return found

    assert asyncio.run(watch()) == [(None, "cancelled")]  # in no log: it was told before


def test_silence_and_the_end_of_the_hub(service: Service) -> None:
    async def watch() -> list[str]:
        hub, found = EventHub(service), []
        hub.start()
        async for told in hub.watch(service.queue.get(1), silence=0.01):
            found.append(told.kind)
            if found[-2:] == ["", ""]:
                hub.close()
        assert not await hub.ended(service.queue.get(1), 0.01)
        return found

    assert asyncio.run(watch()) == ["queued", "", ""]
