"""Sampling: masked image to image with checkpoints that were not trained with masks."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from graphengine import INERT, Choices, Context, Doc, Uses, node
from graphengine_nodes.families import sampler_names
from graphengine_nodes.families.arguments import repeat
from graphengine_nodes.families.family import Repaint
from graphengine_nodes.families.lookup import family
from graphengine_nodes.families.vae_coding import to_denoiser
from graphengine_nodes.nodes.sampling import (
    Arguments,
    Count,
    Guidance,
    ImagePrompts,
    Negative,
    Prompts,
    Scheduler,
    SchedulerOptions,
    Seeds,
    Spacing,
    Steps,
    Strength,
    latent_of,
    latents_of,
    reporter,
    request_of,
)
from graphengine_nodes.values.types import Latent, Mask, Model, Posterior

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

SampleMode = Annotated[
    str,
    Choices("sample", "argmax", "random"),
    Doc("How to start: drawn from the painted picture's posterior, its most likely value, or noise alone."),
]


@node(version=1, on="device")
def repaint(
    model: Annotated[Model, Uses("denoiser")],
    positive: Annotated[Prompts, Doc("One prompt, or one for each picture.")],
    original: Annotated[Posterior, Doc("The picture that is kept outside the mask.")],
    painted: Annotated[
        Posterior, Doc("The same picture, painted over: inside the mask, sampling starts from its colours.")
    ],
    mask: Annotated[Mask, Doc("Where to paint; it stays soft. It must have the pictures' size.")],
    *,
    negative: Negative = None,
    seed: Seeds = 0,
    count: Count = None,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    scheduler: Scheduler = None,
    timestep_spacing: Spacing = None,
    scheduler_options: SchedulerOptions = None,
    strength: Strength = None,
    sample_mode: SampleMode = "sample",
    arguments: Arguments = None,
    image_prompt: ImagePrompts = None,
    ctx: Context = INERT,
) -> Latent:
    """Repaint inside a soft mask with any checkpoint: image to image from the painted picture, over the original.

    Before every step the original, with fresh noise of that step's level, is blended in by the mask; after the last
    step, without noise. The mask is resized to the latents and divided by its highest value. `inpaint` is a different
    method: it starts from one picture, and its mask is hard. With an empty mask the result is the original.

    In ComfyUI: `SetLatentNoiseMask`, `DifferentialDiffusion`.

    Raises:
        ValueError: Pictures and mask are of different sizes or numbers; inputs that contradict each other.
        Cancelled: The run was cancelled; at most one step later.
    """
    inputs = locals()  # an option is named in the signature alone

    from graphengine_nodes.store.store import store

    count_of_pictures = _check_sizes(model, original, painted, mask)
    kept = to_denoiser(original.mean, original.scaling)
    weight = latent_weight(mask, *kept.shape[-2:])
    start = _expanded(_start(painted, sample_mode), count_of_pictures)
    request = replace(request_of({**inputs, "latent": start, "mask": None}), repaint=Repaint(kept, weight))
    if not bool(weight.any()):
        log.warning("there is nothing to paint in the mask; the result is the original")
        return Latent(repeat(kept, len(request.seeds)), latents_of(model), random=request.random)
    found = family(model.family).sample(store, request, model.computes_on(ctx.device), reporter(ctx, model))
    return latent_of(found.samples, request, found)


repaint.check(sampler_names.problems)


def latent_weight(mask: Mask, height: int, width: int) -> torch.Tensor:
    """A mask at the latents' size, [B, 1, h, w], its highest value 1; resized as diffusers resizes a PIL picture."""
    import numpy as np
    import PIL.Image
    import torch

    from graphengine_nodes.values.picture_files import to_pil

    small = [picture.resize((width, height), PIL.Image.Resampling.LANCZOS) for picture in to_pil(mask.values)]
    weights = torch.from_numpy(np.stack([np.asarray(picture) for picture in small]).astype(np.float32))
    return (weights / weights.amax((1, 2), keepdim=True).clamp(min=1))[:, None]


def _start(painted: Posterior, sample_mode: str) -> Posterior | Latent:
    """The latents to which the first step's noise is added; zeros for noise alone."""
    if sample_mode == "sample":
        return painted
    if sample_mode == "argmax":
        return Latent(to_denoiser(painted.mean, painted.scaling), painted.family)
    if sample_mode == "random":
        return Latent(painted.mean.new_zeros(painted.mean.shape), painted.family)
    raise ValueError(f"there is no sample_mode {sample_mode!r}; it is sample, argmax or random")


def _expanded(start: Posterior | Latent, count: int) -> Posterior | Latent:
    """Repeat the start for each picture."""
    if isinstance(start, Latent):
        return replace(start, samples=repeat(start.samples, count))
    return replace(start, mean=repeat(start.mean, count), logvar=repeat(start.logvar, count))


def _check_sizes(model: Model, original: Posterior, painted: Posterior, mask: Mask) -> int:
    """Check sizes and numbers; return how many pictures there are to paint on."""
    for value in (original, painted):
        if value.family not in (model.family, latents_of(model)):
            raise ValueError(f"a picture of {value.family} does not fit {model.source}, a {model.family} model")
    factor = int(model.setting("factor"))
    sizes = [(int(one.mean.shape[-1]) * factor, int(one.mean.shape[-2]) * factor) for one in (original, painted)]
    if not sizes[0] == sizes[1] == mask.size:
        told = ", ".join(f"{name} {w} x {h}" for name, (w, h) in zip(("original", "painted"), sizes, strict=True))
        raise ValueError(f"sizes differ: {told}, mask {mask.size[0]} x {mask.size[1]}; use resize_image or resize_mask")
    counts = [int(batch.shape[0]) for batch in (original.mean, painted.mean, mask.values)]
    if any(count not in (1, max(counts)) for count in counts):
        raise ValueError(f"{counts[0]} originals, {counts[1]} painted ones and {counts[2]} masks; give one or as many")
    return max(counts)
