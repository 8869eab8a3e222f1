"""Places of tensors: where a module's tensor lies in a file whose names and shapes are another tool's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by name."""


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor of a module as a file has it.

    Attributes:
        name: The tensor in the file.
        rows: The first and the last row but one, if the module has a part of the file's tensor; None for all.
        change: `matrix`: a 1 x 1 convolution there, a matrix in the module. `transposed`: rows are columns there.
            `halves swapped`: the second half of the rows comes first there. `view`: the rows are not copied.
            `identity`: a matrix that changes nothing, of the size of a vector there.
    """

    name: str
    rows: tuple[int, int] | None = None
    change: Literal["", "matrix", "transposed", "halves swapped", "view", "identity"] = ""

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that a stored tensor has in the module."""
        if self.rows is not None:
            return (self.rows[1] - self.rows[0], *stored[1:])
        if self.change == "matrix":
            return stored[:2]
        if self.change == "identity":
            return (stored[0], stored[0])
        return stored[::-1] if self.change == "transposed" else stored

    def read(self, stored: torch.Tensor) -> torch.Tensor:
        """Make the module's tensor of the stored one.

        What is cut or turned is copied where diffusers' converters do it: the last bits of a matrix product depend on
        where in a cache line a matrix begins.
        """
        import torch

        if self.rows is not None:
            part = stored[slice(*self.rows)]
            return part if self.change == "view" else part.clone()
        if self.change == "matrix":
            return stored.reshape(stored.shape[:2])
        if self.change == "identity":
            return torch.eye(len(stored), dtype=stored.dtype)
        if self.change == "transposed":
            return stored.T.contiguous()
        if self.change == "halves swapped":
            first, second = stored.chunk(2)
            return torch.cat([second, first])
        return stored


Places = dict[str, Place]
"""The places of a module's tensors, by diffusers' or transformers' names."""


def placed(places: Places, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Make a module's tensors of a file's, which are taken out of `tensors`: no more than one is in memory twice."""
    left = Counter(place.name for place in places.values())
    found = {}
    for name, place in places.items():
        left[place.name] -= 1
        found[name] = place.read(tensors[place.name] if left[place.name] else tensors.pop(place.name))
    return found


def count(names: Iterable[str], start: str) -> int:
    """How many numbered blocks there are, counted from 0: one more than the highest number after `start` and a dot."""
    numbered = re.compile(re.escape(start) + r"\.(\d+)(?:\.|$)")
    return max((int(match[1]) + 1 for name in names if (match := numbered.match(name))), default=0)


def in_thirds(names: Iterable[str], place: str, shapes: Shapes) -> Places:
    """Places of three tensors of equal size that a file has in one piece, one below the other."""
    third = shapes[place][0] // 3
    return {name: Place(place, (n * third, (n + 1) * third)) for n, name in enumerate(names)}
