"""The oracle's results as a table: the cases in which a graph's picture is bit-identical to diffusers' own.

python -m tests.graphengine_nodes.matrix [FAMILY ...]
python -m tests.graphengine_nodes.matrix records [MODEL ...]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.graphengine_nodes import conftest, test_oracle
from tests.graphengine_nodes.families.flow import conftest as flow_conftest
from tests.graphengine_nodes.families.flow import test_oracle as flow_oracle
from tests.graphengine_nodes.families.flux import conftest as flux_conftest
from tests.graphengine_nodes.families.flux import test_oracle as flux_oracle

Pictures = dict[str, "np.ndarray[Any, Any]"]
Made = Callable[[dict[str, Any]], "np.ndarray[Any, Any]"]

WHAT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "all": lambda case: True,
    "schedulers": lambda case: case.get("scheduler"),
    "batches": lambda case: len(case["seeds"]) > 1,
    "one generator for several": lambda case: case.get("one"),
    "guidance": lambda case: "guidance" in case["name"] or "rescale" in case,
    "clip skip": lambda case: case.get("clip_skip"),
    "ControlNet": lambda case: len(case["controls"]) == 1,
    "several ControlNets": lambda case: len(case["controls"]) > 1,
    "guess mode": lambda case: case.get("guess"),
    "LoRA": lambda case: len(case["loras"]) == 1,
    "several LoRAs": lambda case: len(case["loras"]) > 1,
    "further arguments": lambda case: (
        case.get("arguments") or case.get("latents") is not None or case.get("fade") or case.get("true_cfg")
    ),
    "half precision": lambda case: case.get("precision", "float32") != "float32",
}
KINDS = ("text", "image", "inpaint")


def table(family: str, asked: list[dict[str, Any]], expected: Pictures, made: Made) -> Iterator[str]:
    """A row for each thing that cases ask, with a column for each kind: how many are identical, else by what they
    differ."""
    gaps: dict[str, float] = {}
    for case in asked:
        found = made(case)
        same = found.shape == expected[case["name"]].shape
        gaps[case["name"]] = float(np.abs(found - expected[case["name"]]).max()) if same else float("inf")
    for what, holds in WHAT.items():
        columns = []
        for kind in KINDS:
            chosen = [gaps[case["name"]] for case in asked if case["kind"] == kind and holds(case)]
            worst = max(chosen, default=0.0)
            said = "identical" if worst == 0 else f"differs by {worst:.1g}"
            columns.append(f"{said} ({len(chosen)})" if chosen else "")
        if any(columns):
            yield f"| {family} | {what} | {' | '.join(columns)} |"


def rows(family: str, folder: Path) -> Iterator[str]:
    """Make a family's small models in an empty folder, have both sides make every picture, and compare."""
    if family == "flux":
        flux_conftest.flux_models(folder)
        expected = conftest.reference(flux_conftest.HERE, folder, folder / "pictures.npz")
        asked, make = flux_oracle.CASES, flux_oracle.make
    else:
        conftest.sd_models(folder)
        conftest.xl_models(folder)
        module = {"stable_diffusion": "cases", "stable_diffusion_xl": "cases_xl"}[family]
        expected = conftest.reference(conftest.HERE, folder, folder / "pictures.npz", module)
        asked, make = [case for case in test_oracle.CASES if case["family"] == family], test_oracle.make
    return table(family, asked, expected, lambda case: make(folder, case).pixels.numpy())


def records(asked: list[str]) -> Iterator[str]:
    """A row for each model of the families that are records, with what it is asked and how its tasks compare.

    Args:
        asked: The models; empty for all.
    """
    cases = [case for case in flow_oracle.CASES if not asked or case["model"] in asked]
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        flow_conftest.family_models(models)
        expected = conftest.reference(flow_conftest.HERE, models, models / "pictures.npz")
        gaps: dict[str, list[float]] = {}
        for case in cases:
            found, wanted = flow_oracle.make(models, case).pixels.numpy(), expected[case["name"]]
            gap = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else float("inf")
            gaps.setdefault(f"{case['model']} | {case['task'].replace('+', ', ') or 'text'}", []).append(gap)
    for name, found in gaps.items():
        said = "identical" if max(found) == 0 else f"differs by {max(found):.1g}"
        yield f"| {name} | {said} ({len(found)}) |"


def main(families: list[str]) -> None:
    print("| family | what | from text | from a picture | inpainting |\n| --- | --- | --- | --- | --- |")
    for family in families:
        with tempfile.TemporaryDirectory() as folder:
            for row in rows(family, Path(folder)):
                print(row, flush=True)


def main_of_records(models: list[str]) -> None:
    print("| model | task | pictures |\n| --- | --- | --- |")
    for row in records(models):
        print(row, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["records"]:
        main_of_records(sys.argv[2:])
    else:
        main(sys.argv[1:] or ["stable_diffusion", "stable_diffusion_xl", "flux"])
