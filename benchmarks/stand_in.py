"""The denoiser's stand-in: text to image on `tiny` with it in place, against without: `python -m benchmarks.stand_in`.

Each run of a graph is a first run, as in `benchmarks.pictures`. The stand-in gives every step the prompts that do not
change, so that only its own time is added, and the pictures stay the same to the bit. Medians of alternating runs.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from importlib.resources import files
from unittest import mock

import torch
from diffusers import StableDiffusionPipeline
from graphengine_nodes.families import pipelines

from benchmarks.pictures import PROMPT, text_to_image, timed
from benchmarks.table import alternate, machine, ratio, show
from graphengine import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    graph, store = text_to_image(), Store()
    pipeline = StableDiffusionPipeline.from_pretrained(str(files("graphengine_nodes") / "tiny" / "model"))
    pipeline.set_progress_bar_config(disable=True)

    def one_call() -> float:
        generator = torch.Generator().manual_seed(0)
        return timed(lambda: pipeline(PROMPT, num_inference_steps=20, guidance_scale=3.5, generator=generator))

    def first() -> float:
        store.clear()
        return timed(lambda: graph.run(store=store))

    def in_place(work: Callable[[], float]) -> float:
        with mock.patch.object(pipelines, "steered", return_value=True):
            return work()

    def stood_in() -> float:
        return in_place(first)

    first()
    plain = graph.run(store=store)["image"].pixels
    stood_in()
    assert torch.equal(graph.run(store=store)["image"].pixels, plain), "the stand-in changes the picture"
    one_call()
    theirs, without, with_it = alternate(runs, one_call, first, stood_in)
    print(machine(), f"torch {torch.__version__}, {torch.get_num_threads()} threads, {runs} runs")
    rows = [
        (name, statistics.median(times), ratio(times, theirs), ratio(times, without))
        for name, times in (("one-call pipeline", theirs), ("graph", without), ("graph, stand-in in place", with_it))
    ]
    show("Text to image on tiny, 20 steps", ("", "seconds", "to one call", "to the graph without"), rows)


if __name__ == "__main__":
    main()
