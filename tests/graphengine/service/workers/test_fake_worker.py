"""What `graphengine.testing.FakeWorker` adds to the contract of `test_contract.py`: its device and its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from graphengine import Graph, NodeError, Pack, Store, run
from graphengine.cache import DiskStore
from graphengine.declare import registry
from graphengine.events import Event, Kind
from graphengine.service.service import Service
from graphengine.service.workers.calls import JobPolicy
from graphengine.service.workers.pool import WorkerRunner
from graphengine.service.workers.wire import Message, Values
from graphengine.testing import FakeWorker
from tests.graphengine.service.test_service import of
from tests.graphengine.service.workers.test_contract import at_once, go, wait_for


def nap(seconds: float) -> Message:
    """The order to compute a nap."""
    inputs = {name: Values(None).encode(value, {}) for name, value in (("x", 1), ("seconds", seconds))}
    facts = {"node": "n", "exact": False, "made": {}, "watched": False, "share": True}
    return {"op": "calls", "node": "pack.nap", "items": [{"call": 1, "inputs": inputs, **facts}]}


def test_a_killed_one_is_lost_once_is_heard_no_more_and_can_be_started_anew() -> None:
    said: list[str] = []
    ends: list[str] = []
    worker, threads = FakeWorker("killed"), threading.active_count()
    for life in range(1, 4):
        said.clear()
        worker.start(lambda handle, message, _: said.append(message["op"]), lambda handle, end: ends.append(end.why))
        worker.send(nap(3600.0), {})
        wait_for(lambda: "progress" in said)
        worker.kill()
        worker.kill()
        wait_for(lambda: threading.active_count() <= threads)  # its node has ended, cancelled
        worker.send(nap(0.01), {})
        time.sleep(0.05)
        assert (said.count("ready"), set(said)) == (1, {"ready", "taken", "progress"})
        assert ends == ["it was killed"] * life


def test_the_call_of_a_killed_one_is_computed_by_another() -> None:
    told: list[str] = []
    workers = [FakeWorker("a"), FakeWorker("b", device="cuda:0")]
    runner = WorkerRunner(workers, on_warning=told.append)
    assert runner.wait_until_ready(60)

    def kill_it(event: Event) -> None:
        if event.kind is Kind.PROGRESS and not told:
            workers[0].kill()

    result = go(runner, "nap", x=5, seconds=0.5, listeners=[kill_it])
    assert (result["n"], told) == (5, ["worker a was lost while it computed pack.nap: it was killed"])
    wait_for(lambda: [status.state for status in runner.status()] == ["ready", "ready"])
    assert [status.deaths for status in runner.status()] == [1, 0]
    with pytest.raises(NodeError, match=r"12 workers were lost while they computed pack\.nap: it was killed"):
        go(runner, "nap", x=6, seconds=60.0, listeners=[killer(workers)])
    runner.close()


def killer(workers: list[FakeWorker]) -> Callable[[Event], None]:
    """A listener that kills all workers at each step."""

    def listen(event: Event) -> None:
        if event.kind is Kind.PROGRESS:
            [worker.kill() for worker in workers]

    return listen


def test_nodes_are_told_the_device_it_is_said_to_have() -> None:
    runner = WorkerRunner([FakeWorker("a", device="cuda:0"), FakeWorker("b", device="cuda:1")])
    assert runner.wait_until_ready(60)
    results = at_once(*[lambda n=n: go(runner, "where", x=n, seconds=0.5) for n in range(2)])
    assert {(result["n"], result.made["n"]["worker"]) for result in results} == {("cuda:0", "a"), ("cuda:1", "b")}
    assert [status.device for status in runner.status()] == ["cuda:0", "cuda:1"]
    runner.close()


def test_one_that_fails_says_what_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def held(device: str) -> frozenset[str]:
        raise ValueError(f"what is held on {device} is not known")

    told: list[str] = []
    definition = registry.find("nap")
    assert definition is not None
    with monkeypatch.context() as patch:
        patch.setitem(definition.fn.__globals__, "__pack__", Pack("pack", held=held))
        runner = WorkerRunner([FakeWorker("a")], on_warning=told.append)
        wait_for(lambda: bool(told))
    assert told[0].endswith("computed nothing: it failed: ValueError('what is held on cpu is not known')")
    assert go(runner, "double", x=4)["n"] == 8
    runner.close()


def test_what_was_left_to_a_worker_that_takes_another_call_is_taken_at_once() -> None:
    runner = WorkerRunner([FakeWorker("a", "left:0"), FakeWorker("b", "left:1")])
    book = registry.find("pack.book")
    assert runner.wait_until_ready(60)
    assert book is not None

    def read(**seconds: float) -> list[tuple[str, str]]:
        """Read books at once; who has read which, in the order in which they were done."""
        done: list[Event] = []
        graph = Graph()
        for title, long in seconds.items():
            graph.add("pack.read", title, book=book.fn(title), seconds=long)
        result = run(graph, store=Store(), runner=runner.of(JobPolicy()), listeners=[done.append])
        ended = [event.node for event in done if event.kind is Kind.NODE_FINISHED]
        return [(node, result.made[node]["worker"]) for node in ended]

    assert [read(**{title: 0.0}) for title in "ABC"] == [[("A", "a")], [("B", "a")], [("C", "b")]]
    assert read(D=0.0, C=1.0) == [("D", "a"), ("C", "b")]  # b has room for D, but it holds C
    runner.close()


def test_a_service_runs_its_jobs_on_it(tmp_path: Path) -> None:
    store = tmp_path / "store"
    runner = WorkerRunner([FakeWorker(name, store=str(store)) for name in "ab"], DiskStore(store))
    with Service(tmp_path / "queue.sqlite", runner, DiskStore(store)) as service:
        jobs = [service.submit(of("nap", seconds=0.1), {"x": n}) for n in range(6)]
        service.wait(*jobs, timeout=600)
        assert [service.outputs(job) for job in jobs] == [{"y": n} for n in range(6)]
