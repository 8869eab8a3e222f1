"""Cost of the guard that keeps values unchanged: `python -m benchmarks.values`.

100 MB as a tensor, an array, an `Image` and a list of tensors are made by one node and read by ten, each of which
returns a number; then they come from the caller, and go to the caller. Each run is a process of its own. Its peak of
memory is set beside that of the same nodes called one after another without the engine, and the time that the engine
adds, for each node, beside one xxh3 of the value in the same process.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.table import environment, machine, show

BYTES = 100_000_000
READERS = 10
KINDS = ("tensor", "array", "Image", "list of tensors")
ROUTES = ("no engine", "between nodes", "from a caller", "to a caller")


def made(kind: str) -> Any:
    """A value of 100 MB."""
    import numpy as np
    import torch
    from graphengine_nodes import Image

    size = BYTES // 4
    if kind == "array":
        return np.full(size, 0.5, np.float32)
    if kind == "list of tensors":
        return [torch.full((size // 10,), 0.5) for _ in range(10)]
    if kind == "Image":
        return Image(torch.full((1, size // 3000, 1000, 3), 0.5))
    return torch.full((size,), 0.5)


def first(value: Any) -> float:
    """The first number in a value."""
    found = getattr(value, "pixels", value)
    return float(found[0].reshape(-1)[0])


def measure(kind: str, route: str) -> dict[str, float]:
    """Megabytes at the peak, CPU milliseconds of one xxh3 of the value, and of the nodes, in this process."""
    import numpy as np
    import xxhash

    from graphengine import Graph, Store, node

    @node(version=1)
    def make(kind: str) -> Any:
        return made(kind)

    @node(version=1)
    def read(value: Any, n: int) -> float:
        return first(value) + n

    first(made(kind))  # all is imported before anything is measured
    content = np.full(BYTES, 1, np.uint8)
    xxh3 = min(timed(functools.partial(xxhash.xxh3_128_digest, content)) for _ in range(5))
    del content
    reset_peak()
    before = peak()
    given = made(kind) if route == "from a caller" else None
    start = time.process_time()
    if route == "no engine":
        value = made(kind)
        sum(first(value) + n for n in range(READERS))
    else:
        with Graph() as graph:
            value = graph.input("value", Any) if route == "from a caller" else make(kind)
            if route == "to a caller":
                graph.output("value", value)
            else:
                for n in range(READERS):
                    graph.output(f"r{n}", read(value, n))
        result = graph.run(inputs={} if given is None else {"value": given}, store=Store())
        del result
    seconds = time.process_time() - start
    return {"peak": (peak() - before) / 1e6, "xxh3": xxh3 * 1e3, "ms": seconds * 1e3}


def timed(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def reset_peak() -> None:
    """Reset the peak of memory (Linux)."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak() -> int:
    """The most bytes that this process had in memory since `reset_peak`."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_a_process(kind: str, route: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.values", "--measure", kind, route]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("VALUE", "ROUTE"), help="measure in this process, print JSON")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    runs = options.runs
    print(machine())
    rows = []
    for kind in KINDS:
        found = {route: [in_a_process(kind, route) for _ in range(runs)] for route in ROUTES}
        bare = statistics.median(one["peak"] for one in found["no engine"])
        for route in ROUTES[1:]:
            nodes = 1 if route == "to a caller" else READERS
            more = statistics.median(one["peak"] for one in found[route]) - bare
            plain = 0.0 if route == "from a caller" else statistics.median(one["ms"] for one in found["no engine"])
            ms = statistics.median(one["ms"] for one in found[route]) - plain
            xxh3 = statistics.median(one["xxh3"] for one in found[route])
            rows.append((kind, route, more, ms / nodes, xxh3, ms / nodes / xxh3))
    show(
        f"100 MB made once and read by {READERS} nodes (medians of {runs} processes)",
        ("value", "route", "peak above no engine, MB", "CPU ms more a node", "one xxh3, ms", "xxh3 a node"),
        rows,
    )


if __name__ == "__main__":
    main()
