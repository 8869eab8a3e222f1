"""Cancelling real sampling in a worker: within a step, and one member of a batch without harm to the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphengine_nodes import decode_latent, encode_prompt, load_model, sample

from graphengine import Graph
from graphengine.cache import DiskStore
from graphengine.service.job_events import JobEvent
from graphengine.service.jobs.job import State
from graphengine.service.service import Service
from graphengine.service.workers.pool import WorkerRunner
from graphengine.service.workers.process import Handle, LocalWorker, OnLost, OnMessage
from graphengine.service.workers.wire import Blobs, Message
from tests.graphengine.service.conftest import PACK
from tests.graphengine.service.test_service import of


class Heard(LocalWorker):
    """A worker that notes which step it had told when it was told to cancel, and which one was its last."""

    last = at_cancel = 0

    def start(self, told: OnMessage, lost: OnLost) -> None:
        def hear(handle: Handle, message: Message, blobs: Blobs) -> None:
            self.last = message["step"] if message["op"] == "progress" else self.last
            told(handle, message, blobs)

        super().start(hear, lost)

    def send(self, message: Message, blobs: Mapping[str, bytes]) -> None:
        self.at_cancel = self.last if message.get("op") == "cancel" else self.at_cancel
        super().send(message, blobs)


def pictures(steps: int, side: int) -> Graph:
    with Graph() as graph:
        model = load_model("tiny")
        text = encode_prompt(model, "a red circle on a blue background")
        latent = sample(model, text, seed=graph.input("seed", int), steps=steps, width=side, height=side)
        graph.output("image", decode_latent(model, latent))
    return graph


class Steps:
    """Which jobs have told a step."""

    def __init__(self, service: Service) -> None:
        self.seen: dict[int, int] = {}
        self._more = threading.Condition()
        service.subscribe(self._hear)

    def _hear(self, event: JobEvent) -> None:
        if event.kind == "progress" and event.event is not None:
            with self._more:
                self.seen[event.job] = int(event.event.step or 0)
                self._more.notify_all()

    def wait(self, job: int) -> None:
        with self._more:
            assert self._more.wait_for(lambda: job in self.seen, timeout=600)


def served(folder: Path, worker: LocalWorker) -> Service:
    store = DiskStore(folder / "store")
    return Service(folder / "q.sqlite", WorkerRunner([worker], store), store)


def test_sampling_ends_within_a_step(tmp_path: Path) -> None:
    worker = Heard("w", threads=1, store=str(tmp_path / "store"))
    with served(tmp_path, worker) as service:
        steps = Steps(service)
        number = service.submit(pictures(1000, 256), {"seed": 1})
        steps.wait(number)
        assert service.cancel(number) is State.RUNNING
        (job,) = service.wait(number, timeout=600)
        assert job.state is State.CANCELLED
        while service.backend.status()[0].computing:  # the worker itself has stopped
            time.sleep(0.02)
        assert 1 <= worker.at_cancel <= worker.last <= worker.at_cancel + 2  # under way when it came, and being told
        assert service.backend.status()[0].deaths == 0


def test_a_member_of_a_batch_is_cancelled_and_the_others_pictures_are_right(tmp_path: Path) -> None:
    graph = pictures(24, 64)
    with served(tmp_path, LocalWorker("w", threads=1, store=str(tmp_path / "store"), packs=(str(PACK),))) as service:
        runner: Any = service.backend
        steps = Steps(service)
        service.wait(service.submit(pictures(1, 64), {"seed": 0}), timeout=600)  # the prompt is encoded
        nap = service.submit(of("nap", seconds=600.0), {"x": 1})
        steps.wait(nap)
        numbers = [service.submit(graph, {"seed": seed}) for seed in range(4)]
        while runner.waiting() < 4:
            time.sleep(0.02)
        service.cancel(nap)  # now they are taken together
        steps.wait(numbers[0])
        assert service.cancel(numbers[0]) is State.RUNNING
        cancelled, *others = service.wait(*numbers, timeout=600)
        assert cancelled.state is State.CANCELLED
        assert steps.seen[cancelled.id] < 24
        assert [(job.state, job.attempt) for job in others] == [(State.DONE, 1)] * 3
        made, alone = service.outputs(numbers[1])["image"].pixels, graph.run(inputs={"seed": 1})["image"].pixels
        assert (made - alone).abs().max() < 0.02
        together = [call["together"] for job in others for call in job.result["calls"] if call["type"] == "std.sample"]
        assert max(together) >= 2
        assert runner.status()[0].deaths == 0
