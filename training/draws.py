"""Random numbers that depend only on the place in the training where they are drawn.

A checkpoint then needs no generator's state: a resumed training draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

import random

import numpy as np
import torch


class Draws:
    """The generators of one step of one process, seeded from the integers in `key`."""

    def __init__(self, *key: int) -> None:
        seeds = np.random.SeedSequence(key).generate_state(3, np.uint64)
        self.numbers = np.random.default_rng(int(seeds[0]))
        self.words = random.Random(int(seeds[1]))
        self._torch = torch.Generator().manual_seed(int(seeds[2]) >> 1)

    def noise_like(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=self._torch)

    def timesteps(self, count: int, of: int) -> torch.Tensor:
        """`count` timesteps below `of`, one from each of `count` equal stretches, in random order."""
        within = torch.arange(count) + torch.rand(count, generator=self._torch)
        return (within * (of / count)).long().clamp(max=of - 1)[torch.randperm(count, generator=self._torch)]
