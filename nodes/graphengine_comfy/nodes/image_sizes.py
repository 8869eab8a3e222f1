"""Pictures: their sizes, resized, padded, cut."""

from __future__ import annotations

import math
from typing import Annotated, Any, NamedTuple, TypeVar

from graphengine_nodes import Image, Mask

from graphengine import Choices, Range, node
from graphengine_comfy.nodes.resizing import CROPS, METHODS, MOST, resized

Method = Annotated[str, Choices(*METHODS)]
Crop = Annotated[str, Choices(*CROPS)]
Side = Annotated[int, Range(0, MOST, 1)]


def scaled(image: Image, width: int, height: int, method: str, crop: str = "disabled") -> Image:
    """Resize pictures, and their transparency, by one of ComfyUI's methods.

    Raises:
        ValueError: They would be more than 2**27 pixels.
    """
    if width * height > 2**27:
        raise ValueError(f"{width} x {height} is more than 134 million pixels")
    channels = resized(image.channels.movedim(-1, 1), width, height, method, crop).movedim(1, -1)
    alpha = None if image.alpha is None else channels[..., 3].contiguous()
    return Image(channels[..., :3].contiguous(), alpha)


@node(version=1)
def ImageScale(
    *,
    image: Image,
    upscale_method: Method = "nearest-exact",
    width: Side = 512,
    height: Side = 512,
    crop: Crop = "disabled",
) -> Image:
    """Resize pictures; a side of 0 follows from the other one."""
    own_width, own_height = image.size
    if not width and not height:
        return image
    width = width or max(1, round(own_width * height / own_height))
    height = height or max(1, round(own_height * width / own_width))
    return scaled(image, width, height, upscale_method, crop)


@node(version=1)
def ImageScaleBy(
    *, image: Image, upscale_method: Method = "nearest-exact", scale_by: Annotated[float, Range(0.01, 8.0, 0.01)] = 1.0
) -> Image:
    """Resize pictures by a factor."""
    width, height = (max(1, round(side * scale_by)) for side in image.size)
    return scaled(image, width, height, upscale_method)


@node(version=1)
def ImageScaleToTotalPixels(
    *,
    image: Image,
    upscale_method: Method = "nearest-exact",
    megapixels: Annotated[float, Range(0.01, 16.0, 0.01)] = 1.0,
    resolution_steps: Annotated[int, Range(1, 256, 1)] = 1,
) -> Image:
    """Resize pictures to so many times 1024 x 1024 pixels, with sides that are multiples of `resolution_steps`."""
    factor = math.sqrt(megapixels * 1024 * 1024 / math.prod(image.size))
    width, height = (max(1, round(side * factor / resolution_steps)) * resolution_steps for side in image.size)
    return scaled(image, width, height, upscale_method)


@node(version=1)
def ImageScaleToMaxDimension(
    *, image: Image, upscale_method: Method = "area", largest_size: Annotated[int, Range(0, MOST, 1)] = 512
) -> Image:
    """Resize pictures so that the longer side has a length; at 0 they stay."""
    longest = max(image.size)
    if not largest_size:
        return image
    width, height = (max(1, round(side * largest_size / longest)) for side in image.size)
    return scaled(image, width, height, upscale_method)


T = TypeVar("T")
WAYS = ("scale dimensions", "scale by multiplier", "scale longer dimension", "scale total pixels")
"""ComfyUI's names of ways to say a size."""


@node(version=1)
def ResizeImageMaskNode(
    *,
    input: T,
    resize_type: Annotated[str, Choices(*WAYS)] = "scale dimensions",
    resize_type_width: Side = 512,
    resize_type_height: Side = 512,
    resize_type_crop: Crop = "center",
    resize_type_multiplier: Annotated[float, Range(0.01, 8.0, 0.01)] = 1.0,
    resize_type_longer_size: Side = 512,
    resize_type_megapixels: Annotated[float, Range(0.01, 16.0, 0.01)] = 1.0,
    scale_method: Method = "area",
) -> T:
    """Resize pictures or masks, to a size that is said in one of several ways.

    Raises:
        ValueError: It is neither.
    """
    given: Any = input
    if isinstance(given, Mask):
        image = Image(given.values[..., None].expand(-1, -1, -1, 3))
    elif isinstance(given, Image):
        image = given
    else:
        raise ValueError(f"a {type(given).__name__} is neither a picture nor a mask")
    if resize_type == "scale dimensions":
        wide, high, crop = resize_type_width, resize_type_height, resize_type_crop
        found = ImageScale.fn(image=image, upscale_method=scale_method, width=wide, height=high, crop=crop)
    elif resize_type == "scale by multiplier":
        found = ImageScaleBy.fn(image=image, upscale_method=scale_method, scale_by=resize_type_multiplier)
    elif resize_type == "scale longer dimension":
        longest = resize_type_longer_size
        found = ImageScaleToMaxDimension.fn(image=image, upscale_method=scale_method, largest_size=longest)
    else:
        area = resize_type_megapixels
        found = ImageScaleToTotalPixels.fn(image=image, upscale_method=scale_method, megapixels=area)
    made: Any = Mask(found.pixels[..., 0].contiguous()) if isinstance(given, Mask) else found
    resized_one: T = made
    return resized_one


KONTEXT_SIZES = (
    (672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184), (944, 1104),
    (1024, 1024), (1104, 944), (1184, 880), (1248, 832), (1328, 800), (1392, 752), (1456, 720), (1504, 688),
    (1568, 672),
)  # fmt: skip
"""The sizes that FLUX.1 Kontext was trained at."""


@node(version=1)
def FluxKontextImageScale(*, image: Image) -> Image:
    """Resize pictures to that size of FLUX.1 Kontext's training whose proportions are nearest."""
    aspect = image.size[0] / image.size[1]
    width, height = min(KONTEXT_SIZES, key=lambda size: abs(aspect - size[0] / size[1]))
    return scaled(image, width, height, "lanczos", "center")


class Sized(NamedTuple):
    """The size of pictures, and how many there are."""

    width: int
    height: int
    batch_size: int


@node(version=1)
def GetImageSize(*, image: Image) -> Sized:
    """Give the width and height of pictures, and how many there are."""
    return Sized(*image.size, len(image))


class Padded(NamedTuple):
    """A larger picture, and what was added to it."""

    IMAGE: Image
    MASK: Mask


Margin = Annotated[int, Range(0, MOST, 8)]


@node(version=1)
def ImagePadForOutpaint(
    *,
    image: Image,
    left: Margin = 0,
    top: Margin = 0,
    right: Margin = 0,
    bottom: Margin = 0,
    feathering: Annotated[int, Range(0, MOST, 1)] = 40,
) -> Padded:
    """Make pictures larger, in grey, and a mask of what was added, which reaches into the picture by `feathering`."""
    import torch

    count, (width, height) = len(image), image.size
    pixels = torch.full((count, height + top + bottom, width + left + right, 3), 0.5)
    pixels[:, top : top + height, left : left + width] = image.pixels
    inside = torch.zeros(height, width)
    if feathering and feathering * 2 < min(width, height):
        rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
        far = torch.full((height, width), max(height, width))
        sides = ((top, rows), (bottom, height - rows), (left, columns), (right, width - columns))
        for margin, distance in sides:
            far = torch.minimum(far, distance.expand(height, width)) if margin else far
        inside = ((feathering - far) / feathering).clamp(min=0) ** 2
    mask = torch.ones(pixels.shape[1:3])
    mask[top : top + height, left : left + width] = inside
    return Padded(Image(pixels), Mask(mask[None]))


@node(version=1)
def ImageCrop(
    *,
    image: Image,
    width: Annotated[int, Range(1, MOST, 1)] = 512,
    height: Annotated[int, Range(1, MOST, 1)] = 512,
    x: Side = 0,
    y: Side = 0,
) -> Image:
    """Cut a piece out of pictures; what would lie outside is left out."""
    x, y = min(x, image.size[0] - 1), min(y, image.size[1] - 1)
    area = (slice(None), slice(y, y + height), slice(x, x + width))
    alpha = None if image.alpha is None else image.alpha[area].contiguous()
    return Image(image.pixels[area].contiguous(), alpha)


RATIOS = {
    "1:1 (Square)": (1, 1),
    "2:3 (Portrait Photo)": (2, 3),
    "3:2 (Photo)": (3, 2),
    "3:4 (Portrait Standard)": (3, 4),
    "4:3 (Standard)": (4, 3),
    "16:9 (Widescreen)": (16, 9),
    "9:16 (Portrait Widescreen)": (9, 16),
    "21:9 (Ultrawide)": (21, 9),
}
"""ComfyUI's names of proportions."""


class Resolution(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int


@node(version=1)
def ResolutionSelector(
    *,
    aspect_ratio: Annotated[str, Choices(*RATIOS)] = "1:1 (Square)",
    megapixels: Annotated[float, Range(0.1, 16.0, 0.1)] = 1.0,
    multiple: Annotated[int, Range(1, 128, 1)] = 8,
) -> Resolution:
    """Give a size by its proportions and its area, in times 1024 x 1024 pixels."""
    wide, high = RATIOS[aspect_ratio]
    factor = math.sqrt(megapixels * 1024 * 1024 / (wide * high))
    sides = [max(1, round(side * factor / multiple)) * multiple for side in (wide, high)]
    return Resolution(sides[0], sides[1])
