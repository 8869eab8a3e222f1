"""Linear layers whose weights stay in blocks of a few bits (GGUF), and are multiplied out while they compute.

It imports torch, and is imported by functions that do.
"""

from __future__ import annotations

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


class QuantizedLinear(torch.nn.Linear):
    """A linear layer over blocks: its `weight` is made of them each time that it is asked for.

    It computes in the type of `computes`, an empty buffer, which a change of the module's type changes with it.
    """

    def __init__(self, linear: torch.nn.Linear, blocks: Any, dtype: torch.dtype) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.kind: GGMLQuantizationType = blocks.quant_type
        self.blocks = torch.nn.Parameter(torch.empty(blocks.shape, dtype=torch.uint8, device="meta"), False)
        self.bias = linear.bias
        self.register_buffer("computes", torch.empty(0, dtype=dtype), persistent=False)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The weight, [out, in], multiplied out."""
        numbers = multiplied_out(self.blocks.detach(), self.kind).reshape(self.out_features, self.in_features)
        dtype: torch.dtype = self.get_buffer("computes").dtype
        return numbers.to(dtype)


def lay_out(module: Any, tensors: dict[str, Any], dtype_of: Callable[[str], torch.dtype]) -> dict[str, Any]:
    """Give a module on the meta device layers for the tensors that are in blocks; return its tensors by its names.

    What is no linear layer's weight (embeddings, convolutions) is multiplied out.

    Args:
        dtype_of: By a tensor's name, the type to compute with.
    """
    found, layers = {}, dict(module.named_modules())
    for name, tensor in tensors.items():
        if not isinstance(tensor, _Blocks):
            found[name] = tensor
            continue
        path, _, last = name.rpartition(".")
        parent, _, child = path.rpartition(".")
        layer = layers.get(path)
        shape = (tensor.shape[0], tensor.quant_shape[1])
        if type(layer) is torch.nn.Linear and last == "weight" and shape == (layer.out_features, layer.in_features):
            setattr(module.get_submodule(parent), child, QuantizedLinear(layer, tensor, dtype_of(name)))
            found[f"{path}.blocks"] = tensor.as_tensor()
        else:
            numbers = multiplied_out(tensor.as_tensor(), tensor.quant_type).reshape(shape)
            found[name] = numbers.to(dtype_of(name))
    return found
