"""Pictures: reading, writing, sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from graphengine import INERT, Added, Context, Doc, File, Range, node
from graphengine_nodes.values.picture_files import Format, over_white, save_pictures
from graphengine_nodes.values.picture_reading import Deep, has_own_colours, open_picture
from graphengine_nodes.values.types import Image

if TYPE_CHECKING:
    import PIL.Image
    import torch

Resampling = Literal["nearest", "bilinear", "bicubic", "lanczos"]
MOST = 16384
"""Pixels of a side."""
Pixels = Annotated[int, Range(1, MOST, 1)]


@node(version=1)
def load_image(
    path: Annotated[str | Path, File("image")],
    alpha: Annotated[
        bool, Added(), Doc("Keep transparency as the picture's alpha, instead of laying it over white.")
    ] = False,
) -> Image:
    """Read a picture as RGB in sRGB: rotated as its EXIF says, by its colour profile, transparent parts over white.

    16 bits of grey and colour (PNG, TIFF) are kept, and floats in 0..1 (TIFF).

    In ComfyUI: `LoadImage`.

    Raises:
        FileError: It is no picture, cut short, or so large that unpacking it would fill the memory; its numbers are
            such that white is not known: integers of 12 or 32 bits, signed ones, floats beyond 0..1.
    """
    return read_image(Path(path), alpha)


@load_image.fingerprint
def _colours(path: str | Path, alpha: bool = False) -> str | None:
    """What keys of pictures have beside the file: pictures whose colours were not read before have other keys."""
    return "colours are read" if has_own_colours(Path(path)) else None


def read_image(path: Path, alpha: bool = False) -> Image:
    """Read a picture file; transparent parts lie over white, or are kept with `alpha`.

    Raises:
        FileError: As `load_image`.
    """
    import torch

    found = open_picture(path)
    if not isinstance(found, Deep):
        return from_pil(found, alpha=alpha)
    if not alpha or found.alpha is None:
        return Image(torch.from_numpy(found.over(1.0)[None]))
    return Image(torch.from_numpy(found._replace(alpha=None).over(1.0)[None]), torch.from_numpy(found.alpha[None]))


def from_pil(*pictures: PIL.Image.Image, alpha: bool = False) -> Image:
    """Make an `Image` of PIL pictures of one size, in any mode; transparent parts lie over white.

    With `alpha` they are kept, if any of the pictures has some.
    """
    import numpy as np
    import torch

    if not alpha or not any(picture.has_transparency_data for picture in pictures):
        return Image(torch.from_numpy(np.stack([_rgb(picture) for picture in pictures])))
    array = np.stack([np.asarray(picture.convert("RGBA")) for picture in pictures]).astype(np.float32) / 255.0
    found = torch.from_numpy(array)
    return Image(found[..., :3].contiguous(), found[..., 3].contiguous())


def _rgb(picture: PIL.Image.Image) -> Any:
    """float32 [H, W, 3] in 0..1."""
    import numpy as np

    if picture.mode.startswith("I") or picture.mode == "F":
        # 16 bits and more: PIL would cut them off at 255.
        array = np.asarray(picture).astype(np.float32)
        most = 1 if picture.mode == "F" else 65535
        if not (array.min(initial=0) >= 0 and array.max(initial=0) <= most):
            raise ValueError(f"a picture of PIL's mode {picture.mode} has numbers from 0 to {most}; scale them")
        return np.repeat((array / np.float32(most))[..., None], 3, axis=2)
    if picture.has_transparency_data:
        picture = over_white(picture)
    return np.asarray(picture.convert("RGB")).astype(np.float32) / 255.0


@node(version=1, output=True)
def save_image(
    image: Image,
    path: Annotated[
        str | Path,
        File("image", write=True),
        Doc("With any suffix or none; the names of several pictures end in _0, _1, ..."),
    ],
    format: Annotated[Format | None, Doc("Default: from the suffix, else PNG.")] = None,
    quality: Annotated[int, Range(1, 100, 1), Doc("Quality of JPEG and WebP; 100 is lossless in WebP.")] = 95,
    ctx: Context = INERT,
) -> list[str]:
    """Write pictures as PNG, JPEG or WebP files with the record of how they were made; return the file names.

    PNG and WebP hold alpha; in JPEG the pictures lie over white, and a warning says so.

    In ComfyUI: `SaveImage`, `SaveImageAdvanced`, `PreviewImage`.

    Raises:
        FileError: They cannot be written; no half file is left.
        ValueError: The suffix is that of another format.
    """
    text = ctx.making("image", image)
    return [str(file) for file in save_pictures(image.channels, Path(path), text, format, quality)]


@node(version=1)
def resize_image(image: Image, width: Pixels, height: Pixels, resampling: Resampling = "lanczos") -> Image:
    """Resize pictures, ignoring their proportions; computed in 8 bits, as PIL does.

    In ComfyUI: `ImageScale`, `ResizeImageMaskNode`.
    """
    import PIL.Image

    method = PIL.Image.Resampling[resampling.upper()]
    resized = [picture.resize((width, height), method) for picture in image.pils()]
    return from_pil(*resized, alpha=image.alpha is not None)


@node(version=1)
def crop_image(
    image: Image,
    width: Pixels,
    height: Pixels,
    left: Annotated[int | None, Range(0), Doc("Default: the middle.")] = None,
    top: Annotated[int | None, Range(0), Doc("Default: the middle.")] = None,
) -> Image:
    """Cut a piece out of pictures.

    In ComfyUI: `ImageCrop`.

    Raises:
        ValueError: The piece does not lie inside the pictures.
    """
    place = (width, height, left, top)
    alpha = None if image.alpha is None else cut(image.alpha[..., None], *place)[..., 0]
    return Image(cut(image.pixels, *place), alpha)


def cut(pixels: torch.Tensor, width: int, height: int, left: int | None, top: int | None) -> torch.Tensor:
    """A piece of pictures [B, H, W, C]."""
    whole_width, whole_height = pixels.shape[2], pixels.shape[1]
    left = (whole_width - width) // 2 if left is None else left
    top = (whole_height - height) // 2 if top is None else top
    if left < 0 or top < 0 or left + width > whole_width or top + height > whole_height:
        raise ValueError(
            f"a piece of {width} x {height} at {left}, {top} does not lie in {whole_width} x {whole_height} pixels"
        )
    return pixels[:, top : top + height, left : left + width].contiguous()


@node(version=1)
def pad_image(
    image: Image,
    multiple: Annotated[int, Range(1, 1024, 1), Doc("Both sides become multiples of this number.")] = 8,
    fill: Literal["edge", "black", "white"] = "edge",
) -> Image:
    """Make pictures larger at the right and at the bottom, until their sides are multiples of a number.

    `crop_image` with the old size (`image_size`), left and top 0, gives them back. Black and white are opaque.
    """
    opaque = "edge" if fill == "edge" else "white"
    alpha = None if image.alpha is None else padded(image.alpha[..., None], multiple, opaque)[..., 0]
    return Image(padded(image.pixels, multiple, fill), alpha)


def padded(pixels: torch.Tensor, multiple: int, fill: str) -> torch.Tensor:
    """Pictures [B, H, W, C] with sides that are multiples of a number."""
    import torch

    right, bottom = -pixels.shape[2] % multiple, -pixels.shape[1] % multiple
    if not right and not bottom:
        return pixels
    pixels = pixels.permute(0, 3, 1, 2)
    if fill == "edge":
        pixels = torch.nn.functional.pad(pixels, (0, right, 0, bottom), mode="replicate")
    else:
        pixels = torch.nn.functional.pad(pixels, (0, right, 0, bottom), value=float(fill == "white"))
    return pixels.permute(0, 2, 3, 1).contiguous()


def alpha_of(image: Image) -> torch.Tensor:
    """The alpha of pictures, [B, H, W]; 1 everywhere of those without."""
    return image.pixels.new_ones(image.pixels.shape[:3]) if image.alpha is None else image.alpha


class Size(NamedTuple):
    """Size of a picture, in pixels."""

    width: int
    height: int


@node(version=1)
def image_size(image: Image) -> Size:
    """Give the width and height of a picture, in pixels.

    In ComfyUI: `GetImageSize`.
    """
    return Size(*image.size)


@resize_image.check
def _check_resize(inputs: dict[str, Any]) -> Iterator[str]:
    width, height = inputs.get("width"), inputs.get("height")
    if isinstance(width, int) and isinstance(height, int) and math.prod((width, height)) > 2**27:
        yield f"{width} x {height} is more than 134 million pixels"
