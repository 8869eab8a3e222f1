"""Real weights: a worker says what it holds, and calls go to the one that holds what they need."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest

from graphengine import Cancelled, Graph, Store, run
from graphengine.cache import DiskStore
from graphengine.execution.launcher import Cancellation
from graphengine.service.workers.calls import JobPolicy
from graphengine.service.workers.inline import InlineRunner
from graphengine.service.workers.pool import WorkerRunner
from tests.graphengine.sample import until
from tests.graphengine.service.conftest import Workers


def test_pictures_go_to_the_worker_that_holds_their_weights(
    workers: Workers, tiny_everywhere: None, tmp_path: Path
) -> None:
    folder = str(tmp_path / "store")
    runner = WorkerRunner(workers(2, folder), DiskStore(folder))
    assert runner.wait_until_ready(600)
    with Graph() as graph:
        model = std.load_model("tiny")
        seed = graph.input("seed", int)
        text = std.encode_prompt(model, "a red circle")
        latent = std.sample(model, text, seed=seed, steps=1, width=64, height=64)
        graph.output("image", std.decode_latent(model, latent))

    def picture(seed: int) -> str:
        result = run(graph, inputs={"seed": seed}, store=Store(), runner=runner.of(JobPolicy()))
        return str(result.made["image"]["worker"])

    busy = Graph()
    busy.add("nap", "n", x=1, seconds=3600.0)
    cancellation = Cancellation()
    options: Any = {"store": Store(), "runner": runner.of(JobPolicy()), "cancellation": cancellation}

    def nap() -> None:
        with pytest.raises(Cancelled):
            run(busy, **options)

    napping = threading.Thread(target=nap)
    napping.start()
    try:
        while not runner.status()[0].computing:
            time.sleep(0.01)
        assert picture(1) == "w1"  # the weights are loaded there, since the first is busy
        cancellation.cancel()
        napping.join()
        while runner.status()[0].computing:
            time.sleep(0.01)
        assert [picture(seed) for seed in (2, 3)] == ["w1", "w1"]  # both are idle
        first, second = runner.status()
        assert first.held == 0
        assert second.held >= 3
        runner.free()
        until(lambda: runner.status()[1].held == 0)
        picture(4)
        assert sum(status.held for status in runner.status()) >= 3  # loaded again
        assert second.memory == (300, 500)  # as the light pack says; of the processor no other pack says anything
        assert first.free is None
        assert second.free is not None
        assert second.free > 2**20
    finally:
        runner.close()


def test_what_is_needed_is_what_the_node_uses() -> None:
    model = std.load_model("tiny")
    assert model.needs("vae") == {model.component("vae")}
    assert model.needs("denoiser") == {model.component("unet")}
    assert model.needs() == {model.component(name) for name in ("text_encoder", "unet", "vae")}


def test_this_process_drops_its_models_where_it_computes_itself() -> None:
    from graphengine_nodes.store.store import store

    runner = InlineRunner()
    with Graph() as graph:
        model = std.load_model("tiny")
        graph.output("text", std.encode_prompt(model, "a red circle"))
    try:
        for _ in range(2):
            run(graph, store=Store(), runner=runner.of(JobPolicy()))
            assert store.size("cpu") > 0
            runner.free()
            assert store.size("cpu") == 0
    finally:
        runner.close()
