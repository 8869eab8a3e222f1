"""Bytes of arrays, tensors and pictures: read piece by piece for a checksum, measured, and copied.

numpy, torch and Pillow are not imported here: a value of theirs can exist only where they are imported already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

Feed = Callable[[Any], None]
"""A function that takes the next bytes; the buffer belongs to the caller, and may change afterwards."""

PIECE = 4 << 20
"""The most bytes that are copied at once where an array is not contiguous."""


def _library(name: str) -> Any:
    return sys.modules[name]


# --- reading ----------------------------------------------------------------------------------------------------------


def feed_array(feed: Feed, value: Any) -> None:
    """Feed the bytes of a numpy array, in the order in which they lie in memory."""
    numpy = _library("numpy")
    _feed_strided(feed, numpy.ndarray.view(value, numpy.ndarray))


def _feed_strided(feed: Feed, array: Any) -> None:
    if array.size == 0:
        return
    steps = array.strides
    # Repeated axes (stride 0) are read once, backward axes forwards, and the axis with the largest stride comes first.
    array = array[tuple(slice(0, 1) if s == 0 else slice(None, None, -1) if s < 0 else slice(None) for s in steps)]
    _feed_sorted(feed, array.transpose(sorted(range(array.ndim), key=lambda axis: -array.strides[axis])))


def _feed_sorted(feed: Feed, array: Any) -> None:
    numpy = _library("numpy")
    if array.flags.c_contiguous or array.nbytes <= PIECE:
        feed(numpy.ascontiguousarray(array).reshape(-1).view(numpy.uint8))
        return
    rows = max(1, PIECE // array[0].nbytes)
    for start in range(0, len(array), rows):
        piece = array[start : start + rows]
        _feed_sorted(feed, piece[0] if len(piece) == 1 else piece)


def feed_tensor(feed: Feed, value: Any, muted: bool) -> list[Any]:
    """Feed the bytes of a torch tensor; returns the tensors that it consists of if it has no bytes of its own.

    Args:
        feed: Takes the bytes.
        value: The tensor.
        muted: Do not read its numbers.
    """
    torch = _library("torch")
    if hasattr(value, "__tensor_flatten__"):
        return [getattr(value, name) for name in value.__tensor_flatten__()[0]]
    if value.layout is torch.sparse_coo:
        return [value._indices(), value._values()]
    if value.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [value.crow_indices(), value.col_indices(), value.values()]
    if value.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [value.ccol_indices(), value.row_indices(), value.values()]
    feed(f"{value.stride()}{value.is_conj()}{value.is_neg()}".encode())
    if muted or value.is_meta or value.numel() == 0:
        return []
    if value.device.type == "cpu":
        _feed_strided(feed, _bytes_of(value))
    else:
        flat = value.detach().reshape(-1)
        for start in range(0, flat.numel(), PIECE):
            _feed_strided(feed, _bytes_of(flat[start : start + PIECE].cpu()))
    return []


def _bytes_of(tensor: Any) -> Any:
    """View a tensor's memory as a numpy array of bytes; the last axis holds the bytes of one number."""
    import ctypes

    numpy = _library("numpy")
    storage, item = tensor.untyped_storage(), tensor.element_size()
    memory = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    strides = (*(step * item for step in tensor.stride()), 1)
    offset = tensor.storage_offset() * item
    return numpy.ndarray((*tensor.shape, item), numpy.uint8, memory, offset, strides)


def feed_picture(feed: Feed, value: Any, muted: bool) -> int:
    """Feed the pixels of a PIL picture (not if `muted`); returns the number of bytes that they take."""
    value.load()
    width, height = value.size
    feed(f"{value.mode}{value.size}".encode())
    wide = 1 if value.mode in ("1", "L", "P") else 2 if value.mode.startswith("I;16") else 4
    if not muted:
        if value.mode in ("P", "PA"):
            feed(bytes(value.getpalette("RGBA") or ()))
        rows = max(1, PIECE // max(1, width * wide))
        for top in range(0, height, rows):
            feed(value.crop((0, top, width, min(height, top + rows))).tobytes())
    return int(width * height * wide)


# --- sizes ------------------------------------------------------------------------------------------------------------


def held_by(value: Any) -> tuple[int, int]:
    """The memory that an array or a tensor keeps alive: a number that identifies it, and its size in bytes.

    A view keeps the whole array alive that it is a view of.
    """
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    size = 0
    while True:
        if type(value) is memoryview:
            value = value.obj
        elif numpy is not None and isinstance(value, numpy.ndarray):
            size = max(size, value.nbytes)
            if value.base is None:
                return id(value), size
            value = value.base
        else:
            break
    if torch is not None and isinstance(value, torch.Tensor):
        try:
            storage = value.untyped_storage()
            return storage.data_ptr() or id(value), max(size, storage.nbytes())
        except (NotImplementedError, RuntimeError):  # consists of other tensors, which are counted separately
            return id(value), size
    base = getattr(value, "base", None)  # numpy's wrapper around the base of a view made by `as_strided`
    if numpy is not None and isinstance(base, numpy.ndarray):
        return held_by(base)
    try:
        with memoryview(value) as view:
            return id(value), max(size, view.nbytes)
    except TypeError:
        return id(value), max(size, sys.getsizeof(value))


# --- copies -----------------------------------------------------------------------------------------------------------


def copied_array(value: Any) -> Any:
    """Copy a numpy array, keeping its memory order."""
    return value.copy(order="K")


def copied_tensor(value: Any) -> Any:
    """Copy a torch tensor; an inference tensor becomes a normal one."""
    if value.grad_fn is not None:
        return value.clone()
    twin = value.detach().clone()
    return twin.requires_grad_() if value.requires_grad else twin


def copied_picture(value: Any) -> Any:
    """Copy a PIL picture."""
    return value.copy()
