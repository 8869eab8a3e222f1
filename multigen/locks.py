"""Locks on files that show other processes that one is alive: the operating system releases them when it ends."""

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
    """A lock between threads and processes: only one at a time is inside for the same file."""
    from filelock import FileLock

    with FileLock(file, mode=0o600, is_singleton=False):
        yield


def hold(file: Path) -> Any:
    """Lock a file until the returned object is closed or this process ends; forked processes do not inherit the lock.

    Raises:
        OSError: The file cannot be made.
    """
    if fcntl is None:
        return _Held(file)
    stream = file.open("w")
    fcntl.lockf(stream, fcntl.LOCK_EX)  # it locks for the process; filelock's descriptor is inherited by forks
    return stream


def is_held(file: Path) -> bool:
    """Whether another process has locked a file. (Asking about a file that this process has locked would unlock it.)

    Raises:
        FileNotFoundError: There is no such file.
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
    """A locked file on systems without `fcntl`."""

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
