"""Masks: 1 where something is to change."""

from __future__ import annotations

from typing import Annotated

from graphengine_nodes import Image, Mask

from graphengine import Choices, Range, node
from graphengine_comfy.nodes.resizing import MOST, repeated

Channel = Annotated[str, Choices("red", "green", "blue", "alpha")]
Pixels = Annotated[int, Range(0, MOST, 1)]


@node(version=1)
def MaskToImage(*, mask: Mask) -> Image:
    """Show masks as grey pictures."""
    return Image(mask.values[..., None].expand(-1, -1, -1, 3).contiguous())


@node(version=1)
def ImageToMask(*, image: Image, channel: Channel = "red") -> Mask:
    """Make masks of a channel of pictures; alpha is 1 where they are opaque.

    Raises:
        ValueError: They have no alpha.
    """
    if channel != "alpha":
        return Mask(image.pixels[..., ("red", "green", "blue").index(channel)].contiguous())
    if image.alpha is None:
        raise ValueError("this picture has no alpha; take another channel")
    return Mask(image.alpha)


@node(version=1)
def SolidMask(
    *,
    value: Annotated[float, Range(0.0, 1.0, 0.01)] = 1.0,
    width: Annotated[int, Range(1, MOST, 1)] = 512,
    height: Annotated[int, Range(1, MOST, 1)] = 512,
) -> Mask:
    """Make a mask of one value."""
    import torch

    return Mask(torch.full((1, height, width), value))


@node(version=1)
def InvertMask(*, mask: Mask) -> Mask:
    """Invert masks."""
    return Mask(1.0 - mask.values)


@node(version=1)
def GrowMask(*, mask: Mask, expand: Annotated[int, Range(-MOST, MOST, 1)] = 0, tapered_corners: bool = True) -> Mask:
    """Grow masks by so many pixels, or shrink them; with tapered corners by a diamond, else by a square.

    Raises:
        ValueError: They are to grow by more than 1024 pixels.
    """
    import torch
    from scipy.ndimage import grey_dilation, grey_erosion

    if abs(expand) > 1024:
        raise ValueError(f"expand is {expand}, but masks grow and shrink by 1024 pixels at most")
    corner = not tapered_corners
    footprint = [[corner, True, corner], [True, True, True], [corner, True, corner]]
    change = grey_erosion if expand < 0 else grey_dilation
    found = []
    for values in mask.values.numpy():
        for _ in range(abs(expand)):
            values = change(values, footprint=footprint)
        found.append(torch.from_numpy(values))
    return Mask(torch.stack(found))


@node(version=1)
def FeatherMask(*, mask: Mask, left: Pixels = 0, top: Pixels = 0, right: Pixels = 0, bottom: Pixels = 0) -> Mask:
    """Let masks fade towards the edges of the picture, each over so many pixels."""
    import torch

    values = mask.values.clone()
    height, width = values.shape[1:]
    for size, length, flipped, column in (
        (left, width, False, True),
        (right, width, True, True),
        (top, height, False, False),
        (bottom, height, True, False),
    ):
        count = min(size, length)
        ramp = torch.ones(length)
        ramp[:count] = torch.arange(1, count + 1) / max(count, 1)
        ramp = ramp.flip(0) if flipped else ramp
        values *= ramp[None, None, :] if column else ramp[None, :, None]
    return Mask(values)


@node(version=1)
def MaskComposite(
    *,
    destination: Mask,
    source: Mask,
    x: Pixels = 0,
    y: Pixels = 0,
    operation: Annotated[str, Choices("multiply", "add", "subtract", "and", "or", "xor")] = "multiply",
) -> Mask:
    """Join a mask with another one at a place; what would lie outside is left out. `and`, `or` and `xor` are of hard
    masks, 1 from one half on."""
    import torch

    count = max(len(destination.values), len(source.values))
    found = repeated(destination.values, count).clone()
    piece = repeated(source.values, count)[:, : max(found.shape[1] - y, 0), : max(found.shape[2] - x, 0)]
    area = (slice(None), slice(y, y + piece.shape[1]), slice(x, x + piece.shape[2]))
    below = found[area]
    if operation in ("and", "or", "xor"):
        hard = getattr(torch, f"logical_{operation}")
        found[area] = hard(below.round().bool(), piece.round().bool()).float()
    else:
        found[area] = {"multiply": below * piece, "add": below + piece, "subtract": below - piece}[operation]
    return Mask(found.clamp(0, 1))


@node(version=1)
def ThresholdMask(*, mask: Mask, value: Annotated[float, Range(0.0, 1.0, 0.01)] = 0.5) -> Mask:
    """Make masks hard: 1 above a value."""
    return Mask((mask.values > value).float())


@node(version=1)
def MaskPreview(*, mask: Mask) -> Image:
    """Give masks as grey pictures, as an output of the workflow that is to be looked at."""
    return MaskToImage.fn(mask=mask)
