"""Picture files: PNG, JPEG and WebP, with the texts that they carry, written whole or not at all."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from graphengine import FileError, write_file

if TYPE_CHECKING:
    import PIL.Image
    import torch

log = logging.getLogger(__name__)

Format = Literal["png", "jpeg", "webp"]
SUFFIXES: Mapping[str, Format] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
MOST_IN_JPEG = 65_533
"""Bytes of EXIF that a JPEG can hold."""


def to_pil(pixels: torch.Tensor) -> list[PIL.Image.Image]:
    """Convert float [B, H, W, C] in 0..1 to 8-bit PIL pictures, rounded as diffusers does."""
    import PIL.Image

    array = (pixels.detach().cpu().float().numpy() * 255).round().clip(0, 255).astype("uint8")
    return [PIL.Image.fromarray(picture) for picture in array]


def encoded(picture: PIL.Image.Image, format: Format, text: Mapping[str, str], quality: int = 95) -> bytes:
    """Encode a picture as the bytes of a file.

    Args:
        text: In PNG as text chunks. In other formats as EXIF: `parameters`, which other tools read, as UserComment,
            everything as JSON in the MakerNote.
        format: JPEG has no transparency: the picture lies over white there, and a warning says so.
        quality: Of JPEG and WebP, 1 to 100; 100 is lossless in WebP.
    """
    from graphengine_nodes.values.picture_text import PARAMETERS, exif_with_comment

    if format == "png":
        return png(picture, text)
    if format == "jpeg" and picture.mode == "RGBA":
        log.warning("JPEG has no transparency: the picture lies over white; PNG and WebP keep it")
        picture = over_white(picture)
    exif = exif_with_comment(text.get(PARAMETERS), json.dumps(dict(text), ensure_ascii=False)) if text else b""
    if format == "jpeg" and len(exif) > MOST_IN_JPEG:
        log.warning("how the picture was made does not fit into a JPEG and is left out; PNG and WebP can hold it")
        exif = exif_with_comment(text.get(PARAMETERS))
    target = io.BytesIO()
    lossless = format == "webp" and quality == 100
    picture.save(
        target, format.upper(), quality=quality, exif=exif, **({"lossless": True, "exact": True} if lossless else {})
    )
    return target.getvalue()


def over_white(picture: PIL.Image.Image) -> PIL.Image.Image:
    """A picture with transparency over white, as RGB."""
    import PIL.Image

    white = PIL.Image.new("RGBA", picture.size, "white")
    return PIL.Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


def png(picture: PIL.Image.Image, text: Mapping[str, str] | None = None) -> bytes:
    """PNG bytes with text chunks."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    for name, value in (text or {}).items():
        # iTXt takes every character; plain tEXt is what the oldest readers of `parameters` know.
        (chunks.add_text if value.isascii() else chunks.add_itxt)(name, value)
    target = io.BytesIO()
    picture.save(target, "PNG", pnginfo=chunks)
    return target.getvalue()


def sheet_png(pixels: torch.Tensor) -> bytes:
    """The pictures of a batch side by side, as one PNG."""
    import torch

    return png(to_pil(torch.cat(list(pixels), dim=1)[None])[0])


def save_pictures(
    pixels: torch.Tensor, path: Path, text: Mapping[str, str], format: Format | None = None, quality: int = 95
) -> list[Path]:
    """Write a file for each picture: `name.png`, or `name_0.png`, `name_1.png`, ... for several.

    Args:
        pixels: float [B, H, W, 3] in 0..1, or [B, H, W, 4] with alpha.
        path: With or without a suffix; a suffix of a picture format decides the format.
        format: Default: from the suffix, else PNG.

    Raises:
        FileError: It cannot be written (no such folder, disk full, too large for the format); no half file is left.
        ValueError: The suffix is that of another format.
    """
    suffix = path.suffix if path.suffix.lower() in SUFFIXES else ""
    told = SUFFIXES.get(suffix.lower())
    if format is not None and told is not None and told != format:
        raise ValueError(f"{path.name} is to be written as {format}, but ends in {suffix}; leave one of them out")
    kind = format or told or "png"
    stem, ending = path.name.removesuffix(suffix), suffix or next(s for s, name in SUFFIXES.items() if name == kind)
    pictures = to_pil(pixels)
    names = [stem] if len(pictures) == 1 else [f"{stem}_{index}" for index in range(len(pictures))]
    files = [path.with_name(f"{name}{ending}") for name in names]
    for file, picture in zip(files, pictures, strict=True):
        try:
            data = encoded(picture, kind, text, quality)
        except (OSError, ValueError) as error:
            size = f"{picture.width} x {picture.height}"
            raise FileError(f"{file}: {size} pixels cannot be written as {kind} ({error}); take PNG") from None
        write_whole(file, data)
    return files


def write_whole(file: Path, data: bytes) -> None:
    """Write a file atomically: whole or not at all.

    Raises:
        FileError: It cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, data)
    except OSError as error:
        raise FileError(f"{file} cannot be written: {error.strerror or error}") from None


def one_frame(samples: torch.Tensor) -> torch.Tensor:
    """Latents to show as pictures, [B, C, h, w]: of those with frames, [B, C, f, h, w], the frame in the middle."""
    return samples[:, :, samples.shape[2] // 2] if samples.ndim == 5 else samples


def stretched(samples: torch.Tensor) -> torch.Tensor:
    """Make rough pictures of latents whose preview map is unknown, [B, h, w, 3]: the first three channels, each picture
    stretched to 0..1; of several frames `one_frame`."""
    import torch

    rough = torch.nan_to_num(one_frame(samples)[:, :3].float())
    if not rough.shape[1]:  # a size without a model
        rough = rough.new_zeros(len(rough), 1, *rough.shape[2:])
    if rough.shape[1] < 3:
        rough = rough[:, :1].expand(-1, 3, -1, -1)
    low, high = rough.amin((1, 2, 3), keepdim=True), rough.amax((1, 2, 3), keepdim=True)
    return ((rough - low) / (high - low).clamp(min=1e-6)).permute(0, 2, 3, 1)
