"""The loop that all training steps share: schedule, gradients, average, checkpoint, resuming.

A step is a `Task`: a module, the loss of a freshly drawn batch, and how the trained part is written.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from training.average import Average
from training.checkpoint import Checkpoint
from training.draws import Draws
from training.errors import TrainingError
from training.parallel import average_gradients, launch, same_everywhere
from training.schedule import Budget, Schedule
from training.work import Work

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Settings by a step's author; betas are those of AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

    rate: float
    warmup: int
    minutes: float
    floor: float = 0.02
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    average: float = 0.998


@dataclass(frozen=True)
class Loss:
    """One batch's loss, how many samples it was, and figures worth logging."""

    value: torch.Tensor
    samples: int
    figures: dict[str, float] = field(default_factory=dict)


class Task(ABC):
    """One training step; what of `module` requires a gradient is trained.

    `name` is the step's and its checkpoint's, `part` the folder of WORK that it makes.
    """

    name: ClassVar[str]
    part: ClassVar[str]
    recipe: ClassVar[Recipe]
    module: nn.Module

    @abstractmethod
    def __init__(self, work: Work, start: bool) -> None:
        """Made anew in each process; with `start` from the part's weights in `work`."""

    @abstractmethod
    def loss(self, draws: Draws, spent: float) -> Loss:
        """The loss of a new batch; `spent` is the share of the budget spent so far."""

    @abstractmethod
    def save(self, work: Work) -> None:
        """Write the part; called with the averaged weights in place."""


@dataclass(frozen=True)
class Options:
    """Settings by a step's user; None takes the recipe's, or on resuming the checkpoint's."""

    minutes: float | None = None
    samples: int | None = None
    rate: float | None = None
    from_weights: Path | None = None
    processes: int | None = None
    save_every: float = 300.0
    seed: int = 0

    def schedule(self, recipe: Recipe) -> Schedule:
        minutes = recipe.minutes if self.minutes is None and self.samples is None else self.minutes
        budget = Budget(minutes=minutes, samples=self.samples)
        return Schedule(self.rate or recipe.rate, recipe.warmup, recipe.floor, budget)

    def contradicts(self, schedule: Schedule) -> bool:
        wanted = (self.minutes, self.samples, self.rate)
        recorded = (schedule.budget.minutes, schedule.budget.samples, schedule.rate)
        return any(a is not None and a != b for a, b in zip(wanted, recorded, strict=True))


def train(work: Work, task: type[Task], options: Options, before: Callable[[], None] = lambda: None) -> None:
    """Begin a step, or go on from its checkpoint, until its budget is spent.

    `before` makes the step's training data, after the parts of `options.from_weights` are copied.
    """
    path = work.checkpoint(task.name)
    if path.exists():
        schedule = Checkpoint.load(path, task.name).schedule
        again = f"remove {path} to begin anew"
        if options.from_weights is not None:
            raise TrainingError(f"{path} exists: go on without --from-weights, or {again}")
        if options.contradicts(schedule):
            began = f"{schedule.budget} at rate {schedule.rate:g}"
            raise TrainingError(f"{path} was begun with {began}: give the same or nothing, or {again}")
    else:
        schedule = options.schedule(task.recipe)
        work.make()
        if options.from_weights is not None:
            work.take(options.from_weights, task.part)
    before()
    launch(_run, work, task, schedule, options, processes=options.processes)


def _run(rank: int, processes: int, work: Work, task: type[Task], schedule: Schedule, options: Options) -> None:
    if rank == 0:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(options.seed)  # the same first weights in each process
    torch.set_flush_denormal(True)
    run = Run(task(work, options.from_weights is not None), schedule, rank, processes, options.seed)
    path = work.checkpoint(task.name)
    if path.exists():
        run.restore(Checkpoint.load(path, task.name))
    if run.finished():
        log.info("%s has had its %s: remove it to begin anew", path, schedule.budget)
        return

    def save() -> None:
        if rank == 0:
            with run.average.in_place():
                run.task.save(work)
            run.checkpoint().save(path)

    saved = time.monotonic()
    while not run.finished():
        run.advance()
        if time.monotonic() - saved > options.save_every:
            save()
            saved = time.monotonic()
    save()


class Run:
    """A task under way in one process."""

    def __init__(self, task: Task, schedule: Schedule, rank: int, processes: int, seed: int) -> None:
        self.task, self.schedule, self.rank, self.processes, self.seed = task, schedule, rank, processes, seed
        self.named = {name: w for name, w in task.module.named_parameters() if w.requires_grad}
        self.weights = list(self.named.values())
        recipe = task.recipe
        self.optimiser = torch.optim.AdamW(
            self.weights, lr=schedule.rate, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
        )
        self.average = Average(self.weights, recipe.average)
        self.step = self.seen = 0
        self.seconds = 0.0
        self.spent = 0.0
        self.recent: dict[str, list[float]] = {}

    def finished(self) -> bool:
        """Whether the budget is spent, by the first process's clock."""
        spent = torch.tensor(self.schedule.budget.spent(self.seconds, self.seen), dtype=torch.float64)
        self.spent = same_everywhere(spent).item()
        return self.spent >= 1

    def advance(self) -> None:
        """One step of the optimiser."""
        began = time.monotonic()
        rate = self.schedule.rate_at(self.step, self.spent)
        self.optimiser.param_groups[0]["lr"] = rate
        loss = self.task.loss(Draws(self.seed, self.step, self.rank), self.spent)
        torch.autograd.backward(loss.value)
        average_gradients(self.weights)
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.average.update()
        self.step += 1
        self.seen += self.processes * loss.samples
        self.seconds += time.monotonic() - began
        self._log({"loss": loss.value.item(), **loss.figures}, rate)

    def checkpoint(self) -> Checkpoint:
        weights = {name: weight.detach() for name, weight in self.named.items()}
        return Checkpoint(
            name=self.task.name,
            schedule=self.schedule,
            step=self.step,
            seen=self.seen,
            seconds=self.seconds,
            weights=weights,
            optimiser=self.optimiser.state_dict(),
            average=self.average.shadow,
            average_steps=self.average.steps,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        shapes = {name: weight.shape for name, weight in checkpoint.weights.items()}
        if shapes != {name: weight.shape for name, weight in self.named.items()}:
            raise TrainingError(f"the checkpoint of {self.task.name} is of another shape")
        with torch.no_grad():
            for name, weight in checkpoint.weights.items():
                self.named[name].copy_(weight)
        self.optimiser.load_state_dict(checkpoint.optimiser)
        self.average.shadow, self.average.steps = checkpoint.average, checkpoint.average_steps
        self.step, self.seen, self.seconds = checkpoint.step, checkpoint.seen, checkpoint.seconds

    def _log(self, figures: dict[str, float], rate: float) -> None:
        for name, value in figures.items():
            self.recent.setdefault(name, []).append(value)
        if self.rank == 0 and self.step % 100 == 0:
            means = "  ".join(f"{name} {np.mean(values):.4f}" for name, values in self.recent.items())
            log.info(
                "%s  %3.0f %%  %5.0f s  seen %d  %.0f/s  rate %.2e  %s",
                *(self.task.name, 100 * self.spent, self.seconds, self.seen),
                *(self.seen / self.seconds, rate, means),
            )
            self.recent.clear()
