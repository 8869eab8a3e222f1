from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import Broken, Line

from training.checkpoint import Checkpoint
from training.errors import TrainingError
from training.loop import Options, train
from training.work import Work

SAMPLES = Options(samples=320, processes=1, save_every=0.0)  # 40 steps, a checkpoint after each


@pytest.fixture(autouse=True)
def nothing_noted() -> Iterator[None]:
    Line.spent, Line.stop_at = [], None
    yield
    Line.stop_at = None


def line(folder: Path) -> Any:
    return json.loads((folder / "line.json").read_text())


def rates(checkpoint: Checkpoint, spent: list[float]) -> list[float]:
    return [checkpoint.schedule.rate_at(step, share) for step, share in enumerate(spent)]


def test_training_approaches_what_is_to_be_learned(tmp_path: Path) -> None:
    train(Work(tmp_path), Line, Options(samples=2400, processes=1))
    ((slope,),) = line(tmp_path)[0]
    assert slope == pytest.approx(3, abs=0.3)


def test_an_interrupted_training_is_in_the_end_the_uninterrupted_one(tmp_path: Path) -> None:
    whole, cut = Work(tmp_path / "whole"), Work(tmp_path / "cut")
    train(whole, Line, SAMPLES)
    seen_whole, Line.spent = Line.spent, []
    Line.stop_at = 0.4
    with pytest.raises(KeyboardInterrupt):
        train(cut, Line, SAMPLES)
    assert Checkpoint.load(cut.checkpoint("line"), "line").step == 16
    train(cut, Line, Options(processes=1))
    first, second = (Checkpoint.load(work.checkpoint("line"), "line") for work in (whole, cut))
    assert len(seen_whole) == 40
    assert rates(first, seen_whole) == rates(second, Line.spent)
    assert rates(first, seen_whole)[0] == pytest.approx(0.02)  # a fifth: the warm-up's first step
    for name in first.weights:
        assert torch.equal(first.weights[name], second.weights[name])
    assert line(whole.folder) == line(cut.folder)


def test_a_budget_of_minutes_counts_only_training(tmp_path: Path) -> None:
    work = Work(tmp_path)
    Line.stop_at = 0.5
    minutes = Options(minutes=0.005, processes=1, save_every=0.0)
    with pytest.raises(KeyboardInterrupt):
        train(work, Line, minutes)
    half = Checkpoint.load(work.checkpoint("line"), "line")
    assert half.spent == pytest.approx(0.5, abs=0.2)
    train(work, Line, Options(processes=1))
    done = Checkpoint.load(work.checkpoint("line"), "line")
    assert done.schedule == half.schedule
    assert 1 <= done.spent < 1.5
    assert Line.spent == sorted(Line.spent)


def test_a_finished_training_is_left_as_it_is(tmp_path: Path) -> None:
    train(Work(tmp_path), Line, SAMPLES)
    Line.spent = []
    (tmp_path / "line.json").write_text("kept")
    train(Work(tmp_path), Line, SAMPLES)
    assert (Line.spent, (tmp_path / "line.json").read_text()) == ([], "kept")


@pytest.mark.parametrize("other", [Options(samples=999), Options(minutes=1), Options(rate=0.5)])
def test_another_budget_than_the_checkpoint_s_is_refused(tmp_path: Path, other: Options) -> None:
    train(Work(tmp_path), Line, SAMPLES)
    with pytest.raises(TrainingError, match=r"begun with 320 samples at rate 0\.1"):
        train(Work(tmp_path), Line, other)


def test_beginning_from_weights_over_a_checkpoint_is_refused(tmp_path: Path) -> None:
    train(Work(tmp_path), Line, SAMPLES)
    with pytest.raises(TrainingError, match="without --from-weights"):
        train(Work(tmp_path), Line, Options(from_weights=tmp_path))


def test_the_work_folder_cannot_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot be a work folder"):
        train(Work(tmp_path / "file"), Line, SAMPLES)


@pytest.mark.slow
def test_two_processes_train_one_model_together(tmp_path: Path) -> None:
    train(Work(tmp_path), Line, Options(samples=2400, processes=2))
    ((slope,),) = line(tmp_path)[0]
    assert slope == pytest.approx(3, abs=0.3)
    done = Checkpoint.load(tmp_path / "line.pt", "line")
    assert (done.step, done.seen) == (150, 2400)


@pytest.mark.slow
def test_an_error_in_one_of_two_processes_is_the_user_s_one_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^this part is broken$"):
        train(Work(tmp_path), Broken, Options(samples=8, processes=2))
