"""Checkpoint files, from which a training step resumes: weights, optimiser, average, place in the schedule."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from training.errors import TrainingError, reading
from training.schedule import Budget, Schedule


@dataclass(frozen=True)
class Checkpoint:
    """The whole state of a training step after `step` steps; random numbers come from the step's number (`draws`)."""

    name: str
    schedule: Schedule
    step: int
    seen: int
    seconds: float
    weights: dict[str, torch.Tensor]
    optimiser: dict[str, Any]
    average: list[torch.Tensor]
    average_steps: int

    @property
    def spent(self) -> float:
        return self.schedule.budget.spent(self.seconds, self.seen)

    def save(self, path: Path) -> None:
        """Write beside and rename: an interruption leaves the old file or the new one."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        content["schedule"] = asdict(self.schedule)
        beside = path.with_suffix(".tmp")
        torch.save(content, beside)
        beside.replace(path)

    @classmethod
    def load(cls, path: Path, name: str) -> Checkpoint:
        with reading(path):
            content = torch.load(path, weights_only=True)
            schedule = content.pop("schedule")
            budget = Budget(**schedule.pop("budget"))
            checkpoint = cls(**content, schedule=Schedule(**schedule, budget=budget))
        if checkpoint.name != name:
            raise TrainingError(f"{path} is a checkpoint of {checkpoint.name}, not of {name}")
        return checkpoint
