"""Tables of sigmas by the names of ComfyUI's schedulers: the noise levels that a sampler goes down."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from graphengine import nearest
from graphengine_comfy.sampling.model_sampling import ModelSampling

if TYPE_CHECKING:
    import torch

DROP_BEFORE_LAST = ("dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2")
"""Samplers that take a table of one step more, without its sigma before the last."""

MOST_STEPS = 10_000
"""Steps of a table, also of the longer one of which `denoise` takes a part."""


def sigma_table(
    model: ModelSampling, scheduler: str, steps: int, denoise: float = 1.0, sampler: str = "euler"
) -> torch.Tensor:
    """The sigmas that a sampler goes down, as ComfyUI's KSampler makes them.

    Args:
        model: The noise levels of the model.
        scheduler: One of `SCHEDULES`.
        steps: Number of steps.
        denoise: 1 for the whole table. Below it the last `steps + 1` sigmas of the table of `int(steps / denoise)`
            steps; it is no share of the sigmas and not diffusers' `strength`. 0 and below is an empty table.
        sampler: Some samplers take another table (`DROP_BEFORE_LAST`).

    Returns:
        float32 of shape `(steps + 1,)`, falling to 0. `beta` leaves out what it would repeat and `ddim_uniform` counts
        in whole timesteps, so theirs may have other lengths.

    Raises:
        ValueError: There is no such scheduler, or no table of so many steps.
    """
    import torch

    check_scheduler(scheduler)
    if steps < 1:
        raise ValueError(f"a table of sigmas has at least 1 step, not {steps}")
    if not denoise > 0:  # nor NaN
        return torch.zeros(0)
    total = steps if denoise > 0.9999 else int(min(steps / denoise, 1e9))
    if total > MOST_STEPS:
        raise ValueError(f"{steps} steps at denoise {denoise:g} need a table of {total}; at most {MOST_STEPS} are made")
    if sampler in DROP_BEFORE_LAST:
        table = SCHEDULES[scheduler](model, total + 1)
        table = torch.cat([table[:-2], table[-1:]])
    else:
        table = SCHEDULES[scheduler](model, total)
    return table if total == steps else table[-(steps + 1) :]


def check_scheduler(name: str) -> None:
    """Refuse a scheduler that there is not.

    Raises:
        ValueError: It is none of `SCHEDULES`; the nearest are named.
    """
    if name not in SCHEDULES:
        near = nearest(name, dict.fromkeys(SCHEDULES))
        advice = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(SCHEDULES)}"
        raise ValueError(f"there is no scheduler {name!r}; {advice}")


def _to_zero(values: object) -> torch.Tensor:
    """Sigmas as float32, with a last one of 0."""
    import torch

    return torch.cat([torch.as_tensor(values, dtype=torch.float32), torch.zeros(1)])


def _even(model: ModelSampling, count: int, end: float) -> torch.Tensor:
    """Sigmas at positions spread evenly from that of the largest sigma to `end`."""
    import torch

    return model.sigma(torch.linspace(model.position(model.sigma_max), end, count, dtype=torch.float64))


def _normal(model: ModelSampling, steps: int) -> torch.Tensor:
    return _to_zero(_even(model, steps, model.position(model.sigma_min)))


def _sgm_uniform(model: ModelSampling, steps: int) -> torch.Tensor:
    """As `normal`, but with even steps to the end of training: the last step is as long as the others."""
    return _to_zero(_even(model, steps + 1, model.position(model.sigma_min))[:-1])


def _simple(model: ModelSampling, steps: int) -> torch.Tensor:
    """Every so many entries of the model's own table, from its end."""
    count = len(model.sigmas)
    return _to_zero(model.sigmas[[count - 1 - int(step * count / steps) for step in range(steps)]])


def _ddim_uniform(model: ModelSampling, steps: int) -> torch.Tensor:
    """Every so many entries of the model's own table, from its second entry on: the largest sigma is not reached."""
    return _to_zero(model.sigmas[1 :: max(len(model.sigmas) // steps, 1)].flip(0))


def _karras(model: ModelSampling, steps: int) -> torch.Tensor:
    """Even in the 7th root of sigma (Karras et al. 2022, equation 5)."""
    import torch

    roots = torch.linspace(model.sigma_max ** (1 / 7), model.sigma_min ** (1 / 7), steps, dtype=torch.float64)
    return _to_zero(roots**7)


def _exponential(model: ModelSampling, steps: int) -> torch.Tensor:
    """Even in the logarithm of sigma."""
    import torch

    return _to_zero(torch.linspace(math.log(model.sigma_max), math.log(model.sigma_min), steps).double().exp())


def _beta(model: ModelSampling, steps: int) -> torch.Tensor:
    """Quantiles of a beta distribution, dense at both ends (Lee et al. 2024, "Beta sampling is all you need")."""
    import numpy as np
    from scipy.special import betaincinv

    shares = 1 - np.linspace(0, 1, steps, endpoint=False)
    entries = np.rint(betaincinv(0.6, 0.6, shares) * (len(model.sigmas) - 1)).astype(int)
    return _to_zero(model.sigmas[list(dict.fromkeys(entries.tolist()))])


def _linear_quadratic(model: ModelSampling, steps: int) -> torch.Tensor:
    """Half of the steps remove 2.5 % of the noise evenly, the others ever more, without a bend (Genmo's Mochi)."""
    import torch

    if steps == 1:
        return _to_zero([model.sigma_max])
    first, removed = steps // 2, 0.025
    slope, rest = removed / first, steps - first
    curve = (1 - removed - slope * rest) / rest**2
    step = torch.arange(steps, dtype=torch.float64)
    return _to_zero(model.sigma_max * (1 - slope * step - curve * (step - first).clamp(min=0) ** 2))


def _kl_optimal(model: ModelSampling, steps: int) -> torch.Tensor:
    """Even in the arc tangent of sigma (Sabour et al. 2024, "Align Your Steps", equation 10)."""
    import torch

    return _to_zero(torch.linspace(math.atan(model.sigma_max), math.atan(model.sigma_min), steps).double().tan())


SCHEDULES: Mapping[str, Callable[[ModelSampling, int], torch.Tensor]] = {
    "simple": _simple,
    "sgm_uniform": _sgm_uniform,
    "karras": _karras,
    "exponential": _exponential,
    "ddim_uniform": _ddim_uniform,
    "beta": _beta,
    "normal": _normal,
    "linear_quadratic": _linear_quadratic,
    "kl_optimal": _kl_optimal,
}
"""ComfyUI's schedulers by name, in its order: the table of a number of steps over a model's noise levels."""
