from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from training import classifier, cli, evaluate, prompts
from training.evaluate import Figure, Tally, judge, spread, table
from training.generate import Model, generate
from training.painting import render
from training.pictures import Picture, canny
from training.prompts import Prompt
from training.sheets import contact_sheet
from training.world import CELLS, ROW, SIZES, Scene, Thing

KINDS = classifier.build().eval()  # knows nothing: what kinds are is not asked here


def fulfilled(prompt: Prompt) -> Scene:
    """A scene that is what the prompt asks for."""
    cell = prompt.place or "center"
    middles = [CELLS[cell]] if prompt.count == 1 else [(x, 0.5) for x in ROW[prompt.count]]
    looks = zip(prompt.looks, middles, strict=True)
    things = [Thing(kind, colour, "small", cell, x, y, SIZES["small"]) for (kind, colour), (x, y) in looks]
    return Scene(prompt.background, tuple(things))


def verdicts(change: Callable[[Prompt], Scene], form: str | None = None) -> dict[str, float]:
    """How often each check is content with pictures that `change` makes of prompts."""
    tally = Tally()
    for prompt in spread([p for p in prompts.read() if form in (None, p.form)], 24):
        tally.add(**judge(np.asarray(render(change(prompt))), prompt, KINDS))
    return {figure.name: figure.value for figure in tally.figures()}


def test_pictures_that_are_as_asked_are_right() -> None:
    right = verdicts(fulfilled)
    for name in ("background", "colour", "count", "place", "left and right"):
        assert right[name] >= 0.95, name
    assert right["kind"] < 0.5


def test_pictures_that_are_not_as_asked_are_wrong() -> None:
    def moved(prompt: Prompt) -> Scene:
        return fulfilled(Prompt(**(vars(prompt) | {"place": "center"})))

    def another_count(prompt: Prompt) -> Scene:
        return fulfilled(Prompt(**(vars(prompt) | {"count": 5 - prompt.count})))

    def swapped(prompt: Prompt) -> Scene:
        scene = fulfilled(prompt)
        left, right = scene.things
        colours = (Thing(**(vars(a) | {"colour": b.colour})) for a, b in ((left, right), (right, left)))
        return Scene(scene.background, tuple(colours))

    def another_background(prompt: Prompt) -> Scene:
        return Scene("white" if prompt.background != "white" else "night", fulfilled(prompt).things)

    assert verdicts(moved, "place")["place"] == 0
    assert verdicts(another_count, "count")["count"] <= 0.05
    assert verdicts(swapped, "pair")["left and right"] == 0
    assert verdicts(another_background)["background"] == 0


def test_the_table_says_shares_and_values() -> None:
    tally = Tally()
    for right in (True, True, False, True):
        tally.add(colour=right)
    lines = table([*tally.figures(), Figure("distance", 0.123)]).splitlines()
    assert lines[2:] == ["| colour | 75.0 % | of 4 |", "| distance | 0.12 | |"]


def test_a_part_of_the_list_is_from_all_over_it() -> None:
    listed = prompts.read()
    assert spread(listed, None) == listed == spread(listed, 500)
    assert {prompt.form for prompt in spread(listed, 10)} == {"one", "place", "count", "pair"}
    assert len(spread(listed, 7)) == 7


def test_a_sheet_shows_each_picture() -> None:
    pictures: list[Picture] = [np.full((128, 128, 3), value, np.uint8) for value in (50, 100, 150)]
    edges = canny(np.asarray(render(fulfilled(prompts.read()[0]))))
    sheet = np.asarray(contact_sheet([*pictures, edges], ["a", "b", "c", "d"], columns=3))
    assert sheet.shape == (2 * 156 + 4, 3 * 132 + 4, 3)
    assert [int(sheet[60, 4 + 64 + 132 * i, 0]) for i in range(3)] == [50, 100, 150]


def test_a_picture_depends_on_its_own_seed(shipped: Path) -> None:
    plain = Model(shipped).plain()
    two = generate(plain, ["a red circle on a white background"] * 2, seed=3)
    again = generate(plain, ["a red circle on a white background"], seed=4)
    assert np.abs(two[1].astype(int) - again[0]).max() <= 2
    assert np.abs(two[0].astype(int) - two[1]).max() > 20


def test_a_folder_that_is_no_model_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["evaluate", "--out", str(tmp_path / "out"), "--model", str(tmp_path)])
    with pytest.raises(SystemExit, match="1"):
        cli.run(evaluate.main)
    assert "error: " in capsys.readouterr().err


@pytest.mark.slow
def test_a_whole_evaluation_writes_table_figures_and_sheets(shipped: Path, judging: Path) -> None:
    evaluate.main(out=judging, model=shipped, limit=8, seed=0)
    figures = json.loads((judging / "figures.json").read_text())
    assert len(figures["prompts"]) == 8
    values = {name: figure["value"] for name, figure in figures["figures"].items()}
    assert values["background"] >= 0.75
    assert values["style distance with the LoRA"] < values["style distance without the LoRA"]
    assert values["edge agreement with the ControlNet"] > 2 * values["edge agreement, control images shuffled"]
    assert (judging / "table.md").read_text().startswith("| what | measured |")
    assert {"sheet.png", "lora.png", "controlnet.png"} <= {path.name for path in judging.iterdir()}
