"""GGUF files: weights in blocks of a few bits. Their headers, without torch, and their tensors.

The header is read here and not by the library's own reader, which maps the file and does not stop at its end: a damaged
count would keep it busy for hours. The kinds of blocks and their sizes are the library's.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from graphengine import ModelError, open_file

if TYPE_CHECKING:
    import torch

PLAIN = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""The kinds of numbers that are not in blocks, and torch's names for them."""

BLOCKS = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ4_NL", "IQ4_XS"),
)
"""The kinds of blocks that diffusers multiplies out."""

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The types of values in the header, as `struct` writes them."""
TEXT, ARRAY = 8, 9

ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
"""The beginning of the names of entries that hold a tensor's shape, where it was reshaped to be cut into blocks."""

LONGEST_HEADER = 100_000_000
"""Bytes. Vocabularies of text encoders take a few millions."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a GGUF file.

    Attributes:
        kind: The library's name of its kind of numbers or blocks.
        shape: As torch has it.
        start: Its first byte in the file.
        size: Its bytes.
    """

    kind: str
    shape: tuple[int, ...]
    start: int
    size: int


def is_gguf(file: Path) -> bool:
    """Whether a file is a GGUF file by its name."""
    return file.suffix.lower() == ".gguf"


def read_gguf(file: Path) -> tuple[dict[str, Stored], dict[str, Any]]:
    """Read the header of a GGUF file, and check that the file is whole.

    Returns:
        Its tensors by name, and the entries beside them but lists of texts, such as `general.architecture`.

    Raises:
        ModelError: It is missing, cut short, no GGUF file, or holds blocks of a kind that is not read.
    """
    return _opened(file)


def read_gguf_vocabulary(file: Path) -> dict[str, Any]:
    """Read the entries of a GGUF file's header that describe a tokenizer (`tokenizer. ...`), with lists of texts.

    Raises:
        ModelError: As for `read_gguf`.
    """
    return {name: value for name, value in _opened(file, texts=True)[1].items() if name.startswith("tokenizer.")}


def _opened(file: Path, texts: bool = False) -> tuple[dict[str, Stored], dict[str, Any]]:
    try:
        with open_file(file) as handle:
            size = os.fstat(handle.fileno()).st_size
            return _read(_Header(handle, file, size, texts), size)
    except FileNotFoundError:
        raise ModelError(f"there is no file {file}") from None
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, OverflowError, RecursionError):
        raise ModelError(f"{file} is no GGUF file that can be read (its header is damaged); copy it again") from None


class _Header:
    """Reads the values of a header one after another, never beyond the end of the file."""

    def __init__(self, handle: BinaryIO, file: Path, size: int, texts: bool = False) -> None:
        self.handle, self.file, self.left = handle, file, min(size, LONGEST_HEADER)
        self.texts = texts

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count > self.left:
            raise ModelError(f"{self.file} is cut short within its header; copy it again")
        self.left -= count
        return self.handle.read(count)

    def number(self, format: str) -> Any:
        """The next number."""
        return struct.unpack(f"<{format}", self.take(struct.calcsize(f"<{format}")))[0]

    def text(self) -> str:
        """The next text."""
        return self.take(self.number("Q")).decode()

    def value(self, kind: int, depth: int = 0) -> Any:
        """The next value; a list of anything but numbers is passed over, but for texts where they are asked for."""
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            return self.number(SCALARS[kind])
        inner, count = self.number("I"), self.number("Q")
        if inner in SCALARS:
            width = struct.calcsize(f"<{SCALARS[inner]}")
            return list(struct.unpack(f"<{count}{SCALARS[inner]}", self.take(count * width)))
        if count > self.left or depth > 3:  # each takes a byte at least
            raise ValueError(count)
        if inner == TEXT and self.texts:
            return [self.text() for _ in range(count)]
        for _ in range(count):
            self.value(inner, depth + 1)
        return None


def _read(header: _Header, size: int) -> tuple[dict[str, Stored], dict[str, Any]]:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    file = header.file
    if size < 24 or header.take(4) != b"GGUF":
        raise ModelError(f"{file} is cut short or no GGUF file; copy it again")
    if (version := header.number("I")) not in (2, 3):
        raise ModelError(f"{file} is a GGUF file of version {version}; versions 2 and 3 are read")
    tensors, entries = header.number("Q"), header.number("Q")
    said = {header.text(): header.value(header.number("I")) for _ in _at_most(entries, header)}
    raw: list[tuple[str, int, list[int], int]] = []
    for _ in _at_most(tensors, header):
        name = header.text()
        shape = [header.number("Q") for _ in _at_most(header.number("I"), header)][::-1]
        raw.append((name, header.number("I"), shape, header.number("Q")))
    if len({name for name, *_ in raw}) < tensors or len(said) < entries:
        raise ModelError(f"{file} is damaged: its header has a name twice; take another copy of it")
    align = int(said.get("general.alignment") or 32)
    first = math.ceil((min(size, LONGEST_HEADER) - header.left) / align) * align
    known = {int(kind): kind.name for kind in GGMLQuantizationType}
    found = {}
    for name, number, shape, offset in raw:
        kind = known.get(number, f"type {number}")
        if kind not in PLAIN and kind not in BLOCKS:
            raise ModelError(
                f"{file}: {name} is in blocks of the kind {kind}, which are not read; take a file in one of "
                f"{', '.join((*PLAIN, *BLOCKS))}"
            )
        block, stored = GGML_QUANT_SIZES[GGMLQuantizationType(number)]
        numbers = math.prod(shape)
        if shape and shape[-1] % block:
            raise ModelError(f"{file} is damaged: a row of {name} is no number of whole blocks; copy it again")
        original = said.get(f"{ORIGINAL_SHAPE}{name}") or shape
        if math.prod(original) != numbers:
            raise ModelError(f"{file} is damaged: the shapes of {name} contradict each other; copy it again")
        found[name] = Stored(kind, tuple(original), first + offset, numbers // block * stored)
    end = max((tensor.start + tensor.size for tensor in found.values()), default=0)
    if end > size:
        raise ModelError(f"{file} is cut short: {size} bytes of {end}; copy it again")
    return found, said


def _at_most(count: int, header: _Header) -> Iterator[int]:
    """Count up to a number of things of a byte at least, which the header must still hold."""
    if count > header.left:
        raise ModelError(f"{header.file} is cut short within its header; copy it again")
    return iter(range(count))


def read_gguf_tensors(file: Path, names: Collection[str]) -> dict[str, torch.Tensor]:
    """Read tensors of a GGUF file; matrices in blocks stay so, all others are multiplied out."""
    import torch
    from gguf import GGMLQuantizationType

    from graphengine_nodes.weights.quantized import in_blocks, multiplied_out

    tensors: dict[str, torch.Tensor] = {}
    stored, _ = read_gguf(file)
    with open_file(file) as handle:
        for name in stored.keys() & set(names):
            tensor = stored[name]
            data = torch.empty(tensor.size, dtype=torch.uint8)
            handle.seek(tensor.start)
            room: Any = data.numpy()
            if handle.readinto(room) != tensor.size:
                raise ModelError(f"{file} is cut short; copy it again")
            if tensor.kind in PLAIN:
                tensors[name] = data.view(getattr(torch, PLAIN[tensor.kind])).reshape(tensor.shape)
            elif (blocks := in_blocks(data, tensor.kind, tensor.shape)) is not None:
                tensors[name] = blocks
            else:
                tensors[name] = multiplied_out(data, GGMLQuantizationType[tensor.kind]).reshape(tensor.shape)
    return tensors
