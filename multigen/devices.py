"""Devices as scripts name them: numbers, names, or none."""

from __future__ import annotations

from typing import Any


def device_name(device: Any, offload_device: int | None = None) -> str:
    """The name of a device as torch writes it: of `device` if given, else of a GPU if there is one, else `cpu`.

    Args:
        offload_device: The number of a GPU to which weights are moved piece by piece; it is then the device.

    Raises:
        RuntimeError: There is no such device.
    """
    import torch

    if offload_device is not None:
        device = f"cuda:{int(offload_device)}"
    elif device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif isinstance(device, int):
        device = f"cuda:{device}"
    found = torch.device(device)
    if found.type == "cuda":
        count = torch.cuda.device_count()
        if (found.index or 0) >= count:
            what = f"offload_device={offload_device}" if offload_device is not None else f"device={str(found)!r}"
            has = f"{count} of them" if count else "no GPU that torch can use"
            raise RuntimeError(f"{what} needs a GPU, and this machine has {has}; leave it out to compute on the CPU")
        return str(found)
    return found.type if found.type == "cpu" else str(found)
