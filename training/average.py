"""Exponential moving average of weights (Polyak and Juditsky 1992), as diffusion models are sampled from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


class Average:
    """The averaged weights; young averages forget faster, so that the random beginning leaves no trace."""

    def __init__(self, weights: Sequence[nn.Parameter], decay: float) -> None:
        self.weights, self.decay, self.steps = weights, decay, 0
        self.shadow = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.shadow, [weight.detach() for weight in self.weights], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Use the averaged weights inside the context."""
        held = [weight.detach().clone() for weight in self.weights]
        self._assign(self.shadow)
        try:
            yield
        finally:
            self._assign(held)

    @torch.no_grad()
    def _assign(self, values: Sequence[torch.Tensor]) -> None:
        for weight, value in zip(self.weights, values, strict=True):
            weight.copy_(value)
