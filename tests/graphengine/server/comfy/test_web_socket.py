"""ComfyUI's WebSocket where things happen in between: while a client is greeted, while its jobs are looked up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from graphengine.events import Event, Kind
from graphengine.server.async_hub import AsyncHub
from graphengine.server.comfy.prompt import FACTS
from graphengine.server.comfy.web_socket import Sockets
from graphengine.server.http import CALLER, Handler
from graphengine.server.job_api import JobApi
from graphengine.server.tokens import Caller
from graphengine.service.job_events import JobEvent
from graphengine.service.jobs.job import Change, Job, JobEventKind, NewJob
from graphengine.service.jobs.lease import take
from graphengine.service.jobs.queue import Queue

from ..conftest import api_in_process

CLIENT = {FACTS: {"client": "me"}}
ME = Caller("", admin=True)


@asynccontextmanager
async def connected(api: JobApi) -> AsyncIterator[tuple[Sockets, Callable[[], Any]]]:
    """All sockets, and a function that connects the client `me`."""
    hub = AsyncHub(api.service)
    sockets = Sockets(api, hub)

    @web.middleware
    async def know(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[CALLER] = ME
        return await handler(request)

    async def start(app: web.Application) -> None:
        hub.start()

    async def stop(app: web.Application) -> None:
        hub.close()

    app = web.Application(middlewares=[know])
    app.router.add_get("/ws", sockets.handle)
    app.on_startup.append(start)
    app.on_shutdown.append(stop)
    async with TestClient(TestServer(app)) as client:
        yield sockets, lambda: client.ws_connect("/ws?clientId=me")


async def read_until(socket: aiohttp.ClientWebSocketResponse, last: Callable[[Any], bool]) -> list[Any]:
    """The messages up to the first for which `last` holds."""
    found = []
    while not found or not last(found[-1]):
        found.append(await socket.receive_json(timeout=60))
    return found


def counted(message: Any) -> Any:
    """The number of jobs that a message tells."""
    return message["data"].get("status", {}).get("exec_info", {}).get("queue_remaining")


def ends(message: Any) -> bool:
    return bool(message["type"] == "executing" and message["data"]["node"] is None)


def test_the_first_message_is_the_greeting_and_the_last_count_is_the_newest(tmp_path: Path) -> None:
    """The number of jobs changes when it was read for the greeting, and is not told yet."""
    is_read, gate, calls = threading.Event(), threading.Event(), list[int]()

    class SlowApi(JobApi):
        def remaining(self, caller: Caller) -> int:
            calls.append(found := super().remaining(caller))
            if len(calls) == 1:
                is_read.set()
                assert gate.wait(60)
            return found

    api = api_in_process(tmp_path, SlowApi)
    api.queue.submit(NewJob({}))

    async def talk() -> list[Any]:
        async with connected(api) as (sockets, connect), connect() as socket:
            assert await asyncio.to_thread(is_read.wait, 60)
            api.queue.cancel(1)
            while len(calls) < 2 and not sockets._counting._waiters:  # the count of the change waits for the greeting
                await asyncio.sleep(0.01)
            gate.set()
            return await read_until(socket, lambda message: counted(message) == 0)

    first, *_, last = asyncio.run(talk())
    assert (first["data"]["sid"], counted(first), counted(last)) == ("me", 1, 0)
    assert calls == [1, 0]


def test_the_end_of_a_job_is_told_before_it_is_not_counted(tmp_path: Path) -> None:
    """It ends when the number of jobs is read for another change, and the log with its end is read late."""
    gate, counted_late = threading.Event(), threading.Event()

    class LateQueue(Queue):
        def changes(self, after: int = 0, limit: int = 1000, job: int | None = None) -> list[Change]:
            if counted_late.is_set() and threading.current_thread().name == "graphengine-events":
                gate.wait(60)
            return super().changes(after, limit, job)

    class BusyApi(JobApi):
        def remaining(self, caller: Caller) -> int:
            if [change.kind for change in Queue.changes(self.queue)][-1] == JobEventKind.MOVED:
                counted_late.set()
                lease.done(1, 1, {})
                threading.Timer(0.5, gate.set).start()
            return super().remaining(caller)

    api = api_in_process(tmp_path, BusyApi)
    api.queue.__class__ = LateQueue
    api.queue.submit(NewJob({}, facts=CLIENT))
    lease = take(api.queue, "service")
    assert lease is not None
    lease.claim(1, "service")

    async def talk() -> list[Any]:
        async with connected(api) as (sockets, connect):
            sockets.expect(api.queue.get(1), ("", "me"))
            async with connect() as socket:
                await read_until(socket, lambda message: message["type"] == "execution_start")
                with api.queue.write() as base:
                    api.queue.tell(base, 1, JobEventKind.LOST)
                    api.queue.tell(base, 1, JobEventKind.MOVED)
                return await read_until(socket, lambda message: counted(message) == 0)

    assert any(map(ends, asyncio.run(talk())))


def test_a_job_that_ends_while_it_is_looked_up_is_told_once(tmp_path: Path) -> None:
    """It is in the list of what runs, and its end is told before that list is there."""
    listed, gate = threading.Event(), threading.Event()

    class SlowApi(JobApi):
        def unfinished(self, caller: Caller, limit: int = 1000) -> list[Job]:
            found = super().unfinished(caller, limit)
            listed.set()
            assert gate.wait(60)
            return found

    api = api_in_process(tmp_path, SlowApi)
    api.queue.submit(NewJob({}, facts=CLIENT))

    async def talk() -> list[Any]:
        async with connected(api) as (sockets, connect):
            sockets.expect(api.queue.get(1), ("", "me"))
            async with connect() as socket:
                assert await asyncio.to_thread(listed.wait, 60)
                api.queue.cancel(1)
                while not sockets._told or sockets._tasks:
                    await asyncio.sleep(0.01)
                gate.set()
                while sockets._waiting or sockets._tasks:  # what it would be told again
                    await asyncio.sleep(0.01)
                api.queue.submit(NewJob({}), NewJob({}))
                return await read_until(socket, lambda message: counted(message) == 2)

    assert [message["type"] for message in asyncio.run(talk()) if message["type"] != "status"] == [
        "execution_interrupted", "executing"
    ]  # fmt: skip


def test_no_node_is_missed_between_a_look_at_what_runs_and_its_events(tmp_path: Path) -> None:
    """The node that runs ends, and the next one begins, just when it was looked up."""
    api = api_in_process(tmp_path)
    queue: Queue = api.queue
    queue.submit(NewJob({}, facts=CLIENT))
    lease = take(queue, "service")
    assert lease is not None
    lease.claim(1, "service")

    def doing() -> dict[int, dict[str, Any]]:
        found = {1: {"node": "a", "type": "t", "step": None}}
        for kind, node in ((Kind.NODE_FINISHED, "a"), (Kind.NODE_STARTED, "b")):
            api.service.tell(JobEvent(1, kind, Event(kind, 0, node, "t")))
        return found

    looked = list[None]()

    class Once:
        def __call__(self) -> dict[int, dict[str, Any]]:
            looked.append(None)
            return doing() if len(looked) == 1 else {}

    api.service.doing = Once()  # type: ignore[method-assign]

    async def talk() -> list[Any]:
        async with connected(api) as (_, connect), connect() as socket:
            seen = await read_until(socket, lambda message: message["data"].get("node") == "b")
            lease.done(1, 1, {})
            return seen + await read_until(socket, ends)

    told = [message["data"]["node"] for message in asyncio.run(talk()) if message["type"] == "executing"]
    assert told == ["a", "b", None]


def test_a_job_that_ended_before_its_client_was_known_waits_for_nobody(tmp_path: Path) -> None:
    api = api_in_process(tmp_path)

    async def talk() -> dict[int, Any]:
        async with connected(api) as (sockets, _):
            api.queue.submit(NewJob({}, facts=CLIENT))
            job = api.queue.get(1)  # as the request that submitted it has read it
            api.queue.cancel(1)
            while 1 not in sockets._seen:
                await asyncio.sleep(0.01)
            sockets.expect(job, ("", "me"))
            return sockets._waiting

    assert asyncio.run(talk()) == {}
    assert JobEventKind.CANCELLED in [change.kind for change in api.queue.changes()]
