"""Pictures: read, given as outputs, joined, laid over one another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import graphengine_nodes as std
from graphengine_nodes import Image, Mask
from graphengine_nodes.nodes.images import read_image
from graphengine_nodes.values.picture_reading import has_own_colours

from graphengine import INERT, Choices, Context, File, Range, node
from graphengine_comfy.file_names import saved_name
from graphengine_comfy.nodes.image_sizes import Side, scaled
from graphengine_comfy.nodes.resizing import MOST, repeated, resized
from graphengine_comfy.values import UPSCALE_MODEL

if TYPE_CHECKING:
    import torch



class Loaded(NamedTuple):
    """A picture, and what is transparent in it."""

    IMAGE: Image
    MASK: Mask


@node(version=1)
def LoadImage(*, image: Annotated[str | Path, File("image")]) -> Loaded:
    """Read a picture, and its transparency as a mask: 1 where it is transparent. Without any the mask is empty.

    Colours under transparency are as the file has them.

    Raises:
        FileError: It is no picture, or cut short.
    """
    import torch

    picture = read_image(Path(image), alpha=True)
    mask = torch.zeros(1, 64, 64) if picture.alpha is None else 1.0 - picture.alpha
    return Loaded(Image(picture.pixels), Mask(mask))


@LoadImage.fingerprint
def _colours(image: str | Path) -> str | None:
    return "colours are read" if has_own_colours(Path(image)) else None


@node(version=1)
def LoadImageMask(
    *,
    image: Annotated[str | Path, File("image")],
    channel: Annotated[str, Choices("alpha", "red", "green", "blue")] = "alpha",
) -> Mask:
    """Read a mask from a channel of a picture; of alpha, what is transparent is 1.

    Raises:
        FileError: It is no picture, or cut short.
    """
    import torch

    picture = read_image(Path(image), alpha=True)
    if channel == "alpha":
        return Mask(torch.zeros(1, 64, 64) if picture.alpha is None else 1.0 - picture.alpha)
    return Mask(picture.pixels[..., ("red", "green", "blue").index(channel)].contiguous())


@node(version=1)
def SaveImage(*, images: Image, filename_prefix: str = "ComfyUI") -> Image:
    """Give pictures as an output of the workflow, whose files are called by the prefix; it writes none itself.

    Raises:
        ValueError: The prefix leads out of the folder of the outputs.
    """
    saved_name(filename_prefix, images)
    return images


@node(version=1)
def PreviewImage(*, images: Image) -> Image:
    """Give pictures as an output of the workflow that is to be looked at."""
    return images


@node(version=1)
def ImageCompare(*, image_a: Image | None = None, image_b: Image | None = None, compare_view: Any = None) -> Image:
    """Give two pictures as one output, the second beside the first, resized to its height.

    Raises:
        ValueError: Neither is linked.
    """
    import torch

    given = [one for one in (image_a, image_b) if one is not None]
    if not given:
        raise ValueError("there is no picture to compare: link image_a and image_b")
    first = given[0].opaque()
    if len(given) == 1:
        return first
    width, height = given[1].size
    second = scaled(given[1].opaque(), round(width * first.size[1] / height), first.size[1], "bilinear")
    return Image(torch.cat(_equally_many(first, second), dim=2))


def _equally_many(first: Image, second: Image) -> list[torch.Tensor]:
    """The pixels of two batches; the last picture of the smaller batch is repeated."""
    import torch

    count = max(len(first), len(second))
    return [torch.cat([one.pixels, one.pixels[-1:].repeat(count - len(one), 1, 1, 1)]) for one in (first, second)]


@node(version=1)
def SaveImageAdvanced(
    *,
    images: Image,
    filename_prefix: str = "ComfyUI",
    format: str = "png",
    format_bit_depth: str | None = None,
    format_input_color_space: str | None = None,
) -> Image:
    """Give pictures as an output of the workflow, which are written as PNG in 8 bits.

    Raises:
        ValueError: Another format is asked for, or the prefix leads out of the folder of the outputs.
    """
    saved_name(filename_prefix, images)
    plain = (format, format_bit_depth or "8-bit", format_input_color_space or "sRGB")
    if plain != ("png", "8-bit", "sRGB"):
        raise ValueError(f"outputs are written as PNG, 8-bit, sRGB, and not as {', '.join(plain)}")
    return images


# --- others -----------------------------------------------------------------------------------------------------------


@node(version=1)
def ImageInvert(*, image: Image) -> Image:
    """Invert the colours of pictures."""
    return Image(1.0 - image.pixels, image.alpha)


@node(version=1)
def EmptyImage(
    *,
    width: Annotated[int, Range(1, MOST, 1)] = 512,
    height: Annotated[int, Range(1, MOST, 1)] = 512,
    batch_size: Annotated[int, Range(1, 4096, 1)] = 1,
    color: Annotated[int, Range(0, 0xFFFFFF, 1)] = 0,
) -> Image:
    """Make pictures of one colour, written as 0xRRGGBB."""
    import torch

    channels = [(color >> shift & 255) / 255 for shift in (16, 8, 0)]
    return Image(torch.tensor(channels).expand(batch_size, height, width, 3).contiguous())


@node(version=1)
def ImageBatch(*, image1: Image, image2: Image) -> Image:
    """Join pictures to a batch; the second ones are resized to the size of the first."""
    import torch

    second = scaled(image2, *image1.size, "bilinear", "center")
    if image1.alpha is None and second.alpha is None:
        return Image(torch.cat([image1.pixels, second.pixels]))
    alphas = [torch.ones(one.pixels.shape[:3]) if one.alpha is None else one.alpha for one in (image1, second)]
    return Image(torch.cat([image1.pixels, second.pixels]), torch.cat(alphas))


@node(version=1)
def BatchImagesNode(*, images: list[Image]) -> Image:
    """Join any number of pictures to a batch; they are resized to the size of the first.

    Raises:
        ValueError: There is none.
    """
    if not images:
        raise ValueError("there is no picture: link at least one")
    found = images[0]
    for image in images[1:]:
        found = ImageBatch.fn(image1=found, image2=image)
    return found


@node(version=1)
def RepeatImageBatch(*, image: Image, amount: Annotated[int, Range(1, 4096, 1)] = 1) -> Image:
    """Repeat a batch of pictures."""
    alpha = None if image.alpha is None else image.alpha.repeat(amount, 1, 1)
    return Image(image.pixels.repeat(amount, 1, 1, 1), alpha)


@node(version=1)
def ImageFromBatch(
    *, image: Image, batch_index: Annotated[int, Range(0, 4095, 1)] = 0, length: Annotated[int, Range(1, 4096, 1)] = 1
) -> Image:
    """Take some pictures of a batch, from a place on."""
    start = min(batch_index, len(image) - 1)
    end = start + min(length, len(image) - start)
    return Image(image.pixels[start:end], None if image.alpha is None else image.alpha[start:end])


@node(version=1)
def ImageCompositeMasked(
    *,
    destination: Image,
    source: Image,
    x: Side = 0,
    y: Side = 0,
    resize_source: bool = False,
    mask: Mask | None = None,
) -> Image:
    """Lay a picture over another at a place, where a mask says so; without one everywhere."""
    import torch

    width, height = destination.size
    above = scaled(source.opaque(), width, height, "bilinear") if resize_source else source.opaque()
    count = max(len(destination), len(above))
    below = repeated(destination.pixels, count).clone()
    pixels = repeated(above.pixels, count)[:, : max(height - y, 0), : max(width - x, 0)]
    weight = torch.ones(count, *above.pixels.shape[1:3])
    if mask is not None:
        sized = resized(mask.values[:, None], above.size[0], above.size[1], "bilinear")[:, 0]
        weight = repeated(sized, count)
    weight = weight[:, : pixels.shape[1], : pixels.shape[2], None]
    area = (slice(None), slice(y, y + pixels.shape[1]), slice(x, x + pixels.shape[2]))
    below[area] = pixels * weight + below[area] * (1.0 - weight)
    return Image(below)


@node(version=1, on="device")
def ImageUpscaleWithModel(*, upscale_model: UPSCALE_MODEL, image: Image, ctx: Context = INERT) -> Image:
    """Make pictures larger with an upscale model."""
    return std.upscale_with_model(upscale_model.upscaler, image, ctx=ctx)


COLOURS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0)}
COLOURS |= {"blue": (0.0, 0.0, 1.0)}


@node(version=1)
def ImageStitch(
    *,
    image1: Image,
    direction: Annotated[str, Choices("right", "down", "left", "up")] = "right",
    match_image_size: bool = True,
    spacing_width: Annotated[int, Range(0, 1024, 2)] = 0,
    spacing_color: Annotated[str, Choices(*COLOURS)] = "white",
    image2: Image | None = None,
) -> Image:
    """Put a picture beside another; resized to its side, or with black around it."""
    import torch

    if image2 is None:
        return image1
    across, first, second = direction in ("right", "left"), image1.opaque(), image2.opaque()
    if match_image_size:
        width, height = second.size
        size = (round(width * first.size[1] / height), first.size[1])
        size = size if across else (first.size[0], round(height * first.size[0] / width))
        second = scaled(second, *size, "lanczos")
    parts = _equally_many(first, second)
    side, along = (1, 2) if across else (2, 1)
    longest = max(int(one.shape[side]) for one in parts)
    parts = [_centred(one, side, longest) for one in parts]
    parts = parts if direction in ("right", "down") else parts[::-1]
    if spacing_width:
        shape = [*parts[0].shape]
        shape[along] = spacing_width + spacing_width % 2
        parts.insert(1, torch.tensor(COLOURS[spacing_color]).expand(shape))
    return Image(torch.cat(parts, dim=along))


def _centred(pixels: torch.Tensor, axis: int, length: int) -> torch.Tensor:
    """Pictures [B, H, W, 3] with black around them along an axis, up to a length."""
    import torch

    more = length - int(pixels.shape[axis])
    pads = [0, 0] * (3 - axis) + [more // 2, more - more // 2]
    return torch.nn.functional.pad(pixels, pads)


@node(version=1)
def Canny(
    *,
    image: Image,
    low_threshold: Annotated[float, Range(0.01, 0.99, 0.01)] = 0.4,
    high_threshold: Annotated[float, Range(0.01, 0.99, 0.01)] = 0.8,
) -> Image:
    """Draw the edges of pictures in white on black, by Canny's method, after a blur.

    OpenCV computes it in 8 bits, so that edges may differ from ComfyUI's in single pixels.
    """
    import cv2
    import numpy as np
    import PIL.Image
    from graphengine_nodes.nodes.images import from_pil

    found = []
    for picture in image.opaque().pils():
        grey = cv2.GaussianBlur(np.asarray(picture.convert("L")), (5, 5), 1.0)
        found.append(cv2.Canny(grey, low_threshold * 255, high_threshold * 255, L2gradient=True))
    return from_pil(*(PIL.Image.fromarray(one) for one in found))


@node(version=1)
def JoinImageWithAlpha(*, image: Image, alpha: Mask) -> Image:
    """Give pictures transparency: where the mask is 1 nothing is seen."""
    import torch

    mask = resized(alpha.values[:, None], image.size[0], image.size[1], "bilinear")[:, 0]
    count = max(len(image), len(mask))
    return Image(repeated(image.pixels, count), 1.0 - torch.clamp(repeated(mask, count), 0, 1))


class Separated(NamedTuple):
    """A picture without its transparency, and the transparency."""

    IMAGE: Image
    MASK: Mask


@node(version=1)
def SplitImageWithAlpha(*, image: Image) -> Separated:
    """Take the transparency of pictures away, and give it as a mask: 1 where nothing is seen."""
    import torch

    mask = torch.zeros(image.pixels.shape[:3]) if image.alpha is None else 1.0 - image.alpha
    return Separated(Image(image.pixels), Mask(mask))
