"""Jobs on a GPU: exact ones equal diffusers' own pipeline, and real lack of memory makes batches smaller."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import numpy as np
import pytest
import torch
from graphengine_nodes.store.store import store
from graphengine_nodes.weights.files import TINY

from graphengine import Context, DiskStore, Graph
from graphengine.service import JobEvent, LocalWorker, Service, State, WorkerRunner

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")]

GPU = "cuda:0"
LARGE = 1536


class OnGPU(Context):
    device = GPU


def graph_of(side: int, steps: int) -> Graph:
    with Graph() as graph:
        model = std.load_model("tiny", precision="float32")
        text = std.encode_prompt(model, "a red circle")
        seed = graph.input("seed", int)
        latent = std.sample(model, text, seed=seed, steps=steps, width=side, height=side)
        graph.output("latent", latent)
        graph.output("image", std.decode_latent(model, latent))
    return graph


@pytest.fixture
def events() -> list[JobEvent]:
    return []


@pytest.fixture
def service(tmp_path: Path, events: list[JobEvent]) -> Iterator[Service]:
    """A service with one worker on the GPU."""
    disk = DiskStore(tmp_path / "store")
    runner = WorkerRunner([LocalWorker("gpu", GPU, store=str(disk.folder))], disk)
    with Service(tmp_path / "queue.sqlite", runner, disk) as service:
        service.subscribe(events.append)
        assert runner.wait_until_ready(120)
        yield service


def finished(service: Service, graph: Graph, seeds: range, **options: Any) -> list[int]:
    """Jobs that waited for each other, all done."""
    service.queue.pause()
    jobs = [service.submit(graph, {"seed": seed}, **options) for seed in seeds]
    service.queue.resume()
    ended = service.wait(*jobs, timeout=240)
    assert [job.state for job in ended] == [State.DONE] * len(jobs), [job.error for job in ended]
    return jobs


def sizes(events: list[JobEvent]) -> list[int]:
    return [e.facts["together"] for e in events if e.kind == "computed" and e.facts["type"] == "std.sample"]


def one_call(seed: int) -> np.ndarray[Any, Any]:
    import diffusers

    pipe: Any = diffusers.StableDiffusionPipeline.from_pretrained(TINY / "model", safety_checker=None).to(GPU)
    pipe.set_progress_bar_config(disable=True)
    found: np.ndarray[Any, Any] = pipe(
        "a red circle", num_inference_steps=4, width=128, height=128, output_type="np",
        generator=torch.Generator().manual_seed(seed), guidance_scale=std.load_model("tiny").setting("guidance_scale"),
    ).images  # fmt: skip
    return found


def test_exact_jobs_equal_the_one_call_pipeline(service: Service, events: list[JobEvent]) -> None:
    jobs = finished(service, graph_of(128, 4), range(3), exact=True)
    for seed, job in enumerate(jobs):
        assert np.array_equal(service.outputs(job)["image"].pixels.numpy(), one_call(seed))
    assert set(sizes(events)) == {1}


def test_jobs_sampled_together_are_as_those_made_alone(service: Service, events: list[JobEvent]) -> None:
    jobs = finished(service, graph_of(128, 4), range(8))
    assert max(sizes(events)) > 1
    for seed, job in enumerate(jobs):
        assert np.abs(service.outputs(job)["image"].pixels.numpy() - one_call(seed)).max() < 2 / 255


def peak(count: int) -> int:
    """Bytes that the GPU needs to sample and decode so many large pictures, over what it holds anyway."""
    model = std.load_model("tiny", precision="float32")
    text = std.encode_prompt(model, "a red circle", ctx=OnGPU())
    torch.cuda.reset_peak_memory_stats(GPU)
    before = torch.cuda.memory_allocated(GPU)
    std.sample(model, text, seed=list(range(count)), steps=1, width=LARGE, height=LARGE, ctx=OnGPU())
    return torch.cuda.max_memory_allocated(GPU) - before


def test_a_full_gpu_makes_batches_smaller_and_then_gives_advice(service: Service, events: list[JobEvent]) -> None:
    finished(service, graph_of(LARGE, 1), range(1))  # weights are loaded, and torch keeps what one picture needs
    one, four = peak(1), peak(4)
    store.clear()
    store.spare(GPU)
    room = (one + four) // 2 - one
    free, _ = torch.cuda.mem_get_info(GPU)
    assert free > room, "others use this GPU"
    filled = [torch.empty(free - room, dtype=torch.uint8, device=GPU)]
    del events[:]
    finished(service, graph_of(LARGE, 1), range(10, 14))
    assert max(sizes(events)) < 4
    filled.append(torch.empty(torch.cuda.mem_get_info(GPU)[0] - 2**24, dtype=torch.uint8, device=GPU))
    job = service.submit(graph_of(2 * LARGE, 1), {"seed": 1})
    (failed,) = service.wait(job, timeout=240)
    assert failed.state is State.FAILED
    assert "needs more memory than any worker has" in str(failed.error)
    del filled[:]
    torch.cuda.empty_cache()
    finished(service, graph_of(128, 2), range(20, 22))  # and it goes on
