"""A server's memory over light jobs, and its first picture with and without `--warm`: `python -m benchmarks.server`.

The memory is the resident memory of `graphengine serve` after 100 jobs of `benchmarks.door` and after many, each with
an input of its own; with `--backend inline` the server computes them itself, with `--backend local` a worker may. The
first picture, 4 steps on `tiny`, is asked for once `/ready` says yes, of servers with a cold cache that take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks.door import NODES, WORKFLOW
from benchmarks.table import environment, machine


@contextlib.contextmanager
def server(folder: Path, *options: str) -> Iterator[tuple[str, int]]:
    """A server with a state of its own: its URL, and the id of its process."""
    own = environment(GRAPHENGINE_STATE=str(folder / "state"), GRAPHENGINE_CACHE=str(folder / "cache"))
    command = [sys.executable, "-m", "graphengine.cli", "serve", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[0], process.pid
        finally:
            process.terminate()


def memory(jobs: int, backend: str) -> None:
    """Print the resident memory after 100 jobs, and after more."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in ("light", "flows"):
            (folder / name).mkdir()
        (folder / "light" / "nodes.py").write_text(NODES)
        (folder / "flows" / "echo.yaml").write_text(WORKFLOW)
        options = ["--backend", backend, "--packs", str(folder / "light"), "--workflows", str(folder / "flows")]
        options += ["--workers", "1"] if backend == "local" else []
        with server(folder, *options) as (url, process):
            connection, first = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=600), 0.0
            headers = {"Content-Type": "application/json", "Prefer": "wait=60"}
            for number in range(1, jobs + 1):
                body = json.dumps({"inputs": {"text": f"text {number}"}})
                connection.request("POST", "/v1/workflows/echo/jobs", body, headers)
                assert json.loads(connection.getresponse().read())["state"] == "done"
                if number in (100, jobs) or number % 2500 == 0:
                    resident = resident_mib(process)
                    first = first or resident
                    print(f"{number:6} jobs: {resident:.1f} MiB, {resident / first:.3f}", flush=True)


def resident_mib(process: int) -> float:
    """The resident memory of a process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def first_picture(*options: str) -> tuple[float, float]:
    """Seconds from the start to ready, and from then to the first picture."""
    with tempfile.TemporaryDirectory() as place:
        begin = time.perf_counter()
        with server(Path(place), "--threads", "1", *options) as (url, _):
            while True:
                try:
                    urllib.request.urlopen(f"{url}/ready").close()
                    break
                except urllib.error.HTTPError:
                    time.sleep(0.02)
            ready = time.perf_counter()
            headers = {"Content-Type": "application/json", "Prefer": "wait=60"}
            body = json.dumps({"inputs": {"steps": 4}}).encode()
            request = urllib.request.Request(f"{url}/v1/workflows/text_to_image/jobs", body, headers)
            with urllib.request.urlopen(request) as answer:
                assert json.load(answer)["state"] == "done"
            return ready - begin, time.perf_counter() - ready


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--backend", choices=("inline", "local"), default="inline", help="of the memory's server")
    parser.add_argument("--rounds", type=int, default=3, help="of the first picture")
    options = parser.parse_args()
    print(machine())
    if options.jobs:
        memory(options.jobs, options.backend)
    taken: dict[str, list[tuple[float, float]]] = {"": [], "--warm tiny": []}
    for _ in range(options.rounds):
        for name, times in taken.items():
            times.append(first_picture(*name.split()))
    for name, times in taken.items() if options.rounds else ():
        ready, picture = (statistics.median(each) for each in zip(*times, strict=True))
        print(f"serve {name:12} ready after {ready:.2f} s, then the first picture after {picture:.2f} s")
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
