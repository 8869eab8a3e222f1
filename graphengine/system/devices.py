"""What may be called a device, told without importing what computes."""

from __future__ import annotations

import re

from graphengine.errors import Problem, WorkflowError

__all__ = ["KINDS", "check_device"]

KINDS = (
    "cpu", "cuda", "mps", "xpu", "hpu", "hip", "xla", "mtia", "maia", "meta", "ipu", "lazy", "vulkan", "opencl",
    "opengl", "mkldnn", "ideep", "fpga", "ve", "privateuseone",
)  # fmt: skip
"""The kinds of device that torch knows; further ones come with its installed extensions."""


def check_device(name: str) -> str:
    """The name of a device, if one can be called so: `cpu`, `cuda:1`. Whether the machine has it shows later.

    Raises:
        WorkflowError: No device can have this name.
    """
    written = re.fullmatch(r"(\w+)(:(0|[1-9]\d{0,2}))?", name, re.ASCII)
    if written is not None and (written[1] in KINDS or _extended()):
        return name
    hint = "devices are called cpu, cuda:0 for the first GPU of NVIDIA or AMD, mps, xpu:0"
    raise WorkflowError(Problem("device", f"there is no device {name!r:.40}", hint=hint))


def _extended() -> bool:
    """Whether extensions of torch are installed, whose devices have names of their own."""
    from importlib.metadata import entry_points

    return bool(entry_points(group="torch.backends"))
