"""Exact jobs: each picture is as if it was made alone by a worker that computes in the same way, and kept apart."""

from __future__ import annotations

import subprocess
from pathlib import Path

import graphengine_nodes as std
import numpy as np
import pytest

from graphengine import DiskStore, Graph
from graphengine.service import LocalWorker, Service, State, WorkerRunner
from graphengine.testing import FakeWorker
from tests.graphengine.cli.conftest import command, environment
from tests.graphengine.service.conftest import PACK


@pytest.fixture
def graph() -> Graph:
    with Graph() as graph:
        model, seed = std.load_model("tiny"), graph.input("seed", int)
        text = std.encode_prompt(model, "a red circle")
        latent = std.sample(model, text, seed=seed, steps=2)
        graph.output("image", std.decode_latent(model, latent))
    return graph


def test_each_is_as_if_made_alone_with_as_many_threads(graph: Graph, tmp_path: Path) -> None:
    from PIL import Image

    graph.save(tmp_path / "graph.yaml")
    alone = {**environment(tmp_path), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    run = command("run", "graph.yaml", "--exact", "--backend", "inline", "--set", "seed=3", "--out", "alone")
    subprocess.run(run, cwd=tmp_path, env=alone, check=True)
    (file,) = (tmp_path / "alone").iterdir()

    disk = DiskStore(tmp_path / "store")
    made = [LocalWorker(f"w{n}", threads=1, store=str(disk.folder)) for n in range(2)]
    runner, events = WorkerRunner(made, disk), []
    with Service(tmp_path / "queue.sqlite", runner, disk, batch_invariant=True) as service:
        service.subscribe(events.append)
        service.queue.pause()
        jobs = [service.submit(graph, {"seed": seed}, out=tmp_path / "out", name=str(seed)) for seed in range(6)]
        service.queue.resume()
        assert [job.state for job in service.wait(*jobs, timeout=600)] == [State.DONE] * 6
        (other,) = (tmp_path / "out").glob("3_*")
        assert np.array_equal(np.asarray(Image.open(file)), np.asarray(Image.open(other)))
    computed = [event.facts for event in events if event.kind == "computed"]
    assert {call["together"] for call in computed} == {1}


def test_one_that_fits_no_worker_that_may_compute_it_fails_with_advice(tmp_path: Path) -> None:
    """There is another device, but pictures of it would be others."""
    graph = Graph()
    graph.add("pack.greedy", "n", x=101)
    runner = WorkerRunner([FakeWorker("a"), FakeWorker("b", device="cuda:0")])
    with Service(tmp_path / "queue.sqlite", runner) as service:
        (job,) = service.wait(service.submit(graph, exact=True), timeout=600)
    assert job.state is State.FAILED
    assert job.error is not None
    assert "needs more memory than any worker has" in job.error


def test_an_exact_job_that_waits_for_a_worker_can_be_cancelled(graph: Graph, tmp_path: Path) -> None:
    disk = DiskStore(tmp_path / "store")
    worker = LocalWorker("w", threads=1, store=str(disk.folder), packs=(str(PACK),))
    busy = Graph()
    busy.add("nap", "n", x=1, seconds=600.0)
    with Service(tmp_path / "queue.sqlite", WorkerRunner([worker], disk), disk) as service:
        first = service.submit(busy)
        while not any(status.computing for status in service.backend.status()):
            service.queue.wait_for_change(0.05)
        job = service.submit(graph, {"seed": 1}, exact=True)
        while service.queue.get(job).state is State.QUEUED:
            service.queue.wait_for_change(1)
        service.cancel(job)
        assert service.wait(job, timeout=600)[0].state is State.CANCELLED
        service.cancel(first)
