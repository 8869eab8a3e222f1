"""Linear layers whose weights stay small (blocks of GGUF files, fp8 with scales), and are multiplied out while they
compute.

It imports torch, and is imported by functions that do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_functions
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

_Blocks: Any = GGUFParameter
_functions: Any = dequantize_functions


def in_blocks(data: torch.Tensor, kind: str, shape: tuple[int, ...]) -> Any:
    """A matrix in blocks, which can be cut and joined by rows; None of what is no matrix of whole blocks.

    Args:
        data: Its bytes, in one row.
        kind: The library's name of the blocks.
        shape: As torch has it.
    """
    block, stored = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    if len(shape) != 2 or shape[1] % block:
        return None
    return _Blocks(data.reshape(shape[0], shape[1] // block * stored), quant_type=GGMLQuantizationType[kind])


def multiplied_out(data: torch.Tensor, kind: GGMLQuantizationType) -> torch.Tensor:
    """The numbers of blocks in single precision, [blocks, numbers], as the format defines them."""
    block, stored = GGML_QUANT_SIZES[kind]
    numbers: torch.Tensor = _functions[kind](data.reshape(-1, stored), block, stored, torch.float32)
    return numbers


SMALL = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)
"""The types of numbers of a byte that have scales beside them."""

AFTER = 5
"""Bytes after the numbers of a row: its scale, and the type of the numbers."""


def with_scales(weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Make of a matrix of small numbers one whose rows end with their scales, so that rows can be cut and joined.

    Args:
        weight: [out, in], of one of the types `SMALL`.
        scales: One number, or one for each row.

    Returns:
        uint8 [out, in + 5].
    """
    rows = scales.float().reshape(-1, 1).expand(len(weight), 1).contiguous()
    kind = torch.full((len(weight), 1), SMALL.index(weight.dtype), dtype=torch.uint8)
    return torch.cat([weight.contiguous().view(torch.uint8), rows.view(torch.uint8), kind], dim=1)


def scaled_out(data: torch.Tensor) -> torch.Tensor:
    """The numbers of a matrix of `with_scales` times their scales, in single precision."""
    weight, scales = data[:, :-AFTER].contiguous(), data[:, -AFTER:-1].contiguous().view(torch.float32)
    return weight.view(SMALL[int(data[0, -1])]).float() * scales


class QuantizedLinear(torch.nn.Linear):
    """A linear layer over small numbers: its `weight` is made of them each time that it is asked for.

    It computes in the type of `precision`, an empty buffer, which a change of the module's type changes with it.

    Args:
        linear: The layer that it stands for.
        blocks: The bytes that it will be given, [out, bytes].
        numbers: Makes the numbers of the bytes, in single precision.
        dtype: To compute with.
    """

    def __init__(
        self,
        linear: torch.nn.Linear,
        blocks: torch.Tensor,
        numbers: Callable[[torch.Tensor], torch.Tensor],
        dtype: torch.dtype,
    ) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.numbers = numbers
        self.blocks = torch.nn.Parameter(torch.empty(blocks.shape, dtype=torch.uint8, device="meta"), False)
        self.bias = linear.bias
        self.register_buffer("precision", torch.empty(0, dtype=dtype), persistent=False)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The weight, [out, in], multiplied out."""
        numbers = self.numbers(self.blocks.detach()).reshape(self.out_features, self.in_features)
        dtype: torch.dtype = self.get_buffer("precision").dtype
        return numbers.to(dtype)


ASKED = frozenset({"time_embedder"})
"""Layers whose parameters a model asks for their type, to compute in it: Wan's. They are small, and multiplied out."""


def lay_out(module: Any, tensors: dict[str, Any], dtype_of: Callable[[str], torch.dtype]) -> dict[str, Any]:
    """Give a module on the meta device layers for the tensors that stay small; return its tensors by its names.

    What is no linear layer's weight (embeddings, convolutions) is multiplied out, and so are those of `ASKED`.

    Args:
        dtype_of: By a tensor's name, the type to compute with.
    """
    found, layers = {}, dict(module.named_modules())
    numbers: Callable[[torch.Tensor], torch.Tensor]
    for name, tensor in tensors.items():
        if isinstance(tensor, _Blocks):
            blocks = tensor.as_tensor()
            numbers = functools.partial(multiplied_out, kind=tensor.quant_type)
            shape = (tensor.shape[0], tensor.quant_shape[1])
        elif tensor.dtype == torch.uint8 and tensor.ndim == 2:
            blocks, numbers, shape = tensor, scaled_out, (tensor.shape[0], tensor.shape[1] - AFTER)
        else:
            found[name] = tensor
            continue
        path, _, last = name.rpartition(".")
        parent, _, child = path.rpartition(".")
        layer = layers.get(path) if ASKED.isdisjoint(path.split(".")) else None
        if type(layer) is torch.nn.Linear and last == "weight" and shape == (layer.out_features, layer.in_features):
            setattr(module.get_submodule(parent), child, QuantizedLinear(layer, blocks, numbers, dtype_of(name)))
            found[f"{path}.blocks"] = blocks
        else:
            found[name] = numbers(blocks).reshape(shape).to(dtype_of(name))
    return found
