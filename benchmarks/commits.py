"""Cost of the engine per node, against an earlier commit: `python -m benchmarks.commits 07c0f40`.

Both trees run side by side, each in a process of its own, and measure short bursts in turn on one core, so that a drift
of the machine's speed affects both alike. The table shows medians of CPU time, the median of the ratios pair by pair,
and the same ratio of the earlier commit with itself, which shows the noise.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.table import environment, machine, show

HERE = Path(__file__).parent.parent
FIGURES = ("chain of 2, a run", "chain of 200, a node", "chain of 200 with a listener, a node")

# Only names that every commit has are used: it runs in both trees.
BURST = """
import sys, time
from graphengine import Graph, Store, node

@node(version=1)
def add(x: int, y: int = 1) -> int:
    return x + y

def cold(size, start, repeats, listener=False):
    best = 1e9
    for n in range(repeats):
        with Graph() as graph:
            last = add(start + n)
            for _ in range(size - 1):
                last = add(last)
        store, seen = Store(), []
        begin = time.process_time()
        graph.run(want=last, store=store, listeners=[seen.append] if listener else [])
        best = min(best, time.process_time() - begin)
    return best * 1e6

start = 0
for line in sys.stdin:
    start += 1000
    figures = cold(2, start, 60), cold(200, start, 12) / 200, cold(200, start + 100, 12, True) / 200
    print(*figures, flush=True)
"""


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Check out an earlier commit into a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="graphengine-benchmark-") as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(HERE), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


@contextmanager
def process(tree: Path, cores: set[int]) -> Iterator[subprocess.Popen[str]]:
    """Start a process that measures a burst in a tree for each line on its input."""
    env = environment(PYTHONPATH=os.pathsep.join([str(tree), str(tree / "nodes")]))
    with subprocess.Popen(
        [sys.executable, "-c", BURST], cwd=tree, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(running.pid, cores)
        try:
            yield running
        finally:
            assert running.stdin is not None
            running.stdin.close()


def burst(running: subprocess.Popen[str]) -> list[float]:
    assert running.stdin is not None
    assert running.stdout is not None
    running.stdin.write("\n")
    running.stdin.flush()
    return [float(word) for word in running.stdout.readline().split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit", help="the earlier commit")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    cores = {max(os.sched_getaffinity(0))} if hasattr(os, "sched_getaffinity") else set()
    with checked_out(options.commit) as before, ExitStack() as stack:
        trees = [stack.enter_context(process(tree, cores)) for tree in (before, before, HERE)]
        rounds = []
        for n in range(options.rounds + 1):
            order = trees if n % 2 == 0 else trees[::-1]
            found = {id(tree): burst(tree) for tree in order}
            rounds.append([found[id(tree)] for tree in trees])
    rows = []
    for n, name in enumerate(FIGURES):
        first, second, now = ([figures[tree][n] for figures in rounds[1:]] for tree in range(3))
        ratio = statistics.median(a / b for a, b in zip(now, first, strict=True))
        same = statistics.median(a / b for a, b in zip(second, first, strict=True))
        rows.append((name, statistics.median(first), statistics.median(now), f"{ratio:.3f}", f"{same:.3f}"))
    print(machine())
    show(
        f"Against {options.commit} (medians of {options.rounds} alternating bursts)",
        ("cold run", "before, µs", "now, µs", "ratio", "of a commit with itself"),
        rows,
    )


if __name__ == "__main__":
    main()
