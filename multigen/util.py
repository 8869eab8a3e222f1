"""Small helpers that scripts import: copies over shared weights, sizes, padding, EXIF."""

from __future__ import annotations

import copy
import inspect
import json
import math
import weakref
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import PIL.Image

__all__ = [
    "available_ram",
    "awailable_ram",
    "create_exif_metadata",
    "get_allowed_components",
    "get_model_size",
    "pad_image_to_multiple",
    "plain",
    "qfloat8",
    "qint8",
    "quantization",
    "quantize",
    "weightshare_copy",
]

P = TypeVar("P")

qfloat8, qint8 = "qfloat8", "qint8"
"""Kinds of quantization, by the names that optimum-quanto gives them."""


def quantization(dtype: Any) -> str | None:
    """The kind of quantization that a dtype means: `float8`, `int8`, or None for None.

    Args:
        dtype: `qfloat8` or `qint8` of this module or of optimum-quanto, or torch's `float8_e4m3fn` or `int8`.

    Raises:
        ValueError: It means none of them.
    """
    name = str(getattr(dtype, "name", dtype)).removeprefix("torch.").removeprefix("q")
    if dtype is None or name in ("float8", "int8"):
        return None if dtype is None else name
    if name == "float8_e4m3fn":
        return "float8"
    raise ValueError(f"{dtype} is no quantization that is known; give qfloat8 or qint8")


def quantize(pipe: Any, dtype: Any = qfloat8) -> None:
    """Store the weights of a diffusers pipeline's denoiser in 8 bits, in place; it computes as before.

    `qfloat8` is diffusers' layerwise casting, `qint8` torchao's quantization of weights.

    Raises:
        ValueError: `dtype` is no such quantization; the pipeline has no denoiser.
        ModelError: `qint8` needs torchao.
    """
    import torch
    from graphengine_nodes.store.changes import torchao

    pipeline = getattr(pipe, "pipe", pipe)
    denoiser = getattr(pipeline, "transformer", None) or getattr(pipeline, "unet", None)
    if denoiser is None:
        raise ValueError(f"a {type(pipeline).__name__} has no denoiser that could be quantized")
    if quantization(dtype) == "int8":
        torchao().quantize_(denoiser, torchao().Int8WeightOnlyConfig())
    elif quantization(dtype) == "float8":
        denoiser.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=denoiser.dtype)


def get_allowed_components(cls: type) -> set[str]:
    """The names that a diffusers pipeline's constructor takes."""
    names = set(inspect.signature(cls.__init__).parameters)  # type: ignore[misc]
    return names - {"self", "args", "kwargs"}


def weightshare_copy(pipe: P) -> P:
    """Copy a diffusers pipeline over the same weights: no component is the same object, tokenizers excepted.

    Setting a scheduler, a LoRA or tiling on the copy does not change the original; writing to the numbers of the
    weights in place does.
    """
    source: Any = pipe
    kept = get_allowed_components(type(source))
    values = {name: source.config.get(name) for name in kept if name not in source.components}
    components = {name: share(component) for name, component in source.components.items()}
    return type(pipe)(**{name: value for name, value in values.items() if value is not None}, **components)


def share(component: Any) -> Any:
    """Copy a component over the same weights; a tokenizer is not copied."""
    from graphengine_nodes.store.changes import shared_clone

    if hasattr(component, "convert_tokens_to_ids"):
        return component
    if not hasattr(component, "parameters"):
        return copy.deepcopy(component)
    copied = shared_clone(component)
    _origins[copied] = component
    return copied


_origins: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
"""Keeps the originals of copies alive as long as the copies, and with them what the weight store holds."""


def get_model_size(model: Any) -> int:
    """Bytes of the weights of a module or a diffusers pipeline; shared tensors count once."""
    from graphengine_nodes.weights.devices import storages

    modules = model.components.values() if hasattr(model, "components") else [model]
    return sum({pointer: size for module in modules for pointer, size in storages(module).items()}.values())


def available_ram() -> int:
    """Bytes of main memory that are available without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)


awailable_ram = available_ram  # as scripts spell it


def pad_image_to_multiple(image: PIL.Image.Image, multiple: int = 32) -> PIL.Image.Image:
    """Pad a picture to sides that are multiples of a number, by repeating the last column and row."""
    import numpy as np
    import PIL.Image

    width, height = image.size
    right, bottom = -width % multiple, -height % multiple
    if not right and not bottom:
        return image
    array = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB") if image.mode == "P" else image)
    around = ((0, bottom), (0, right), *[(0, 0)] * (array.ndim - 2))
    return PIL.Image.fromarray(np.pad(array, around, mode="edge"))


def create_exif_metadata(im: PIL.Image.Image, custom_metadata: Mapping[str, Any]) -> PIL.Image.Exif:
    """Make a picture's EXIF with data as JSON in UserComment, for `im.save(path, exif=...)`."""
    import PIL.Image
    from graphengine_nodes.values.picture_text import exif_with_comment
    from PIL.ExifTags import IFD

    comment = PIL.Image.Exif()
    comment.load(exif_with_comment(json.dumps(plain(custom_metadata), ensure_ascii=False)))
    exif = im.getexif()
    exif[IFD.Exif] = {**exif.get_ifd(IFD.Exif), **comment.get_ifd(IFD.Exif)}
    return exif


def plain(value: Any) -> Any:
    """Convert a value to JSON data; objects that JSON cannot hold become short descriptions."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {plain(str(name)): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, PurePath):
        return plain(str(value))
    return _described(value)


def _described(value: Any) -> Any:
    kind = type(value).__name__
    if hasattr(value, "initial_seed"):
        return value.initial_seed()
    shape = getattr(value, "shape", None)
    if shape == () and hasattr(value, "item"):
        return plain(value.item())
    if shape is not None:
        return f"{kind} {' x '.join(map(str, shape))} {str(getattr(value, 'dtype', '')).removeprefix('torch.')}".strip()
    if hasattr(value, "size") and hasattr(value, "mode"):
        return f"picture {' x '.join(map(str, value.size))} {value.mode}"
    if kind in ("dtype", "device"):
        return str(value)
    return getattr(value, "__qualname__", kind)
