"""Sampling of latents by ComfyUI's meaning, on diffusers' pipelines: noise, sigmas, masks, prompts with options.

The module is long because each option of a prompt becomes an argument of a pipeline, or is refused, here.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from graphengine_nodes.families import vae_coding
from graphengine_nodes.families.family import Components, Loop, SampleRequest, SamplingOptions
from graphengine_nodes.families.lookup import family
from graphengine_nodes.families.pipelines import class_named, in_pixels
from graphengine_nodes.nodes.parts import ALONE
from graphengine_nodes.nodes.sampling import reporter
from graphengine_nodes.values.types import Conditioning, Model, Turn

from graphengine import Context
from graphengine_comfy.nodes.control_requests import controls_of, drawing_nothing, most_likely, with_coder
from graphengine_comfy.nodes.further_inputs import GUIDED, answer_for, guided, scaling
from graphengine_comfy.nodes.latents import pixels_a_side
from graphengine_comfy.nodes.resizing import repeated, resized, two_by_two
from graphengine_comfy.nodes.t2i_adapters import adapted
from graphengine_comfy.sampling.model_sampling import (
    FAMILY_SHIFTS,
    FlowSampling,
    ModelSampling,
    flux_mu,
    of_scheduler,
    shifted,
)
from graphengine_comfy.sampling.noise import noise_for
from graphengine_comfy.values import CONDITIONING, LATENT, MODEL, NOISE, SAMPLER, Entry

if TYPE_CHECKING:
    import torch

UNETS = ("stable_diffusion", "stable_diffusion_xl", "stable_diffusion_xl_refiner")
"""The families whose pipelines take prompts that change with the steps, or several at once."""

FAMILIES = (*UNETS, "flux", "flux2", "chroma", "stable_diffusion_3", "z_image", "qwen_image", "qwen_image_21")
"""The families that are sampled; of the others the meaning of latents or of sigmas has not been followed yet."""

FLUX2 = "flux2"
"""The family whose latents ComfyUI has two by two, 128 channels at 1/16 of the size, in the denoiser's scale."""

KL = {"block_out_channels": [128, 256, 512, 512], "latent_channels": 16}


# --- the model --------------------------------------------------------------------------------------------------------


def vae_config(model: MODEL) -> dict[str, Any]:
    """The configuration of the VAE that a model's latents are for: that of its checkpoint, or its family's."""
    if model.vae:
        found: dict[str, Any] = json.loads(model.vae)
        return found
    of_family = family(model.denoiser.model.family)
    module, cls = of_family.classes["vae"]
    if cls == "AutoencoderKL":
        own = {**KL, "latent_channels": 4} if of_family.name in UNETS else KL
        return {"_class_name": cls, **own, **of_family.vae_scale}
    parameters = inspect.signature(class_named(module, cls).__init__).parameters
    return {"_class_name": cls} | {n: one.default for n, one in parameters.items() if one.default is not one.empty}


def whole(model: MODEL) -> Model:
    """A model's reference with the settings that depend on its VAE.

    Raises:
        ValueError: Its family is not sampled here.
    """
    found = model.denoiser.model
    if found.family not in FAMILIES:
        raise ValueError(
            f"{model.source} is a {found.family} model, which these nodes do not sample yet; those of the pack std do"
        )
    if found.setting("factor", ALONE) != ALONE:
        return found
    settings = in_pixels(dict(found.settings), family(found.family).vae_settings(vae_config(model)))
    return replace(found, settings=tuple(sorted(settings.items())))


class Store:
    """The store of weights, with the configuration of a VAE where a model has none."""

    def __init__(self, store: Components, config: Mapping[str, Any]) -> None:
        self._store, self._config = store, config

    def component(self, model: Model, name: str, device: str) -> AbstractContextManager[Any]:
        """See `Components`. FLUX.2's pipelines read numbers of the VAE, which what is sampled does not depend on."""
        if name == "vae" and model.family == FLUX2 and name not in dict(model.components):
            import torch

            return nullcontext(SimpleNamespace(bn=torch.nn.BatchNorm2d(128, affine=False).eval(), dtype=torch.float32))
        held = self._store.component(model, name, device)
        return most_likely(held) if name == "vae" else held

    def controlnet(self, reference: Any, device: str, model: Model) -> AbstractContextManager[Any]:
        """See `Components`."""
        return self._store.controlnet(reference, device, model)

    def config(self, model: Model, name: str) -> Mapping[str, Any]:
        """See `Components`."""
        return self._config if name == "vae" else self._store.config(model, name)


def model_sampling(model: MODEL) -> ModelSampling:
    """The noise levels of a model, with the shift that nodes have set.

    Raises:
        ValueError: Its scheduler says what ComfyUI's names have no meaning for; a shift is for a model without one.
    """
    from graphengine_nodes.store.store import store

    found = model.denoiser.model
    with store.component(found, "scheduler", "cpu") as config:
        settings = dict(config)
    if (prediction := found.setting("prediction_type")) is not None:
        settings["prediction_type"] = prediction
    if (zero := found.setting("zero_snr")) is not None:
        settings["rescale_betas_zero_snr"] = zero
    if (patch := model.patch("prediction")) is not None:
        settings["prediction_type"], settings["rescale_betas_zero_snr"] = patch
    own = of_scheduler(settings)
    if isinstance(own, FlowSampling):
        name = found.family
        if name == "flux":
            name = "flux_schnell" if not found.setting("guidance_scale") else "flux_dev"
        own = FAMILY_SHIFTS.get(name, own)
    if (shift := model.patch("shift")) is not None:
        own = shifted(own, float(shift))
    if (flux := model.patch("flux_shift")) is not None:
        largest, base, width, height = flux
        if not isinstance(own, FlowSampling):
            raise ValueError(f"ModelSamplingFlux is for flow-matching models; {model.source} predicts noise")
        own = FlowSampling.flux(flux_mu(int(width), int(height), float(largest), float(base)))
    return own


# --- sampling ---------------------------------------------------------------------------------------------------------


def denoise(
    model: MODEL,
    positive: CONDITIONING,
    negative: CONDITIONING | None,
    cfg: float,
    latent: LATENT,
    noise: NOISE,
    sampler: SAMPLER,
    sigmas: Sequence[float],
    ctx: Context,
) -> tuple[LATENT, LATENT]:
    """Sample latents down a table of sigmas.

    Returns:
        The latents, with the mask and the places of what they were made of; and the last estimate of the picture.

    Raises:
        ValueError: The inputs contradict each other, or an option is not followed by diffusers' pipelines.
    """
    import torch
    from graphengine_nodes.store.store import store

    from graphengine_comfy.sampling.samplers import sampler_named
    from graphengine_comfy.sampling.scheduler import Keep, NoiseForm, sigma_scheduler

    if not sigmas or tuple(sigmas) == (0.0,):
        return latent, latent
    reference, levels, config = whole(model), model_sampling(model), vae_config(model)
    if sampler.options:
        names = ", ".join(name for name, _ in sampler.options)
        raise ValueError(f"options of samplers are not followed here ({names}): leave them at their defaults")
    if not cfg >= 1:
        raise ValueError(f"cfg is {cfg:g}, but diffusers' pipelines guide from 1 on: give 1 or more")
    solver = sampler_named(sampler.name)
    if solver.note and solver.solver is not None:
        ctx.note(sampler=f"{solver.name}: {solver.note}")
    samples = _of_model(latent.samples, reference)
    empty = not bool(samples.count_nonzero())
    begun = samples if empty or reference.family == FLUX2 else vae_coding.to_denoiser(samples, scaling(config))
    drawn = torch.zeros_like(begun)
    if noise.begins:
        drawn = noise_for(noise.seed, begun.shape, latent.batch_index)
    mask = None if latent.noise_mask is None else _mask(latent.noise_mask, begun)

    def handed_on(ended: torch.Tensor, picture: torch.Tensor) -> tuple[LATENT, LATENT]:
        made = [ended, picture]
        if reference.family != FLUX2:
            made = [vae_coding.to_vae(one, scaling(config)) for one in made]
        first, second = (LATENT(one, latent.noise_mask, latent.batch_index) for one in made)
        return first, second

    if len(sigmas) == 1:  # no step: as in ComfyUI the latents get their noise
        if levels.flow and sigmas[0] >= 1:
            raise ValueError("the only sigma is 1, at which a flow is noise alone: split the sigmas after a step")
        noisy = levels.end(levels.begin(begun, drawn, sigmas[0]), sigmas[0])
        return handed_on(noisy, noisy)
    estimates: list[Any] = []
    predicted: list[torch.Tensor] = []

    def loop(pack: Any, device: str) -> Loop:
        inner, keep = (_tokens if reference.family == FLUX2 else pack), None
        latents = levels.begin(begun, drawn, sigmas[0])
        if mask is not None:
            full, at = mask.expand_as(begun), _mask_at(model, levels, sigmas)
            latents = Keep(begun, drawn, full, at).noisy(latents, sigmas[0], levels)
            moved = [inner(one).to(device) for one in (begun, drawn, full)]
            keep = Keep(moved[0], moved[1], moved[2], at)
        form = NoiseForm(tuple(begun.shape), inner)
        change = _cfg_norm(model, levels, predicted, _unpacked(request, begun), inner)
        scheduler = sigma_scheduler(solver, sigmas, levels, noise.seed, keep, form, change)
        scheduler.init_noise_sigma = 1.0  # the latents have their noise already
        estimates.append(scheduler)
        answer = answer_for(model, sides, begun, mask, config, pack)
        answer = adapted(model, sides, levels, calls, begun, device, answer)
        if reference.family in GUIDED and cfg > 1 and negative is not None:
            answer = guided(request, _prompt(negative, levels, calls, reference), cfg, device, answer, predicted)
        return Loop(scheduler, latents if reference.family == FLUX2 else pack(latents), answer)

    calls = _calls(solver.solver_for(levels), sigmas, levels)
    sides = [positive, *([negative] if negative and cfg > 1 else [])]
    reference = with_coder(model, reference, sides, cfg, by_pixels=reference.family in UNETS)
    request = _request(model, reference, levels, calls, positive, negative, cfg, begun)
    request = replace(request, loop=loop)
    device = reference.computes_on(ctx.device)
    components = Store(store, config)
    vae = (("vae", model.shown_by),) if model.shown_by else ()
    step = reporter(ctx, replace(reference, components=(*reference.components, *vae)))
    of_family: Any = drawing_nothing(reference.family) if request.control else family(reference.family)
    found = of_family.sample(components, request, device, step)
    result = _in_shape(found.samples.float(), begun)
    ended = levels.end(result, sigmas[-1]) if sigmas[-1] > 0 else result
    picture = ended
    if sigmas[-1] > 0:
        picture = _unpacked(request, begun)(estimates[-1].denoised.cpu())
    return handed_on(ended, picture)


def _unpacked(request: SampleRequest, like: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """How latents of a pipeline's loop get the shape of this pack's."""
    of_family: Any = family(request.model.family)
    unpack = of_family.layouts(of_family.pipeline_for(request), request)[1]
    return lambda latents: _in_shape(unpack(latents), like)


def _cfg_norm(
    model: MODEL,
    levels: ModelSampling,
    predicted: Sequence[torch.Tensor],
    unpack: Callable[[torch.Tensor], torch.Tensor],
    pack: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor] | None:
    """How CFGNorm changes the estimates of the picture; None without it.

    Args:
        predicted: What the positive prompt alone predicts, at each step; empty where no other prompt guides.
        unpack, pack: From the pipeline's layout of latents, and to it.

    Raises:
        ValueError: diffusers' pipelines guide the model, and do not tell what the positive prompt alone predicts.
    """
    import torch

    found = model.patch("cfg_norm")
    if found is None:
        return None
    if model.denoiser.model.family not in GUIDED:
        raise ValueError(f"CFGNorm is followed for {' and '.join(GUIDED)} models, and not for {model.source}")
    strength, before = found

    def change(guided: torch.Tensor, x: torch.Tensor, sigma: float) -> torch.Tensor:
        own = levels.denoised(predicted[-1].float(), x, sigma) if predicted else guided
        ends = [unpack(x - one if before else one) for one in (own, guided)]
        free, length = (torch.linalg.vector_norm(one, dim=1, keepdim=True) for one in ends)
        if before:
            share = torch.where(length > 0, free / length.clamp_min(1e-12), 1.0)
            return x - pack(ends[1] * (strength * share + 1 - strength))
        return pack(ends[1] * (free / (length + 1e-8)).clamp(max=1.0) * strength)

    return change


def _calls(solver: Any, sigmas: Sequence[float], levels: ModelSampling) -> list[float]:
    """The sigma of each call of the model."""
    from graphengine_comfy.sampling.scheduler import called_sigmas

    return called_sigmas(solver, sigmas, levels.flow)


def _factor(model: Model) -> int:
    """The pixels a side of one latent."""
    return int(model.setting("factor")) * (2 if model.family == FLUX2 else 1)


def _of_model(samples: torch.Tensor, model: Model) -> torch.Tensor:
    """Latents in a model's own shape; empty ones of other channels have its channels.

    Raises:
        ValueError: They are of another shape than the model's latents.
    """
    channels = 128 if model.family == FLUX2 else int(model.setting("latent_channels", 4))
    if samples.shape[1] != channels:
        if bool(samples.count_nonzero()):
            raise ValueError(
                f"latents of {samples.shape[1]} channels do not fit {model.source}, whose latents have {channels}: "
                "encode with its own VAE"
            )
        sides = [side * pixels_a_side(samples) // _factor(model) for side in samples.shape[-2:]]
        samples = samples.new_zeros(samples.shape[0], channels, *sides)
    record = getattr(family(model.family), "record", None)
    if record is not None and record.latents.frames and samples.ndim == 4:
        samples = samples[:, :, None]
    multiple = int(model.setting("multiple", model.setting("factor"))) // _factor(model)
    height, width = (int(side) for side in samples.shape[-2:])
    if height % multiple or width % multiple:
        factor = _factor(model)
        raise ValueError(
            f"latents of {width * factor} x {height * factor} pixels do not fit {model.source}: both sides must be "
            f"multiples of {multiple * factor}"
        )
    return samples.float()


def _in_shape(found: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Latents of the standard pack in the shape of this one's: with frames, or two by two."""
    if found.shape[1] * 4 == like.shape[1]:
        return two_by_two(found)
    return found[:, :, None] if found.ndim < like.ndim else found


def _tokens(latents: torch.Tensor) -> torch.Tensor:
    """Latents [n, C, h, w] in FLUX.2's layout, [n, h * w, C]."""
    return latents.flatten(2).permute(0, 2, 1)


def _mask(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A mask [B, 1, H, W] in the size of latents, for each of them."""
    height, width = (int(side) for side in like.shape[-2:])
    mask = repeated(resized(mask.float(), width, height, "bilinear"), len(like))
    return mask[:, :, None] if like.ndim == 5 else mask


def _mask_at(
    model: MODEL, levels: ModelSampling, sigmas: Sequence[float]
) -> Callable[[torch.Tensor, float], torch.Tensor]:
    """How a mask changes with the sigma: under DifferentialDiffusion each place begins when its value is reached."""
    strength = model.patch("differential")
    if strength is None:
        return lambda mask, sigma: mask
    last = max(levels.sigma_min, sigmas[-1])
    first, end = levels.timestep(sigmas[0]), levels.timestep(last)

    def at(mask: torch.Tensor, sigma: float) -> torch.Tensor:
        share = (levels.timestep(sigma) - end) / (first - end) if first != end else 0.0
        hard = (mask >= share).to(mask)
        return hard if strength == 1.0 else strength * hard + (1 - strength) * mask

    return at


# --- prompts ----------------------------------------------------------------------------------------------------------


def _request(
    model: MODEL,
    reference: Model,
    levels: ModelSampling,
    calls: Sequence[float],
    positive: CONDITIONING,
    negative: CONDITIONING | None,
    cfg: float,
    begun: torch.Tensor,
) -> SampleRequest:
    """What the family's sampler is asked for."""
    guided = cfg > 1
    sides = [positive] if negative is None or not guided else [positive, negative]
    if guided and negative is None:
        raise ValueError("cfg above 1 needs a negative prompt")
    for side in sides:
        _check(side, reference)
    prompts = _one_length([_prompt(side, levels, calls, reference) for side in sides])
    factor = _factor(reference)
    width, height = int(begun.shape[-1]) * factor, int(begun.shape[-2]) * factor
    scale, further = _guidance(reference, sides, cfg)
    controls = controls_of(sides, levels, calls, width, height)
    options = SamplingOptions(
        steps=len(calls),
        guidance_scale=scale,
        width=width,
        height=height,
        guidance_rescale=_rescale(model, levels),
        arguments={**further, **_sizes(reference, sides, width, height)},
    )
    return SampleRequest(
        reference,
        [prompts[0]],
        [0] * len(begun),
        options,
        prompts[1:] if reference.family not in GUIDED else [],
        control=controls,
    )


def _check(side: CONDITIONING, model: Model) -> None:
    """Refuse prompts of another family, and options that are not followed.

    Raises:
        ValueError: There are some.
    """
    for entry in side.entries:
        if entry.prompt.family != model.family:
            raise ValueError(
                f"a prompt of {entry.prompt.family} does not fit {model.source}, a {model.family} model: load the text "
                "encoder of its type"
            )
        if "references" in entry.options and model.family not in ("flux", FLUX2, "qwen_image", "qwen_image_21"):
            raise ValueError(
                f"reference latents are not followed for {model.family} models here; the node std.sample takes "
                "reference pictures"
            )
        strength = entry.options.get("strength", 1.0)
        if strength != 1.0 and len(side.entries) == 1:
            raise ValueError("a strength of conditioning means something among several only; leave it at 1")


def _active(entry: Entry, levels: ModelSampling, sigma: float) -> bool:
    start, end = entry.options.get("start", 0.0), entry.options.get("end", 1.0)
    begins = levels.sigma_at_percent(start) if start > 0 else math.inf
    return levels.sigma_at_percent(end) <= sigma <= begins


def _prompt(side: CONDITIONING, levels: ModelSampling, calls: Sequence[float], model: Model) -> Conditioning:
    """The prompts of one side as one: several are averaged, or stand in turn at the steps.

    Raises:
        ValueError: They change and are averaged at once, or at a step there is none.
    """
    turns = [tuple(n for n, one in enumerate(side.entries) if _active(one, levels, sigma)) for sigma in calls]
    if len(side.entries) == 1 and all(turns):
        return side.entries[0].prompt
    if model.family not in UNETS:
        raise ValueError(f"several prompts, or prompts for some steps, are not followed for {model.family} models")
    if not all(turns):
        raise ValueError("there is a step at which no prompt acts: let the times of the prompts meet")
    if len(set(turns)) == 1:
        parts = [side.entries[n] for n in turns[0]]
        if len(parts) == 1:
            return parts[0].prompt
        weights = [float(one.options.get("strength", 1.0)) for one in parts]
        equal = _one_length([one.prompt for one in parts])
        joined = tuple((weight / sum(weights), one) for weight, one in zip(weights, equal, strict=True))
        return replace(equal[0], joined=joined)
    if any(len(turn) > 1 for turn in turns):
        raise ValueError("prompts that are averaged at some steps only are not followed: let their times not overlap")
    equal = _one_length([one.prompt for one in side.entries])
    schedule = []
    for index, (turn,) in enumerate(turns):
        if index + 1 == len(turns) or turns[index + 1] != (turn,):
            until = None if index + 1 == len(turns) else index + 1
            schedule.append(Turn(equal[turn].embeds, equal[turn].pooled, until_step=until))
    return replace(equal[turns[0][0]], schedule=tuple(schedule))


def _one_length(prompts: Sequence[Conditioning]) -> list[Conditioning]:
    """Prompts of a family with a UNet at one length: repeated, which changes nothing for attention."""
    if prompts[0].family not in UNETS:
        if prompts[0].family == "stable_diffusion_3" and len(set(map(_length, prompts))) > 1:
            raise ValueError(
                "one of these prompts is longer than the 77 tokens of T5 that the other has; Stable Diffusion 3's "
                "pipeline takes both at one length: make it shorter"
            )
        return list(prompts)
    longest = math.lcm(*(_length(one) for one in prompts))

    def longer(one: Any) -> Any:
        return replace(one, embeds=one.embeds.repeat(1, longest // one.embeds.shape[1], 1))

    found = []
    for one in prompts:
        schedule = tuple(map(longer, one.schedule))
        joined = tuple((weight, longer(part)) for weight, part in one.joined)
        found.append(replace(longer(one), schedule=schedule, joined=joined))
    return found


def _length(prompt: Conditioning) -> int:
    return int(prompt.embeds.shape[1])


GUIDANCE = 3.5
"""The guidance that FLUX.1 dev is told where no node says it."""


def _guidance(model: Model, sides: Sequence[CONDITIONING], cfg: float) -> tuple[float, dict[str, Any]]:
    """The pipeline's guidance scale, and further arguments that guide.

    Raises:
        ValueError: The prompts say different guidance.
    """
    if model.family in GUIDED:
        return GUIDED[model.family], {}
    record = getattr(family(model.family), "record", None)
    if record is None:
        return cfg, {}
    guidance = record.variants[model.setting("variant", "")].guidance or record.guidance
    if cfg > 1 and (guidance.off == math.inf or (guidance.embedded and guidance.real is None)):
        raise ValueError(f"{model.source} takes no negative prompt: give cfg 1")
    if not guidance.embedded:
        return cfg, {}
    said = {float(entry.options.get("guidance", GUIDANCE)) for side in sides for entry in side.entries}
    if len(said) > 1:
        raise ValueError("positive and negative prompt say different guidance: give both the same FluxGuidance")
    real = {} if cfg == 1 or guidance.real is None else {guidance.real: cfg}
    return said.pop(), real


def _rescale(model: MODEL, levels: ModelSampling) -> float | None:
    """How far guidance is rescaled.

    Raises:
        ValueError: The model does not predict velocity: ComfyUI rescales that, and diffusers what is predicted.
    """
    found: float | None = model.patch("rescale_cfg")
    if found is not None and levels.prediction != "v_prediction":
        raise ValueError(f"RescaleCFG is for models that predict velocity, which {model.source} does not")
    return found


SIZES = ("width", "height", "crop_w", "crop_h", "target_width", "target_height", "aesthetic_score")
SCORES = (6.0, 2.5)
"""The scores of pictures that the refiner is told with the positive and the negative prompt."""


def _sizes(model: Model, sides: Sequence[CONDITIONING], width: int, height: int) -> dict[str, Any]:
    """The sizes that SDXL is told with each side, by default those of the latents; and the scores of its refiner."""
    if model.family not in UNETS[1:]:
        return {}
    found: dict[str, Any] = {}
    for name, score, side in zip(("", "negative_"), SCORES, sides, strict=False):
        given = [{size: entry.options.get(size) for size in SIZES} for entry in side.entries]
        if any(sizes != given[0] for sizes in given):
            raise ValueError("prompts that are averaged say different sizes: give all of them the same")
        own = {name: value for name, value in given[0].items() if value is not None}
        wide, high = own.get("width", width), own.get("height", height)
        found[f"{name}original_size"] = (high, wide)
        found[f"{name}crops_coords_top_left"] = (own.get("crop_h", 0), own.get("crop_w", 0))
        if model.family == "stable_diffusion_xl_refiner":
            found[f"{name}aesthetic_score"] = own.get("aesthetic_score", score)
        else:
            found[f"{name}target_size"] = (own.get("target_height", high), own.get("target_width", wide))
    return found
