"""Devices of this machine: their names, their memory, and how much of it modules use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from graphengine import ModelError

if TYPE_CHECKING:
    import torch


def exact_device(device: str) -> str:
    """A device of this machine with its number; `cuda` alone is torch's current GPU.

    Raises:
        ModelError: This machine has no such device.
    """
    import torch

    kind, _, number = device.partition(":")
    count = getattr(getattr(torch, kind, None), "device_count", lambda: None)()
    if kind != "cpu" and count is not None and int(number or 0) >= count:
        there = ", ".join(f"{kind}:{n}" for n in range(count)) or f"no {kind} that torch can use"
        raise ModelError(f"there is no {device} here: this machine has {there}; name another device, or none")
    return numbered(device)


def numbered(device: str) -> str:
    """A device with its number, whether this machine has it or not."""
    if device != "cuda":
        return device
    import torch

    return f"cuda:{torch.cuda.current_device()}"


def dtype_of(precision: str | None, device: str) -> torch.dtype:
    """The dtype to compute with; for None float32 on a CPU, float16 on any other device."""
    import torch

    if precision is None:
        return torch.float32 if device.startswith("cpu") else torch.float16
    found = getattr(torch, precision)
    assert isinstance(found, torch.dtype)
    return found


def to_device(value: Any, device: str) -> Any:
    """Move a module to a device; other values stay as they are."""
    return value.to(device) if hasattr(value, "parameters") and device != "cpu" else value


def storages(value: Any) -> dict[int, int]:
    """Address and bytes of every piece of memory that a module uses."""
    if not hasattr(value, "parameters"):
        return {}
    plain = [part for tensor in [*value.parameters(), *value.buffers()] for part in _plain(tensor)]
    storages = [tensor.untyped_storage() for tensor in plain if not tensor.is_meta]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def _plain(tensor: torch.Tensor) -> list[torch.Tensor]:
    """A tensor, or the plain tensors inside a tensor of a subclass, such as a quantized one."""
    import torch

    if type(tensor) in (torch.Tensor, torch.nn.Parameter) or not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names if getattr(tensor, name) is not None for part in _plain(getattr(tensor, name))]


def memory_of(device: str) -> int:
    """Bytes that weights may take on a device: the user's setting, else a part of the device's memory."""
    if given := os.environ.get("GRAPHENGINE_WEIGHTS_GB"):
        return int(float(given) * 2**30)
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory * 0.8)
    import psutil

    return int(psutil.virtual_memory().total // 2)
