"""Samplers as functions: how a noisy latent goes down a table of sigmas, with a model asked on the way.

A sampler is a generator. It yields what it wants the model to denoise, `(x, sigma)`, is sent `(x, denoised)`, and
returns the latent at the last sigma. So each reads as the loop of its paper, may ask the model once or more often in a
step, and keeps what it remembers of earlier steps in local variables. `x` comes back because a pipeline may have
changed it, for instance where a mask keeps a picture.

In the sources: D is `denoised`, d = (x - D) / sigma is the derivative of x by sigma in the probability flow (Karras et
al. 2022, "Elucidating the design space of diffusion-based generative models", equation 3), and lambda = -log(sigma) is
the half logarithm of the signal-to-noise ratio, in which DPM-Solver (Lu et al. 2022) steps. For flow matching x -
sigma * v is D as well, so these samplers, which draw no noise of their own, compute the same formulas there. Those
that draw noise between the steps are in `noisy_solvers`.
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
        nearly_noise: The sigma that stands for 1 in flow matching where logarithms are taken: 0.0001 of the way on.
    """

    noise: Callable[[float, float], torch.Tensor]
    flow: bool = False
    nearly_noise: float = 0.9999


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


def gradient_estimation(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """Gradient estimation (Permenter and Yuan 2023, "Interpreting and improving diffusion models from an optimization
    perspective", algorithm 2, gamma 2): the derivative is led away from the one before."""
    before = None
    for sigma, following in itertools.pairwise(sigmas):
        x, denoised = yield x, sigma
        if following == 0:
            return denoised
        slope = (x - denoised) / sigma
        x = x + (following - sigma) * (slope if before is None else 2 * slope - before)
        before = slope
    return x


def heunpp2(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """Heun++ as it spread among user interfaces, without a paper: the slopes at the next two sigmas of the table are
    averaged with this one's, weighted by their sigmas; near the end there are fewer."""
    for index, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        x, denoised = yield x, sigma
        slopes = [(x - denoised) / sigma]
        ahead = [one for one in sigmas[index + 1 : index + 3] if one > sigmas[-1]]
        at, place = x, sigma
        for one in ahead:
            at = at + (one - place) * slopes[-1]
            at, denoised = yield at, one
            slopes.append((at - denoised) / one)
            place = one
        weights = [one / (len(slopes) * sigmas[0]) for one in ahead]
        mean = (1 - sum(weights)) * slopes[0]
        for weight, slope in zip(weights, slopes[1:], strict=True):
            mean = mean + weight * slope
        x = x + (following - sigma) * mean
    return x


def dpm_fast(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """DPM-Solver-fast (Lu et al. 2022, appendix D.2), as in k-diffusion: as many calls of the model as there are
    steps, in steps of third order with one or two of lower order at the end, even in lambda between the table's ends;
    what lies between is not used, and the end is the last sigma above 0."""
    last = sigmas[-1] if sigmas[-1] > 0 else sigmas[-2]
    calls = len(sigmas) - 1
    if last == sigmas[0]:
        x, denoised = yield x, last
        return denoised
    orders = [3] * (calls // 3 - 1) + [2, 1] if calls % 3 == 0 else [3] * (calls // 3) + [calls % 3]
    length = math.log(sigmas[0] / last) / len(orders)
    for index, order in enumerate(orders):
        sigma = sigmas[0] * math.exp(-index * length)
        x, denoised = yield x, sigma
        slope = (x - denoised) / sigma
        change = 0.0 * slope
        for share, call in zip((1 / order, 2 / order), range(order - 1), strict=False):
            middle = sigma * math.exp(-share * length)
            growth = math.expm1(share * length)
            at = x - middle * growth * slope
            if call:  # the second stage of third order bends by the first one's change
                at = at - middle * 2 * (growth / (share * length) - 1) * change
            at, denoised = yield at, middle
            change = (at - denoised) / middle - slope
        end, growth = sigma * math.exp(-length), math.expm1(length)
        bend = growth if order == 2 else (growth / length - 1) * 3 / 2
        x = x - end * (growth * slope + bend * change)
    return x


def uni_pc(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """UniPC of order 3 with B(h) = h (Zhao et al. 2023, variant bh1)."""
    return _uni_pc(x, sigmas, lambda minus_h: minus_h)


def uni_pc_bh2(x: torch.Tensor, sigmas: Sequence[float], around: Surroundings) -> Steps:
    """UniPC of order 3 with B(h) = exp(h) - 1 (Zhao et al. 2023, variant bh2)."""
    return _uni_pc(x, sigmas, math.expm1)


def _uni_pc(x: torch.Tensor, sigmas: Sequence[float], scale: Callable[[float], float]) -> Steps:
    """Predict the next latent from the last three pictures, and correct it by the picture made there (UniPC,
    algorithms 1 and 2, predicting pictures). A last sigma of 0 is 0.001, as in ComfyUI; the last step is not
    corrected."""
    table = [*sigmas[:-1], sigmas[-1] or min(0.001, sigmas[-2] / 2)]
    steps = len(table) - 1
    highest = min(3, max(steps - 1, 1))
    x, denoised = yield x, table[0]
    pictures: list[torch.Tensor] = [denoised]
    for step in range(1, steps + 1):
        order = min(highest, step, steps + 1 - step)
        sigma, following = table[step - 1], table[step]
        length = math.log(sigma / following)
        ratios = [math.log(sigma / table[step - 1 - back]) / length for back in range(1, order)]
        changes = [(old - pictures[0]) / ratio for old, ratio in zip(pictures[1:order], ratios, strict=True)]
        predicting, correcting = _uni_pc_weights([*ratios, 1.0], length, scale(-length))
        base = following / sigma * x - math.expm1(-length) * pictures[0]
        predicted = base
        for weight, change in zip(predicting, changes, strict=True):
            predicted = predicted - scale(-length) * weight * change
        if step == steps:
            return predicted
        predicted, denoised = yield predicted, following
        x = base
        for weight, change in zip(correcting, [*changes, denoised - pictures[0]], strict=True):
            x = x - scale(-length) * weight * change
        pictures = [denoised, *pictures][:3]
    return x


def _uni_pc_weights(ratios: Sequence[float], length: float, scale: float) -> tuple[list[float], list[float]]:
    """Weights of the changes of pictures in UniPC's predictor and corrector: those that meet its order conditions.

    Args:
        ratios: Where the pictures lie, in lengths of this step from its start; the last one at its end.
        length: Of the step, in lambda.
        scale: B(h).
    """
    import numpy as np

    order = len(ratios)
    conditions, factorial = [], 1.0
    phi = math.expm1(-length) / -length - 1
    for power in range(1, order + 1):
        conditions.append(phi * factorial / scale)
        factorial *= power + 1
        phi = phi / -length - 1 / factorial
    places = np.vander(ratios, increasing=True).T
    right = np.array(conditions)
    predicting = [0.5] if order == 2 else np.linalg.solve(places[:-1, :-1], right[:-1]).tolist()
    correcting = [0.5] if order == 1 else np.linalg.solve(places, right).tolist()
    return predicting, correcting
