"""Names of devices (`cpu`, `cuda:1`), checked without importing torch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from graphengine.errors import Problem, WorkflowError
from graphengine.old_names import moved

__all__ = ["DEVICE_TYPES", "check_device"]

DEVICE_TYPES = (
    "cpu", "cuda", "mps", "xpu", "hpu", "hip", "xla", "mtia", "maia", "meta", "ipu", "lazy", "vulkan", "opencl",
    "opengl", "mkldnn", "ideep", "fpga", "ve", "privateuseone",
)  # fmt: skip
"""The device types that torch knows; extensions of torch add others."""


def check_device(name: str) -> str:
    """Check that a text can be the name of a device (`cpu`, `cuda:1`), and return it.

    Whether this machine has the device is not checked.

    Raises:
        WorkflowError: No device can have this name.
    """
    match = re.fullmatch(r"(\w+)(:(0|[1-9]\d{0,2}))?", name, re.ASCII)
    if match is not None and (match[1] in DEVICE_TYPES or _has_extensions()):
        return name
    hint = "devices are called cpu, cuda:0 for the first GPU of NVIDIA or AMD, mps, xpu:0"
    raise WorkflowError(Problem("device", f"there is no device {name!r:.40}", hint=hint))


def _has_extensions() -> bool:
    """Whether extensions of torch are installed; these may add device types."""
    from importlib.metadata import entry_points

    return bool(entry_points(group="torch.backends"))


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)  # names that were renamed
