"""Messages between a service and its workers: JSON, with the bytes of values beside it. Never a pickle.

A message is a JSON object and blobs. Large blobs go through the folder of a disk store where both sides share one,
small ones with the message, and all where that folder takes nothing. Blobs in the folder may be damaged, or gone
before they are read (`cache clear`, a small budget): then `BlobLost` is raised, and the call is sent once more with all
bytes in the message.
"""

from __future__ import annotations

import builtins
import json
import traceback
from collections.abc import Mapping
from typing import Any

from graphengine import errors
from graphengine.cache.disk import DiskStore
from graphengine.cache.tree import from_tree, to_tree
from graphengine.errors import as_exception, lacks_memory, text_of

Message = dict[str, Any]
Blobs = dict[str, bytes]

INLINE = 64_000
"""Bytes up to which a blob goes with its message."""
SMALL = 20
"""A blob larger than the store's budget divided by this goes with its message: it would push other blobs out before
they are read."""


class BlobLost(Exception):
    """The bytes of a value are gone or damaged in the folder into which the other side has put them."""


def pack(message: Message, blobs: Mapping[str, bytes]) -> bytes:
    """Write a message and its blobs as bytes."""
    sizes = [[name, len(content)] for name, content in blobs.items()]
    header = json.dumps({"message": message, "blobs": sizes}).encode()
    return b"".join([len(header).to_bytes(4, "big"), header, *blobs.values()])


def unpack(data: bytes) -> tuple[Message, Blobs]:
    """Read a message and its blobs from bytes."""
    start = 4 + int.from_bytes(data[:4], "big")
    found = json.loads(data[4:start])
    blobs: Blobs = {}
    for name, size in found["blobs"]:
        blobs[name] = data[start : start + size]
        start += size
    return found["message"], blobs


class Values:
    """Encodes values as trees and decodes them, at one end of a connection.

    Args:
        disk: The store whose folder both sides share; None where they share none.
    """

    def __init__(self, disk: DiskStore | None) -> None:
        self.disk = disk

    def encode(self, value: Any, blobs: Blobs, share: bool = True) -> Any:
        """A value as a tree; its small blobs are added to those of the message.

        Args:
            share: Whether large ones may go through the folder; otherwise all go with the message.

        Raises:
            NotStorable: It cannot leave this process.
        """

        def write(name: str, content: bytes) -> None:
            if not (share and self._share(name, content)):
                blobs[name] = content

        return to_tree(value, write)

    def _share(self, name: str, content: bytes) -> bool:
        """Put a blob into the folder that both sides share; returns whether it is there."""
        if self.disk is None or not INLINE < len(content) <= self.disk.budget // SMALL:
            return False
        try:
            self.disk.put_blob(name, content)
        except OSError:  # it is full, or may not be written
            return False
        return True

    def decode(self, tree: Any, blobs: Mapping[str, bytes]) -> Any:
        """The value of a tree.

        Raises:
            BlobLost: Bytes that went through the folder are damaged or gone.
        """

        def read(name: str) -> bytes:
            if name in blobs:
                return blobs[name]
            if self.disk is None:
                raise LookupError(f"the blob {name} did not come with its message")
            try:
                return self.disk.get_blob(name)
            except (OSError, ValueError) as error:
                raise BlobLost(f"the bytes {name[:12]} of a value were lost in {self.disk.folder}: {error}") from None

        return from_tree(tree, read)


def error_facts(error: BaseException) -> Message:
    """Encode an exception as JSON data."""
    error = as_exception(error)
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException:  # of its __str__ or __repr__
        text = "".join(traceback.format_tb(error.__traceback__))
    return {"type": type(error).__name__, "message": text_of(error), "memory": lacks_memory(error), "traceback": text}


def error_of(facts: Mapping[str, Any]) -> BaseException:
    """Decode the exception of `error_facts`: of the same class if that is Python's or graphengine's, else a
    RuntimeError."""
    name, message = facts["type"], facts["message"]
    found = getattr(errors, name, None) or getattr(builtins, name, None)
    plain = isinstance(found, type) and issubclass(found, Exception)
    try:
        error = found(message) if plain else RuntimeError(f"{name}: {message}")  # type: ignore[misc]
    except TypeError:  # its class takes more than a message
        error = RuntimeError(f"{name}: {message}")
    error.add_note(facts["traceback"])
    return error
