"""Headers of safetensors and GGUF files: names, types and shapes of tensors and the texts beside them, checked before
any is read. No torch."""

from __future__ import annotations

import functools
import json
import math
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from graphengine import ModelError, open_file
from graphengine_nodes.weights.gguf_files import is_gguf, read_gguf

SUFFIXES = frozenset({".safetensors", ".gguf", ".ckpt", ".pt", ".pth", ".bin"})

LONGEST = 100_000_000
"""Bytes of a header at most, as the format defines it."""

SIZES = {
    kind: size
    for size, kinds in {
        8: "F64 I64 U64",
        4: "F32 I32 U32",
        2: "F16 BF16 I16 U16",
        1: "F8_E4M3 F8_E5M2 I8 U8 BOOL",
    }.items()
    for kind in kinds.split()
}
"""The types of numbers that are read, and their bytes."""

Header = dict[str, dict[str, Any]]
"""By the name of a tensor its `dtype`, its `shape` and, in safetensors files, its `data_offsets`."""


class HeaderAndMetadata(NamedTuple):
    """The two halves of a header.

    Attributes:
        header: The tensors.
        metadata: Texts by name, such as `modelspec.prediction_type`.
    """

    header: Header
    metadata: dict[str, str]


T = TypeVar("T")


def once_for_a_file(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """Remember what a function reads of a file until the file changes; what it returns must not be changed.

    The file is opened for each call, so that one outside the allowed folders stays out of reach. Errors are not
    remembered.
    """
    remembered = functools.lru_cache(maxsize=64)(lambda file, state: read(file))

    @functools.wraps(read)
    def read_once(file: Path) -> T:
        try:
            with open_file(file) as handle:
                found = os.fstat(handle.fileno())
        except OSError:  # of which the function makes a sentence
            return read(file)
        return remembered(file, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))

    return read_once


def read_headers(file: Path) -> HeaderAndMetadata:
    """Read the header of a safetensors or GGUF file, and check that the file is whole.

    Raises:
        ModelError: It is missing, cut short, damaged or no safetensors file, or holds numbers of a type that is not
            read.
    """
    if file.suffix in SUFFIXES and file.suffix not in (".safetensors", ".gguf"):
        raise ModelError(
            f"{file} is a pickle, which can run code when it is read: it is not opened; convert it to safetensors"
        )
    return _read(file)


@once_for_a_file
def _read(file: Path) -> HeaderAndMetadata:
    if is_gguf(file):
        stored, said = read_gguf(file)
        shapes = {name: {"dtype": tensor.kind, "shape": list(tensor.shape)} for name, tensor in stored.items()}
        return HeaderAndMetadata(shapes, {name: value for name, value in said.items() if isinstance(value, str)})
    try:
        with open_file(file) as handle:
            size = os.fstat(handle.fileno()).st_size
            length = int.from_bytes(handle.read(8), "little")
            if size < 8:
                raise ModelError(f"{file} is no safetensors file: it has {size} bytes")
            if length > LONGEST:
                raise ModelError(
                    f"{file} is no safetensors file: by its first bytes its header has {length:,} bytes, and no header "
                    f"is longer than {LONGEST:,}"
                )
            if length > size - 8:
                raise ModelError(f"{file} is cut short or no safetensors file; copy it again")
            found = json.loads(handle.read(length), object_pairs_hook=_once)
        metadata = dict(found.pop("__metadata__", None) or {})
        header = {name: _entry(name, entry) for name, entry in found.items()}
    except FileNotFoundError:
        raise ModelError(f"there is no file {file}") from None
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}") from None
    except _Twice as error:
        raise ModelError(f"{file} is damaged: its header names {error} twice; take another copy of it") from None
    except _NotRead as error:
        raise ModelError(f"{file}: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ModelError(f"{file} is no safetensors file: its header cannot be read") from None
    _check_places(header, 8 + length, size, file)
    return HeaderAndMetadata(header, metadata)


FORMATS = {"F64": "<d", "F32": "<f", "F16": "<e"}
"""The types of numbers that are read here, as the module `struct` calls them."""


def read_number(file: Path, header: Header, name: str, at: int = 0) -> float | None:
    """Read one number of a tensor in a safetensors file, whose header is given; None of a type that is not read here.

    Args:
        at: Its place; -1 for the last.

    Raises:
        ModelError: The file cannot be read.
    """
    format, count = FORMATS.get(header[name]["dtype"], ""), math.prod(header[name]["shape"])
    if header[name]["dtype"] == "BF16":
        format = "<f"
    if not format or "data_offsets" not in header[name] or not -count <= at < count:
        return None
    size = SIZES[header[name]["dtype"]]
    stored = read_bytes(file, header, [name])[name][(at % count) * size :][:size]
    number: float = struct.unpack(format, stored.rjust(struct.calcsize(format), b"\0"))[0]
    return number


def read_bytes(file: Path, header: Header, names: Iterable[str]) -> dict[str, bytes]:
    """Read the bytes of a few small tensors in a safetensors file, whose header is given.

    Raises:
        ModelError: The file cannot be read.
    """
    found = {}
    try:
        with open_file(file) as handle:
            before = 8 + int.from_bytes(handle.read(8), "little")
            for name in names:
                start, end = header[name]["data_offsets"]
                handle.seek(before + start)
                found[name] = handle.read(end - start)
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}") from None
    return found


class _Twice(Exception):
    """A name that is in a header twice."""


class _NotRead(Exception):
    """What is not read, as a sentence."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which no name is twice: of two tensors of one name one would be left out without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return found


def _entry(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """A tensor's entry, with the sides of its shape and its place as numbers."""
    kind, shape = str(entry["dtype"]), [int(side) for side in entry["shape"]]
    start, end = (int(place) for place in entry["data_offsets"])
    if kind not in SIZES:
        raise _NotRead(f"its tensor {name} is of the type {kind:.20}, which is not read; take it in another precision")
    if min(shape, default=0) < 0 or not 0 <= start <= end or end - start != math.prod(shape) * SIZES[kind]:
        raise ValueError(name)
    return entry | {"shape": shape, "data_offsets": [start, end]}


def _check_places(header: Header, before: int, size: int, file: Path) -> None:
    """Refuse tensors that lie over one another or beyond the file's end, and bytes that are no tensor's.

    Args:
        before: Bytes before the first tensor.
        size: All bytes of the file.

    Raises:
        ModelError: There are such.
    """
    at = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, end = entry["data_offsets"]
        if start != at:
            how = "lies over another one" if start < at else "does not follow the one before it"
            raise ModelError(f"{file} is damaged: by its header the tensor {name} {how}; take another copy of it")
        at = end
    if size < before + at:
        raise ModelError(f"{file} is cut short: {size} bytes of {before + at}; copy it again")
    if size > before + at:
        after = size - before - at
        raise ModelError(f"{file} is damaged: it has {after} bytes after its last tensor; take another copy of it")
