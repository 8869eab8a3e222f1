"""What a cluster adds to the contract of workers; run by `test_ray.py`."""

from __future__ import annotations

import platform
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphengine_nodes.weights.files import EMBEDDED
from PIL import Image

from graphengine import Graph, Result, Store, run
from graphengine.events import Event, Kind
from graphengine.service.job_events import JobEvent
from graphengine.service.jobs.queue import Queue
from graphengine.service.start_ray import ray_service
from graphengine.service.workers.calls import JobPolicy
from graphengine.service.workers.pool import WorkerRunner
from graphengine.service.workers.ray_cluster import RayError, joined
from graphengine.service.workers.ray_workers import RayWorker
from tests.graphengine.cli.conftest import command, environment
from tests.graphengine.service.conftest import PACK
from tests.graphengine.service.workers.ray_fixtures import TwoNodes, on
from tests.graphengine.service.workers.test_contract import at_once, go

Shell = Callable[..., "subprocess.CompletedProcess[str]"]


def test_smoke(tmp_path: Path) -> None:
    """One node, started and ended with the service."""
    events: list[JobEvent] = []
    told: list[str] = []
    with ray_service(
        tmp_path / "queue.sqlite", "local", workers=1, packs=[str(PACK)], on_warning=told.append
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
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("graphengine-worker")] == []


def test_a_dead_node_is_told_its_call_computed_by_another_and_it_works_again_when_it_is_back(cluster: TwoNodes) -> None:
    told: list[str] = []
    begun: set[str] = set()
    runner = WorkerRunner([on("one", "w1"), on("two", "w2", patience=20)], on_warning=told.append)
    assert runner.wait_until_ready(60)

    def heard(event: Event) -> None:
        if event.kind is Kind.PROGRESS:
            begun.add(event.node)

    def naps(seconds: float) -> Result:
        graph = Graph()
        for n in range(2):
            graph.add("nap", f"n{n}", x=n, seconds=seconds)
        return run(graph, store=Store(), runner=runner.of(JobPolicy()), listeners=[heard])

    with ThreadPoolExecutor(1) as pool:  # nodes start on this thread: Ray sets a signal's handler with each
        result = pool.submit(naps, 5.0)
        until(lambda: len(begun) == 2)
        cluster.kill_second()
        assert dict(result.result()) == {"n0": 0, "n1": 1}
    assert {made["worker"] for made in result.result().made.values()} == {"w1"}
    unplaced = "no node started it with 1 CPU and resources {'two': 1} within 20 s; of 3 CPU and 0 GPU in the cluster, "
    until(lambda: any(unplaced in sentence for sentence in told))
    cluster.start_second()
    until(lambda: all(status.state == "ready" for status in runner.status()))
    assert {made["worker"] for made in naps(0.5).made.values()} == {"w1", "w2"}
    runner.close()
    first, *others = told
    fate = "its actor on 127.0.0.1 (is gone: .* node .*|cannot be reached: .*)"
    assert re.fullmatch(f"worker w2 was lost while it computed pack.nap: {fate}", first)
    assert all(sentence.startswith("worker w2 was lost while it computed nothing: ") for sentence in others)


def until(true: Callable[[], object], seconds: float = 120) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.02)


def test_values_go_from_node_to_node_without_a_folder(cluster: TwoNodes) -> None:
    runner = WorkerRunner([on("one", "w0"), on("two", "w1")])
    assert runner.wait_until_ready(60)
    text = "ä" * 2_000_000
    graph = Graph()
    for n in range(4):
        graph.add("echo", f"a{n}", value=[n, text])
        graph.add("echo", f"b{n}", value=graph[f"a{n}"])
    result = run(graph, store=Store(), runner=runner.of(JobPolicy()))
    runner.close()
    assert all(result[f"b{n}"] == [n, text] for n in range(4))
    assert {made["worker"] for made in result.made.values()} == {"w0", "w1"}


def test_sleeping_nodes_use_all_workers(cluster: TwoNodes) -> None:
    runner = WorkerRunner([on(("one", "two")[n % 2], f"w{n}") for n in range(4)])
    assert runner.wait_until_ready(60)
    start = time.monotonic()
    results = at_once(*[lambda n=n: go(runner, "nap", x=n, seconds=2.0) for n in range(4)])
    elapsed = time.monotonic() - start
    runner.close()
    assert {result.made["n"]["worker"] for result in results} == {"w0", "w1", "w2", "w3"}
    assert elapsed < 6


def test_what_the_cluster_has_not_is_told(cluster: TwoNodes) -> None:
    told: list[str] = []
    runner = WorkerRunner([RayWorker("w", 3, patience=1.0)], on_warning=told.append)
    assert runner.wait_until_ready(10)
    runner.close()
    assert told == [
        "worker w was lost while it computed nothing: no node started it with 1 CPU and 3 GPU within 1 s; "
        "of 6 CPU and 0 GPU in the cluster, 6 CPU and 0 GPU are free"
    ]


# --- from the shell ---------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(cluster: TwoNodes, tmp_path: Path) -> Shell:
    """Runs `graphengine` with a queue of its own."""

    def run_it(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        own = {"GRAPHENGINE_STATE": str(tmp_path / "state"), **more}
        return subprocess.run(
            command(*arguments), cwd=tmp_path, env=environment(tmp_path, **own), capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    return run_it


def test_another_token_is_told(cluster: TwoNodes, shell: Shell) -> None:
    done = shell("worker", "--backend", "ray", "--address", cluster.address, RAY_AUTH_TOKEN="0" * 64)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].endswith(
        f"the Ray cluster at {cluster.address} has another token; copy the auth_token of its head to this machine"
    )
    assert "Traceback" not in done.stderr


def test_a_picture_from_the_shell_is_the_inline_one(cluster: TwoNodes, shell: Shell, tmp_path: Path) -> None:
    model = shutil.copytree(EMBEDDED["model"][1], tmp_path / "mine")
    config = model / "vae" / "config.json"
    config.write_text(config.read_text() + "\n")  # the same model by another digest
    wish = ("text_to_image", "--set", f"model={model}", "--set", "steps=2", "--set", "seed=3")
    own = environment(tmp_path, GRAPHENGINE_STATE=str(tmp_path / "state"))
    arguments = ("worker", "--backend", "ray", "--address", cluster.address, "--workers", 2)
    worker = subprocess.Popen(command(*arguments), cwd=tmp_path, env=own, stdout=subprocess.PIPE, text=True)
    try:
        assert worker.stdout is not None
        while "Ctrl-C" not in worker.stdout.readline():
            assert worker.poll() is None
        missing = shell("run", *wish, "--backend", "service")
        assert missing.returncode == 3
        assert f"are not known on {platform.node()} (in " in missing.stderr
        cluster.load(model)
        for number, (kind, *more) in enumerate([("run", "--backend", "service"), ("queue", "submit")], 2):
            words = (kind, *wish, *more) if kind == "run" else (kind, *more, *wish[:-1], "seed=4")
            done = shell(*words, "--out", tmp_path / kind)
            assert done.returncode == 0, done.stderr
            assert shell("queue", "wait", number).returncode == 0
    finally:
        worker.send_signal(signal.SIGINT)
        assert worker.wait(120) == 0
    for job in Queue(tmp_path / "state" / "queue.sqlite").history(limit=2):
        assert {job.result["reuse"][node] for node in ("sample", "image")} == {"computed"}
    for kind, seed in (("run", 3), ("queue", 4)):
        inline = tmp_path / f"{kind} inline"
        done = shell("run", *wish[:-1], f"seed={seed}", "--backend", "inline", "--no-cache", "--out", inline)
        assert done.returncode == 0, done.stderr
        assert np.array_equal(picture(inline), picture(tmp_path / kind))


def picture(folder: Path) -> Any:
    """The pixels of the one picture in a folder."""
    (file,) = folder.rglob("*.png")
    return np.asarray(Image.open(file))
