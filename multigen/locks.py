"""Locks on files, by which processes know of each other: the operating system lets go of them when a process ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["alone", "hold", "is_held"]


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """Wait until no other thread or process is between these lines for the same file."""
    from filelock import FileLock

    with FileLock(file, mode=0o600, is_singleton=False):
        yield


def hold(file: Path) -> Any:
    """Hold a file until `close` of what is returned, or until this process ends. No process that it forks inherits it.

    Raises:
        OSError: The file cannot be made.
    """
    if fcntl is None:
        return _Held(file)
    stream = file.open("w")
    fcntl.lockf(stream, fcntl.LOCK_EX)  # of the process; filelock's is of the file's descriptor, which forks inherit
    return stream


def is_held(file: Path) -> bool:
    """Whether another process holds a file. (To ask of a file that this process holds would let go of it.)

    Raises:
        FileNotFoundError: There is none.
    """
    if fcntl is None:
        return _Held.elsewhere(file)
    with file.open("r+") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


class _Held:
    """A file that is held where there is no `fcntl`."""

    def __init__(self, file: Path) -> None:
        from filelock import FileLock

        self._lock = FileLock(_beside(file), timeout=0, is_singleton=False, thread_local=False)
        self._lock.acquire()
        file.touch()

    def close(self) -> None:
        self._lock.release(force=True)

    @staticmethod
    def elsewhere(file: Path) -> bool:
        from filelock import FileLock, Timeout

        file.stat()
        try:
            with FileLock(_beside(file), timeout=0, is_singleton=False, thread_local=False):
                pass
        except Timeout:
            return True
        _beside(file).unlink(missing_ok=True)
        return False


def _beside(file: Path) -> Path:
    return file.with_name(file.name + ".lock")
