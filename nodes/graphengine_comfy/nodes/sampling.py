"""Sampling: from noise to latents, in one node or with its parts as nodes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

from graphengine import INERT, Choices, Context, Drawn, Range, node
from graphengine_comfy.nodes.denoising import denoise, model_sampling
from graphengine_comfy.nodes.published_sigmas import published_sigmas, tokens
from graphengine_comfy.sampling.samplers import SAMPLERS
from graphengine_comfy.sampling.sigmas import DROP_BEFORE_LAST, SCHEDULES, sigma_table
from graphengine_comfy.values import CONDITIONING, GUIDER, LATENT, MODEL, NOISE, SAMPLER, SIGMAS

Seed = Annotated[int, Range(0, 2**64 - 1, 1), Drawn()]
Steps = Annotated[int, Range(1, 10000, 1)]
Cfg = Annotated[float, Range(0.0, 100.0, 0.1)]
SamplerName = Annotated[str, Choices(*SAMPLERS)]
Scheduler = Annotated[str, Choices(*SCHEDULES)]
Share = Annotated[float, Range(0.0, 1.0, 0.01)]
Step = Annotated[int, Range(0, 10000, 1)]
Switch = Annotated[str, Choices("enable", "disable")]


@node(version=1, on="device")
def KSampler(
    *,
    model: MODEL,
    seed: Seed = 0,
    steps: Steps = 20,
    cfg: Cfg = 8.0,
    sampler_name: SamplerName = "euler",
    scheduler: Scheduler = "normal",
    positive: CONDITIONING,
    negative: CONDITIONING,
    latent_image: LATENT,
    denoise: Share = 1.0,
    ctx: Context = INERT,
) -> LATENT:
    """Denoise latents, guided by a positive and away from a negative prompt.

    With `denoise` below 1 sampling begins at the latents with less noise: at the last `steps` of a longer table.

    Raises:
        ValueError: The inputs contradict each other; a sampler or an option is not followed here.
        Cancelled: The run was cancelled; at most one step later.
    """
    values = _table(model, scheduler, steps, denoise, sampler_name, latent_image)
    return _sampled(model, positive, negative, cfg, latent_image, NOISE(seed), SAMPLER(sampler_name), values, ctx)


@node(version=1, on="device")
def KSamplerAdvanced(
    *,
    model: MODEL,
    add_noise: Switch = "enable",
    noise_seed: Seed = 0,
    steps: Steps = 20,
    cfg: Cfg = 8.0,
    sampler_name: SamplerName = "euler",
    scheduler: Scheduler = "normal",
    positive: CONDITIONING,
    negative: CONDITIONING,
    latent_image: LATENT,
    start_at_step: Step = 0,
    end_at_step: Step = 10000,
    return_with_leftover_noise: Annotated[str, Choices("disable", "enable")] = "disable",
    ctx: Context = INERT,
) -> LATENT:
    """Denoise latents from a step of a table to another.

    Raises:
        ValueError: As `KSampler`.
        Cancelled: The run was cancelled; at most one step later.
    """
    values = _table(model, scheduler, steps, 1.0, sampler_name, latent_image)
    if end_at_step < len(values) - 1:
        values = values[: end_at_step + 1]
        if return_with_leftover_noise == "disable" and values:
            values = (*values[:-1], 0.0)
    values = values[start_at_step:] if start_at_step < len(values) - 1 else ()
    noise = NOISE(noise_seed, begins=add_noise == "enable")
    return _sampled(model, positive, negative, cfg, latent_image, noise, SAMPLER(sampler_name), values, ctx)


def _table(
    model: MODEL, scheduler: str, steps: int, share: float, sampler: str, latent: LATENT | None = None
) -> tuple[float, ...]:
    """The sigmas of a schedule.

    Raises:
        ValueError: Those of Qwen-Image 2.1 depend on the latents, which are not known here; or there are none.
    """
    own_shift = model.patch("shift") is None and model.patch("flux_shift") is None
    if model.denoiser.model.family == "qwen_image_21" and own_shift:
        if scheduler != "simple" or latent is None or sampler in DROP_BEFORE_LAST:
            raise ValueError(
                "the sigmas of Qwen-Image 2.1 depend on the size of the picture: take KSampler with the scheduler "
                "simple and a sampler that takes whole tables, as euler, or set a shift by ModelSamplingAuraFlow"
            )
        return published_sigmas(steps, share, tokens(latent))
    return tuple(sigma_table(model_sampling(model), scheduler, steps, share, sampler).tolist())


def _sampled(model: MODEL, positive: CONDITIONING, negative: CONDITIONING | None, *others: Any) -> LATENT:
    return denoise(model, positive, negative, *others)[0]


# --- its parts --------------------------------------------------------------------------------------------------------


@node(version=1)
def RandomNoise(*, noise_seed: Seed = 0) -> NOISE:
    """Give the noise of a seed."""
    return NOISE(noise_seed)


@node(version=1)
def DisableNoise() -> NOISE:
    """Give no noise to begin with; samplers that draw noise between the steps have the seed 0."""
    return NOISE(0, begins=False)


@node(version=1)
def KSamplerSelect(*, sampler_name: SamplerName = "euler") -> SAMPLER:
    """Give a sampler by its name."""
    return SAMPLER(sampler_name)


@KSampler.check
@KSamplerAdvanced.check
@KSamplerSelect.check
def _check_sampler(inputs: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence for a sampler that is not computed here."""
    sampler = SAMPLERS.get(str(inputs.get("sampler_name")))
    if sampler is not None and sampler.solver is None:
        yield f"the sampler {sampler.name} is not computed here: {sampler.note}"


@node(version=1)
def BasicGuider(*, model: MODEL, conditioning: CONDITIONING) -> GUIDER:
    """Guide by one prompt."""
    return GUIDER(model, conditioning, None, 1.0)


@node(version=1)
def CFGGuider(*, model: MODEL, positive: CONDITIONING, negative: CONDITIONING, cfg: Cfg = 8.0) -> GUIDER:
    """Guide by a positive and away from a negative prompt."""
    return GUIDER(model, positive, negative, cfg)


@node(version=1, on="device")
def BasicScheduler(*, model: MODEL, scheduler: Scheduler = "simple", steps: Steps = 20, denoise: Share = 1.0) -> SIGMAS:
    """Give the sigmas of a model by a schedule's name."""
    return SIGMAS(_table(model, scheduler, steps, denoise, "euler"))


SigmaMax = Annotated[float, Range(0.0, 5000.0, 0.01)]
SigmaMin = Annotated[float, Range(0.0, 5000.0, 0.01)]
Rho = Annotated[float, Range(0.0, 100.0, 0.01)]


def _falling(values: Sequence[float]) -> SIGMAS:
    return SIGMAS((*(float(one) for one in values), 0.0))


@node(version=1)
def KarrasScheduler(
    *, steps: Steps = 20, sigma_max: SigmaMax = 14.614642, sigma_min: SigmaMin = 0.0291675, rho: Rho = 7.0
) -> SIGMAS:
    """Give sigmas that are even in their `rho`th root (Karras et al. 2022, equation 5)."""
    import numpy as np

    return _falling((np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), steps) ** rho).tolist())


@node(version=1)
def ExponentialScheduler(
    *, steps: Steps = 20, sigma_max: SigmaMax = 14.614642, sigma_min: SigmaMin = 0.0291675
) -> SIGMAS:
    """Give sigmas that are even in their logarithm."""
    import numpy as np

    return _falling(np.exp(np.linspace(np.log(sigma_max), np.log(sigma_min), steps)).tolist())


@node(version=1)
def PolyexponentialScheduler(
    *, steps: Steps = 20, sigma_max: SigmaMax = 14.614642, sigma_min: SigmaMin = 0.0291675, rho: Rho = 1.0
) -> SIGMAS:
    """Give sigmas whose logarithm falls with the `rho`th power of the step."""
    import numpy as np

    ramp = np.linspace(1, 0, steps) ** rho
    return _falling(np.exp(ramp * (np.log(sigma_max) - np.log(sigma_min)) + np.log(sigma_min)).tolist())


@node(version=1, on="device")
def SDTurboScheduler(*, model: MODEL, steps: Annotated[int, Range(1, 10, 1)] = 1, denoise: Share = 1.0) -> SIGMAS:
    """Give the sigmas of distilled models, which were trained at ten timesteps.

    Raises:
        ValueError: The model does flow matching.
    """
    import torch

    levels = model_sampling(model)
    if levels.flow:
        raise ValueError(f"SDTurboScheduler is for models that predict noise; {model.source} does flow matching")
    start = 10 - int(10 * denoise)
    times = (torch.arange(1, 11) * 100 - 1).flip(0)[start : start + steps]
    return _falling(levels.sigma(times).tolist())


@node(version=1)
def Flux2Scheduler(
    *,
    steps: Annotated[int, Range(1, 4096, 1)] = 20,
    width: Annotated[int, Range(16, 16384, 1)] = 1024,
    height: Annotated[int, Range(16, 16384, 1)] = 1024,
) -> SIGMAS:
    """Give sigmas of FLUX.2: even ones, shifted by the size of the picture and the number of steps."""
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

    shift = math.exp(compute_empirical_mu(round(width * height / 256), steps))
    times = [1 - step / steps for step in range(steps)]
    return _falling([shift / (shift + (1 / time - 1)) for time in times])


@node(version=1)
def ManualSigmas(*, sigmas: str = "1, 0.5") -> SIGMAS:
    """Give sigmas that are written out, with commas or spaces between them.

    Raises:
        ValueError: One is no number.
    """
    try:
        return SIGMAS(tuple(float(number) for number in re.split(r"[,;\s]+", sigmas) if number))
    except ValueError:
        raise ValueError(f"sigmas are numbers with commas between them, not {sigmas!r:.80}") from None


class Split(NamedTuple):
    """Two parts of a table of sigmas; the last of the first is the first of the second."""

    high_sigmas: SIGMAS
    low_sigmas: SIGMAS


@node(version=1)
def SplitSigmas(*, sigmas: SIGMAS, step: Step = 0) -> Split:
    """Divide sigmas after a number of steps."""
    return Split(SIGMAS(sigmas.values[: step + 1]), SIGMAS(sigmas.values[step:]))


@node(version=1)
def SplitSigmasDenoise(*, sigmas: SIGMAS, denoise: Share = 1.0) -> Split:
    """Divide sigmas before a share of their steps, counted from the end.

    Where the share is less than half a step, the first part is empty, as in ComfyUI, and the second the last sigma.
    """
    low_steps = round(max(len(sigmas.values) - 1, 0) * denoise)
    return Split(SIGMAS(sigmas.values[:-low_steps]), SIGMAS(sigmas.values[-(low_steps + 1) :]))


@node(version=1)
def SetFirstSigma(*, sigmas: SIGMAS, sigma: Annotated[float, Range(0.0, 20000.0, 0.001)] = 136.0) -> SIGMAS:
    """Give a table of sigmas another first one.

    Raises:
        ValueError: The table is empty.
    """
    if not sigmas.values:
        raise ValueError("there are no sigmas, of which the first could be set")
    return SIGMAS((sigma, *sigmas.values[1:]))


class Denoised(NamedTuple):
    """What sampling has reached, and the picture as it is estimated there."""

    output: LATENT
    denoised_output: LATENT


@node(version=1, on="device")
def SamplerCustom(
    *,
    model: MODEL,
    add_noise: bool = True,
    noise_seed: Seed = 0,
    cfg: Cfg = 8.0,
    positive: CONDITIONING,
    negative: CONDITIONING,
    sampler: SAMPLER,
    sigmas: SIGMAS,
    latent_image: LATENT,
    ctx: Context = INERT,
) -> Denoised:
    """Denoise latents down given sigmas with a given sampler.

    Raises:
        ValueError: As `KSampler`.
        Cancelled: The run was cancelled; at most one step later.
    """
    noise = NOISE(noise_seed, begins=add_noise)
    return Denoised(*denoise(model, positive, negative, cfg, latent_image, noise, sampler, sigmas.values, ctx))


@node(version=1, on="device")
def SamplerCustomAdvanced(
    *,
    noise: NOISE,
    guider: GUIDER,
    sampler: SAMPLER,
    sigmas: SIGMAS,
    latent_image: LATENT,
    ctx: Context = INERT,
) -> Denoised:
    """Denoise latents: noise, guidance, sampler and sigmas are given.

    Raises:
        ValueError: As `KSampler`.
        Cancelled: The run was cancelled; at most one step later.
    """
    guidance = (guider.model, guider.positive, guider.negative, guider.cfg)
    return Denoised(*denoise(*guidance, latent_image, noise, sampler, sigmas.values, ctx))
