"""`Cfgen`: configurations of pictures to generate, with prompts drawn from templates."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

from graphengine_nodes.nodes.templates import draw

__all__ = ["Cfgen"]


class Cfgen:
    """An iterator of inputs of `gen`: a prompt drawn from a template, a seed under `generator`, a negative prompt.

    A template is a string, or a list whose parts are joined with ", "; inside it `["+", a, b]` joins with a space, any
    other list stands for one of its elements, and `{"w": part, "p": 0.5}` for its part with that probability. The draw
    depends on the picture's seed alone.

    Args:
        prompt, negative_prompt: Templates.
        max_count: The number of pictures in all; 0 for no such limit.
        seeds: The seeds of the pictures, in order; None for random seeds.
        max_seed_rounds: How often the seeds are gone through.
        inputs: Further inputs of `gen`, the same for all pictures.

    Attributes:
        count: The number of configurations given so far. Raising `max_count` after the end makes the iterator go on.
    """

    def __init__(
        self,
        prompt: Any,
        negative_prompt: Any = "",
        max_count: int = 0,
        seeds: Iterable[int] | None = None,
        max_seed_rounds: int = 1,
        **inputs: Any,
    ) -> None:
        self.prompt = prompt
        self.negative_prompt = negative_prompt
        self.max_count = max_count
        self.seeds = None if seeds is None else list(seeds)
        self.max_seed_rounds = max_seed_rounds
        self.inputs = inputs
        self.count = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        if self._ended():
            raise StopIteration
        seed = self._seed()
        rng = random.Random(seed)
        prompt, negative = draw(self.prompt, rng), draw(self.negative_prompt, rng, "negative_prompt")
        self.count += 1
        return {"prompt": prompt, "generator": seed, "negative_prompt": negative, **self.inputs}

    def _ended(self) -> bool:
        if self.seeds is not None and self.count >= len(self.seeds) * self.max_seed_rounds:
            return True
        # without a limit and without seeds there would be no end
        return self.count >= self.max_count and (self.max_count > 0 or self.seeds is None)

    def _seed(self) -> int:
        if self.seeds is None:
            return random.randint(1, 2**32 - 1)
        return self.seeds[self.count % len(self.seeds)]
