"""Videos: sampling them from a prompt, from the first and the last picture, or from a video; to latents and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

from graphengine import INERT, Context, Doc, Drawn, Range, Uses, node
from graphengine_nodes.families import sampler_names
from graphengine_nodes.families.arguments import check_channels, check_frames, frame_problems, sides_of
from graphengine_nodes.families.family import SampleRequest
from graphengine_nodes.families.lookup import family
from graphengine_nodes.nodes.latents import Side, check_sides
from graphengine_nodes.nodes.sampling import (
    Arguments,
    Guidance,
    Scheduler,
    SchedulerOptions,
    Steps,
    Strength,
    family_problems,
    latent_of,
    reporter,
    request_of,
)
from graphengine_nodes.nodes.videos import MOST
from graphengine_nodes.values.references import model_of
from graphengine_nodes.values.types import VAE, Conditioning, Image, Latent, Model, Posterior, RandomState
from graphengine_nodes.values.video import FASTEST, SLOWEST, Video

FPS = 16.0
"""Frames a second of latents that do not say it."""


@node(version=1, on="device")
def sample_video(
    model: Annotated[Model, Uses("denoiser")],
    positive: Annotated[Conditioning, Doc("The prompt.")],
    *,
    negative: Annotated[
        Conditioning | None, Doc("Default: no negative prompt, which Wan takes as an empty one.")
    ] = None,
    first: Annotated[Image | None, Doc("The picture that the video begins with, for models that take one.")] = None,
    last: Annotated[Image | None, Doc("The picture that it ends with, for models that take both.")] = None,
    video: Annotated[Posterior | Latent | None, Doc("A video to start from, from encode_video; see strength.")] = None,
    frames: Annotated[
        int | None, Range(1, MOST, 1), Doc("How many; for Wan 1 more than a multiple of 4. Default: the model's own.")
    ] = None,
    seed: Annotated[int | RandomState, Range(0, 2**64 - 1), Drawn(), Doc("A seed, or a generator in its place.")] = 0,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    guidance_scale_2: Annotated[
        float | None,
        Range(0, 100, 0.1),
        Doc("That of the steps with little noise, for models with a second denoiser. Default: as guidance_scale."),
    ] = None,
    scheduler: Scheduler = None,
    scheduler_options: SchedulerOptions = None,
    width: Side = None,
    height: Side = None,
    strength: Strength = None,
    arguments: Arguments = None,
    ctx: Context = INERT,
) -> Latent:
    """Denoise one video: from noise, or from a video with `strength`; its first and last picture may be given.

    Runs diffusers' own pipeline with a CPU generator: the result is bit-identical to the pipeline's. By default the
    size is the model's; with a first picture it is of the same area with the picture's aspect, which also decides the
    other side where one is given. Pictures of another size are stretched to it.

    Raises:
        ValueError: The model makes no videos, needs a first picture or takes none; a number of frames or a side does
            not fit it; a scheduler that it cannot use; an unknown argument.
        Cancelled: The run was cancelled; at most one step later.
    """
    inputs = locals()

    from graphengine_nodes.store.store import store

    request = video_request(inputs)
    found = family(model.family).sample(store, request, model.computes_on(ctx.device), reporter(ctx, model))
    return replace(latent_of(found.samples, request, found), fps=float(model.setting("fps", FPS)))


@sample_video.check
def _check_sample(inputs: dict[str, Any]) -> Iterator[str]:
    yield from check_sides(inputs)
    yield from sampler_names.problems(inputs)
    if inputs.get("first") is not None and inputs.get("video") is not None:
        yield "a video starts from its first picture or from a video; leave first or video out"
    yield from _start_problems(inputs)


@sample_video.foresee
def _foresee(inputs: dict[str, Any]) -> Iterator[str]:
    model, frames = inputs.get("model"), inputs.get("frames")
    if not isinstance(model, Model):
        return
    yield from family(model.family).foresee(model, inputs)
    yield from family_problems(model, inputs)
    if model.setting("frame_factor") is None:
        yield f"{model.source}, {model.family}, makes no videos; use sample"
        return
    if isinstance(frames, int):
        yield from frame_problems(frames, model)
    if inputs.get("guidance_scale_2") is not None and model.setting("boundary_ratio") is None:
        yield f"{model.source} has one denoiser for all steps; leave guidance_scale_2 out"


def video_request(inputs: dict[str, Any]) -> SampleRequest:
    """The request that the inputs of `sample_video` make, with the model's own values where an input is None.

    Raises:
        ValueError: Inputs contradict each other, or do not fit the model.
    """
    model: Model = inputs["model"]
    factor = model.setting("frame_factor")
    if factor is None:
        raise ValueError(f"{model.source}, {model.family}, makes no videos; use sample")
    if not isinstance(inputs.get("seed", 0), (int, RandomState)):
        raise ValueError(
            "seed is a list, and a video takes one seed or generator; for several videos map over the seeds"
        )
    for problem in _start_problems(inputs):
        raise ValueError(problem)
    given: dict[str, Image | None] = {name: inputs.get(name) for name in ("first", "last")}
    for name, picture in given.items():
        if picture is not None and len(picture) != 1:
            raise ValueError(f"{name} is {len(picture)} pictures; a video takes one, so map over them")
    frames, start = inputs.get("frames"), inputs.get("video")
    if start is not None:
        shape = (start.samples if isinstance(start, Latent) else start.mean).shape
        if len(shape) != 5:
            raise ValueError("video is the latent of a picture; give what encode_video or sample_video makes")
        if shape[0] != 1:
            raise ValueError(f"video holds {shape[0]} videos; give one")
        if shape[2] == 1 and (isinstance(start, Posterior) or start.fps is None):
            raise ValueError("video is a picture, one frame; give what encode_video makes of more of them")
        if frames is not None:
            raise ValueError("frames are the video's; leave them out where a video is given")
        frames = (int(shape[2]) - 1) * int(factor) + 1
    frames = int(model.setting("frames")) if frames is None else frames
    check_frames(frames, model)
    sides = {name: inputs.get(name) for name in ("width", "height")}
    first = given["first"]
    if first is not None and None in sides.values():
        sides = _sides_by(first, sides["width"], sides["height"], model)
    request = request_of({**inputs, **sides, "latent": start})
    options = request.options
    if inputs.get("guidance_scale") is not None and inputs.get("guidance_scale_2") is None:
        options = replace(options, guidance_scale_2=None)  # the same, not the model's own
    return replace(request, options=options, frames=frames, first=first, last=given["last"])


def _sides_by(first: Image, width: int | None, height: int | None, model: Model) -> dict[str, int | None]:
    """The sides of a video with its first picture's aspect: of the model's own area, or by the side that is given."""
    multiple, (wide, high) = sides_of(model), first.size
    if width is not None:
        height = max(multiple, round(width * high / wide / multiple) * multiple)
    elif height is not None:
        width = max(multiple, round(height * wide / high / multiple) * multiple)
    elif (size := family(model.family).size_of(model, [first])) is not None:
        width, height = size
    return {"width": width, "height": height}


def _start_problems(inputs: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the inputs that belong to the video that sampling starts from."""
    if inputs.get("video") is None:
        if inputs.get("strength") is not None:
            yield "strength says how much of a video is replaced; give one to video, or leave strength out"
    elif (inputs.get("width"), inputs.get("height")) != (None, None):
        yield "width and height are the video's; leave them out where a video is given"


@node(version=1, on="device")
def encode_video(model: Annotated[Model | VAE, Uses("vae")], video: Video, ctx: Context = INERT) -> Posterior:
    """Encode a video, for `sample_video(video=...)`.

    Raises:
        ValueError: The model takes no videos; the sides or the number of frames do not fit it.
    """
    from graphengine_nodes.store.store import store

    model = model_of(model)
    return family(model.family).encode_video(store, model, video, model.computes_on(ctx.device))


@node(version=1, on="device")
def decode_video(
    model: Annotated[Model | VAE, Uses("vae")],
    latent: Latent,
    fps: Annotated[
        float | None, Range(SLOWEST, FASTEST, 1), Doc("Frames that are shown in a second; default: the model's own.")
    ] = None,
    ctx: Context = INERT,
) -> Video:
    """Decode the latents of a video.

    Raises:
        ValueError: The latent is empty, no video's, of another model family, or of other channels than the model's; the
            model makes no videos.
    """
    from graphengine_nodes.store.store import store

    if isinstance(model, VAE) and latent.family in model.families:
        model = model.of(latent.family)
    model = model_of(model)
    if latent.family and latent.family not in (model.family, family(model.family).latents):
        raise ValueError(f"a latent of {latent.family} cannot be decoded by {model.source}, a {model.family} model")
    check_channels(latent, model)
    shown = latent.fps or FPS if fps is None else fps
    return family(model.family).decode_video(store, model, latent, shown, model.computes_on(ctx.device))
