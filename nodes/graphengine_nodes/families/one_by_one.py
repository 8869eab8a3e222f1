"""Sampling of several pictures one after another, for pipelines that make one in a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graphengine_nodes.families.family import Sampled, SampleRequest, Step
from graphengine_nodes.values.types import Image

if TYPE_CHECKING:
    import torch


def one_by_one(request: SampleRequest, sample: Any, step: Step) -> Sampled:
    """Sample the pictures of a request one after another."""
    import torch

    count, found = len(request.seeds), []
    parts: dict[int, torch.Tensor] = {}
    for index, seed in enumerate(request.seeds):
        one = replace(
            request,
            seeds=[seed],
            positive=[_of(request.positive, index, count)],
            negative=[_of(request.negative, index, count)] if request.negative else (),
            random=(request.random[index],) if len(request.random) > 1 else request.random,
            **_pictures_of(request, index, count),
        )

        def told(done: int, total: int, samples: torch.Tensor, index: int = index) -> None:
            parts[index] = samples
            shown = [parts.get(n, torch.zeros_like(samples)) for n in range(count)]
            step(index * total + done, count * total, torch.cat(shown))

        found.append(sample(one, told))
        if len(request.random) == 1:  # one generator draws all pictures
            request = replace(request, random=found[-1].random)
    random = tuple(state for one in found for state in one.random)
    return Sampled(torch.cat([one.samples for one in found]), random if len(request.random) != 1 else found[-1].random)


def _pictures_of(request: SampleRequest, index: int, count: int) -> dict[str, Any]:
    """What one of several pictures starts from and follows, of which there may be one for each or one for all."""

    def row(batch: torch.Tensor) -> torch.Tensor:
        at = index * len(batch) // count
        return batch[at : at + 1]

    found: dict[str, Any] = {
        "control": [replace(one, image=Image(row(one.image.pixels))) for one in request.control],
    }
    if request.image is not None:
        found["image"] = Image(row(request.image.pixels))
    if request.mask is not None:
        found["mask"] = replace(request.mask, values=row(request.mask.values))
    return found


def _of(values: Sequence[Any], index: int, count: int) -> Any:
    return values[index * len(values) // count]
