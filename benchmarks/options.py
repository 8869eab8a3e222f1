"""Memory and time of each option of a model, on the CPU: `python -m benchmarks.options [MODEL]`.

Bytes are those of the weights that stay in the store after a picture. Seconds are of sampling alone, medians of runs
with another seed each. `compile` needs a compiler and is left out unless requested; offload needs a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from graphengine_nodes import (
    Model,
    change_precision,
    decode_latent,
    encode_prompt,
    load_model,
    optimize_model,
    quantize_model,
    sample,
    tile_vae,
)
from graphengine_nodes.store.store import store

from benchmarks.table import machine, show

OPTIONS: dict[str, Callable[[Model], Model]] = {
    "plain": lambda model: model,
    "bfloat16": lambda model: change_precision(model, "bfloat16"),
    "float8": quantize_model,
    "int8": lambda model: quantize_model(model, "int8"),
    "channels last": lambda model: optimize_model(model, channels_last=True),
    "tiling": tile_vae,
    "compile": lambda model: optimize_model(model, compile=True),
}


def measured(model: Model, runs: int, steps: int) -> tuple[int, float]:
    """Bytes held and seconds of a run."""
    store.clear()
    text = encode_prompt(model, "a red circle")
    decode_latent(model, sample(model, text, steps=steps))
    seconds = []
    for seed in range(1, runs + 1):
        start = time.perf_counter()
        sample(model, text, seed=seed, steps=steps)
        seconds.append(time.perf_counter() - start)
    return store.size(), statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="tiny")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    model = load_model(given.model)
    rows: list[list[object]] = []
    for name, change in OPTIONS.items():
        if name != "compile" or given.compile:
            size, seconds = measured(change(model), given.runs, given.steps)
            rows.append([name, size / 1e6, seconds])
    print(machine())
    show(f"{given.model}, {given.steps} steps", ["option", "weights held (MB)", "seconds"], rows)


if __name__ == "__main__":
    main()
