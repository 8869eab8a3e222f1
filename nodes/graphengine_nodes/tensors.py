"""Tensors of torch as a type that files and workers know, called `tensor`.

`graphengine_nodes.codecs` promises it; this module, which imports torch, is imported with the first tensor.
"""

from __future__ import annotations

import torch

from graphengine import NotStorable, SocketType, View, register_type
from graphengine_nodes.codecs import pack, save_with, unpack
from graphengine_nodes.values.types import tensor_line

# What safetensors has no name for is written as its bytes.
_NAMED = frozenset(
    getattr(torch, name)
    for name in (
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64",
        "float8_e4m3fn", "float8_e5m2", "uint64", "uint32", "uint16",
    )
    if hasattr(torch, name)
)  # fmt: skip


def encode(value: torch.Tensor) -> bytes:
    """A tensor as safetensors bytes, with its dtype, shape, kind of device (`cpu`, `cuda`), and `requires_grad`.

    Raises:
        NotStorable: It is of a subclass, sparse, quantized, nested or without data, or holds more than numbers: a
            history of autograd, attributes.
    """
    if (reason := _why_not(value)) is not None:
        raise NotStorable(f"a tensor that {reason}")
    facts = {
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": list(value.shape),
        "device": value.device.type,
        "requires_grad": value.requires_grad,
    }
    plain = value.detach().resolve_conj().resolve_neg()
    if plain.dtype not in _NAMED:
        plain = plain.contiguous().reshape(-1).view(torch.uint8)
    return pack({"tensor": plain}, **facts)


def decode(data: bytes) -> torch.Tensor:
    """The tensor of `encode`, on a device of the same kind if this process has one, else on the processor."""
    tensors, facts = unpack(data)
    value, dtype = tensors["tensor"], getattr(torch, facts["dtype"])
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{facts['dtype']} is no dtype of torch")
    if dtype not in _NAMED:
        value = value.view(dtype).reshape(facts["shape"])
    if value.dtype is not dtype or list(value.shape) != facts["shape"]:
        raise ValueError(f"it holds {value.dtype} {list(value.shape)}, not {dtype} {facts['shape']}")
    if _has_device(facts["device"]):
        value = value.to(facts["device"])
    return value.requires_grad_(facts["requires_grad"])


def _has_device(kind: str) -> bool:
    return (kind == "cuda" and torch.cuda.is_available()) or (kind == "mps" and torch.backends.mps.is_available())


def _why_not(value: torch.Tensor) -> str | None:
    """The reason why a tensor cannot be written, and the remedy; None if it can."""
    none = "has no form in which it could be written or sent"
    if type(value) is not torch.Tensor:
        name = type(value).__qualname__
        return f"is a {name} {none}: make a plain one of it (tensor.detach().as_subclass(torch.Tensor))"
    if (shape := _unusual(value)) is not None:
        return f"is {shape} {none}: make a plain one of it (tensor.to_dense(), tensor.dequantize())"
    if value.grad_fn is not None:
        return f"has a history of autograd {none}: compute it under torch.no_grad(), or return tensor.detach()"
    if vars(value):
        return f"has attributes ({', '.join(vars(value))}) {none}: return tensor.clone()"
    return None


def _unusual(value: torch.Tensor) -> str | None:
    """The name of a kind of tensor whose numbers do not lie side by side in memory."""
    if value.is_meta:
        return "without data (on the device meta)"
    if value.is_quantized:
        return "quantized"
    if value.is_nested:
        return "nested"
    return None if value.layout is torch.strided else f"sparse ({value.layout})"


def view(value: torch.Tensor) -> View:
    """Dtype, shape, range and device."""
    dtype = str(value.dtype).removeprefix("torch.")
    unusual = _unusual(value)
    device = "" if value.device.type == "cpu" else f" on {value.device}"
    return View(text=f"tensor {dtype} {tensor_line(value) if unusual is None else unusual}{device}")


register_type(
    SocketType(
        torch.Tensor,
        "tensor",
        encode=encode,
        decode=decode,
        size=lambda value: value.numel() * value.element_size(),
        view=view,
        save=save_with(".safetensors", encode),
    )
)
