"""Sampling: the nodes that denoise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from graphengine import INERT, Cancelled, Choices, Context, Doc, Range, Uses, node
from graphengine_nodes import schedulers
from graphengine_nodes.families import Request, Step, family
from graphengine_nodes.latents import Side, check_sides
from graphengine_nodes.types import Conditioning, Control, Image, Latent, Mask, Model, Posterior

if TYPE_CHECKING:
    import torch

Seeds = Annotated[
    int | list[int],
    Range(0, 2**64 - 1),
    Doc("One for each picture; a single one for several pictures counts upwards from it."),
]
Steps = Annotated[int | None, Range(1, 1000, 1), Doc("By default the model's own.")]
Guidance = Annotated[
    float | None, Range(0, 100, 0.1), Doc("How strongly the prompt is followed, by default the model's own; 1 is off.")
]
Rescale = Annotated[
    float | None, Range(0, 1, 0.05), Doc("Against overexposure by guidance; only from text to image without control.")
]
Scheduler = Annotated[
    str | None, Choices(*schedulers.KARRAS, *schedulers.FLOW), Doc("By diffusers' class name; default: the model's.")
]
Spacing = Annotated[str | None, Choices(*schedulers.SPACINGS), Doc("Default: the scheduler's own.")]
Strength = Annotated[
    float | None, Range(0, 1, 0.05), Doc("How much of what it starts from is replaced; 1 is all. Default 0.8 or 1.")
]


@node(version=1, on="device", batch=("positive", "seed"))
def sample(
    model: Annotated[Model, Uses("denoiser")],
    positive: Conditioning,
    *,
    negative: Annotated[Conditioning | None, Doc("Default: the absent prompt.")] = None,
    latent: Annotated[Posterior | Latent | None, Doc("What to start from; default: noise alone.")] = None,
    control: Control | list[Control] | None = None,
    seed: Seeds = 0,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    guidance_rescale: Rescale = None,
    scheduler: Scheduler = None,
    timestep_spacing: Spacing = None,
    width: Side = None,
    height: Side = None,
    strength: Strength = None,
    ctx: Context = INERT,
) -> Latent:
    """Denoise: from noise (text to image), or from a latent (image to image) with `strength`.

    Runs diffusers' own pipeline, with one CPU generator for each picture: the result is bit-identical to the
    pipeline's, given a list of generators with these seeds.

    Raises:
        ValueError: Inputs that contradict each other; a scheduler of the wrong kind.
        Cancelled: The run was cancelled; at most one step later.
    """
    request = _request(model, [positive], seed, negative, latent, control, steps, guidance_scale, width, height)
    request = replace(
        request,
        guidance_rescale=guidance_rescale,
        scheduler=scheduler,
        timestep_spacing=timestep_spacing,
        strength=_strength(strength, latent),
    )
    return Latent(family(model.family).sample(request, ctx.device, _reporter(ctx, model)), model.family)


@sample.check
def _check_sample(inputs: dict[str, Any]) -> Iterator[str]:
    yield from check_sides(inputs)


@sample.group
def _group_sample(positive: Conditioning, seed: int | list[int], **others: Any) -> Any:
    """What must agree in one batch: the shape of the prompts."""
    return tuple(positive.embeds.shape)


@sample.many
def _sample_many(
    model: Model,
    positive: Sequence[Conditioning],
    *,
    seed: Sequence[int | list[int]],
    negative: Conditioning | None = None,
    latent: Posterior | Latent | None = None,
    control: Control | list[Control] | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    guidance_rescale: float | None = None,
    scheduler: str | None = None,
    timestep_spacing: str | None = None,
    width: int | None = None,
    height: int | None = None,
    strength: float | None = None,
    ctx: Sequence[Context],
) -> list[Latent | BaseException]:
    """Several calls that differ in prompt and seed, in one batch."""
    import torch

    requests = [
        _request(model, [text], seeds, negative, latent, control, steps, guidance_scale, width, height)
        for text, seeds in zip(positive, seed, strict=True)
    ]
    counts = [len(request.seeds) for request in requests]
    request = replace(
        requests[0],
        positive=[text for text, count in zip(positive, counts, strict=True) for _ in range(count)],
        seeds=[one for request in requests for one in request.seeds],
        guidance_rescale=guidance_rescale,
        scheduler=scheduler,
        timestep_spacing=timestep_spacing,
        strength=_strength(strength, latent),
    )
    gone: dict[int, BaseException] = {}
    reporters = [_reporter(one, model) for one in ctx]

    def step(done: int, total: int, samples: torch.Tensor) -> None:
        for index, part in enumerate(torch.split(samples, counts)):
            if index not in gone:
                try:
                    reporters[index](done, total, part)
                except Cancelled as cancelled:  # the others go on
                    gone[index] = cancelled
        if len(gone) == len(counts):
            raise Cancelled("all calls of this batch were cancelled")

    for one in ctx:
        one.note(batch=sum(counts))
    try:
        samples = family(model.family).sample(request, ctx[0].device, step)
    except Cancelled:
        return [gone[index] for index in range(len(counts))]
    parts = torch.split(samples, counts)
    return [gone.get(index) or Latent(part.clone(), model.family) for index, part in enumerate(parts)]


@node(version=1, on="device")
def inpaint(
    model: Model,
    positive: Conditioning,
    image: Annotated[Image, Doc("What to paint over; its size is the result's.")],
    mask: Annotated[Mask, Doc("1 where to paint; taken as a yes or no at 0.5.")],
    *,
    negative: Annotated[Conditioning | None, Doc("Default: the absent prompt.")] = None,
    control: Control | list[Control] | None = None,
    seed: Seeds = 0,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    scheduler: Scheduler = None,
    timestep_spacing: Spacing = None,
    strength: Strength = None,
    ctx: Context = INERT,
) -> Latent:
    """Repaint what the mask covers, with inpainting checkpoints (9 input channels) and all others (4).

    Two pictures are encoded with draws between, so this node encodes by itself, as diffusers' inpainting pipeline does,
    and gives bit-identical latents.

    Raises:
        ValueError: The mask is of another size than the picture, or the sides are no multiples of 8.
        Cancelled: The run was cancelled; at most one step later.
    """
    count = max(image.pixels.shape[0], mask.values.shape[0])
    request = replace(
        _request(model, [positive], seed, negative, None, control, steps, guidance_scale, None, None, count),
        scheduler=scheduler,
        timestep_spacing=timestep_spacing,
        strength=strength,
        image=image,
        mask=mask,
    )
    return Latent(family(model.family).sample(request, ctx.device, _reporter(ctx, model)), model.family)


# --- from sockets to a request ----------------------------------------------------------------------------------------


def _request(
    model: Model,
    positive: Sequence[Conditioning],
    seed: int | list[int],
    negative: Conditioning | None,
    latent: Posterior | Latent | None,
    control: Control | list[Control] | None,
    steps: int | None,
    guidance_scale: float | None,
    width: int | None,
    height: int | None,
    count: int = 1,
) -> Request:
    """The request with the model's own values where nothing was given.

    Raises:
        ValueError: Inputs contradict each other.
    """
    _check_families(model, [*positive, negative, latent])
    controls = [control] if isinstance(control, Control) else control or []
    for one in controls:
        if one.controlnet.family != model.family:
            kind = one.controlnet.family
            raise ValueError(f"a ControlNet of {kind} cannot steer {model.source}, a {model.family} model")
    if latent is not None:
        if width is not None or height is not None:
            raise ValueError("width and height are the latent's; leave them out where a latent is given")
        shape = (latent.samples if isinstance(latent, Latent) else latent.mean).shape
        count = int(shape[0])
        width, height = (int(side) * int(model.setting("factor")) for side in (shape[3], shape[2]))
        if isinstance(latent, Latent) and latent.empty:
            latent = None
    elif controls and width is None and height is None:
        width, height = controls[0].image.size
    seeds = [seed + index for index in range(count)] if isinstance(seed, int) else list(seed)
    if not seeds or len(seeds) % count:
        raise ValueError(f"{len(seeds)} seeds for {count} pictures; give one, or one for each picture")
    return Request(
        model,
        positive,
        seeds,
        int(model.setting("steps") if steps is None else steps),
        float(model.setting("guidance_scale") if guidance_scale is None else guidance_scale),
        negative,
        width=model.setting("width") if width is None else width,
        height=model.setting("height") if height is None else height,
        latent=latent,
        control=controls,
    )


def _strength(strength: float | None, latent: Posterior | Latent | None) -> float | None:
    if strength is not None and (latent is None or (isinstance(latent, Latent) and latent.empty)):
        raise ValueError("strength says how much of a picture is replaced; link one to latent, or leave strength out")
    return strength


def _check_families(model: Model, values: Sequence[Conditioning | Posterior | Latent | None]) -> None:
    for value in values:
        if value is not None and value.family != model.family:
            kind = type(value).__name__
            raise ValueError(f"a {kind} of {value.family} does not fit {model.source}, a {model.family} model")


def _reporter(ctx: Context, model: Model) -> Step:
    """Progress and a preview after each step; raises `Cancelled` where nobody wants the result any more."""

    def step(done: int, total: int, samples: torch.Tensor) -> None:
        ctx.progress(done, total)
        if type(ctx) is not Context:  # a plain call shows nothing to anybody
            ctx.preview(Latent(samples.detach().cpu(), model.family))

    return step
