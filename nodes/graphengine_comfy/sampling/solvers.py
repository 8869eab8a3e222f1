"""Samplers as functions: how a noisy latent goes down a table of sigmas, with a model asked on the way.

A sampler is a generator. It yields what it wants the model to denoise, `(x, sigma)`, is sent `(x, denoised)`, and
returns the latent at the last sigma. So each reads as the loop of its paper, may ask the model once or more often in a
step, and keeps what it remembers of earlier steps in local variables. `x` comes back because a pipeline may have
changed it, for instance where a mask keeps a picture.

In the sources: D is `denoised`, d = (x - D) / sigma is the derivative of x by sigma in the probability flow (Karras et
al. 2022, "Elucidating the design space of diffusion-based generative models", equation 3), and lambda = -log(sigma) is
the half logarithm of the signal-to-noise ratio, in which DPM-Solver (Lu et al. 2022) steps. For flow matching x -
sigma * v is D as well, so all samplers without noise of their own compute the same formulas there. Those that add
noise in between have to keep the scale 1 - sigma of the picture too: `_renoised`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Steps = Generator[tuple["torch.Tensor", float], tuple["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""A sampler under way: it yields a noisy latent and its sigma, is sent that latent and the picture's, returns a
latent."""


@dataclass(frozen=True)
class Surroundings:
    """What samplers need besides the latent and the sigmas.

    Attributes:
        noise: Draws noise of variance 1 for the way from one sigma to another.
        flow: Whether the model does flow matching, where the picture's own scale is 1 - sigma.
    """

    noise: Callable[[float, float], torch.Tensor]
    flow: bool = False


Solver = Callable[["torch.Tensor", Sequence[float], Surroundings], Steps]
"""A sampler: the latent to begin at, the sigmas, what else it needs."""


def euler(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """Euler's method on the probability flow (Karras et al. 2022); ComfyUI's `ddim` is this too."""
    for sigma, following in itertools.pairwise(sigmas):
        x, denoised = yield x, sigma
        x = x + (following - sigma) * (x - denoised) / sigma
    return x


def heun(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """Heun's method (Karras et al. 2022, algorithm 1); the last step to 0 is Euler's."""
    for sigma, following in itertools.pairwise(sigmas):
        x, denoised = yield x, sigma
        slope = (x - denoised) / sigma
        end = x + (following - sigma) * slope
        if following > 0:
            end, denoised = yield end, following
            slope = (slope + (end - denoised) / following) / 2
            end = x + (following - sigma) * slope
        x = end
    return x


def dpm_2(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """The midpoint method, with its middle at the geometric mean of both sigmas (DPM-Solver-2, as in k-diffusion)."""
    for sigma, following in itertools.pairwise(sigmas):
        x, denoised = yield x, sigma
        slope = (x - denoised) / sigma
        if following > 0:
            middle = math.sqrt(sigma * following)
            halfway, denoised = yield x + (middle - sigma) * slope, middle
            slope = (halfway - denoised) / middle
        x = x + (following - sigma) * slope
    return x


def lms(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """The linear multistep method: a polynomial through the last four derivatives is integrated (Adams-Bashforth)."""
    return _multistep(x, sigmas, 4, lambda sigma: sigma)


def deis(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """tAB-DEIS of order 3 (Zhang and Chen 2022): as `lms`, but over the time of a variance-preserving process."""
    return _multistep(x, sigmas, 3, _preserving_time)


def _multistep(x: torch.Tensor, sigmas: Sequence[float], order: int, time: Callable[[float], float]) -> Steps:
    """Integrate the polynomial through the last derivatives, of a time, over sigma; the last step to 0 is Euler's."""
    slopes: list[torch.Tensor] = []
    for index, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        x, denoised = yield x, sigma
        slopes = [(x - denoised) / sigma, *slopes][:order]
        if following == 0:
            slopes = slopes[:1]
        nodes = [time(sigmas[index - back]) for back in range(len(slopes))]
        weights = _integrals(nodes, sigma, following, time)
        x = x + sum(weight * slope for weight, slope in zip(weights, slopes, strict=True))
    return x


def _integrals(nodes: Sequence[float], start: float, end: float, time: Callable[[float], float]) -> list[float]:
    """Integrals over sigma of the Lagrange polynomials through nodes of a time, by Gauss and Legendre's quadrature."""
    import numpy as np

    points, weights = np.polynomial.legendre.leggauss(64)
    at = np.array([time(sigma) for sigma in (start + end) / 2 + (end - start) / 2 * points])
    found = []
    for one, node in enumerate(nodes):
        others = [(at - other) / (node - other) for two, other in enumerate(nodes) if two != one]
        found.append(float((end - start) / 2 * (weights * np.prod(others, axis=0)).sum()))
    return found


def _preserving_time(sigma: float) -> float:
    """The time of a sigma in the variance-preserving process of Karras et al. 2022 (table 1), fitted as there to the
    sigmas 0.002 at time 0.001 and 80 at time 1."""
    low, high, first = math.log(0.002**2 + 1), math.log(80.0**2 + 1), 0.001
    slope = 2 * (low / first - high) / (first - 1)
    start = high - slope / 2
    return (math.sqrt(start**2 + 2 * slope * math.log(sigma**2 + 1)) - start) / slope


def ipndm(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """Improved PNDM (Zhang and Chen 2022): Adams-Bashforth's weights of even steps, up to order 4, over any sigmas; the
    last step to 0 is Euler's."""
    weights = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
    slopes: list[torch.Tensor] = []
    for sigma, following in itertools.pairwise(sigmas):
        x, denoised = yield x, sigma
        slopes = [(x - denoised) / sigma, *slopes][:4]
        used = slopes if following > 0 else slopes[:1]
        x = x + (following - sigma) * sum(
            weight * slope for weight, slope in zip(weights[len(used) - 1], used, strict=True)
        )
    return x


def dpmpp_2m(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2); the first step and the one to 0 are of first order."""
    before, length_before = None, 0.0
    for sigma, following in itertools.pairwise(sigmas):
        x, denoised = yield x, sigma
        if following == 0:
            return denoised
        length = math.log(sigma / following)
        towards = denoised
        if before is not None:
            ratio = length_before / length
            towards = (1 + 1 / (2 * ratio)) * denoised - before / (2 * ratio)
        x = following / sigma * x - math.expm1(-length) * towards
        before, length_before = denoised, length
    return x


def res_multistep(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """RES of second order, multistep, whose steps meet the order conditions of exponential integrators (Zhang et al.
    2023, "Improved order analysis and design of exponential integrator for diffusion models sampling"). The first step
    and the one to 0 are Euler's."""
    before, sigma_before = None, 0.0
    for sigma, following in itertools.pairwise(sigmas):
        x, denoised = yield x, sigma
        if following == 0:
            return denoised
        length = math.log(sigma / following)
        phi_1 = -math.expm1(-length) / length
        phi_2 = (1 - phi_1) / length
        if before is None:
            towards = phi_1 * denoised
        else:
            back = -math.log(sigma_before / sigma) / length
            towards = (phi_1 - phi_2 / back) * denoised + phi_2 / back * before
        x = following / sigma * x + length * towards
        before, sigma_before = denoised, sigma
    return x


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
