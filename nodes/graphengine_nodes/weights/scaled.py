"""Weights stored small with scales beside them (fp8, int8): which tensor scales which, and multiplying them out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graphengine import ModelError

if TYPE_CHECKING:
    import torch

SCALES = ("scale_weight", "weight_scale")
"""The last part of the name of a weight's scale, as ComfyUI and as compressed-tensors write it."""

BESIDE = re.compile(r"(^|\.)(scaled_fp8|scale_input|input_scale|comfy_quant)$")
"""Tensors that change no weight: the marker of scaled files, the scales of activations (for products that are computed
in fp8), and ComfyUI's description of a layer, whose scale stands beside it."""

REFUSED = {
    "bitsandbytes (NF4, FP4 or int8)": r"\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..*)$",
    "blocks with scales of their own (NVFP4, MXFP8)": r"\.(weight_scale_2|weight_scale_inv|weight_block_scale)$",
    "GPTQ or AWQ": r"\.(qweight|qzeros|g_idx)$",
    "SVDQuant (Nunchaku)": r"\.(smooth_factor|wscales|proj_down|lowrank_down)$",
}
"""Small formats that are not read, and the names of tensors that only they have."""


@dataclass(frozen=True, slots=True)
class Scales:
    """The scales in one file.

    Attributes:
        of: By the name of a weight the name of its scale.
        extra: The names that are no weights: scales, and what stands beside them.
    """

    of: dict[str, str]
    extra: frozenset[str]


def scales_in(names: Iterable[str], file: Path) -> Scales:
    """Find the scales among the names of a file's tensors.

    Raises:
        ModelError: The file is in a small format that is not read, or a scale has no weight.
    """
    known = set(names)
    for name in sorted(known):
        for format, pattern in REFUSED.items():
            if re.search(pattern, name):
                raise ModelError(
                    f"{file} is quantized as {format}, of which {name} is a part; files in full or half precision and "
                    "fp8 or int8 with one scale for each tensor or row are read"
                )
    scales = {}
    for name in known:
        start, _, last = name.rpartition(".")
        if last in SCALES:
            weight = f"{start}.weight" if start else "weight"
            if weight not in known:
                raise ModelError(f"{file}: {name} is the scale of {weight}, which is missing; the file is incomplete")
            scales[weight] = name
    beside = {name for name in known if BESIDE.search(name)}
    return Scales(scales, frozenset(beside | set(scales.values())))


def multiplied(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """A weight in single precision: the stored numbers times their scale.

    Args:
        weight: [out, ...] in fp8 or int8.
        scale: One number, or one for each row: [out] or [out, 1].
    """
    if scale.numel() == 1:
        return weight.float() * scale.float().reshape(())
    return weight.float() * scale.float().reshape(-1, *[1] * (weight.ndim - 1))


def check_scale(weight: torch.Tensor, scale: torch.Tensor, name: str, file: Path) -> None:
    """Refuse a scale that is neither one number nor one for each row of a weight.

    Raises:
        ModelError: It has another shape.
    """
    rows = weight.shape[0] if weight.ndim else 0
    if scale.numel() != 1 and not (scale.numel() == rows and scale.shape[0] == rows):
        raise ModelError(
            f"{file}: the scale of {name} has the shape {list(scale.shape)}; it must be one number, or one for each of "
            f"the {rows} rows"
        )
