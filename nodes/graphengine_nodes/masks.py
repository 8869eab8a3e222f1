"""Masks: where to paint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from graphengine import Doc, File, FileError, Range, node
from graphengine_nodes.types import Image, Mask


@node(version=1)
def mask_from_image(
    image: Image,
    threshold: Annotated[
        float | None, Range(0, 1, 0.05), Doc("Brightness from which on it is painted; default: as soft as it is.")
    ] = None,
) -> Mask:
    """White is painted, black is kept; grey by its brightness (0.299 R + 0.587 G + 0.114 B, as ITU-R BT.601)."""
    import torch

    grey = image.pixels @ torch.tensor([0.299, 0.587, 0.114])
    return Mask(grey.clamp(0, 1) if threshold is None else (grey >= threshold).float())


@node(version=1)
def load_mask(path: Annotated[Path, File("image")], from_alpha: bool = False) -> Mask:
    """A mask from a file: its brightness, or where it is transparent.

    Raises:
        FileError: It is no picture; it has no transparency, but that was asked for.
    """
    import numpy as np
    import torch

    from graphengine_nodes.images import from_pil, open_picture

    picture = open_picture(path)
    if not from_alpha:
        return mask_from_image(from_pil(picture))
    if not picture.has_transparency_data:
        raise FileError(f"{path} has no transparency; make the mask from its brightness (from_alpha: false)")
    alpha = np.asarray(picture.convert("RGBA"))[..., 3].astype(np.float32) / 255.0
    return Mask(1.0 - torch.from_numpy(alpha)[None])


@node(version=1)
def mask_rectangle(
    width: Annotated[int, Range(1, 16384, 1)],
    height: Annotated[int, Range(1, 16384, 1)],
    left: Annotated[float, Range(0, 1)] = 0.25,
    top: Annotated[float, Range(0, 1)] = 0.25,
    right: Annotated[float, Range(0, 1)] = 0.75,
    bottom: Annotated[float, Range(0, 1)] = 0.75,
) -> Mask:
    """A rectangle to paint in; its sides as fractions of the picture's."""
    import torch

    values = torch.zeros(1, height, width)
    values[:, round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = 1.0
    return Mask(values)


@node(version=1)
def invert_mask(mask: Mask) -> Mask:
    """What was painted is kept, and the other way round."""
    return Mask(1.0 - mask.values)


@node(version=1)
def composite(below: Image, above: Image, mask: Mask) -> Image:
    """`above` where the mask is 1, `below` where it is 0, mixed between.

    Raises:
        ValueError: They are of different sizes.
    """
    if not below.size == above.size == mask.size:
        raise ValueError(f"sizes differ: below {below.size}, above {above.size}, mask {mask.size}")
    weight = mask.values[..., None]
    return Image(below.pixels * (1.0 - weight) + above.pixels * weight)
