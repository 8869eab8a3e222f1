"""The server with many watchers, and after many jobs: `python -m benchmarks.watchers`.

Watchers: a job takes 50 steps a second, and clients in another process follow it, each on a WebSocket or a stream of
its own. Counted are the steps that a client was not told of since its first, and the share of a core that the server
takes beside that of the same job with one watcher. Memory: that of the server after 100 light jobs and after 10,000.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from benchmarks.table import machine, show
from tests.graphengine.server.conftest import Server

STEPS_EACH_SECOND = 50


def share(server: Server, end: threading.Event) -> float:
    """The share of a core that the server takes until an event."""
    process = psutil.Process(server.process.pid)
    before, begin = process.cpu_times(), time.monotonic()
    end.wait()
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / (time.monotonic() - begin)


async def followed(url: str, watchers: int, job: str, sockets: bool) -> list[list[int]]:
    """Follow a job to its end by so many clients; returns the steps that each was told of."""

    async def by_socket(session: aiohttp.ClientSession) -> list[int]:
        steps: list[int] = []
        async with session.ws_connect(f"{url}/v1/events", max_msg_size=0) as socket:
            await socket.send_json({"subscribe": job})
            async for message in socket:
                event: dict[str, Any] = message.json()
                if event["kind"] == "progress":
                    steps.append(event["step"])
                if event.get("last"):
                    return steps
        raise AssertionError("the socket ended before the job")

    async def by_stream(session: aiohttp.ClientSession) -> list[int]:
        async with session.get(f"{url}/v1/jobs/{job}/events") as stream:
            text = await stream.text()
        return [json.loads(data)["step"] for data in re.findall(r"^event: progress\ndata: (.*)$", text, re.MULTILINE)]

    follow = by_socket if sockets else by_stream
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        return list(await asyncio.gather(*(follow(session) for _ in range(watchers))))


def watching(server: Server, watchers: int, seconds: float, sockets: bool = True) -> tuple[float, int]:
    """A job with so many watchers: the share of a core, and how many steps at most a client was not told of."""
    steps = int(seconds * STEPS_EACH_SECOND)
    job = server.ask("POST", "/v1/workflows/paces/jobs", {"inputs": {"steps": steps, "seconds": seconds}}).data["id"]
    told: list[list[int]] = []
    end = threading.Event()

    def follow() -> None:
        try:
            if watchers:
                told.extend(asyncio.run(followed(server.url, watchers, job, sockets)))
            else:
                server.events(job).until("done")
        finally:
            end.set()

    thread = threading.Thread(target=follow)
    thread.start()
    taken = share(server, end)
    thread.join()
    return taken, max((steps + 1 - client[0] - len(client) for client in told), default=0)


def memory(server: Server, jobs: tuple[int, int]) -> list[int]:
    """The resident memory of the server in bytes after so many light jobs."""
    process, sizes = psutil.Process(server.process.pid), []
    asyncio.run(submitted(server, 0, jobs[0]))
    sizes.append(process.memory_info().rss)
    asyncio.run(submitted(server, jobs[0], jobs[1]))
    sizes.append(process.memory_info().rss)
    return sizes


async def submitted(server: Server, first: int, last: int) -> None:
    """Run jobs, eight at once, each to its end."""
    numbers = iter(range(first, last))

    async def run(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            body = {"inputs": {"text": f"text {number}"}}
            path = f"{server.url}/v1/workflows/greet/jobs"
            async with session.post(path, json=body, headers={"Prefer": "wait=60"}) as answer:
                assert answer.status == 200, await answer.text()

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(run(session) for _ in range(8)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watchers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=10_000)
    given = parser.parse_args()
    server = Server(Path(tempfile.mkdtemp(prefix="graphengine-watchers-")))
    print(machine())
    try:
        rows = []
        for _ in range(given.runs):
            alone, _ = watching(server, 0, given.seconds)
            for sockets in (True, False):
                taken, lost = watching(server, given.watchers, given.seconds, sockets)
                name = "WebSockets" if sockets else "server-sent events"
                rows.append((name, f"{alone:.1%}", f"{taken:.1%}", f"{taken - alone:.1%}", lost))
        head = ("by", "one watcher", f"{given.watchers} watchers", "difference", "most steps that one was not told")
        show(f"Share of a core of the server, a job of {STEPS_EACH_SECOND} steps a second", head, rows)
        few, many = memory(server, (100, given.jobs))
        row = (few / 2**20, many / 2**20, many / few)
        show("Resident memory in MiB", ("after 100 jobs", f"after {given.jobs:,} jobs", "ratio"), [row])
    finally:
        server.stop()


if __name__ == "__main__":
    main()
