"""`graphengine sweep`: all combinations over one store, and a sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from tests.graphengine.cli.conftest import Run

Write = Callable[..., Path]


def computed(lines: list[dict[str, Any]]) -> Counter[str]:
    return Counter(line["type"] for line in lines if line["kind"] == "node_finished" and line["reuse"] == "computed")


def test_a_product_of_runs_and_a_sheet(cli: Run, paint: Path, tmp_path: Path) -> None:
    done = cli("sweep", "paint.yaml", "--over", "seed=1..3", "--over", "steps=1,2", "--json")
    assert done.code == 0, done.err
    last = done.lines[-1]
    assert len(last["files"]) == 6
    assert last["sheets"] == ["out/paint_sheet_00000.png"]
    colours = [PIL.Image.open(tmp_path / file).getpixel((0, 0)) for file in last["files"]]
    assert len(set(colours)) == 6
    sheet = PIL.Image.open(tmp_path / last["sheets"][0]).convert("RGB")
    found = {colour for _, colour in sheet.getcolors(1 << 20) or []}
    assert set(colours) <= found
    # Rows are seeds, columns are steps.
    places = {
        pixel: (x, y) for y in range(sheet.height) for x in range(sheet.width) if (pixel := sheet.getpixel((x, y)))
        in colours
    }  # fmt: skip
    assert places[colours[0]][1] == places[colours[1]][1] < places[colours[2]][1]
    assert places[colours[0]][0] == places[colours[2]][0] < places[colours[1]][0]
    # What does not change is computed once.
    assert computed(done.lines)["toy.mix"] == 1
    assert computed(done.lines)["toy.paint"] == 6


def test_values_of_a_sweep(cli: Run, paint: Path) -> None:
    done = cli("sweep", "paint.yaml", "--over", 'prompt=["a, b", "c"]', "--over", "seed=9..5..2", "--set", "steps=1")
    assert done.code == 0, done.err
    assert len(done.out.split()) == 7
    done = cli("sweep", "paint.yaml", "--over", "prompt=a,b")
    assert done.code == 2
    assert "texts are written as a JSON list" in done.err
    assert """--over 'prompt=["a", "b"]'""" in done.err


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ("seed=1..2000", "outside 0..1000"),
        ("sede=1", "did you mean side or seed?"),
        ("seed=x", "'x' (str) is not int"),
        ("seed=1..9999999999", "no range of at most"),
        ("seed=[1", "no JSON list"),
        ("seed", "--over takes name=value"),
    ],
)
def test_wrong_values_stop_before_anything_runs(cli: Run, paint: Path, tmp_path: Path, over: str, message: str) -> None:
    done = cli("sweep", "paint.yaml", "--over", over)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "out").exists()


def test_an_input_given_twice_is_refused(cli: Run, paint: Path) -> None:
    done = cli("sweep", "paint.yaml", "--over", "seed=1,2", "--set", "seed=3")
    assert done.code == 2
    assert "both by --set and by --over" in done.err


def test_a_run_that_fails_leaves_the_others(cli: Run, workflow: Write, tmp_path: Path) -> None:
    workflow(
        "version: 1\n"
        "inputs: {picture: {type: str, default: a.png}}\n"
        "nodes:\n"
        "  c: {node: toy.load_card, from: {path: inputs.picture}}\n"
        "outputs: {c: c}\n"
    )
    PIL.Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    done = cli("sweep", "flow.yaml", "--over", 'picture=["gone.png", "a.png"]')
    assert done.code == 3
    assert "gone.png" in done.err
    assert done.out.split() == ["out/flow_c_00000.png", "out/flow_sheet_00000.png"]


def test_numbers_are_a_sheet_too(cli: Run, workflow: Write, tmp_path: Path) -> None:
    workflow("version: 1\ninputs: {a: {type: int, default: 1}}\nnodes:\n  n: {node: toy.add, from: {a: inputs.a}}\n"
             "outputs: {n: n}\n")  # fmt: skip
    done = cli("sweep", "flow.yaml", "--over", "a=1..4")
    assert done.out == "out/flow_sheet_00000.png\n"
    assert PIL.Image.open(tmp_path / "out/flow_sheet_00000.png").size[0] > 200


@pytest.mark.slow
def test_a_sweep_of_the_embedded_model_loads_and_encodes_once(cli: Run) -> None:
    done = cli("sweep", "text_to_image", "--over", "seed=1..2", "--over", "steps=2,3", "--json")
    assert done.code == 0, done.err
    counts = computed(done.lines)
    assert counts["std.encode_prompts"] == 1
    assert counts["std.sample"] == counts["std.decode_latent"] == 4
    assert len(done.lines[-1]["files"]) == 4


def test_a_seed_is_drawn_once_for_all_runs_or_once_for_each_value(cli: Run, paint: Path, tmp_path: Path) -> None:
    def seeds(folder: str) -> list[str]:
        files = sorted((tmp_path / folder).glob("*image*"))
        texts = [PIL.Image.open(file).info["parameters"] for file in files]
        return [text.split("Seed: ")[1].split(",")[0] for text in texts]

    assert cli("sweep", "paint.yaml", "--set", "seed=-1", "--over", "steps=1..3", "--out", "one").code == 0
    assert len(seeds("one")) == 3
    assert len(set(seeds("one"))) == 1
    over = ["--over", "seed=-1,-1,-1,-1,-1", "--over", "steps=1,2", "--out", "many"]
    assert cli("sweep", "paint.yaml", *over).code == 0
    found = seeds("many")
    assert found[::2] == found[1::2]
    assert len(set(found)) > 1
