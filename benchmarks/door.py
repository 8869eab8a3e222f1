"""A job over HTTP against the same job through the queue in Python: what the server adds.

    python -m benchmarks.door [--jobs 200] [--rounds 5]

Jobs of a node that does nearly nothing. In turn, the same job is given to a service in this process (`Service.submit`
and `wait`, with a queue of its own), and to one `graphengine serve --backend inline`: by its queue's file (`submit` and
`Queue.wait` in this process), by one request (`Prefer: wait=60` on a connection that is kept), and by the client
(`Client.submit` and `Client.wait`). Each job has an input of its own, so that none is answered from memory. Medians of
all jobs, and the spread of the rounds' medians.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

from graphengine import DiskStore, load
from graphengine.client import Client
from graphengine.service import InlineRunner, Queue, Service
from graphengine.service.jobs.submit import submit

NODES = '''\
from graphengine import node


@node(version=1)
def echo(text: str) -> str:
    """The text."""
    return text
'''
WORKFLOW = """\
version: 1
inputs: {text: {type: str}}
nodes: {echo: {node: light.echo, from: {text: inputs.text}}}
outputs: {text: echo}
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200, help="of each way in each round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in ("light", "flows"):
            (folder / name).mkdir()
        (folder / "light" / "nodes.py").write_text(NODES)
        (folder / "flows" / "echo.yaml").write_text(WORKFLOW)
        own = {"GRAPHENGINE_STATE": str(folder / "state"), "GRAPHENGINE_CACHE": str(folder / "cache")}
        server = subprocess.Popen(
            [sys.executable, "-m", "graphengine.cli", "serve", "--port", "0", "--backend", "inline", "--packs",
             str(folder / "light"), "--workflows", str(folder / "flows"), "--queue", str(folder / "q.sqlite")],
            stdout=subprocess.PIPE, text=True, env=os.environ | own,
        )  # fmt: skip
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[0]
            _measure(url, folder, options.jobs, options.rounds)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


def _measure(url: str, folder: Path, jobs: int, rounds: int) -> None:
    graph = load(folder / "flows" / "echo.yaml", packs=[folder / "light"])
    queue, texts = Queue(folder / "q.sqlite"), map(str, itertools.count())
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)

    def by_service() -> None:
        (job,) = service.wait(service.submit(graph, {"text": next(texts)}, out=folder / "out"))
        assert job.state == "done", job.error

    def by_queue() -> None:
        number = submit(queue, graph, {"text": next(texts)}, out=folder / "out")
        (job,) = queue.wait(number)
        assert job.state == "done", job.error

    def by_request() -> None:
        body = json.dumps({"inputs": {"text": next(texts)}})
        headers = {"Content-Type": "application/json", "Prefer": "wait=60"}
        connection.request("POST", "/v1/workflows/echo/jobs", body, headers)
        answer = json.loads(connection.getresponse().read())
        assert answer["state"] == "done", answer

    disk = DiskStore(folder / "store")
    with Client(url) as client, Service(folder / "own.sqlite", InlineRunner(), disk) as service:

        def by_client() -> None:
            (job,) = client.wait(client.submit("echo", {"text": next(texts)}))
            assert job.state == "done", job.error

        ways: dict[str, Callable[[], None]] = {
            "service here": by_service, "queue's file": by_queue, "one request": by_request, "client": by_client,
        }  # fmt: skip
        taken: dict[str, list[list[float]]] = {name: [] for name in ways}
        for way in ways.values():
            for _ in range(20):
                way()
        for _ in range(rounds):
            for times in taken.values():
                times.append([])
            for _ in range(jobs):
                for name, way in ways.items():
                    begun = time.perf_counter()
                    way()
                    taken[name][-1].append(1e3 * (time.perf_counter() - begun))
    queue.close()
    base = statistics.median(itertools.chain(*taken["service here"]))
    for name, several in taken.items():
        median, each = statistics.median(itertools.chain(*several)), [statistics.median(times) for times in several]
        print(f"{name:16} {median:6.2f} ms  ({min(each):.2f} to {max(each):.2f})  {median - base:+.2f} ms")
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
