"""A training step as small as can be: a line through noisy points. Importable by the processes that tests start."""

from __future__ import annotations

import json
from typing import ClassVar

import torch
from torch import nn

from training.draws import Draws
from training.errors import TrainingError
from training.loop import Loss, Recipe, Task
from training.work import Work


class Line(Task):
    """Fits y = 3 x; notes what it is given; stops once, in the middle, where `stop_at` says."""

    name = part = "line"
    recipe = Recipe(rate=0.1, warmup=5, minutes=1)
    stop_at: ClassVar[float | None] = None
    spent: ClassVar[list[float]] = []

    def __init__(self, work: Work, start: bool) -> None:
        self.module = nn.Linear(1, 1)

    def loss(self, draws: Draws, spent: float) -> Loss:
        if Line.stop_at is not None and spent >= Line.stop_at:
            Line.stop_at = None
            raise KeyboardInterrupt
        Line.spent.append(spent)
        x = draws.noise_like(torch.zeros(8, 1))
        return Loss(((self.module(x) - 3 * x) ** 2).mean(), 8)

    def save(self, work: Work) -> None:
        work.path("line.json").write_text(json.dumps([w.tolist() for w in self.module.parameters()]))


class Broken(Line):
    name = part = "broken"

    def __init__(self, work: Work, start: bool) -> None:
        raise TrainingError("this part is broken")
