"""Sources of random numbers for a call of `gen`: seeds, or the caller's own generators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphengine_nodes.values.types import RandomState

__all__ = ["RandomDraws", "random_draws"]


@dataclass
class RandomDraws:
    """The seeds or generators of a sampler's call.

    Attributes:
        seed: One seed, counted upwards over the pictures, or one for each; or states of generators: one from which all
            pictures are drawn, or one for each.
        count: How many pictures.
        generators: The caller's generators.
    """

    seed: int | list[int] | RandomState | list[RandomState]
    count: int
    generators: list[Any] = field(default_factory=list)

    def leave(self, ended: Sequence[RandomState]) -> None:
        """Set the caller's generators to the states after sampling, whether the result was computed or remembered."""
        for generator, state in zip(self.generators, ended, strict=True):
            state.restore(generator)  # a generator that stands for several pictures gets the last state


def random_draws(given: Mapping[str, Any], count: int) -> RandomDraws:
    """Read the inputs `generator` and `seed`; with neither, draw a seed from torch's global generator.

    Args:
        count: How many pictures the prompts ask for; one prompt is used for each of several generators.

    Raises:
        ValueError: There is neither one generator or seed, nor one for each picture.
    """
    import torch

    source = given.get("seed") if given.get("generator") is None else given["generator"]
    if source is None:
        return RandomDraws(int(torch.randint(2**63 - 1, ())), count)
    several = isinstance(source, list | tuple)
    items = list(source) if several else [source]
    count = len(items) if several and count == 1 else count
    if several and not items:
        raise ValueError("generator is an empty list; give one, or one for each picture")
    if several and len(items) != count:
        raise ValueError(f"{len(items)} generators for {count} pictures; give one, or one for each picture")
    if not any(isinstance(item, torch.Generator) for item in items):
        seeds = [_seed(item) for item in items]
        return RandomDraws(seeds if several else seeds[0], count)
    generators = [i if isinstance(i, torch.Generator) else torch.Generator().manual_seed(_seed(i)) for i in items]
    number = {id(generator): n for n, generator in enumerate(generators, start=1) if generators.count(generator) > 1}
    states = [RandomState.of(generator, number.get(id(generator), 0)) for generator in generators]
    return RandomDraws(states if several else states[0], count, generators)


def _seed(value: Any) -> int:
    """Convert a seed to 0..2^64 - 1: negative seeds count back from 2^64.

    Raises:
        ValueError: It is no whole number of 64 bits.
    """
    try:
        seed = int(value)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is no seed; give a whole number, or a torch.Generator as generator") from None
    if seed != value or not -(2**63) <= seed < 2**64:
        raise ValueError(f"{value!r} is no seed; give a whole number of 64 bits")
    return seed % 2**64
