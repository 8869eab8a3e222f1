"""The socket type `array`: numpy arrays, written in numpy's own `.npy` format."""

from __future__ import annotations

import io

import numpy

from graphengine.errors import NotStorable
from graphengine.values.socket_types import SocketType, register_type


def encode(array: numpy.ndarray) -> bytes:
    """Write an array as the bytes of an `.npy` file.

    Raises:
        NotStorable: It holds Python objects.
    """
    if array.dtype.hasobject:
        raise NotStorable("an array of Python objects has no form in which it could be written or sent: use a list")
    file = io.BytesIO()
    numpy.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue()


def decode(content: bytes) -> numpy.ndarray:
    """Read an array from the bytes of an `.npy` file; Python objects are never unpickled."""
    return numpy.lib.format.read_array(io.BytesIO(content), allow_pickle=False)


register_type(SocketType(numpy.ndarray, "array", encode, decode, size=lambda array: int(array.nbytes), suffix=".npy"))
