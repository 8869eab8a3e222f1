"""How long a training goes on and how fast it learns, as data that a checkpoint carries."""

from __future__ import annotations

import math
from dataclasses import dataclass

from training.errors import TrainingError


@dataclass(frozen=True)
class Budget:
    """A training's whole length: minutes of training or samples seen, over all its interruptions."""

    minutes: float | None = None
    samples: int | None = None

    def __post_init__(self) -> None:
        given = [amount for amount in (self.minutes, self.samples) if amount is not None]
        if len(given) != 1 or given[0] <= 0:
            raise TrainingError("give either --minutes or --samples, and more than none")

    def spent(self, seconds: float, seen: int) -> float:
        """The share of the budget that is spent: 1 and more is the end."""
        return seconds / (60 * self.minutes) if self.minutes else seen / (self.samples or 1)

    def __str__(self) -> str:
        return f"{self.minutes:g} minutes" if self.minutes else f"{self.samples} samples"


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up over `warmup` steps, and half a cosine from `rate` to `floor` of it over the budget.

    Loshchilov and Hutter 2017, "SGDR" (arXiv 1608.03983), without restarts.
    """

    rate: float
    warmup: int
    floor: float
    budget: Budget

    def rate_at(self, step: int, spent: float) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, spent)))
        return self.rate * min(1.0, (step + 1) / self.warmup) * (self.floor + (1 - self.floor) * cosine)
