"""A picture of every family through the graph, against diffusers' one call: `python -m benchmarks.families`.

Each family makes it with its small model, by the first task of its line in the matrix of oracle tests: what is measured
is what these tests hold to be bit-identical, which is checked once more. Each run of a graph is a first run: values are
forgotten before it, the weights are loaded in both. Medians of alternating runs, with the one call against itself.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import statistics
import sys
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.pictures import timed
from benchmarks.table import alternate, machine, ratio, show
from graphengine import Graph, Store
from tests.graphengine_nodes.families.flow import cases
from tests.graphengine_nodes.families.flow.conftest import HERE, family_models
from tests.graphengine_nodes.families.flow.test_oracle import make

sys.path.insert(0, str(HERE))  # the reference is a script, which imports the cases beside it
import reference  # type: ignore[import-not-found]

OTHERS = {
    "stable_diffusion": "StableDiffusionPipeline",
    "stable_diffusion_xl": "StableDiffusionXLPipeline",
    "flux": "FluxPipeline",
}
"""Families whose matrix is their own."""


def models(folder: Path) -> None:
    """Make the small models of all families."""
    from graphengine_nodes.testing.flux import flux_model
    from graphengine_nodes.testing.sdxl import xl_model

    family_models(folder)
    flux_model(folder / "flux")
    xl_model(folder / "stable_diffusion_xl")
    (folder / "stable_diffusion").symlink_to(str(files("graphengine_nodes") / "tiny" / "model"))


def set_attribute(name: str, value: Any) -> None:
    """Set an attribute of a module by its dotted name."""
    module, _, attribute = name.rpartition(".")
    setattr(importlib.import_module(module), attribute, value)


def firsts() -> Iterator[dict[str, Any]]:
    """The first case of each model."""
    for name, pipeline in OTHERS.items():
        yield next(cases.line(name, {"": pipeline}))
    seen: set[str] = set()
    for case in cases.cases():
        if case["model"] not in seen:
            seen.add(case["model"])
            yield case


def measured(folder: Path, case: dict[str, Any], runs: int) -> tuple[Any, ...]:
    """The row of a case: its model, seconds of the one call, it against itself, the graph against it."""
    pipeline, store = reference.pipeline(folder, case, {}), Store()
    with Graph() as graph:
        graph.output("image", make(folder, case))

    def one_call() -> float:
        return timed(lambda: reference.run(pipeline, case))

    def first() -> float:
        store.clear()
        return timed(lambda: graph.run(store=store))

    expected = reference.run(pipeline, case)
    first()  # weights are loaded
    made = graph.run(store=store)["image"]
    found = made.channels if hasattr(made, "channels") else made.frames
    if not np.array_equal(np.asarray(found).reshape(expected.shape), expected):
        raise AssertionError(f"{case['name']}: the picture of the graph is not that of the one call")
    theirs, again, ours = alternate(runs, one_call, one_call, first)
    return case["model"], case["task"] or "text", statistics.median(theirs), ratio(again, theirs), ratio(ours, theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--models", nargs="*", help="names in the table; all if none are given")
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # what models warn of, once for each run
    folder = Path(tempfile.mkdtemp(prefix="graphengine-families-"))
    models(folder)
    cases.make_areas_small(set_attribute)
    chosen = [case for case in firsts() if not given.models or case["model"] in given.models]
    rows = [measured(folder, case | {"steps": given.steps}, given.runs) for case in chosen]
    print(machine(), f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.runs} runs")
    head = ("model", "task", "one call, seconds", "the one call against itself", "the graph against the one call")
    show(f"A picture of each family's small model, {given.steps} steps", head, rows)


if __name__ == "__main__":
    main()
