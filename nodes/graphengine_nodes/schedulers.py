"""Schedulers by the class names of diffusers. One is made fresh for each run: they hold state."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from graphengine.errors import nearest

KARRAS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "DPMSolverSDEScheduler",
    "EDMEulerScheduler",
)
"""`diffusers.schedulers.KarrasDiffusionSchedulers` by name, written out so that validation needs no torch."""

FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
"""Schedulers of flow-matching families."""

SPACINGS = ("leading", "linspace", "trailing")


def check_name(name: str, kind: Sequence[str], family: str) -> None:
    """Refuse a scheduler that the family cannot use.

    Raises:
        ValueError: There is none of that name, or it is of another kind.
    """
    if name in kind:
        return
    if name in KARRAS or name in FLOW:
        raise ValueError(f"{name} is of the wrong kind for {family}; it takes one of {', '.join(kind)}")
    near = nearest(name, kind)
    advice = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(kind)}"
    raise ValueError(f"there is no scheduler {name!r}; {advice}")


def make(
    config: Mapping[str, Any],
    name: str | None,
    spacing: str | None,
    seeds: Sequence[int],
    kind: Sequence[str],
    family: str,
) -> Any:
    """A new scheduler.

    Args:
        config: The model's own scheduler configuration, with `_class_name`.
        name: Another class in its place, over the same configuration; None for the model's own.
        spacing: Another timestep spacing.
        seeds: The seeds of the pictures, for schedulers that draw their noise from a seed of their own.
        kind: The names that the family can use.

    Raises:
        ValueError: The scheduler is unknown or of the wrong kind, or has no timestep spacing.
    """
    import importlib

    own_name = str(config.get("_class_name"))
    name = name or own_name
    check_name(name, kind, family)

    def scheduler_class(name: str) -> Any:
        return getattr(importlib.import_module("diffusers.schedulers"), name)

    cls = scheduler_class(name)
    parameters = inspect.signature(cls.__init__).parameters
    extra: dict[str, Any] = {}
    if spacing is not None:
        if spacing not in SPACINGS:
            raise ValueError(f"there is no timestep spacing {spacing!r}; known are {', '.join(SPACINGS)}")
        if "timestep_spacing" not in parameters:
            raise ValueError(f"{name} has no timestep spacing; leave timestep_spacing out or take another scheduler")
        extra["timestep_spacing"] = spacing
    if "noise_sampler_seed" in parameters:
        # This one draws from no generator: without a seed of ours its pictures could not be made again.
        extra["noise_sampler_seed"] = seeds[0] if len(seeds) == 1 else list(seeds)
    if name != own_name and own_name in KARRAS + FLOW:
        # As users write it: X.from_config(pipe.scheduler.config).
        config = scheduler_class(own_name).from_config(config).config
    return cls.from_config(config, **extra)
