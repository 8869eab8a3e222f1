"""A node that changes its input in place, on workers: it is named, and nobody gets what it did."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from graphengine import Graph, NodeError, SocketType, Store, node, register_type
from graphengine.errors import InputChanged
from graphengine.service.workers.pool import WorkerRunner
from graphengine.testing import FakeWorker


class Sheet:
    """Numbers that can be sent and changed."""

    def __init__(self, numbers: np.ndarray[Any, Any]) -> None:
        self.numbers = numbers


register_type(
    SocketType(
        Sheet,
        "InPlaceSheet",
        encode=lambda sheet: sheet.numbers.tobytes(),
        decode=lambda data: Sheet(np.frombuffer(bytearray(data), np.float64)),
    )
)


@node(version=1, on="device")
def sheet(n: int) -> Sheet:
    """So many zeros."""
    return Sheet(np.zeros(n))


@node(version=1, on="device", batch=("seed",))
def sum_of_sheet(sheet: Sheet, seed: int) -> float:
    """Their sum; with the seed 2 it changes them."""
    if seed == 2:
        sheet.numbers += 1
    return float(sheet.numbers.sum()) + seed


@sum_of_sheet.many
def _(sheet: Sheet, seed: list[int]) -> list[float]:
    """Changes them where the seed 2 is among the seeds."""
    if 2 in seed:
        sheet.numbers += 1
    return [float(sheet.numbers.sum()) + one for one in seed]


@pytest.fixture(scope="module")
def runner() -> Iterator[WorkerRunner]:
    runner = WorkerRunner([FakeWorker("in place")])
    assert runner.wait_until_ready(60)
    yield runner
    runner.close()


def test_on_a_worker_it_is_named(runner: WorkerRunner) -> None:
    store = Store()
    with Graph() as g:
        value = sheet(3)
        g.output("wrong", sum_of_sheet(value, 2))
    with pytest.raises(NodeError, match="changed its input sheet in place") as caught:
        g.run(store=store, runner=runner)
    assert isinstance(caught.value.__cause__, InputChanged)
    assert g.run(value, store=store, runner=runner).numbers.sum() == 0


def test_of_calls_that_were_joined_only_the_guilty_one_is_named(runner: WorkerRunner) -> None:
    store = Store()
    with Graph() as g:
        value = sheet(4)
        for seed in range(4):
            g.output(f"seed {seed}", sum_of_sheet(value, seed))
    with pytest.raises(NodeError, match="changed its input sheet in place") as caught:
        g.run(store=store, runner=runner)
    assert caught.value.inputs["seed"] == "2"
    for seed in (0, 1, 3):
        assert g.run(f"seed {seed}", store=store, runner=runner) == seed


def test_what_was_changed_in_the_service_is_not_sent(runner: WorkerRunner) -> None:
    store = Store()
    with Graph() as g:
        value = sheet(5)
        g.output("sum", sum_of_sheet(value, 1))
    g.run(value, store=store, runner=runner)
    (entry,) = store.memory.entries.values()
    entry.value.numbers += 1
    assert g.run("sum", store=store, runner=runner) == 1.0
