"""Which ServiceThreads are there to call back, in whatever process: each holds a lock on a file as long as it is."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

from multigen.locks import hold, is_held

__all__ = ["Presence", "is_present"]

_here: set[str] = set()
"""Those of this process: to open the file of one would lose its lock."""


class Presence:
    """That a ServiceThread is there.

    The lock goes with the process, however it ends, and no process that it forks inherits it. (A process's number and
    its time of start say less: a dead one whose parent has not asked for it keeps them, and a clock that is set moves
    them.)

    Args:
        folder: Where the files are, of all that share a queue.

    Attributes:
        name: Unique.

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
        """It calls nobody back any more."""
        _here.discard(self.name)
        with contextlib.suppress(PermissionError):  # of a file that is open, where the system refuses that
            self._path.unlink(missing_ok=True)
        self._lock.close()
        self._path.unlink(missing_ok=True)


def is_present(folder: Path, name: str) -> bool:
    """Whether one is there; what is left of one that is not is taken away."""
    if name in _here:
        return True
    if not name.isalnum():
        return False
    with contextlib.suppress(FileNotFoundError):
        if is_held(folder / name):
            return True
        (folder / name).unlink(missing_ok=True)
    return False
