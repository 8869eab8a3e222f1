"""Schedulers by the class names of diffusers; made anew for each run, since they hold state."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from graphengine import nearest
from graphengine_nodes.families import scheduler_options

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

DISTILLED = ("LCMScheduler", "TCDScheduler")
"""Schedulers of models, and with LoRAs, that need a few steps only."""

FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
"""Schedulers of flow-matching families."""

SPACINGS = ("leading", "linspace", "trailing")


def check_name(name: str, kind: Sequence[str], family: str, suggested: Sequence[str] = ()) -> None:
    """Refuse a scheduler that the family cannot use.

    Args:
        kind: The classes that it can use.
        suggested: Further names that it takes, to suggest one that is near.

    Raises:
        ValueError: There is no scheduler of that name, or the family cannot use it.
    """
    if name in kind:
        return
    if name in (*KARRAS, *DISTILLED, *FLOW):
        raise ValueError(f"{name} is of the wrong kind for {family}; it takes one of {', '.join(kind)}")
    near = nearest(name, dict.fromkeys([*kind, *suggested]))
    advice = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(kind)}"
    raise ValueError(f"there is no scheduler {name!r}; {advice}")


def own(config: Mapping[str, Any], name: str | None, seeds: Sequence[int], kind: Sequence[str], family: str) -> Any:
    """Make the model's own scheduler, with which a pipeline is constructed even if it samples with another one.

    Args:
        config: Its configuration, with `_class_name`.
        name: The class that will replace it; None if it stays.
        seeds: The seeds of the pictures, for schedulers that draw their noise from a seed of their own.
        kind: The names that the family can use.

    Raises:
        ValueError: The scheduler is unknown or of the wrong kind, or its configuration cannot be used.
    """
    import importlib

    own_name = str(config.get("_class_name"))
    check_name(name or own_name, kind, family)
    known = importlib.import_module("diffusers.schedulers")
    cls = getattr(known, own_name, None) or getattr(known, str(name))
    try:
        return cls.from_config(config, **_seeds(cls, seeds))
    except (TypeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the configuration of the model's {own_name} cannot be used: {reason:.200}") from None


def make(
    own: Any, name: str | None, spacing: str | None, seeds: Sequence[int], options: Mapping[str, Any] | None = None
) -> Any:
    """The scheduler to sample with, as users write it: `X.from_config(pipe.scheduler.config)`.

    Args:
        own: The model's own, after the pipeline was constructed with it: pipelines correct outdated configurations.
        name: Another class in its place, over the same configuration; None for the model's own, as it is.
        spacing: Another timestep spacing.
        seeds: The seeds of the pictures.
        options: Of its constructor, in place of what the configuration says.

    Raises:
        ValueError: It has no timestep spacing, or not this one; it has no such option; it cannot be made of that
            configuration.
    """
    import importlib

    cls = type(own) if name is None else getattr(importlib.import_module("diffusers.schedulers"), name)
    changes = dict(options or {})
    for problem in scheduler_options.problems(cls.__name__, changes):
        raise ValueError(problem)
    if spacing is not None:
        _check_spacing(cls, spacing)
        changes["timestep_spacing"] = spacing
    if any(changes.get(one) for one in scheduler_options.SCHEDULES):  # in place of the model's own
        changes = {one: False for one in scheduler_options.SCHEDULES if own.config.get(one)} | changes
    if name is None and not changes:
        return own
    made = _made(cls, own, {**_across(own, cls), **changes, **_seeds(cls, seeds)})
    if idle := scheduler_options.without_effect(changes, made.config):
        raise ValueError(idle)
    return made


def _across(own: Any, cls: Any) -> dict[str, Any]:
    """What a model's scheduler says of flows, by the names that a scheduler of another kind has for it.

    `from_config` alone passes it by silently: a scheduler for noise would denoise a flow model as one that predicts
    noise, and a scheduler for flows would not shift.
    """
    config, flows = own.config, cls.__name__ in FLOW
    if flows == (type(own).__name__ in FLOW):
        return {}
    if flows:
        return {"shift": config.get("flow_shift", 1.0)}
    shift = {"flow_shift": config.get("shift", 1.0), "use_dynamic_shifting": config.get("use_dynamic_shifting", False)}
    return {"use_flow_sigmas": True, "prediction_type": "flow_prediction", **shift}


def _check_spacing(cls: Any, spacing: str) -> None:
    """Refuse a timestep spacing that there is not, or that a class does not have.

    Raises:
        ValueError: It is so.
    """
    if spacing not in SPACINGS:
        raise ValueError(f"there is no timestep spacing {spacing!r}; known are {', '.join(SPACINGS)}")
    if "timestep_spacing" not in inspect.signature(cls.__init__).parameters:
        taken = cls.__name__
        raise ValueError(f"{taken} has no timestep spacing; leave timestep_spacing out or take another scheduler")


def check_zero_snr(scheduler: Any) -> None:
    """Refuse a scheduler that cannot begin at noise without any signal, for a model that was trained so.

    Raises:
        ValueError: It cannot.
    """
    if "rescale_betas_zero_snr" not in inspect.signature(type(scheduler).__init__).parameters:
        raise ValueError(
            f"the model was trained down to no signal (zero terminal SNR), where {type(scheduler).__name__} cannot "
            "begin; take EulerDiscreteScheduler, DDIMScheduler or DPMSolverMultistepScheduler"
        )


_FAILURES = (ValueError, TypeError, IndexError, RuntimeError, ArithmeticError, AssertionError)
"""What diffusers raises at a schedule that cannot be made."""


def guard(scheduler: Any, options: Mapping[str, Any], times: Mapping[str, Any]) -> None:
    """Make a scheduler say in one sentence why it cannot step as it should, when its timesteps are set.

    Args:
        scheduler: Made for one call, and changed here.
        options: Those of its constructor that were chosen, for messages.
        times: The caller's own sigmas or timesteps, if any.

    Raises:
        ValueError: It does not take these times.
    """
    name = type(scheduler).__name__
    lists = {one: value.tolist() if hasattr(value, "tolist") else value for one, value in times.items()}
    for problem in scheduler_options.problems(name, {**options, **lists}):
        raise ValueError(problem)
    set_timesteps = scheduler.set_timesteps

    def said() -> str:
        return ", ".join(f"{one} {value!r:.40}" for one, value in {**options, **lists}.items()) or "its options"

    @functools.wraps(set_timesteps)
    def guarded(*args: Any, **kwargs: Any) -> None:
        _end_in_lower_order(scheduler, args, kwargs, options)
        kwargs = _as_taken(scheduler, kwargs)
        try:
            set_timesteps(*args, **kwargs)
        except _FAILURES as error:
            if type(error).__name__ == "OutOfMemoryError":
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{name} cannot make its schedule with {said()}: {reason:.200}") from None
        if scheduler.config.get("use_flow_sigmas") and not _falls(scheduler.sigmas):
            # diffusers makes these schedules from 1000 noise levels or from the pipeline's own sigmas, turned around.
            raise ValueError(
                f"{name} makes no schedule from noise to a picture with {said()} in a flow-matching model; take "
                f"{FLOW[0]} or another noise schedule"
            )
        if scheduler.config.get("shift_terminal") and len(scheduler.timesteps) == 1:
            raise ValueError(f"{name} ends at a sigma of its own, to which one step alone cannot lead: take 2 steps")
        trained = getattr(scheduler.config, "num_train_timesteps", None)
        by_index = name not in FLOW and ("timesteps" in times or not hasattr(scheduler, "sigmas"))
        if by_index and trained and float(scheduler.timesteps.max()) >= trained:
            first = float(scheduler.timesteps.max())
            raise ValueError(f"{name} would begin at timestep {first:g}, but the model was trained up to {trained - 1}")

    scheduler.set_timesteps = guarded
    if name == "UniPCMultistepScheduler":
        _guard_step(scheduler)


def _falls(sigmas: Any) -> bool:
    """Whether sigmas of flow matching go down from noise, which is 1."""
    return float(sigmas[0]) <= 1 and bool((sigmas[1:] <= sigmas[:-1]).all())


def _as_taken(scheduler: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A flow pipeline's arguments as a scheduler of the other kind takes them: sigmas as an array, and no `mu`, which
    flow matching's Euler ignores too, unless shifting is dynamic."""
    import numpy as np

    found = dict(kwargs)
    if not scheduler.config.get("use_flow_sigmas"):
        return found
    if isinstance(found.get("sigmas"), list):
        found["sigmas"] = np.asarray(found["sigmas"], dtype=np.float64)
    if not scheduler.config.get("use_dynamic_shifting"):
        found.pop("mu", None)
    return found


def _guard_step(scheduler: Any) -> None:
    """Make a scheduler that asserts that a step is left say why none is."""
    step = scheduler.step

    @functools.wraps(step)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return step(*args, **kwargs)
        except AssertionError:  # it began at the second of two equal timesteps
            raise ValueError(
                f"{type(scheduler).__name__} cannot step twice at timestep {int(scheduler.timesteps[0])}, as this "
                "noise schedule has it; take another schedule or scheduler"
            ) from None

    scheduler.step = guarded


def _end_in_lower_order(scheduler: Any, args: Any, kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Set the option that `DPMSolverSinglestepScheduler` needs, as it does itself, where it prints a notice.

    Raises:
        ValueError: The caller wants the contrary.
    """
    config = scheduler.config
    if type(scheduler).__name__ != "DPMSolverSinglestepScheduler" or config.lower_order_final:
        return
    own = kwargs.get("timesteps")
    steps = len(own) if own is not None else kwargs.get("num_inference_steps") or args[0]
    if steps % config.solver_order or config.final_sigmas_type == "zero":
        if options.get("lower_order_final") is False:
            raise ValueError(
                "DPMSolverSinglestepScheduler takes lower_order_final false only with final_sigmas_type sigma_min, and "
                "steps that solver_order divides; leave it out"
            )
        scheduler.register_to_config(lower_order_final=True)


def _made(cls: Any, own: Any, options: Mapping[str, Any]) -> Any:
    try:
        return cls.from_config(own.config, **options)
    except TypeError:  # another class may compute with an entry that this class leaves None
        raise ValueError(
            f"{cls.__name__} cannot be made of the model's {type(own).__name__}; take another scheduler"
        ) from None
    except (ValueError, NotImplementedError, ImportError) as error:
        raise ValueError(f"{cls.__name__} cannot be made so: {' '.join(str(error).split()):.200}") from None


def _seeds(cls: Any, seeds: Sequence[int]) -> dict[str, Any]:
    """The seeds for a class that draws from no generator: without them its pictures could not be made again."""
    if "noise_sampler_seed" not in inspect.signature(cls.__init__).parameters:
        return {}
    return {"noise_sampler_seed": seeds[0] if len(seeds) == 1 else list(seeds)}
