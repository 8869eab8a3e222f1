"""Pictures as callers give and get them: paths, PIL pictures, arrays, tensors, and the list that `gen` returns."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine_nodes.values.types import Image, Mask

if TYPE_CHECKING:
    import numpy
    import PIL.Image
    import torch

    _List = list[PIL.Image.Image]
else:
    _List = list

__all__ = ["Pictures", "as_image", "as_mask", "as_output", "canny_processor", "sobel_processor"]


class Pictures(_List):
    """A list of PIL pictures that can be used as its first one: `pictures.save("a.png")`, `pictures.size`.

    As an array it is its only picture, or the stack of all pictures.
    """

    def __getattr__(self, name: str) -> Any:
        if not self or name.startswith("__"):  # numpy would read the first picture's __array_interface__ alone
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self[0], name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> numpy.ndarray[Any, Any]:
        """uint8 [H, W, 3] of one picture, [n, H, W, 3] of several."""
        import numpy as np

        array = np.stack([np.asarray(picture) for picture in self])
        return np.asarray(array[0] if len(array) == 1 else array, dtype=dtype)

    def copy(self) -> Pictures:
        """Copy the list and each picture."""
        return Pictures(picture.copy() for picture in self)


def as_image(value: Any) -> Image:
    """Read a picture or several from a caller as an `Image`.

    Args:
        value: A path; a picture of PIL; an array [H, W] or [H, W, C], 8 bits or in 0..1; a tensor [C, H, W] in 0..1;
            either with a batch before it; a list of these; an `Image`.

    Raises:
        FileError: A path leads to no picture.
        ValueError: It is none of these, or pictures of different sizes.
    """
    import torch

    if isinstance(value, Image):
        return value
    found = _images(value)
    if not found:
        raise ValueError("an empty list stands where a picture is expected")
    if len({image.size for image in found}) > 1:
        sizes = ", ".join("{} x {}".format(*image.size) for image in found)
        raise ValueError(f"pictures of one call must be of one size, these are {sizes}")
    return Image(torch.cat([image.pixels for image in found]))


def as_mask(value: Any) -> Mask:
    """Read a mask from a caller as a `Mask`: white, or 1, is painted.

    Raises:
        FileError: A path leads to no picture.
        ValueError: It is no picture.
    """
    from graphengine_nodes.nodes.masks import mask_from_image

    if isinstance(value, Mask):
        return value
    whole = str(getattr(value, "dtype", "")).removeprefix("torch.").startswith(("int", "uint"))
    return mask_from_image(as_image(value > 0 if whole and value.max() <= 1 else value))


def as_output(image: Image, kind: str) -> Any:
    """Convert pictures to the type that diffusers' `output_type` names.

    Raises:
        ValueError: There is no such `output_type`.
    """
    if kind == "pil":
        return Pictures(image.pils())
    if kind == "np":
        return image.pixels.numpy()
    if kind == "pt":
        return image.pixels.permute(0, 3, 1, 2)
    raise ValueError(f"output_type is {kind!r}, but must be pil, np, pt or latent")


def canny_processor(image: Any) -> PIL.Image.Image:
    """Draw the edges of a picture by Canny's method, white on black, as `CIm2ImPipe` does."""
    from graphengine_nodes.nodes.preprocessors import BY_TYPE

    found: Image = BY_TYPE["canny"](as_image(image))
    return found.pil()


def sobel_processor(image: Any) -> PIL.Image.Image:
    """Draw the soft edges of a picture by Sobel's method, as `CIm2ImPipe` does."""
    from graphengine_nodes.nodes.preprocessors import BY_TYPE

    found: Image = BY_TYPE["soft-sobel"](as_image(image))
    return found.pil()


def _images(value: Any) -> list[Image]:
    import numpy as np
    import PIL.Image
    import PIL.ImageOps
    import torch
    from graphengine_nodes.nodes.images import from_pil, read_image

    if isinstance(value, str | os.PathLike):
        return [read_image(Path(value).expanduser())]
    if isinstance(value, PIL.Image.Image):
        return [from_pil(PIL.ImageOps.exif_transpose(value))]
    if isinstance(value, list | tuple):
        return [image for one in value for image in _images(one)]
    if isinstance(value, torch.Tensor):
        value = _channels_last(value)
    elif not hasattr(value, "__array__"):
        raise ValueError(f"a {type(value).__name__} is no picture; give a path, a PIL picture, an array or a tensor")
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"an array of {array.dtype} is no picture; give numbers")
    if array.ndim not in (2, 3, 4) or (array.ndim > 2 and array.shape[-1] not in (1, 3, 4)) or not array.size:
        raise ValueError(f"an array of {list(array.shape)} is no picture; give [H, W] or [H, W, 3]")
    return [_of_array(one) for one in (array if array.ndim == 4 else [array])]


def _channels_last(tensor: torch.Tensor) -> Any:
    """Convert a tensor [..., C, H, W] to an array [..., H, W, C]; other layouts stay as they are."""
    array = tensor.detach().cpu()
    array = array.float() if array.is_floating_point() else array
    moved = array.ndim > 2 and array.shape[-3] in (1, 3, 4)
    return (array.movedim(-3, -1) if moved else array).numpy()


def _of_array(array: Any) -> Image:
    """Convert an array [H, W] or [H, W, C] to a picture; numbers in 0..1 keep their precision."""
    import numpy as np
    import PIL.Image
    import torch
    from graphengine_nodes.nodes.images import from_pil

    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        array = array / 65535.0
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise ValueError("an array with numbers that are not finite is no picture")
    if np.issubdtype(array.dtype, np.floating) and array.max() <= 1 and array.shape[2:] != (4,):
        array = array.astype(np.float32).clip(0, 1)
        array = np.repeat(array[..., None], 3, axis=2) if array.ndim == 2 else array
        return Image(torch.from_numpy(np.ascontiguousarray(array))[None])
    if np.issubdtype(array.dtype, np.floating) and array.max() <= 1:
        array = array * 255.0
    return from_pil(PIL.Image.fromarray(np.clip(array, 0, 255).round().astype(np.uint8)))
