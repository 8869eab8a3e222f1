"""Masks: where to paint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from graphengine import Doc, File, FileError, Range, node
from graphengine_nodes.nodes.images import Pixels, Resampling, alpha_of, cut, padded
from graphengine_nodes.values.picture_reading import Deep, has_own_colours, open_picture
from graphengine_nodes.values.types import Image, Mask

if TYPE_CHECKING:
    import PIL.Image
    import torch

Radius = Annotated[float, Range(0, 1024), Doc("Radius in pixels, as in PIL's GaussianBlur.")]


@node(version=1)
def mask_from_image(
    image: Image,
    threshold: Annotated[
        float | None, Range(0, 1, 0.05), Doc("Brightness from which a pixel is painted; default: the mask stays soft.")
    ] = None,
) -> Mask:
    """Make a mask from a picture's brightness (0.299 R + 0.587 G + 0.114 B, ITU-R BT.601): white is painted.

    What is transparent is not painted.

    In ComfyUI: `ImageToMask`.
    """
    import torch

    grey = image.pixels @ torch.tensor([0.299, 0.587, 0.114])
    grey = grey if image.alpha is None else grey * image.alpha
    return Mask(grey.clamp(0, 1) if threshold is None else (grey >= threshold).float())


@node(version=1)
def load_mask(path: Annotated[str | Path, File("image")], from_alpha: bool = False) -> Mask:
    """Read a mask from a file: from its brightness, or from its transparency.

    By brightness white is painted, and what is transparent is not: white strokes on a transparent layer mean what they
    show. With `from_alpha` the transparent parts are painted, as where a picture was erased.

    In ComfyUI: `LoadImageMask`.

    Raises:
        FileError: It is no picture, or has no transparency although `from_alpha` asks for it.
    """
    import numpy as np
    import PIL.Image
    import torch

    from graphengine_nodes.nodes.images import from_pil

    picture = open_picture(Path(path))
    if isinstance(picture, Deep):
        if not from_alpha:
            return mask_from_image(Image(torch.from_numpy(picture.over(0.0)[None])))
        if picture.alpha is None:
            raise FileError(_no_alpha(path))
        return Mask(1.0 - torch.from_numpy(picture.alpha)[None])
    if not from_alpha:
        if picture.has_transparency_data:
            layer = picture.convert("RGBA")
            picture = PIL.Image.alpha_composite(PIL.Image.new("RGBA", layer.size, "black"), layer)
        return mask_from_image(from_pil(picture))
    if not picture.has_transparency_data:
        raise FileError(_no_alpha(path))
    alpha = np.asarray(picture.convert("RGBA"))[..., 3].astype(np.float32) / 255.0
    return Mask(1.0 - torch.from_numpy(alpha)[None])


@node(version=1)
def mask_from_difference(
    original: Image,
    painted: Annotated[Image, Doc("The same picture, painted over where something is to change.")],
    threshold: Annotated[float, Range(0, 1, 0.01), Doc("Differences up to this value do not count.")] = 0.0,
) -> Mask:
    """Make a mask that is painted where any channel of two pictures, or their alpha, differs.

    Raises:
        ValueError: They are of different sizes.
    """
    if original.size != painted.size:
        raise ValueError(f"sizes differ: original {original.size}, painted {painted.size}; resize one of them")
    differs = ((original.pixels - painted.pixels).abs() > threshold).any(dim=-1)
    return Mask((differs | ((alpha_of(original) - alpha_of(painted)).abs() > threshold)).float())


@node(version=1)
def mask_from_alpha(image: Image) -> Mask:
    """Make a mask from a picture's alpha: transparent parts are painted, as by `load_mask` with `from_alpha`.

    In ComfyUI: `SplitImageWithAlpha`.

    Raises:
        ValueError: The picture has no alpha.
    """
    if image.alpha is None:
        raise ValueError("this picture has no alpha; load it by load_image with alpha: true")
    return Mask(1.0 - image.alpha)


@load_mask.fingerprint
def _colours(path: str | Path, from_alpha: bool = False) -> str | None:
    """What keys have beside the file, as those of `load_image`."""
    return "colours are read" if has_own_colours(Path(path)) else None


def _no_alpha(path: str | Path) -> str:
    return f"{path} has no transparency; make the mask from its brightness (from_alpha: false)"


@node(version=1)
def mask_rectangle(
    width: Annotated[int, Range(1, 16384, 1)],
    height: Annotated[int, Range(1, 16384, 1)],
    left: Annotated[float, Range(0, 1)] = 0.25,
    top: Annotated[float, Range(0, 1)] = 0.25,
    right: Annotated[float, Range(0, 1)] = 0.75,
    bottom: Annotated[float, Range(0, 1)] = 0.75,
) -> Mask:
    """Make a mask with a painted rectangle; its edges are fractions of the width and height.

    In ComfyUI: `SolidMask`.
    """
    import torch

    values = torch.zeros(1, height, width)
    values[:, round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = 1.0
    return Mask(values)


@node(version=1)
def invert_mask(mask: Mask) -> Mask:
    """Invert a mask: painted areas are kept, and kept areas painted.

    In ComfyUI: `InvertMask`.
    """
    return Mask(1.0 - mask.values)


@node(version=1)
def combine_masks(
    first: Mask,
    second: Mask,
    how: Annotated[
        Literal["union", "intersection", "subtract"],
        Doc("Painted in either mask, in both, or in the first but not in the second."),
    ] = "union",
) -> Mask:
    """Combine two masks; soft masks as fuzzy sets, by the larger or the smaller value.

    In ComfyUI: `MaskComposite`.

    Raises:
        ValueError: They are of different sizes.
    """
    import torch

    if first.size != second.size:
        raise ValueError(f"sizes differ: first {first.size}, second {second.size}; use resize_mask")
    if how == "union":
        return Mask(torch.maximum(first.values, second.values))
    return Mask(torch.minimum(first.values, second.values if how == "intersection" else 1.0 - second.values))


@node(version=1)
def grow_mask(
    mask: Mask,
    pixels: Annotated[int, Range(-1024, 1024, 1), Doc("On each side; less than 0 shrinks the painted area.")] = 8,
) -> Mask:
    """Grow or shrink the painted area, with round corners; the picture's edge does not shrink it.

    In ComfyUI: `GrowMask`.
    """
    import cv2

    side = 2 * abs(pixels) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return _each(mask, lambda values: (cv2.dilate if pixels > 0 else cv2.erode)(values, disc))


@node(version=1)
def feather_mask(mask: Mask, pixels: Annotated[int, Range(0, 1024, 1), Doc("Width of the soft edge.")] = 8) -> Mask:
    """Soften the edge inwards: kept areas stay untouched, unlike with `blur_mask`.

    In ComfyUI: `FeatherMask`.
    """
    import numpy as np
    from scipy.ndimage import distance_transform_edt

    def feather(values: Any) -> Any:
        inside = values > 0
        if inside.all():  # there is no edge to measure from
            return values
        return values * np.minimum(distance_transform_edt(inside) / (pixels + 1), 1)

    return _each(mask, feather)


@node(version=1)
def blur_mask(mask: Mask, radius: Radius = 4) -> Mask:
    """Blur a mask (Gaussian), which softens its edge both ways; computed in 8 bits, as PIL does."""
    import PIL.ImageFilter

    return _each_pil(mask, lambda picture: picture.filter(PIL.ImageFilter.GaussianBlur(radius)))


@node(version=1)
def resize_mask(mask: Mask, width: Pixels, height: Pixels, resampling: Resampling = "lanczos") -> Mask:
    """Resize a mask, ignoring its proportions; computed in 8 bits, as PIL does."""
    import PIL.Image

    method = PIL.Image.Resampling[resampling.upper()]
    return _each_pil(mask, lambda picture: picture.resize((width, height), method))


@node(version=1)
def crop_mask(
    mask: Mask,
    width: Pixels,
    height: Pixels,
    left: Annotated[int | None, Range(0), Doc("Default: the middle.")] = None,
    top: Annotated[int | None, Range(0), Doc("Default: the middle.")] = None,
) -> Mask:
    """Cut a piece out of a mask, as `crop_image` does of a picture.

    In ComfyUI: `CropMask`.

    Raises:
        ValueError: The piece does not lie inside the mask.
    """
    return Mask(cut(mask.values[..., None], width, height, left, top)[..., 0])


@node(version=1)
def pad_mask(
    mask: Mask,
    multiple: Annotated[int, Range(1, 1024, 1), Doc("Both sides become multiples of this number.")] = 8,
    fill: Literal["edge", "black", "white"] = "edge",
) -> Mask:
    """Make a mask larger at the right and at the bottom, as `pad_image` makes a picture; black is kept."""
    return Mask(padded(mask.values[..., None], multiple, fill)[..., 0])


@node(version=1)
def composite(
    below: Image,
    above: Image,
    mask: Mask,
    blur: Annotated[Radius, Doc("Soften the mask's edge first; its highest value becomes 1 again.")] = 0.0,
) -> Image:
    """Combine two pictures by a mask: `above` where it is 1, `below` where it is 0, mixed in between.

    Their alpha is mixed as well, and colours count by it; `overlay` lays a picture with alpha over another.

    In ComfyUI: `ImageCompositeMasked`.

    Raises:
        ValueError: They are of different sizes.
    """
    if not below.size == above.size == mask.size:
        raise ValueError(f"sizes differ: below {below.size}, above {above.size}, mask {mask.size}")
    weight = mask.values
    if blur:
        weight = blur_mask(mask, blur).values
        weight = weight / weight.amax((1, 2), keepdim=True).clamp(min=1 / 255)
    weight = weight[..., None]
    if below.alpha is None and above.alpha is None:
        return Image(below.pixels * (1.0 - weight) + above.pixels * weight)
    return _mixed(below, above, alpha_of(below)[..., None] * (1.0 - weight), alpha_of(above)[..., None] * weight)


@node(version=1)
def overlay(
    below: Image, above: Annotated[Image, Doc("Seen as far as its alpha says; without alpha it hides the other.")]
) -> Image:
    """Lay a picture over another of its size by its alpha ("over", Porter and Duff); a stack of layers, one by one.

    Raises:
        ValueError: They are of different sizes.
    """
    if below.size != above.size:
        raise ValueError(f"sizes differ: below {below.size}, above {above.size}; resize one of them")
    over = alpha_of(above)[..., None]
    if below.alpha is None:
        return Image(below.pixels * (1.0 - over) + above.pixels * over)
    return _mixed(below, above, below.alpha[..., None] * (1.0 - over), over)


def _mixed(below: Image, above: Image, share: torch.Tensor, other: torch.Tensor) -> Image:
    """Two pictures mixed by what is seen of each, [B, H, W, 1]; together that is the alpha."""
    alpha = share + other
    pixels = (below.pixels * share + above.pixels * other) / alpha.clamp(min=1e-8)
    return Image(pixels.clamp(0, 1), alpha[..., 0])


def _each(mask: Mask, change: Callable[[Any], Any]) -> Mask:
    """Change every mask of a batch as an array, float32 [H, W]."""
    import numpy as np
    import torch

    changed = np.stack([change(values) for values in mask.values.numpy()])
    return Mask(torch.from_numpy(changed.astype(np.float32)))


def _each_pil(mask: Mask, change: Callable[[PIL.Image.Image], PIL.Image.Image]) -> Mask:
    """Change every mask of a batch as an 8-bit grey picture."""
    import numpy as np
    import PIL.Image

    def through(values: Any) -> Any:
        picture = PIL.Image.fromarray((values * 255).round().clip(0, 255).astype(np.uint8))
        return np.asarray(change(picture)) / 255

    return _each(mask, through)
