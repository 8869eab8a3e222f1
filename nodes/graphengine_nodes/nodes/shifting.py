"""Shift of flow models: how much of the steps goes to the noisy part of the schedule."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from graphengine import Doc, ModelError, Range, node
from graphengine_nodes.families.lookup import family
from graphengine_nodes.families.noise_schedulers import FLOW
from graphengine_nodes.values.types import Model


@node(version=1)
def shift(
    model: Model,
    shift: Annotated[
        float | None, Range(0.01, 100, 0.05), Doc("The same for all sizes; 1 is none, higher is more for the noise.")
    ] = None,
    base_shift: Annotated[
        float | None, Range(0, 100, 0.05), Doc("Its logarithm for small pictures: 256 tokens, 256 x 256 pixels.")
    ] = None,
    max_shift: Annotated[
        float | None, Range(0, 100, 0.05), Doc("Its logarithm for large pictures: 4096 tokens, 1024 x 1024 pixels.")
    ] = None,
) -> Model:
    """Change how a flow model's schedule is shifted towards noise: by one number, or by two that follow the size.

    Nothing but the configuration of the model's scheduler changes (diffusers' `shift` or `flow_shift`, or `base_shift`
    and `max_shift`). In ComfyUI: `ModelSamplingSD3`, `ModelSamplingAuraFlow` (one number), `ModelSamplingFlux` (two).

    Raises:
        ModelError: Neither one number nor both of the two are given; the model matches no flows.
    """
    two = (base_shift, max_shift)
    if (shift is None) == (None in two) or (shift is not None and two != (None, None)):
        raise ModelError("give shift alone, or base_shift and max_shift, which follow the size of the picture")
    if not set(family(model.family).schedulers) & set(FLOW):
        raise ModelError(f"{model.source}, {model.family}, matches no flows: its schedule is not shifted, leave it out")
    kept = {name: value for name, value in model.settings if name not in ("shift", "base_shift", "max_shift")}
    given = {"shift": shift, "base_shift": base_shift, "max_shift": max_shift}
    changed = kept | {name: float(value) for name, value in given.items() if value is not None}
    return replace(model, settings=tuple(sorted(changed.items())))
