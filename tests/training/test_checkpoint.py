from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from training.checkpoint import Checkpoint
from training.errors import TrainingError
from training.schedule import Budget, Schedule


@pytest.fixture
def checkpoint() -> Checkpoint:
    return Checkpoint(
        name="unet",
        schedule=Schedule(0.1, 5, 0.02, Budget(minutes=3.0)),
        step=7,
        seen=112,
        seconds=90.0,
        weights={"a": torch.arange(3.0)},
        optimiser={"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]},
        average=[torch.zeros(3)],
        average_steps=7,
    )


def test_what_is_saved_is_loaded(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "unet.pt")
    loaded = Checkpoint.load(tmp_path / "unet.pt", "unet")
    assert torch.equal(loaded.weights["a"], checkpoint.weights["a"])
    assert torch.equal(loaded.optimiser["state"][0]["exp_avg"], torch.ones(3))
    tensors: dict[str, Any] = {"weights": {}, "optimiser": {}, "average": []}
    assert replace(loaded, **tensors) == replace(checkpoint, **tensors)
    assert loaded.spent == 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["unet.pt"]


def test_a_damaged_or_foreign_file_is_one_clear_error(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "unet.pt"
    checkpoint.save(path)
    with pytest.raises(TrainingError, match="is a checkpoint of unet, not of vae"):
        Checkpoint.load(path, "vae")
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no checkpoint"):
        path.write_bytes(damaged)
        with pytest.raises(TrainingError, match="cannot be read") as error:
            Checkpoint.load(path, "unet")
        assert "\n" not in str(error.value)
    torch.save({"weights": {}}, path)
    with pytest.raises(TrainingError, match="cannot be read"):
        Checkpoint.load(path, "unet")


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Mischief:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "done",)

    torch.save({"schedule": Mischief()}, tmp_path / "unet.pt")
    with pytest.raises(TrainingError):
        Checkpoint.load(tmp_path / "unet.pt", "unet")
    assert not (tmp_path / "done").exists()
