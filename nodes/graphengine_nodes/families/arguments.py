"""Arguments of diffusers' pipelines, and checks of what they are made of: the code that families have in common."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from graphengine_nodes.families.family import SampleRequest
from graphengine_nodes.values.types import Conditioning, Control, Image, Latent, Model, Posterior

if TYPE_CHECKING:
    import torch


Row = TypeVar("Row")


def expand(rows: Sequence[torch.Tensor], count: int) -> torch.Tensor:
    """Repeat the embeddings [1, ...] of each prompt for its pictures: [count, ...].

    Raises:
        ValueError: The number of pictures is no multiple of the number of prompts.
    """
    import torch

    each = each_picture(rows, count)
    if len({row.shape for row in rows}) > 1:
        raise ValueError("prompts of different lengths cannot be sampled together; sample them one at a time")
    return torch.cat(each)


def each_picture(rows: Sequence[Row], count: int) -> list[Row]:
    """What each picture has of its prompt, which several pictures may have in common.

    Raises:
        ValueError: The number of pictures is no multiple of the number of prompts.
    """
    if count % len(rows):
        raise ValueError(f"{len(rows)} prompts for {count} pictures; give one, or one for each picture")
    return [row for row in rows for _ in range(count // len(rows))]


def references_of(given: Image | list[Image] | None) -> list[Image]:
    """Reference pictures one by one, as nodes get them: one, a list, batches, or none.

    Raises:
        ValueError: The list is empty: an edit without a picture.
    """
    if given == []:
        raise ValueError("references is an empty list; give the picture to edit, or leave references out")
    listed = given if isinstance(given, list) else [] if given is None else [given]
    return [one for batch in listed for one in batch.split()]


def negatives(request: SampleRequest) -> list[Conditioning]:
    """The negative prompts: those of the request, else the absent prompt that each positive one carries."""
    return list(request.negative) or [positive.negative for positive in request.positive]


def repeat(batch: torch.Tensor, count: int) -> torch.Tensor:
    """Repeat a batch up to `count`; `cat` keeps the memory layout, on which a convolution's last bits depend."""
    import torch

    return torch.cat([batch] * (count // batch.shape[0]))


def channels_first(image: Image) -> torch.Tensor:
    """Pixels as [B, 3, H, W], in memory as [B, H, W, 3]: the layout that the pipelines give a PIL picture.

    What is transparent lies over white.
    """
    return image.opaque().pixels.contiguous().permute(0, 3, 1, 2)


def check_size(width: int, height: int, model: Model, frames: bool = False) -> None:
    """Refuse sides that do not fit the latents.

    Args:
        frames: They are a video's.

    Raises:
        ValueError: They are no multiples of what the model needs.
    """
    multiple = sides_of(model)
    if width % multiple or height % multiple:
        what, remedy = "picture", "use resize_image, crop_image or pad_image"
        if frames:
            what, remedy = "video", "take frames_of, then resize_image, crop_image or pad_image, and video_of"
        raise ValueError(
            f"a {what} of {width} x {height} cannot be encoded: its sides must be multiples of {multiple}; {remedy}"
        )


def check_channels(latent: Posterior | Latent, model: Model) -> None:
    """Refuse latents of a VAE of another shape; families have some that differ, as Wan 2.1 and 2.2's 5B.

    Raises:
        ValueError: They have other channels than those of the model.
    """
    channels = (latent.samples if isinstance(latent, Latent) else latent.mean).shape[1]
    wanted, factor = model.setting("latent_channels"), model.setting("factor")
    if latent.family and wanted is not None and channels != wanted:
        raise ValueError(
            f"a {type(latent).__name__} of {channels} channels does not fit {model.source}, whose VAE makes latents of "
            f"{wanted} channels at 1/{factor} of the size: take one that was made with this VAE or a model that has it"
        )


def frame_problems(frames: int, model: Model) -> Iterator[str]:
    """Yield what is wrong with a number of frames: the first of a video's latents is one frame, all others several."""
    factor = int(model.setting("frame_factor"))
    if frames % factor != 1 % factor:
        less = (frames - 1) // factor * factor + 1
        yield (
            f"a video of {frames} frames does not fit {model.source}, which needs 1 more than a multiple of {factor}: "
            f"{less} or {less + factor}"
        )


def check_frames(frames: int, model: Model) -> None:
    """Refuse numbers of frames that do not fit a video's latents.

    Raises:
        ValueError: They do not.
    """
    for problem in frame_problems(frames, model):
        raise ValueError(problem)


def sides_of(model: Model) -> int:
    """The number that sides of a model's pictures must be multiples of: `multiple` in its settings, else `factor`."""
    return int(model.setting("multiple", model.setting("factor", 8)))


def side_problems(name: str, value: int, multiple: int) -> Iterator[str]:
    """Yield a sentence for a side that is no multiple of what a model needs."""
    if value % multiple:
        less = value // multiple * multiple
        yield f"{name} is {value}, but must be a multiple of {multiple} ({less} or {less + multiple})"


def check_strength(request: SampleRequest, cls: Any, left: Callable[[int, float], int]) -> None:
    """Refuse a strength that leaves no step to do, whether the request's or the pipeline's default.

    Args:
        cls: The pipeline's class.
        left: Takes steps and strength; returns how many steps the pipeline does.

    Raises:
        ValueError: No step is left.
    """
    parameter = inspect.signature(cls.__call__).parameters.get("strength")
    options, further = request.options, request.options.arguments
    # denoising_start replaces it, and a caller's own loop has no start.
    if parameter is None or further.get("denoising_start") is not None or request.loop is not None:
        return
    strength = float(parameter.default if options.strength is None else options.strength)
    times = [further[name] for name in ("timesteps", "sigmas") if further.get(name) is not None]
    steps = len(times[0]) if times else options.steps
    if left(steps, strength) < 1:
        raise ValueError(f"strength {strength:g} of {steps} steps leaves no step to do; raise strength or steps")


def inpaint_arguments(request: SampleRequest, generators: Any) -> dict[str, Any]:
    """The arguments that hold picture and mask for an inpainting pipeline.

    Raises:
        ValueError: They are of different sizes, or of one that cannot be encoded.
    """
    image, mask = request.image, request.mask
    assert image is not None
    assert mask is not None
    check_size(*image.size, request.model)
    if image.size != mask.size:
        raise ValueError(f"the mask is {_by(mask.size)}, the picture {_by(image.size)}; bring them to one size")
    width, height = image.size
    # Each of several generators draws from a picture of its own; a single one draws once for each picture given.
    count = len(request.seeds) if isinstance(generators, list) else len(image)
    return {
        "image": repeat(channels_first(image), count),
        "mask_image": mask.values[:, None],
        "width": width,
        "height": height,
    }


def control_arguments(request: SampleRequest, started: str = "control_image") -> dict[str, Any]:
    """The arguments that hold control pictures and scales, by the names of the pipeline.

    Args:
        started: The name of the control pictures where the pipeline also starts from a picture.

    Raises:
        ValueError: Some controls guess and others do not.
    """
    controls = request.control
    plain = not request.starts_from
    values: dict[str, Any] = {
        "image" if plain else started: [control_picture(control, request) for control in controls],
        "controlnet_conditioning_scale": [float(control.scale) for control in controls],
        "control_guidance_start": [control.start for control in controls],
        "control_guidance_end": [control.end for control in controls],
    }
    found = {name: value[0] if len(controls) == 1 else value for name, value in values.items()}
    guesses = {control.guess for control in controls}
    if len(guesses) > 1:
        raise ValueError("some controls guess and others do not; let all of them guess or none")
    return found | ({"guess_mode": True} if guesses == {True} else {})


def check_painted(request: SampleRequest) -> None:
    """Refuse a ControlNet for inpainting that would see another picture than the one that is painted over.

    Raises:
        ValueError: It would.
    """
    if request.mask is None or not request.control:
        return
    assert request.image is not None
    for control in request.control:
        seen = control.image.opaque().pixels
        if control.image.size != request.image.size or not bool((seen == request.image.opaque().pixels).all()):
            raise ValueError(
                "a ControlNet for inpainting sees the picture under the mask: give apply_controlnet the picture that "
                "inpaint gets"
            )


def one_control(request: SampleRequest, nets: Sequence[Any]) -> dict[str, Any]:
    """The arguments that hold the picture and the scale of a single ControlNet that steers in all steps.

    Raises:
        ValueError: There are several controls, or one guesses, or steers in a part of the steps.
    """
    control = request.control[0]
    if len(request.control) > 1:
        raise ValueError(f"{request.model.family} takes one ControlNet; leave the others out")
    if control.guess or (control.start, control.end) != (0.0, 1.0):
        raise ValueError(f"a ControlNet of {request.model.family} steers in all steps: leave start, end and guess out")
    return {
        "control_image": signed_picture(control, request),
        "controlnet_conditioning_scale": float(control.scale),
    }


def check_modes(request: SampleRequest) -> None:
    """Refuse a union ControlNet without a mode, before anything is loaded.

    Raises:
        ValueError: A control has none, and further arguments do not say it.
    """
    if request.options.arguments.get("control_mode") is not None:
        return
    for control in request.control:
        net = control.controlnet
        if net is not None and net.modes is not None and control.mode is None:
            raise ValueError(
                f"{net.source} is a union ControlNet: give apply_controlnet the mode, 0 to {net.modes - 1}, which says "
                "the kind of its control picture"
            )


def control_picture(control: Control, request: SampleRequest) -> torch.Tensor:
    """Repeat control pictures for each picture; resize them, where needed, as the pipelines resize a PIL picture."""
    given, count = len(control.image), len(request.seeds)
    if count % given:
        raise ValueError(f"{given} control pictures for {count} pictures; give one, or one for each")
    wanted = request.size
    pixels = channels_first(control.image)
    if control.image.size == wanted:
        return repeat(pixels, count)
    from diffusers.image_processor import VaeImageProcessor

    resizer = VaeImageProcessor(sides_of(request.model), do_convert_rgb=True, do_normalize=False)
    masked = bool((pixels < 0).any())  # -1 marks masked pixels, which a PIL picture cannot hold
    return repeat(resizer.preprocess(pixels if masked else control.image.pils(), wanted[1], wanted[0]), count)


def signed_picture(control: Control, request: SampleRequest) -> torch.Tensor:
    """Control pictures scaled to -1..1, as pipelines do that take tensors as they are; one with negative numbers is
    left."""
    picture = control_picture(control, request)
    return picture if bool(picture.min() < 0) else 2.0 * picture - 1.0


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
