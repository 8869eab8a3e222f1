"""What a cluster adds to the contract of workers; run by `test_ray.py`."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from graphengine import Graph, Store, run
from graphengine.service.calls import Claims
from graphengine.service.happenings import JobEvent
from graphengine.service.ray_workers import RayError, RayWorker, joined, ray_service
from graphengine.service.workers import WorkerRunner

from .conftest import PACK
from .ray_fixtures import TwoNodes, on
from .test_workers import at_once, go


def test_smoke(tmp_path: Path) -> None:
    """One node, started and ended with the service."""
    events: list[JobEvent] = []
    told: list[str] = []
    with ray_service(
        tmp_path / "queue.sqlite", "local", workers=1, packs=[str(PACK)], told=told.append
    ) as service:
        service.subscribe(events.append)
        graph = Graph()
        graph.add("nap", "n", x=graph.input("x", int), seconds=0.1)
        graph.output("y", graph["n"])
        job = service.submit(graph, {"x": 5})
        service.wait(job, timeout=60)
        assert service.outputs(job) == {"y": 5}
        assert sum(event.kind == "progress" for event in events) == 10
        with pytest.raises(RayError, match="is a client of a Ray cluster already"), joined("local"):
            pass
    assert told == []


def test_a_node_that_dies_is_told_and_its_call_computed_by_another(cluster: TwoNodes) -> None:
    told: list[str] = []
    runner = WorkerRunner([on("two", "w", patience=5)], told=told.append)
    assert runner.wait_until_ready(60)
    killer = threading.Timer(1.0, cluster.kill_second)
    killer.start()
    starter = threading.Timer(15.0, cluster.start_second)
    starter.start()
    try:
        assert go(runner, "nap", x=3, seconds=4.0)["n"] == 3
    finally:
        starter.join()
        runner.close()
    first, *others = told
    assert first.startswith("worker w was lost while it computed pack.nap: its actor on 127.0.0.1 is gone: ")
    assert "node" in first.partition("is gone: ")[2]
    assert others, "until the node is back"
    assert all("lost while it computed nothing: no node gave it 1 CPU within 5 s; of 3 CPU" in it for it in others)


def test_values_go_from_node_to_node_without_a_folder(cluster: TwoNodes) -> None:
    runner = WorkerRunner([on("one", "w0"), on("two", "w1")])
    assert runner.wait_until_ready(60)
    text = "ä" * 2_000_000
    graph = Graph()
    for n in range(4):
        graph.add("echo", f"a{n}", value=[n, text])
        graph.add("echo", f"b{n}", value=graph[f"a{n}"])
    result = run(graph, store=Store(), runner=runner.of(Claims()))
    runner.close()
    assert all(result[f"b{n}"] == [n, text] for n in range(4))
    assert {made["worker"] for made in result.made.values()} == {"w0", "w1"}


def test_sleeping_nodes_use_all_workers(cluster: TwoNodes) -> None:
    runner = WorkerRunner([on(("one", "two")[n % 2], f"w{n}") for n in range(4)])
    assert runner.wait_until_ready(60)
    start = time.monotonic()
    at_once(*[lambda n=n: go(runner, "nap", x=n, seconds=0.5) for n in range(8)])
    elapsed = time.monotonic() - start
    runner.close()
    assert elapsed < 1.0 / 0.8


def test_what_the_cluster_has_not_is_told(cluster: TwoNodes) -> None:
    told: list[str] = []
    runner = WorkerRunner([RayWorker("w", 3, patience=1.0)], told=told.append)
    assert runner.wait_until_ready(10)
    runner.close()
    assert told == [
        "worker w was lost while it computed nothing: no node gave it 1 CPU and 3 GPU within 1 s; "
        "of 6 CPU and 0 GPU in the cluster, 6 CPU and 0 GPU are free"
    ]
