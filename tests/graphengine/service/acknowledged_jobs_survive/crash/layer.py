"""The layer of `layer.c`: built with the system's compiler, and its records."""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("layer.c")
_HEAD = struct.Struct("<iiqqqIIII")


class Kind(IntEnum):
    """What a change does."""

    CREATE = 1
    WRITE = 2
    TRUNCATE = 3
    SYNC = 4
    RENAME = 5
    LINK = 6
    UNLINK = 7
    MKDIR = 8
    RMDIR = 9


@dataclass(frozen=True, slots=True)
class Change:
    """One change that a process made, or would have made.

    Attributes:
        number: Counted from 1 over all threads of its process.
        offset: Of a write, in bytes; of a truncation, the new length.
        modified: When the file was written, in nanoseconds since the epoch.
        data: What was written, where it was recorded.
        place: Where its record ends in the log.
        struck: It is the one at which the process was killed, or which failed.
    """

    kind: Kind
    process: int
    number: int
    offset: int
    modified: int
    path: str
    other: str
    data: bytes
    place: int
    struck: bool


def build(folder: Path) -> Path:
    """The layer as a library in a folder; skips the test where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler is installed here (cc, gcc or clang): nothing can count the writes of a process")
    library = folder / "layer.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-lpthread", "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"the layer cannot be built here: {done.stderr[:500]}")
    return library


def arm(folder: Path, log: Path, mode: str, at: int, once: Path | None = None) -> None:
    """Count this process's changes below a folder from now on; the layer must be preloaded."""
    given = [str(folder), str(log), mode, at, "" if once is None else str(once)]
    ctypes.CDLL(None).crash_arm(*(text.encode() if isinstance(text, str) else ctypes.c_long(text) for text in given))


def changes(log: Path) -> Iterator[Change]:
    """The records of a log, in their order."""
    content, place = log.read_bytes() if log.exists() else b"", 0
    while place < len(content):
        kind, process, number, offset, modified, *lengths, struck = _HEAD.unpack_from(content, place)
        place += _HEAD.size
        parts = []
        for length in lengths:
            parts.append(content[place : place + length])
            place += length
        path, other, data = parts
        yield Change(
            Kind(kind), process, number, offset, modified, path.decode(), other.decode(), data, place, bool(struck)
        )
