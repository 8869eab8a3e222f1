"""Samplers that draw noise between the steps: ancestral ones, and solvers of the reverse stochastic equation.

They are written as those in `solvers`. Noise takes the place of what was removed too much, so for flow matching the
scale 1 - sigma of the picture has to be kept: ancestral samplers do so in `_renoised`. The solvers of stochastic
equations are written for variance-exploding sigmas; a flow is such a process of y = x / (1 - sigma) at the sigmas
sigma / (1 - sigma), and `_of_flows` runs them there.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from graphengine_comfy.sampling.solvers import Solver, Steps, Surroundings

if TYPE_CHECKING:
    import torch


def euler_ancestral(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """Euler's method further down than the next sigma, and noise up to it: ancestral sampling (Ho et al. 2020, Song et
    al. 2020), as in k-diffusion. DDPM's own step is the same."""
    for sigma, following in itertools.pairwise(sigmas):
        x, denoised = yield x, sigma
        down = _down(sigma, following)
        x = _renoised(x + (down - sigma) * (x - denoised) / sigma, sigma, down, following, around)
    return x


def dpm_2_ancestral(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """`dpm_2` further down than the next sigma, and noise up to it (k-diffusion)."""
    for sigma, following in itertools.pairwise(sigmas):
        x, denoised = yield x, sigma
        slope = (x - denoised) / sigma
        down = _down(sigma, following)
        if down > 0:
            middle = math.sqrt(sigma * down)
            halfway, denoised = yield x + (middle - sigma) * slope, middle
            slope = (halfway - denoised) / middle
        x = _renoised(x + (down - sigma) * slope, sigma, down, following, around)
    return x


def dpmpp_2s_ancestral(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """DPM-Solver++(2S) (Lu et al. 2022) further down than the next sigma, and noise up to it (k-diffusion)."""
    for sigma, following in itertools.pairwise(sigmas):
        x, denoised = yield x, sigma
        down = _down(sigma, following)
        if down > 0:
            middle = _middle(sigma, down, around.flow)
            halfway = middle / sigma * x + (1 - middle / sigma) * denoised
            _, denoised = yield halfway, middle
        x = _renoised(down / sigma * x + (1 - down / sigma) * denoised, sigma, down, following, around)
    return x


def lcm(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """Multistep consistency sampling (Luo et al. 2023): all noise is removed, and new noise of the next sigma added."""
    for sigma, following in itertools.pairwise(sigmas):
        _, x = yield x, sigma
        if following > 0:
            x = (1 - following if around.flow else 1) * x + following * around.noise(sigma, following)
    return x


def _down(sigma: float, following: float) -> float:
    """The sigma to step down to before noise leads up to the following one.

    The noise has the variance that it has in the reverse of the diffusion, following^2 (sigma^2 - following^2) /
    sigma^2; what is left of following^2 is the square of this. For flow matching ComfyUI steps down by the same ratio.
    """
    return following**2 / sigma


def _middle(sigma: float, down: float, flow: bool) -> float:
    """The sigma in the middle of a step, by the half logarithm of the signal-to-noise ratio."""
    if not flow:
        return math.sqrt(sigma * down)
    if sigma == 1:
        return 0.9999  # where the ratio is 0 and its logarithm infinite: ComfyUI's choice
    ratio = math.sqrt((1 - sigma) / sigma * (1 - down) / down)
    return 1 / (1 + ratio)


def _renoised(x: torch.Tensor, sigma: float, down: float, following: float, around: Surroundings) -> torch.Tensor:
    """Noise added from the sigma `down` up to the following one; none at 0."""
    if following == 0:
        return x
    scale = (1 - following) / (1 - down) if around.flow else 1.0
    added = math.sqrt(max(following**2 - (scale * down) ** 2, 0.0))
    return scale * x + added * around.noise(sigma, following)


def res_multistep_ancestral(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """`res_multistep` further down than the next sigma, and noise up to it; a picture's change is over the way down."""
    before, span = None, 0.0
    for sigma, following in itertools.pairwise(sigmas):
        x, denoised = yield x, sigma
        if following == 0:
            return denoised
        down = _down(sigma, following)
        length = math.log(sigma / down)
        towards = -math.expm1(-length) * denoised
        if before is not None:
            bend = (1 + math.expm1(-length) / length) * length / span
            towards = towards + bend * (denoised - before)
        x = _renoised(down / sigma * x + towards, sigma, down, following, around)
        before, span = denoised, length
    return x


# --- solvers of the reverse stochastic equation, with eta 1 -----------------------------------------------------------


def _of_flows(solver: Solver) -> Solver:
    """A solver for variance-exploding sigmas, for flow matching too."""

    @functools.wraps(solver)
    def either(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
        if not around.flow:
            return solver(x, sigmas, around)
        return _through_flow(solver, x, sigmas, around)

    return either


def _through_flow(solver: Solver, x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """Run a solver on x / (1 - sigma) at the sigmas sigma / (1 - sigma)."""
    shares = [min(sigmas[0], around.nearly_noise), *sigmas[1:]]

    def noise(sigma: float, following: float) -> torch.Tensor:
        return around.noise(sigma / (1 + sigma), following / (1 + following))

    under_way = solver(x / (1 - shares[0]), [share / (1 - share) for share in shares], Surroundings(noise))
    try:
        y, sigma = next(under_way)
        while True:
            x, denoised = yield y / (1 + sigma), sigma / (1 + sigma)
            y, sigma = under_way.send((x * (1 + sigma), denoised))
    except StopIteration as done:
        result: torch.Tensor = done.value
        return result * (1 - shares[-1])


def _fresh(length: float) -> float:
    """The standard deviation of the noise that replaces old noise over a length of lambda, at sigma 1."""
    return math.sqrt(-math.expm1(-2 * length))


@_of_flows
def dpmpp_sde(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """DPM-Solver++(2S) of the stochastic equation (Lu et al. 2022), its middle in lambda, as in k-diffusion."""
    for sigma, following in itertools.pairwise(sigmas):
        x, denoised = yield x, sigma
        if following == 0:
            return denoised
        middle = math.sqrt(sigma * following)
        down = _down(sigma, middle)
        halfway = down / sigma * x + (1 - down / sigma) * denoised
        halfway = halfway + math.sqrt(middle**2 - down**2) * around.noise(sigma, middle)
        _, denoised = yield halfway, middle
        down = _down(sigma, following)
        x = down / sigma * x + (1 - down / sigma) * denoised
        x = x + math.sqrt(following**2 - down**2) * around.noise(sigma, following)
    return x


def _dpmpp_2m_sde(bend: Callable[[float], float]) -> Solver:
    """SDE-DPM-Solver++(2M), with the weight of the change of pictures by the doubled length of the step."""

    def solver(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
        before, length_before = None, 0.0
        for sigma, following in itertools.pairwise(sigmas):
            x, denoised = yield x, sigma
            if following == 0:
                return denoised
            length = math.log(sigma / following)
            x = math.exp(-2 * length) * x - math.expm1(-2 * length) * denoised
            if before is not None:
                x = x + bend(2 * length) * length / length_before * (denoised - before)
            x = x + following * _fresh(length) * around.noise(sigma, following)
            before, length_before = denoised, length
        return x

    return solver


dpmpp_2m_sde = _of_flows(_dpmpp_2m_sde(lambda length: -math.expm1(-length) / 2))
"""SDE-DPM-Solver++(2M) (Lu et al. 2022), midpoint form."""

dpmpp_2m_sde_heun = _of_flows(_dpmpp_2m_sde(lambda length: 1 + math.expm1(-length) / length))
"""SDE-DPM-Solver++(2M) (Lu et al. 2022), Heun's form."""


@_of_flows
def dpmpp_3m_sde(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """SDE-DPM-Solver++(3M), as in k-diffusion: the last three pictures are continued by a parabola in lambda."""
    pictures: list[torch.Tensor] = []
    lengths: list[float] = []
    for sigma, following in itertools.pairwise(sigmas):
        x, denoised = yield x, sigma
        if following == 0:
            return denoised
        length = math.log(sigma / following)
        x = math.exp(-2 * length) * x - math.expm1(-2 * length) * denoised
        first = 1 + math.expm1(-2 * length) / (2 * length)
        second = first / (2 * length) - 0.5
        if len(pictures) == 1:
            x = x + first * (denoised - pictures[0]) * length / lengths[0]
        elif len(pictures) == 2:
            near, far = lengths[0] / length, lengths[1] / length
            change, change_before = (denoised - pictures[0]) / near, (pictures[0] - pictures[1]) / far
            curve = (change - change_before) / (near + far)
            x = x + first * (change + near * curve) - second * curve
        x = x + following * _fresh(length) * around.noise(sigma, following)
        pictures, lengths = [denoised, *pictures][:2], [length, *lengths][:2]
    return x


@_of_flows
def er_sde(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """ER-SDE-Solver-3 (Cui et al. 2023, "Elucidating the solution space of extended reverse-time SDE for diffusion
    models"), with its noise scale sigma * (exp(sigma ** 0.3) + 10)."""
    import numpy as np

    def scale(sigma: float) -> float:
        return sigma * (math.exp(sigma**0.3) + 10)

    points, weights = np.polynomial.legendre.leggauss(64)
    before = change_before = None
    earlier: list[float] = []
    for sigma, following in itertools.pairwise(sigmas):
        x, denoised = yield x, sigma
        if following == 0:
            return denoised
        ratio = scale(following) / scale(sigma)
        x = ratio * x + (1 - ratio) * denoised
        if before is not None:
            at = (sigma + following) / 2 + (sigma - following) / 2 * points
            inverse = (sigma - following) / 2 * weights / np.array([scale(one) for one in at])
            change = (denoised - before) / (sigma - earlier[0])
            x = x + (following - sigma + float(inverse.sum()) * scale(following)) * change
            if change_before is not None:
                curve = (change - change_before) / ((sigma - earlier[1]) / 2)
                bent = float((inverse * (at - sigma)).sum())
                x = x + ((following - sigma) ** 2 / 2 + bent * scale(following)) * curve
            change_before = change
        x = x + math.sqrt(max(following**2 - (sigma * ratio) ** 2, 0.0)) * around.noise(sigma, following)
        before, earlier = denoised, [sigma, *earlier][:2]
    return x


@_of_flows
def seeds_2(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """SEEDS-2 (Gonzalez et al. 2023, "SEEDS: exponential SDE solvers for fast high-quality sampling from diffusion
    models"): a middle in lambda; the noise of both halves adds up to that of the step."""
    for sigma, following in itertools.pairwise(sigmas):
        x, denoised = yield x, sigma
        if following == 0:
            return denoised
        half = math.log(sigma / following) / 2
        middle = sigma * math.exp(-half)
        first = _fresh(half) * around.noise(sigma, middle)
        second = _fresh(half) * around.noise(middle, following)
        halfway = math.exp(-2 * half) * x - math.expm1(-2 * half) * denoised + middle * first
        _, denoised = yield halfway, middle
        x = math.exp(-4 * half) * x - math.expm1(-4 * half) * denoised
        x = x + following * (math.exp(-half) * first + second)
    return x


@_of_flows
def seeds_3(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """SEEDS-3 (Gonzalez et al. 2023): two stages between, at thirds of lambda; the noise of the thirds adds up."""
    for sigma, following in itertools.pairwise(sigmas):
        x, denoised = yield x, sigma
        if following == 0:
            return denoised
        third = math.log(sigma / following) / 3
        places = [sigma * math.exp(-third * part) for part in range(4)]
        noise, stage, picture = 0.0 * x, x, denoised
        for part in (1, 2, 3):
            noise = math.exp(-third) * noise + _fresh(third) * around.noise(places[part - 1], places[part])
            length = 2 * third * part
            stage = math.exp(-length) * x - math.expm1(-length) * denoised + places[part] * noise
            if part > 1:
                stage = stage + part / (part - 1) * (1 + math.expm1(-length) / length) * (picture - denoised)
            if part < 3:
                _, picture = yield stage, places[part]
        x = stage
    return x
