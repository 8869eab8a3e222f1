"""Sampling of several pictures one after another, for pipelines that make one in a call."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graphengine_nodes.families.arguments import each_picture
from graphengine_nodes.families.family import Sampled, SampleRequest, Step
from graphengine_nodes.values.types import Image, Latent

if TYPE_CHECKING:
    import torch


def one_by_one(request: SampleRequest, sample: Any, step: Step) -> Sampled:
    """Sample the pictures of a request one after another.

    Raises:
        ValueError: There are prompts or pictures to start from or to follow that do not come out even.
    """
    import torch

    count = len(request.seeds)
    found: list[Sampled] = []
    parts: dict[int, torch.Tensor] = {}
    positive = each_picture(request.positive, count)
    negative = each_picture(request.negative, count) if request.negative else []
    _check_counts(request, count)
    for index, seed in enumerate(request.seeds):
        one = replace(
            request,
            seeds=[seed],
            positive=[positive[index]],
            negative=negative[index : index + 1],
            random=(request.random[index],) if len(request.random) > 1 else request.random,
            **_pictures_of(request, index),
        )

        def told(done: int, total: int, samples: torch.Tensor, index: int = index) -> None:
            parts[index] = samples
            shown = [parts.get(n, torch.zeros_like(samples)) for n in range(count)]
            step(index * total + done, count * total, torch.cat(shown))

        found.append(sample(one, told))
        if len(request.random) == 1:  # one generator draws all pictures
            request = replace(request, random=found[-1].random)
    random = tuple(state for one in found for state in one.random)
    random = random if len(request.random) != 1 else found[-1].random
    return found[-1]._replace(samples=torch.cat([one.samples for one in found]), random=random)


def _check_counts(request: SampleRequest, count: int) -> None:
    given = [("control pictures", len(one.image)) for one in request.control]
    given += [] if request.image is None else [("pictures to paint over", len(request.image))]
    given += [] if request.mask is None else [("masks", len(request.mask.values))]
    for name, number in given:
        if count % number:
            raise ValueError(f"{number} {name} for {count} pictures; give one, or one for each picture")


def _pictures_of(request: SampleRequest, index: int) -> dict[str, Any]:
    """What one of several pictures starts from and follows, of which there may be one for each or one for all.

    Fewer pictures than there are to make come again in their order, as `arguments.repeat` has them.
    """

    def picture(batch: Image) -> Image:
        return batch.split()[index % len(batch)]

    found: dict[str, Any] = {"control": [replace(one, image=picture(one.image)) for one in request.control]}
    if isinstance(request.latent, Latent):  # one that is gone on with
        at = index % len(request.latent.samples)
        found["latent"] = replace(request.latent, samples=request.latent.samples[at : at + 1])
    if request.image is not None:
        found["image"] = picture(request.image)
    if request.mask is not None:
        at = index % len(request.mask.values)
        found["mask"] = replace(request.mask, values=request.mask.values[at : at + 1])
    return found
