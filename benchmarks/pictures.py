"""Text to image on `tiny`, through the graph and by diffusers' own one-call pipeline: `python -m benchmarks.pictures`.

Each run is a first run: values are forgotten before it, in memory and on disk (the disk store is on and empty); the
weights are loaded in both. A second run asks for another seed. Medians of alternating runs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from graphengine_nodes import decode_latent, encode_prompt, load_model, sample

from benchmarks.table import alternate, machine, ratio, show
from graphengine import DiskStore, Graph, Store

PROMPT = "a red circle on a blue background"


def text_to_image() -> Graph:
    """The graph: what a workflow file says, in Python."""
    with Graph() as graph:
        seed = graph.input("seed", int, 0)
        model = load_model("tiny")
        text = encode_prompt(model, PROMPT)
        negative = encode_prompt.named("negative")(model, "")
        graph.output("image", decode_latent(model, sample(model, text, negative=negative, seed=seed)))
    return graph


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    graph, seeds = text_to_image(), iter(range(10**6))
    store = Store(disk=DiskStore(Path(tempfile.mkdtemp(prefix="graphengine-benchmark-"))))
    folder = str(files("graphengine_nodes") / "tiny" / "model")
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)

    def one_call() -> float:
        generator = torch.Generator().manual_seed(next(seeds))
        return timed(lambda: pipeline(PROMPT, num_inference_steps=20, guidance_scale=3.5, generator=generator))

    def first() -> float:
        store.clear()
        return timed(lambda: graph.run(inputs={"seed": next(seeds)}, store=store))

    def second() -> float:
        return timed(lambda: graph.run(inputs={"seed": next(seeds)}, store=store))

    for measure in (one_call, first, second):  # weights are loaded, threads started
        measure()
    # `second` follows `first` in every round, so that model and prompt are in memory.
    theirs, cold, warm = alternate(runs, one_call, first, second)
    print(machine(), f"torch {torch.__version__}, {torch.get_num_threads()} threads, {runs} runs")
    rows = [
        (name, statistics.median(times), ratio(times, theirs))
        for name, times in (("one-call pipeline", theirs), ("graph, first run", cold), ("graph, another seed", warm))
    ]
    show("Text to image on tiny, 20 steps", ("", "seconds", "ratio"), rows)


if __name__ == "__main__":
    main()
