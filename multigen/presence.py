"""Presence of ServiceThreads, in any process: each locks a file for as long as it can call back."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

from multigen.locks import hold, is_held

__all__ = ["Presence", "is_present"]

_here: set[str] = set()
"""The ServiceThreads of this process: opening the file of one would release its lock."""


class Presence:
    """The presence of a ServiceThread: a lock on a file.

    The lock is released when the process ends, however it ends, and processes that it forks do not inherit it. (A
    process id with a start time is less reliable: a zombie process keeps both, and setting the clock moves the time.)

    Args:
        folder: The folder of the files of all ServiceThreads that share a queue.

    Attributes:
        name: A unique name.

    Raises:
        OSError: The file cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = uuid.uuid4().hex
        self._path = folder / self.name
        self._lock = hold(self._path)
        _here.add(self.name)

    def end(self) -> None:
        """Release the lock: this ServiceThread calls back no more."""
        _here.discard(self.name)
        with contextlib.suppress(PermissionError):  # of a file that is open, where the system refuses that
            self._path.unlink(missing_ok=True)
        self._lock.close()
        self._path.unlink(missing_ok=True)


def is_present(folder: Path, name: str) -> bool:
    """Whether a ServiceThread is present; the file of an absent one is removed."""
    if name in _here:
        return True
    if not name.isalnum():
        return False
    with contextlib.suppress(FileNotFoundError):
        if is_held(folder / name):
            return True
        (folder / name).unlink(missing_ok=True)
    return False
