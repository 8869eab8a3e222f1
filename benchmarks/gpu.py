"""Models of full size on a GPU, against diffusers' pipeline in a loop: `python -m benchmarks.gpu [--models sd xl]`.

Random weights in bfloat16. The service's single worker makes each picture alone, then as many together as it learns to.
Medians of alternating runs; models are loaded and batch limits learnt before. `--models tiny` checks the script.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from graphengine_nodes import decode_latent, encode_prompt, load_model, sample
from graphengine_nodes.weights.files import TINY

from benchmarks.full_size import stable_diffusion, stable_diffusion_xl
from benchmarks.table import machine, show
from graphengine import DiskStore, Graph
from graphengine.service.jobs.queue import Queue
from graphengine.service.jobs.submit import new_job
from graphengine.service.service import Service
from graphengine.service.workers.pool import WorkerRunner
from graphengine.service.workers.process import LocalWorker

STEPS, GUIDANCE = 20, 7.5


@dataclass(frozen=True)
class Subject:
    """A model and the size of its pictures."""

    name: str
    make: Callable[[Path, str], str]
    pipeline: str
    side: int


SUBJECTS = {
    "tiny": Subject("tiny", lambda folder, device: str(TINY / "model"), "StableDiffusionPipeline", 128),
    "sd": Subject("SD 1.5", stable_diffusion, "StableDiffusionPipeline", 512),
    "xl": Subject("SDXL", stable_diffusion_xl, "StableDiffusionXLPipeline", 1024),
}


def prompts(count: int, first: int) -> list[tuple[str, int]]:
    """New prompts and seeds, which no run has used before."""
    return [(f"a red circle number {n}", n) for n in range(first, first + count)]


def looped(subject: Subject, folder: str, device: str) -> Callable[[int, int], float]:
    """Pictures per second of diffusers' own pipeline, one call for each."""
    pipeline: Any = getattr(diffusers, subject.pipeline).from_pretrained(folder, torch_dtype=torch.bfloat16).to(device)
    pipeline.set_progress_bar_config(disable=True)

    def rate(count: int, first: int) -> float:
        start = time.perf_counter()
        for prompt, seed in prompts(count, first):
            generator = torch.Generator().manual_seed(seed)
            pipeline(prompt, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generator)
        return count / (time.perf_counter() - start)

    return rate


def graph_of(folder: str) -> Graph:
    with Graph() as graph:
        model = load_model(folder, precision="bfloat16")
        text = encode_prompt(model, graph.input("prompt", str))
        negative = encode_prompt.named("negative")(model, "")
        seed = graph.input("seed", int)
        latent = sample(model, text, negative=negative, seed=seed, steps=STEPS, guidance_scale=GUIDANCE)
        graph.output("image", decode_latent(model, latent))
    return graph


@contextmanager
def served(folder: str, device: str, batch: int, together: list[int]) -> Iterator[Callable[[int, int], float]]:
    """Pictures per second of a service with one worker, each a job; `together` gets the size of every batch."""
    graph = graph_of(folder)
    place = Path(tempfile.mkdtemp(prefix="graphengine-benchmark-"))
    disk = DiskStore(place / "store")
    worker = LocalWorker("gpu", device, None, str(disk.folder), ())
    runner = WorkerRunner([worker], disk, batch=batch)

    def rate(count: int, first: int) -> float:
        service.queue.pause()
        asked = [{"prompt": prompt, "seed": seed} for prompt, seed in prompts(count, first)]
        jobs = service.queue.submit(*[new_job(service.queue, graph, inputs) for inputs in asked])
        start = time.perf_counter()
        service.queue.resume()
        ended = service.wait(*jobs)
        took = time.perf_counter() - start
        assert all(job.state == "done" for job in ended), [job.error for job in ended if job.error]
        return count / took

    with Service(Queue(place / "queue.sqlite"), runner, disk) as service:
        service.subscribe(
            lambda event: together.append(event.facts["together"])
            if event.kind == "computed" and event.facts["type"] == "std.sample"
            else None
        )
        assert runner.wait_until_ready(180)
        yield rate
    shutil.rmtree(place)


def measure(subject: Subject, device: str, runs: int, count: int) -> None:
    """The table of a model."""
    place = Path(tempfile.mkdtemp(prefix="graphengine-benchmark-"))
    folder = subject.make(place / "model", device)
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    alone: list[int] = []
    batched: list[int] = []
    names = ["diffusers in a loop", "service, each alone", "service, batched"]
    rates: dict[str, list[float]] = {name: [] for name in names}
    with served(folder, device, 1, alone) as single, served(folder, device, 32, batched) as joined:
        ways = [looped(subject, folder, device), single, joined]
        for way, warm in zip(ways, (2, 2, 2 * count), strict=True):
            print(f"{subject.name}, first pictures: {way(warm, 10**6):.3g}/s", file=sys.stderr)
        del batched[:]
        for run in range(runs):
            for name, way in zip(names, ways, strict=True):
                rates[name].append(way(count, count * run))
                print(f"{subject.name}, {name}: {rates[name][-1]:.3g} pictures/s", file=sys.stderr)
    base = statistics.median(rates[names[0]])
    sizes = [1.0, 1.0, statistics.mean(batched)]
    rows = [
        (name, statistics.median(rates[name]), statistics.median(rates[name]) / base, size)
        for name, size in zip(names, sizes, strict=True)
    ]
    title = f"{subject.name} at {subject.side}², {STEPS} steps, {count} jobs, {runs} runs"
    show(title, ("", "pictures/s", "over the loop", "mean batch"), rows)
    shutil.rmtree(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=SUBJECTS, default=["sd", "xl"])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--count", type=int, default=32, help="Jobs in a run.")
    given = parser.parse_args()
    card = torch.cuda.get_device_name(given.device) if given.device.startswith("cuda") else given.device
    print(machine(), f"torch {torch.__version__}, {card}")
    for name in given.models:
        measure(SUBJECTS[name], given.device, given.runs, given.count)


if __name__ == "__main__":
    main()
