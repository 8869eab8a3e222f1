"""Weights stored small with scales beside them (fp8, int8): which tensor scales which, and multiplying them out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine import ModelError
from graphengine_nodes.weights.headers import Header, HeaderAndMetadata, read_bytes

if TYPE_CHECKING:
    import torch

SCALES = ("scale_weight", "weight_scale")
"""The last part of the name of a weight's scale, as ComfyUI and as compressed-tensors write it."""

WEIGHT = re.compile(r"(^|[._])(weight|bias)$")
"""Tensors that layers compute with."""

WHOLE = frozenset({"I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL"})
"""Types of whole numbers, which are no weights by themselves."""

FORMS = frozenset({"float8_e4m3fn", "float8_e5m2", "int8_tensorwise"})
"""The forms in ComfyUI's descriptions of layers that are numbers times a scale, and nothing else."""

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


def check_small(headers: HeaderAndMetadata, file: Path) -> None:
    """Refuse weights in small numbers that are anything else than these numbers times a scale.

    Raises:
        ModelError: They are in another form, or a scale is missing.
    """
    header = headers.header
    scales = scales_in(header, file)
    for name, entry in header.items():
        kind = entry["dtype"]
        if kind in WHOLE and WEIGHT.search(name) and not (kind == "I8" and name in scales.of):
            how = "a scale beside it, as no format that is read has it" if name in scales.of else "no scale beside it"
            raise ModelError(
                f"{file}: {name} holds whole numbers ({kind}) with {how}; take the weights in another form"
            )
        start, _, last = name.rpartition(".")
        if last == "scaled_fp8":
            _check_marked(header, scales, start and f"{start}.", file)
    for layer, told in _descriptions(headers, file).items():
        rotated = told.get("convrot") or told.get("group_size")
        if told.get("format") not in FORMS or rotated:
            shown = ", ".join(f"{name} {value}" for name, value in told.items())
            raise ModelError(
                f"{file} is quantized in a form that is not read: {layer} has {shown:.120}; {', '.join(sorted(FORMS))} "
                "are read, without rotations or groups"
            )
        if f"{layer}.weight" in header and f"{layer}.weight" not in scales.of:
            raise ModelError(f"{file}: {layer}.weight lacks its scale; the file is incomplete")


def _check_marked(header: Header, scales: Scales, prefix: str, file: Path) -> None:
    """Refuse a component that is marked as scaled and has no scale at all."""
    small = [n for n, e in header.items() if n.startswith(prefix) and e["dtype"].startswith("F8") and WEIGHT.search(n)]
    if small and not any(name.startswith(prefix) for name in scales.of):
        raise ModelError(f"{file} is marked as scaled ({prefix}scaled_fp8), but {small[0]} lacks its scale")


def _descriptions(headers: HeaderAndMetadata, file: Path) -> dict[str, Mapping[str, Any]]:
    """ComfyUI's descriptions of quantized layers, which stand in tensors or in the metadata."""
    header, metadata = headers
    names = [n for n, e in header.items() if n.rpartition(".")[2] == "comfy_quant" and "data_offsets" in e]
    texts: dict[str, bytes | str] = dict(read_bytes(file, header, names)) if names else {}
    texts |= (
        {"_quantization_metadata": metadata["_quantization_metadata"]} if "_quantization_metadata" in metadata else {}
    )
    found: dict[str, Mapping[str, Any]] = {}
    for name, text in texts.items():
        try:
            told = json.loads(text)
            layers = told["layers"] if name == "_quantization_metadata" else {name.rpartition(".")[0]: told}
            found |= {layer: dict(one) for layer, one in layers.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise ModelError(f"{file}: {name}, which says how layers are quantized, cannot be read") from None
    return found


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
    """Refuse a scale that is neither one number nor one for each row of a weight, or whose weight is of another form.

    Raises:
        ModelError: It has another shape, or the weight is of whole numbers without a sign.
    """
    if not weight.is_floating_point() and not str(weight.dtype).endswith(".int8"):
        raise ModelError(f"{file}: {name} is of {weight.dtype}, which no format that is read has with a scale")
    rows = weight.shape[0] if weight.ndim else 0
    if scale.numel() != 1 and not (scale.numel() == rows and scale.shape[0] == rows):
        raise ModelError(
            f"{file}: the scale of {name} has the shape {list(scale.shape)}; it must be one number, or one for each of "
            f"the {rows} rows"
        )
