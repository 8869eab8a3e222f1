"""Sampling: the nodes that denoise.

The module is long because every option of sampling is an input with its limits and its help.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from graphengine import INERT, Added, Cancelled, Choices, Context, Doc, Drawn, Range, Unknown, Uses, node
from graphengine_nodes.families import cutting, noise_schedulers, sampler_names
from graphengine_nodes.families.arguments import check_channels, references_of, sides_of
from graphengine_nodes.families.family import Sampled, SampleRequest, SamplingOptions, Step
from graphengine_nodes.families.lookup import family
from graphengine_nodes.families.picture_prompts import check_image_prompts, image_prompt_problems
from graphengine_nodes.families.scheduler_options import OWN_TIMES
from graphengine_nodes.nodes.latents import STEP, Side, check_sides
from graphengine_nodes.nodes.previews import preview
from graphengine_nodes.values.types import (
    Conditioning,
    Control,
    ControlNet,
    Image,
    ImagePrompt,
    Latent,
    Mask,
    Model,
    Posterior,
    RandomState,
)

if TYPE_CHECKING:
    import torch

Prompts = Conditioning | list[Conditioning]
Negative = Annotated[Prompts | None, Doc("Default: no negative prompt (not the same as an empty one).")]
Controls = Annotated[
    Control | list[Control] | None, Doc("A ControlNet with the picture that it follows, or several of them.")
]
ImagePrompts = Annotated[
    ImagePrompt | list[ImagePrompt] | None,
    Added(),
    Doc("Pictures for the model's IP-Adapter, from encode_image_prompt; for several adapters a list in their order."),
]
Seed = int | list[int] | RandomState | list[RandomState]
Seeds = Annotated[
    Seed,
    Range(0, 2**64 - 1),
    Drawn(),
    Doc(
        "A seed for each picture; a single seed counts upwards over several pictures. A generator draws all pictures, "
        "a list of generators one picture each."
    ),
]
MOST = 1024
"""Most pictures that one call makes."""
Count = Annotated[
    int | None, Range(1, 64, 1), Doc("Pictures to make; default: as many as seeds, prompts or start pictures.")
]
References = Annotated[
    Image | list[Image] | None,
    Added(),
    Doc("Pictures that the result refers to, as an edit to what it changes; of any sizes. For models that take some."),
]
Arguments = Annotated[dict[str, Any] | None, Doc("Further arguments of the family's pipeline, by diffusers' names.")]
Steps = Annotated[int | None, Range(1, 1000, 1), Doc("Denoising steps; default: the model's own.")]
Guidance = Annotated[
    float | None, Range(0, 100, 0.1), Doc("How strongly the prompt is followed; 1 is off. Default: the model's own.")
]
Rescale = Annotated[
    float | None, Range(0, 1, 0.05), Doc("Rescaling of guidance against overexposure, where the family has it.")
]
Scheduler = Annotated[
    str | None,
    Doc(
        "Class name of a diffusers scheduler, or a sampler as the WebUI (`DPM++ 2M Karras`) or ComfyUI (`dpmpp_2m`, "
        "`dpmpp_2m karras`) names it; default: the model's."
    ),
]
SchedulerOptions = Annotated[
    dict[str, Any] | None,
    Added(),
    Doc(
        "Options of the scheduler by diffusers' names, such as `use_karras_sigmas: true`, `algorithm_type`, "
        "`solver_order`, `shift`; and `sigmas` or `timesteps` of your own."
    ),
]
Spacing = Annotated[
    str | None, Choices(*noise_schedulers.SPACINGS), Doc("How timesteps are spread; default: the scheduler's own.")
]
Strength = Annotated[
    float | None,
    Range(0, 1, 0.05),
    Doc("How much of the start is replaced; 1 is all of it. Default: the pipeline's own."),
]
MOST_TOLD = 64
"""Most seeds of a batch that are noted beside each of its pictures."""


@node(version=1, on="device", batch=("positive", "seed"))
def sample(
    model: Annotated[Model, Uses("denoiser")],
    positive: Annotated[Prompts, Doc("One prompt, or one for each picture.")],
    *,
    negative: Negative = None,
    latent: Annotated[Posterior | Latent | None, Doc("The start of sampling; default: noise alone.")] = None,
    control: Controls = None,
    seed: Seeds = 0,
    count: Count = None,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    guidance_rescale: Rescale = None,
    scheduler: Scheduler = None,
    timestep_spacing: Spacing = None,
    scheduler_options: SchedulerOptions = None,
    width: Side = None,
    height: Side = None,
    strength: Strength = None,
    start: Annotated[
        float | None,
        Range(0, 1, 0.05),
        Added(),
        Doc("Go on with a latent that is done to this fraction of the schedule, as it stands, without new noise."),
    ] = None,
    end: Annotated[
        float | None,
        Range(0, 1, 0.05),
        Added(),
        Doc("Stop at this fraction of the schedule, as diffusers' `denoising_end`."),
    ] = None,
    references: References = None,
    arguments: Arguments = None,
    image_prompt: ImagePrompts = None,
    ctx: Context = INERT,
) -> Latent:
    """Denoise: from noise (text to image), or from a latent (image to image) with `strength`.

    Runs diffusers' own pipeline, with one CPU generator for each picture: the result is bit-identical to the
    pipeline's, given a list of generators with these seeds. Generators in place of seeds are left as they were; the
    result holds their states after sampling.

    A run that is cut by `end`, and gone on with by `start` and the same other inputs, is the whole run to the bit, with
    schedulers that remember no steps (DDIM, DDPM, Euler, Euler a, LCM, TCD, flow matching's Euler); others are refused,
    and so is going on with another scheduler, or at another noise, than the latent has.

    In ComfyUI: `KSampler`, `KSamplerAdvanced`, `KSamplerSelect`, `SamplerCustom`, `SamplerCustomAdvanced`,
    `BasicScheduler`, `RandomNoise`, `CFGGuider`, `RescaleCFG`, `FluxGuidance`, `ReferenceLatent`, `RepeatLatentBatch`.

    Raises:
        ValueError: Inputs that contradict each other; a scheduler that the family cannot use; an unknown argument.
        Cancelled: The run was cancelled; at most one step later.
    """
    inputs = locals()  # an option is named in the signature alone

    from graphengine_nodes.store.store import store

    request = request_of(inputs)
    found = family(model.family).sample(store, request, model.computes_on(ctx.device), reporter(ctx, model))
    return latent_of(found.samples, request, found)


def latent_of(samples: torch.Tensor, request: SampleRequest, found: Sampled) -> Latent:
    """The latents of a run, or of some of its pictures."""
    done = 1.0 if request.options.end is None else request.options.end
    latent = Latent(samples, latents_of(request.model), random=found.random, done=done)
    return replace(latent, drawn=found.drawn, reached=found.reached)


def latents_of(model: Model) -> str:
    """The family that a model's latents are of."""
    return family(model.family).latents or model.family


@sample.check
def _check_sample(inputs: dict[str, Any]) -> Iterator[str]:
    yield from cutting.problems(inputs)
    yield from check_sides(inputs)
    yield from sampler_names.problems(inputs)


@sample.group
def _group_sample(positive: Prompts, seed: Seed, **others: Any) -> Any:
    """The value that calls of one batch share: the shape of the prompts, which tensors they have, and the pictures that
    they were encoded with. An `object()` keeps a call by itself."""
    seeds = seed if isinstance(seed, list) else [seed]
    data = all(_is_plain(value) for value in (others.get("arguments") or {}).values())
    lists = isinstance(positive, list) or isinstance(others.get("negative"), list) or others.get("count") is not None
    if lists or not data or not all(isinstance(one, int) for one in seeds):
        return object()
    assert isinstance(positive, Conditioning)
    negative = others.get("negative")
    if any(one is not None and (one.schedule or one.joined) for one in (positive, negative)):
        return object()
    return (*positive.embeds.shape, positive.pooled is None, *sorted(positive.fields), *positive.seen)


def _is_plain(value: Any) -> bool:
    """Whether a value means the same for a batch of several calls as for each of them."""
    if isinstance(value, (list, tuple)):
        return all(_is_plain(one) for one in value)
    return value is None or isinstance(value, (int, float, str))


@sample.many
def _sample_many(
    model: Model,
    positive: Sequence[Conditioning],
    *,
    seed: Sequence[int | list[int]],
    ctx: Sequence[Context],
    **others: Any,
) -> list[Latent | BaseException]:
    """Compute several calls that differ in prompt and seed in one batch."""
    import torch

    from graphengine_nodes.store.store import store

    results: list[Latent | BaseException | None] = [None] * len(positive)
    requests: dict[int, SampleRequest] = {}
    for index, (text, seeds) in enumerate(zip(positive, seed, strict=True)):
        try:
            requests[index] = request_of({**others, "model": model, "positive": text, "seed": seeds})
        except ValueError as error:
            results[index] = error
    if not requests:
        return [result for result in results if result is not None]
    counts = [len(request.seeds) for request in requests.values()]
    request = replace(
        next(iter(requests.values())),
        positive=[one.positive[0] for one in requests.values() for _ in one.seeds],
        seeds=[seed for one in requests.values() for seed in one.seeds],
    )
    reporters = {index: reporter(ctx[index], model) for index in requests}

    def step(done: int, total: int, samples: torch.Tensor) -> None:
        for index, part in zip(requests, torch.split(samples, counts), strict=True):
            if results[index] is None:
                try:
                    reporters[index](done, total, part)
                except Cancelled as cancelled:  # the others go on
                    results[index] = cancelled
        if None not in results:
            raise Cancelled("all calls of this batch were cancelled")

    told: dict[str, Any] = {"batch": sum(counts)}
    if len(requests) > 1:
        told["batch_seeds"] = [one if isinstance(one, int) else "drawn" for one in request.seeds][:MOST_TOLD]
    for index in requests:
        ctx[index].note(**told)
    try:
        found = family(model.family).sample(store, request, model.computes_on(ctx[0].device), step)
    except Cancelled:
        return [result for result in results if result is not None]
    for index, part in zip(requests, torch.split(found.samples, counts), strict=True):
        results[index] = results[index] or latent_of(part.clone(), request, found)
    return [result for result in results if result is not None]


@node(version=1, on="device")
def inpaint(
    model: Annotated[Model, Uses("denoiser+vae")],
    positive: Annotated[Prompts, Doc("One prompt, or one for each picture.")],
    image: Annotated[Image, Doc("The picture to paint over; the result has its size.")],
    mask: Annotated[Mask, Doc("1 where to paint; made hard at 0.5.")],
    *,
    negative: Negative = None,
    control: Controls = None,
    seed: Seeds = 0,
    count: Count = None,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    guidance_rescale: Rescale = None,
    scheduler: Scheduler = None,
    timestep_spacing: Spacing = None,
    scheduler_options: SchedulerOptions = None,
    strength: Strength = None,
    references: References = None,
    arguments: Arguments = None,
    image_prompt: ImagePrompts = None,
    ctx: Context = INERT,
) -> Latent:
    """Repaint what the mask covers, with inpainting checkpoints (9 input channels) and all others (4).

    This node encodes the picture and the masked picture itself, since random numbers are drawn in between, as
    diffusers' inpainting pipeline does: the latents are bit-identical.

    In ComfyUI: `VAEEncodeForInpaint`, `InpaintModelConditioning`.

    Raises:
        ValueError: The mask is of another size than the picture, or the sides do not fit the latents; an unknown
            argument.
        Cancelled: The run was cancelled; at most one step later.
    """
    inputs = locals()

    from graphengine_nodes.store.store import store

    request = request_of(inputs)
    found = family(model.family).sample(store, request, model.computes_on(ctx.device), reporter(ctx, model))
    return latent_of(found.samples, request, found)


inpaint.check(sampler_names.problems)


def _foresee(inputs: dict[str, Any]) -> Iterator[str]:
    model = inputs.get("model")
    if isinstance(model, Model):
        yield from family(model.family).foresee(model, inputs)
        yield from image_prompt_problems(model, inputs.get("image_prompt"))
        yield from family_problems(model, inputs)


def family_problems(model: Model, inputs: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a sampler's inputs that were made with, or steer, models of other families.

    Args:
        inputs: As validators get them that foresee: of what links bring the node that makes it is known.
    """
    for name in ("positive", "negative", "latent", "control", "video"):
        given = inputs.get(name)
        for one in given if isinstance(given, list) else [given]:
            if not isinstance(one, Unknown) or one.node not in _MADE:
                continue
            source: Any = one.inputs.get("controlnet" if name == "control" else "model")
            if isinstance(source, Model) and name in ("latent", "video"):
                fits = latents_of(source) in (model.family, latents_of(model))
            else:
                fits = not isinstance(source, Model | ControlNet) or source.family == model.family
            if not fits:
                yield _stranger(_MADE[one.node], source.family, model)


_MADE = {
    "std.encode_prompt": "a prompt",
    "std.encode_prompts": "a prompt",
    "std.encode_weighted": "a prompt",
    "std.encode_image": "an encoded picture",
    "std.encode_video": "an encoded video",
    "std.apply_controlnet": "a ControlNet",
}
"""What nodes make of a model or a ControlNet, in words."""


def _stranger(what: str, of: str, model: Model) -> str:
    does = "cannot steer" if what == "a ControlNet" else "does not fit"
    return f"{what} of {of} {does} {model.source}, a {model.family} model"


sample.foresee(_foresee)
inpaint.foresee(_foresee)


# --- from sockets to a request ----------------------------------------------------------------------------------------


def request_of(inputs: Mapping[str, Any]) -> SampleRequest:
    """The request that a node's inputs make, with the model's own values where an input is None.

    Args:
        inputs: All inputs of `sample` or `inpaint` by name; a name that is missing counts as None.

    Raises:
        ValueError: Inputs contradict each other.
    """
    model: Model = inputs["model"]
    positive: Prompts = inputs["positive"]
    negative: Prompts | None = inputs.get("negative")
    latent: Posterior | Latent | None = inputs.get("latent")
    control: Control | list[Control] | None = inputs.get("control")
    image: Image | None = inputs.get("image")
    mask: Mask | None = inputs.get("mask")
    steps: int | None = inputs.get("steps")
    sides: tuple[int | None, int | None] = inputs.get("width"), inputs.get("height")
    references = references_of(inputs.get("references"))
    wanted = positive if isinstance(positive, list) else [positive]
    unwanted = negative if isinstance(negative, list) else [] if negative is None else [negative]
    controls = [control] if isinstance(control, Control) else control or []
    _check_families(model, [*wanted, *unwanted, latent], controls)
    shown: ImagePrompt | list[ImagePrompt] | None = inputs.get("image_prompt")
    pictured = shown if isinstance(shown, list) else [] if shown is None else [shown]
    check_image_prompts(model, pictured)
    pictures = 1 if image is None or mask is None else max(len(image), mask.values.shape[0])
    if latent is not None:
        if sides != (None, None):
            raise ValueError("width and height are the latent's; leave them out where a latent is given")
        pictures, sides = _shape_of(latent, model)
        if isinstance(latent, Latent) and latent.empty:
            latent = None
    elif controls and sides == (None, None) and image is None:
        sides = controls[0].image.size
    elif references and sides == (None, None) and image is None:
        sides = family(model.family).size_of(model, references) or sides
    if steps is not None and steps < 1:
        raise ValueError(f"steps is {steps}, but must be at least 1")
    width, height = sides
    for problem in check_sides({"width": width, "height": height}, sides_of(model)):
        raise ValueError(problem)
    if not wanted:
        raise ValueError("positive is an empty list; give a prompt, or one for each picture")
    seeds, random = _seeds(inputs["seed"], inputs.get("count"), max(pictures, len(wanted)))
    if len(seeds) % pictures:
        raise ValueError(f"{len(seeds)} seeds for {pictures} pictures; give one, or one for each picture")
    if inputs.get("strength") is not None and latent is None and image is None:
        raise ValueError("strength says how much of a picture is replaced; link one to latent, or leave strength out")
    cutting.check_latent(inputs.get("latent"), inputs.get("start"))
    for problem in cutting.problems(inputs):
        raise ValueError(problem)
    part = {"start": inputs.get("start") or None, "end": None if inputs.get("end") == 1 else inputs.get("end")}
    options = _with_own_times(SamplingOptions.of(model, {**inputs, **part, "width": width, "height": height}))
    return SampleRequest(
        model,
        wanted,
        seeds,
        options,
        unwanted,
        latent,
        controls,
        image,
        mask,
        random=random,
        image_prompts=pictured,
        references=references,
    )


def _with_own_times(options: SamplingOptions) -> SamplingOptions:
    """The options with the sigmas or timesteps among the scheduler's as arguments of the pipeline, which they are."""
    given = options.scheduler_options or {}
    for problem in sampler_names.problems({"scheduler_options": given, "arguments": options.arguments}):
        raise ValueError(problem)
    times = {name: given[name] for name in OWN_TIMES if name in given}
    if not times:
        return options
    rest = {name: value for name, value in given.items() if name not in times}
    return replace(options, scheduler_options=rest, arguments={**options.arguments, **times})


def _shape_of(latent: Posterior | Latent, model: Model) -> tuple[int, tuple[int, int]]:
    """How many pictures a latent is of, and their width and height in pixels."""
    shape = (latent.samples if isinstance(latent, Latent) else latent.mean).shape
    factor = int(model.setting("factor")) if latent.family else STEP
    return int(shape[0]), (int(shape[-1]) * factor, int(shape[-2]) * factor)


def _seeds(seed: Seed, count: int | None, given: int) -> tuple[list[int], tuple[RandomState, ...]]:
    """Resolve the seeds: one for each picture, and the generators in their place.

    Args:
        given: How many pictures there are at least, where no count is given.
    """
    listed = seed if isinstance(seed, list) else [seed]
    if any(one is None or (isinstance(one, int) and one == -1) for one in listed):
        raise ValueError(
            "a seed of -1 or null is drawn where it stands in a graph or is given to one of its inputs; this one comes "
            "from a call outside a graph or from another node, so give a number"
        )
    random = tuple(one for one in listed if isinstance(one, RandomState))
    if random:
        # Schedulers that draw from a seed of their own get that of the generator.
        seeds = [one.generator().initial_seed() for one in random]
        if len(seeds) == 1:
            seeds = [(seeds[0] + index) % 2**64 for index in range(count or given)]
    elif isinstance(seed, int):
        seeds = [(seed + index) % 2**64 for index in range(count or given)]
    else:
        seeds = [one for one in listed if isinstance(one, int)]
    for value in [seed] if isinstance(seed, int) else seeds:
        if not 0 <= value < 2**64:
            raise ValueError(f"seed {value} is out of range; give 0 to {2**64 - 1}")
    if not seeds or (count is not None and len(seeds) != count):
        raise ValueError(f"{len(seeds)} seeds for {count or given} pictures; give one, or one for each picture")
    if len(seeds) > MOST:
        raise ValueError(f"{len(seeds):,} pictures are more than the {MOST:,} that one call makes; map over the seeds")
    return seeds, random


def _check_families(
    model: Model, values: Sequence[Conditioning | Posterior | Latent | None], controls: Sequence[Control]
) -> None:
    """Refuse what was made with, or steers, a model of another family, and latents of another shape.

    Raises:
        ValueError: A value is of another family, or has other channels than the model's latents.
    """
    for value in values:
        if isinstance(value, Latent) and value.empty and not value.family:  # a size, for any model
            continue
        if isinstance(value, (Posterior, Latent)) and value.family in (model.family, latents_of(model)):
            check_channels(value, model)
            continue
        if value is not None and value.family != model.family:
            name = type(value).__name__
            raise ValueError(f"a {name} of {value.family} does not fit {model.source}, a {model.family} model")
    for control in controls:
        family_name = model.family if control.controlnet is None else control.controlnet.family
        if family_name != model.family:
            raise ValueError(_stranger("a ControlNet", family_name, model))


def reporter(ctx: Context, model: Model) -> Step:
    """Make the callback that reports progress and a preview after each step, and raises `Cancelled` to stop."""

    def step(done: int, total: int, samples: torch.Tensor) -> None:
        ctx.progress(done, total)
        if ctx.watched:
            ctx.preview(preview(samples, model))

    return step
