"""GPUs of this machine, counted without importing torch: a server counts them, and its workers compute on them."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
from pathlib import Path

NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE: the driver is there, and no GPU that this process may use."""


def gpu_count() -> int:
    """How many GPUs torch can compute on in this process.

    The CUDA driver counts them, which heeds CUDA_VISIBLE_DEVICES as for torch; importing torch to ask it takes seconds
    and half a gigabyte. Where the driver does not answer, and for GPUs that are not CUDA's, torch is asked.
    """
    if "torch" not in sys.modules:
        built_for = _built_for()
        if built_for == frozenset():
            return 0
        if built_for == frozenset({"cuda"}) and (count := _driver_count()) is not None:
            return count
    import torch

    return int(torch.cuda.device_count())


def _built_for() -> frozenset[str] | None:
    """The kinds of GPU (`cuda`, `hip`) that the installed torch was built for, by its file `version.py`; None if that
    does not say."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text()
    except OSError:
        return None
    said = dict(re.findall(r"^(cuda|hip)\b[^=\n]*= *(\S+)", text, re.MULTILINE))
    return frozenset(kind for kind, version in said.items() if version != "None") if len(said) == 2 else None


def _driver_count() -> int | None:
    """How many GPUs the CUDA driver has for this process; None if it does not answer."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:  # there is no driver
        return 0
    count = ctypes.c_int()
    try:
        code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    except AttributeError:
        return None
    return count.value if code == 0 else 0 if code == NO_DEVICE else None
