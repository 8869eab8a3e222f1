"""Opening files that people name: regular files only, and never a wait for one.

A FIFO, a device or a socket under a file's name would hang whoever opens it, or give bytes without an end. So files are
opened without waiting (`O_NONBLOCK`, where the system has it; where it has not there is no FIFO in a folder either) and
looked at by their descriptor: what is looked at is what is read, whatever happens to the name meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)


class NotRegular(OSError):
    """What lies at a path is a folder, a FIFO, a device or a socket, where a file is needed."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(None, "it is no regular file", str(path))
        self.strerror = "it is no regular file"


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file for reading, at once.

    Raises:
        OSError: It cannot be opened, or is no regular file (`NotRegular`); `strerror` is a sentence.
    """
    return os.fdopen(_descriptor(path), "rb")


def read_file(path: str | Path) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError: As `open_file` raises it.
    """
    with open_file(path) as file:
        return file.read()


def check_regular(path: str | Path) -> None:
    """Refuse what a library would hang on that opens a path by itself.

    Raises:
        OSError: It cannot be opened for reading, or is no regular file.
    """
    os.close(_descriptor(path))


def check_folder(folder: str | Path) -> None:
    """Refuse a folder that a library is about to read where anything in it is neither a file nor a folder.

    Raises:
        NotRegular: Names the first that is neither.
    """
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            with contextlib.suppress(FileNotFoundError):  # a link to nowhere, or it went away
                if not stat.S_ISREG(os.stat(path).st_mode):
                    raise NotRegular(path)


def _descriptor(path: str | Path) -> int:
    if not hasattr(os, "O_NONBLOCK") and not stat.S_ISREG(os.stat(path).st_mode):
        raise NotRegular(path)  # before it is opened: Windows opens no folders
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        if error.errno is not None and not os.path.lexists(path):
            raise
        with contextlib.suppress(OSError):
            if not stat.S_ISREG(os.stat(path).st_mode):  # a socket cannot be opened at all
                raise NotRegular(path) from None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise NotRegular(path)
