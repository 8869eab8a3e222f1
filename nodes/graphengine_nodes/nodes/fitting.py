"""Pictures: made to fit a model's latents, and put back into the picture that they came from."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from graphengine import Choices, Doc, Range, Uses, node
from graphengine_nodes.families.arguments import sides_of
from graphengine_nodes.nodes.images import MOST, alpha_of, crop_image, pad_image, resize_image
from graphengine_nodes.nodes.masks import crop_mask, pad_mask, resize_mask
from graphengine_nodes.values.references import model_of
from graphengine_nodes.values.types import VAE, Image, Mask, Model

Encoder = Annotated[Model | VAE, Uses("vae"), Doc("Its latents say of which number the sides must be multiples.")]
Fit = Annotated[
    str,
    Choices("resize", "pad", "crop"),
    Doc("resize to the nearest size that fits; pad right and bottom by repeating the edge; crop to the middle."),
]
Longest = Annotated[
    int | None,
    Range(8, MOST, 1),
    Doc("Pixels of the longer side; a larger picture is made smaller first, in proportion. Default: as it is."),
]


class Fitted(NamedTuple):
    """A picture that fits a model's latents.

    Attributes:
        image: The picture.
        width: The width of the part of it, from the left, that is no padding.
        height: The height of that part, from the top.
    """

    image: Image
    width: int
    height: int


@node(version=1)
def fit_image(image: Image, model: Encoder, fit: Fit = "resize", longest: Longest = None) -> Fitted:
    """Make pictures of any size fit a model's latents: their sides become multiples of 8, or of what the model needs.

    Pictures that fit stay as they are.

    In ComfyUI: `ImageScaleToTotalPixels`, `ImageScaleToMaxDimension`, `FluxKontextImageScale`.

    Raises:
        ValueError: `crop` of a picture that is smaller than one step of the latents.
    """
    sizes = _Sizes.of(image.size, model, fit, longest)
    scaled = image if sizes.scaled == image.size else resize_image.fn(image, *sizes.scaled)
    if fit == "resize" or sizes.fitted == sizes.scaled:
        return Fitted(scaled, *sizes.scaled)
    if fit == "pad":
        return Fitted(pad_image.fn(scaled, sizes.multiple), *sizes.scaled)
    return Fitted(crop_image.fn(scaled, *sizes.fitted), *sizes.fitted)


@node(version=1)
def fit_mask(mask: Mask, image: Image, model: Encoder, fit: Fit = "resize", longest: Longest = None) -> Mask:
    """Make a mask follow its picture, which `fit_image` makes fit a model's latents. Padding is not painted.

    Args:
        image: The picture before it was made to fit.

    Raises:
        ValueError: The mask is of another size than the picture.
    """
    if mask.size != image.size:
        raise ValueError(f"sizes differ: the mask {mask.size}, the picture {image.size}; use resize_mask")
    sizes = _Sizes.of(image.size, model, fit, longest)
    scaled = mask if sizes.scaled == mask.size else resize_mask.fn(mask, *sizes.scaled, "bilinear")
    if fit == "resize" or sizes.fitted == sizes.scaled:
        return scaled
    if fit == "pad":
        return pad_mask.fn(scaled, sizes.multiple, "black")
    return crop_mask.fn(scaled, *sizes.fitted)


@node(version=1)
def unfit_image(image: Image, original: Image, model: Encoder, fit: Fit = "resize", longest: Longest = None) -> Image:
    """Bring pictures that `fit_image` made fit, and a model has painted, back to the size of the original.

    What `crop` has cut off is the original's, with its alpha; padding is cut off.

    Args:
        image: The painted pictures.
        original: The picture before it was made to fit, or as many as there are painted ones.

    Raises:
        ValueError: The painted pictures have another size than `fit_image` gives.
    """
    sizes = _Sizes.of(original.size, model, fit, longest)
    if image.size != sizes.fitted:
        raise ValueError(f"sizes differ: the picture {image.size}, what was made to fit {sizes.fitted}")
    if fit == "pad":
        image = crop_image.fn(image, *sizes.scaled, 0, 0)
    elif fit == "crop" and sizes.fitted != sizes.scaled:
        image = _pasted(image, original if original.size == sizes.scaled else resize_image.fn(original, *sizes.scaled))
    return image if image.size == original.size else resize_image.fn(image, *original.size)


def _pasted(piece: Image, whole: Image) -> Image:
    """The pictures with a piece in their middle."""
    width, height = piece.size
    left, top = (whole.size[0] - width) // 2, (whole.size[1] - height) // 2
    pixels = whole.pixels.expand(len(piece), -1, -1, -1).clone()
    pixels[:, top : top + height, left : left + width] = piece.pixels
    if piece.alpha is None and whole.alpha is None:
        return Image(pixels)
    alpha = alpha_of(whole).expand(len(piece), -1, -1).clone()
    alpha[:, top : top + height, left : left + width] = alpha_of(piece)
    return Image(pixels, alpha)


class _Sizes(NamedTuple):
    """Sizes of a picture, as width and height.

    Attributes:
        multiple: What the sides must be multiples of.
        scaled: The size after it was made smaller or resized, before it is padded or cropped.
        fitted: The size that fits.
    """

    multiple: int
    scaled: tuple[int, int]
    fitted: tuple[int, int]

    @classmethod
    def of(cls, size: tuple[int, int], model: Model | VAE, fit: str, longest: int | None) -> _Sizes:
        """The sizes for a picture.

        Raises:
            ValueError: Nothing is left of it.
        """
        multiple = sides_of(model_of(model))
        share = 1.0 if longest is None else min(1.0, longest / max(size))
        if fit == "resize":
            width, height = (max(multiple, round(side * share / multiple) * multiple) for side in size)
            return cls(multiple, (width, height), (width, height))
        width, height = (max(1, round(side * share)) for side in size)
        if fit == "pad":
            return cls(multiple, (width, height), (-(-width // multiple) * multiple, -(-height // multiple) * multiple))
        if min(width, height) < multiple:
            raise ValueError(f"a picture of {width} x {height} is too small to crop to multiples of {multiple}; pad it")
        return cls(multiple, (width, height), (width // multiple * multiple, height // multiple * multiple))
