"""Cost of the engine per node, against pipefunc's `run`: `python -m benchmarks.engine`.

CPU time of trivial nodes, best of 7. Building a graph, which pipefunc does once when the pipeline is made, is shown
apart. pipefunc makes no keys and emits no events, and its `run` recurses, so that it fails on chains of 1,000.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.table import machine, show
from graphengine import Graph, Store, collect, node
from graphengine.events import Event
from graphengine.graph.elements import Ref
from graphengine.progress.tally import Tally

TIMES = 7
SIZES = (100, 1_000, 10_000)


@node(version=1)
def add(x: int, y: int = 1) -> int:
    """A node that does next to nothing."""
    return x + y


def chain(size: int, start: int) -> tuple[Graph, Ref]:
    """`size` nodes one after another."""
    with Graph() as graph:
        last = add(start)
        for _ in range(size - 1):
            last = add(last)
    return graph, last  # type: ignore[return-value]


def wide(size: int, start: int) -> tuple[Graph, Ref]:
    """`size` nodes beside each other, and one that collects them."""
    with Graph() as graph:
        last = collect([add(start * size + n) for n in range(size - 1)])
    return graph, last  # type: ignore[return-value]


def cpu(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(shape: Callable[[int, int], tuple[Graph, Ref]], size: int) -> tuple[float, ...]:
    """Microseconds a node: build, cold run, cold run with a listener; re-run and re-run after a change of the last
    node as microseconds in all; cold run with the listener that progress bars count with. Best of 7 each."""
    best = [float("inf")] * 6
    for turn in range(TIMES):
        built: list[tuple[Graph, Ref]] = []
        best[0] = min(best[0], cpu(lambda b=built, t=turn: b.append(shape(size, t))))  # type: ignore[misc]
        graph, last = built[0]
        store = Store()
        best[1] = min(best[1], cpu(lambda g=graph, w=last, s=store: g.run(want=w, store=s)))  # type: ignore[misc]
        best[3] = min(best[3], cpu(lambda g=graph, w=last, s=store: g.run(want=w, store=s)))  # type: ignore[misc]
        if shape is chain:
            graph.set(last._link.node, "y", 2 + turn)
            best[4] = min(best[4], cpu(lambda g=graph, w=last, s=store: g.run(want=w, store=s)))  # type: ignore[misc]
        events: list[Event] = []
        bars = Tally("bars")
        fresh, wanted = shape(size, turn)
        best[2] = min(
            best[2],
            cpu(lambda g=fresh, w=wanted, e=events: g.run(want=w, store=Store(), listeners=[e.append])),  # type: ignore[misc]
        )
        fresh, wanted = shape(size, turn)
        best[5] = min(
            best[5],
            cpu(lambda g=fresh, w=wanted, b=bars: g.run(want=w, store=Store(), listeners=[b])),  # type: ignore[misc]
        )
    return (*(b / size * 1e6 for b in best[:3]), *(b * 1e6 for b in best[3:5]), best[5] / size * 1e6)


def pipefunc_chain(size: int) -> float:
    """Microseconds a node of pipefunc's `run`, best of 7."""
    from pipefunc import PipeFunc, Pipeline

    functions = []
    for n in range(size):
        # Links are made by parameter names there: each function needs its own.
        renames = {"x": f"x{n}"}
        functions.append(PipeFunc(add.fn, output_name=f"x{n + 1}", renames=renames, bound={"y": 1}))
    pipeline = Pipeline(functions)
    return min(cpu(lambda: pipeline.run(f"x{size}", kwargs={"x0": 1})) for _ in range(TIMES)) / size * 1e6


def main() -> None:
    print(machine())
    theirs, ours = [], []
    for _ in range(5):  # in turn, and before the large graphs fill the memory
        theirs.append(pipefunc_chain(200))
        ours.append(measure(chain, 200))
    them, cold, told, counted = min(theirs), *(min(o[n] for o in ours) for n in (1, 2, 5))
    show(
        "Against pipefunc, chain of 200 (CPU time, best of 35)",
        ("engine", "µs/node", "ratio"),
        [("pipefunc `run`", them, 1.0), ("graphengine, cold", cold, cold / them),
         ("graphengine, cold, with a listener", told, told / them),
         ("graphengine, cold, with the progress listener", counted, counted / them)],
    )
    rows: list[tuple[object, ...]] = []
    for shape in (chain, wide):
        for size in SIZES:
            build, cold, told, again, last, counted = measure(shape, size)
            changed = last if shape is chain else "-"
            rows.append((shape.__name__, f"{size:,}", build, cold, told, f"{counted / cold:.2f}", again, changed))
    show(
        "Engine, trivial nodes (CPU time, best of 7)",
        ("graph", "nodes", "build, µs/node", "cold run, µs/node", "with a listener", "with progress, ratio",
         "re-run, µs in all", "last node changed, µs in all"),
        rows,
    )


if __name__ == "__main__":
    main()
