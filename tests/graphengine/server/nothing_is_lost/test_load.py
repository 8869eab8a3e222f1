"""Three minutes of 20 jobs a second with 200 watchers, clients that read nothing, and the server ended and killed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import psutil
import pytest

from ..conftest import Server

SECONDS = 180.0
JOBS_EACH_SECOND = 20
WATCHERS, SILENT, HALF_OPEN = 200, 10, 100
LAST = {"done", "failed", "cancelled", "deleted"}


@dataclass
class Watcher:
    """A client with one socket, which connects again after every loss and goes on where it was."""

    url: str
    jobs: dict[str, int] = field(default_factory=dict)
    """By job that has not ended, the number of its last known event."""
    ended: dict[str, str] = field(default_factory=dict)
    socket: aiohttp.ClientWebSocketResponse | None = None

    async def run(self, session: aiohttp.ClientSession) -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                async with session.ws_connect(f"{self.url}/v1/events") as self.socket:
                    for job in list(self.jobs):
                        await self.follow(job)
                    async for message in self.socket:
                        self.take(message.json())
            self.socket = None
            await asyncio.sleep(0.1)  # the pause before a client connects again

    async def follow(self, job: str) -> None:
        known = self.jobs.setdefault(job, 0)
        if self.socket is not None:
            with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                await self.socket.send_json({"subscribe": job, "after": known, "previews": False})

    def take(self, event: dict[str, Any]) -> None:
        job, kind = event["job"], event["kind"]
        assert kind != "problem", event
        if job in self.jobs and "number" in event:
            assert event["number"] > self.jobs[job], "an event came twice"
            self.jobs[job] = event["number"]
        if kind in LAST:
            self.ended[job] = kind
            self.jobs.pop(job, None)


async def acknowledged(session: aiohttp.ClientSession, url: str, number: int) -> str:
    """Submit a job, again with the same key until it is acknowledged; returns its UUID."""
    body, key = {"inputs": {"text": f"text {number}"}}, str(uuid.uuid4())
    while True:
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            path = f"{url}/v1/workflows/greet/jobs"
            async with session.post(path, json=body, headers={"Idempotency-Key": key}) as answer:
                if answer.status in (200, 202):
                    return str((await answer.json())["id"])
                assert answer.status in (429, 503), await answer.text()
        await asyncio.sleep(0.1)


async def load(url: str, again: Callable[[int], None], sample: Callable[[], None]) -> tuple[list[str], dict[str, str]]:
    """The whole load; returns the acknowledged jobs, and by job how the watchers were told that it ended."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        watchers = [Watcher(url) for _ in range(WATCHERS)]
        running = [asyncio.create_task(watcher.run(session)) for watcher in watchers]
        jobs: list[str] = []

        async def one(number: int) -> None:
            job = await acknowledged(session, url, number)
            jobs.append(job)
            await watchers[number % WATCHERS].follow(job)

        begin, number, submitting = time.monotonic(), 0, set[asyncio.Task[None]]()
        restarts = [(SECONDS / 3, signal.SIGTERM), (SECONDS * 2 / 3, signal.SIGKILL)]
        restarting: list[asyncio.Task[None]] = []
        while (now := time.monotonic() - begin) < SECONDS:
            while number < now * JOBS_EACH_SECOND:
                task = asyncio.create_task(one(number))
                submitting.add(task)
                task.add_done_callback(submitting.discard)
                number += 1
            if restarts and now > restarts[0][0]:
                restarting.append(asyncio.create_task(asyncio.to_thread(again, restarts.pop(0)[1])))
            sample()
            await asyncio.sleep(0.05)  # the pace of the load
        await asyncio.gather(*submitting, *restarting)
        async with asyncio.timeout(300):
            while any(watcher.jobs for watcher in watchers):
                assert not any(task.done() for task in running), [task for task in running if task.done()]
                await asyncio.sleep(0.05)
        for task in running:
            task.cancel()
        return jobs, {job: kind for watcher in watchers for job, kind in watcher.ended.items()}


def silent_clients(port: int) -> list[socket.socket]:
    """Clients that ask for events and read none, and such that send half a request."""
    sockets = []
    for number in range(SILENT + HALF_OPEN):
        client = socket.create_connection(("127.0.0.1", port))
        head = b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\n"
        client.sendall(head + (b"\r\n" if number < SILENT else b""))
        sockets.append(client)
    return sockets


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_nothing_is_lost_and_memory_is_bounded(serve: Callable[..., Server]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    servers = [serve("--port", port)]
    silent = silent_clients(port)
    memory: dict[int, list[tuple[float, int]]] = {}

    def again(how: int) -> None:
        servers[-1].process.send_signal(how)
        servers[-1].process.wait(30)
        servers.append(serve("--port", port))
        silent.extend(silent_clients(port))

    def sample() -> None:
        process = servers[-1].process
        with contextlib.suppress(psutil.Error):
            size = psutil.Process(process.pid).memory_info().rss
            memory.setdefault(process.pid, []).append((time.monotonic(), size))

    jobs, ended = asyncio.run(load(f"http://127.0.0.1:{port}", again, sample))
    assert len(jobs) >= SECONDS * JOBS_EACH_SECOND * 0.99
    assert len(set(jobs)) == len(jobs), "a job was made twice"
    assert ended == dict.fromkeys(jobs, "done")
    for samples in memory.values():
        begin, end = samples[0][0], samples[-1][0]
        early = max(size for when, size in samples if when < begin + (end - begin) / 2)
        assert samples[-1][1] < early * 1.25, "the memory grows"
    for client in silent:
        client.close()
    for server in servers:
        assert "Traceback" not in server.log.read_text()
