from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training import checks, classifier
from training.classifier import Kinds
from training.draws import Draws
from training.errors import TrainingError
from training.evaluate import judge_classifier
from training.loop import Run
from training.painting import render
from training.schedule import Budget, Schedule
from training.work import Work
from training.world import COLOURS, Scene, Thing


def test_it_learns(tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = Run(Kinds(Work(tmp_path), False), Schedule(2e-3, 5, 1.0, Budget(samples=10**6)), 0, 1, 0)
    before = run.task.loss(Draws(9), 0.0)
    for _ in range(14):
        run.advance()
    after = run.task.loss(Draws(9), 0.0)
    assert after.value < 0.9 * before.value
    assert after.figures["right"] > before.figures["right"]


def test_a_crop_holds_the_thing_and_a_margin() -> None:
    thing = Thing("square", "red", "small", "top left", 0.27, 0.27, 0.28)
    picture = np.asarray(render(Scene("white", (thing,))))
    where = checks.box(checks.things(picture))
    assert where is not None
    cropped = classifier.crop(picture, where)
    assert cropped.shape == (40, 40, 3)
    assert np.abs(cropped[20, 20].astype(int) - COLOURS["red"]).max() < 3
    red = (np.abs(cropped.astype(int) - COLOURS["red"]).sum(2) < 60).any(0)
    assert 22 <= red.sum() <= 28


def test_what_is_trained_is_kept_and_read_again(tmp_path: Path) -> None:
    first = classifier.load(Work(tmp_path), samples=64)
    again = classifier.load(Work(tmp_path), samples=10**9)  # is not trained again
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    (tmp_path / "classifier" / "kinds.safetensors").write_bytes(b"damaged")
    with pytest.raises(TrainingError, match="cannot be read"):
        classifier.load(Work(tmp_path))


@pytest.mark.slow
def test_it_is_right_on_98_percent_of_real_pictures(judging: Path) -> None:
    assert judge_classifier(classifier.load(Work(judging))) >= 0.98
