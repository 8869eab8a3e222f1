"""Hidden folders in which files are made before they appear, and what processes that died have left of them.

Who makes such a folder holds a lock on it, which ends with the process, however it ends: a folder that nobody holds is
a leftover. What must survive a power cut is synced: a file, and the folders in which its name stands.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from graphengine.errors import FileError

try:
    import fcntl
except ImportError:  # Windows: folders cannot be locked
    fcntl = None  # type: ignore[assignment]

PREFIX = ".graphengine-"
"""How the names of hidden folders begin."""
ABANDONED = 24 * 3600.0
"""Seconds without a change after which a folder is a leftover, on file systems that know no locks."""
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM)


class Hold:
    """A folder or file that is this process's until `release`, or until the process ends."""

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self.path, self._descriptor = path, descriptor

    def release(self) -> None:
        """Hold it no longer."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    __del__ = release


def hold_file(descriptor: int) -> None:
    """Hold an open file until it is closed, or until the process ends: `is_leftover` says no meanwhile."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # of a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)


def is_leftover(file: Path) -> bool:
    """Whether nobody holds a file, so that it was left by a process that died."""
    hold = _held_if_free(file)
    if hold is not None:
        hold.release()
    return hold is not None


def make_held(make: Callable[[], Path]) -> Hold:
    """A new folder, held.

    Args:
        make: Makes it; again, if it was taken for a leftover before it was held.
    """
    while True:
        folder = make()
        with contextlib.suppress(FileNotFoundError):
            descriptor = _open(folder)
            if descriptor is None:
                return Hold(folder, None)
            hold = Hold(folder, descriptor)
            hold_file(descriptor)
            if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
                return hold


@contextlib.contextmanager
def hidden_folder(beside: Path) -> Iterator[Path]:
    """A folder in another one, in which files are made that are to appear there; it is gone after the context.

    Raises:
        OSError: It cannot be made.
    """
    hold = make_held(lambda: Path(tempfile.mkdtemp(dir=beside, prefix=PREFIX)))
    try:
        yield hold.path
    finally:
        shutil.rmtree(hold.path, ignore_errors=True)
        hold.release()


def sweep(folder: Path, is_meant: Callable[[str], bool] = lambda name: name.startswith(PREFIX)) -> Iterator[Path]:
    """Remove the folders in a folder that were left by processes that died; yields each before it is removed.

    Args:
        is_meant: Whether a folder of this name is one, if nobody holds it; asked again while it is held here.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if is_meant(entry.name) and entry.is_dir(follow_symlinks=False)]
    except OSError:  # it is gone, or cannot be read
        return
    for name in names:
        hold = _held_if_free(folder / name)
        if hold is not None:
            if is_meant(name):
                yield hold.path
                shutil.rmtree(hold.path, ignore_errors=True)
            hold.release()


def _held_if_free(path: Path) -> Hold | None:
    """A folder or file that nobody held; None if somebody does, or may do."""
    with contextlib.suppress(OSError):
        descriptor = _open(path)
        hold = Hold(path, descriptor)
        try:
            if descriptor is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return hold
        except BlockingIOError:
            return None
        except OSError:  # a file system without locks
            pass
        if time.time() - path.stat().st_mtime > ABANDONED:
            return hold
    return None


def _open(path: Path) -> int | None:
    """A descriptor of a folder or file; None where the system has none of folders."""
    return None if fcntl is None else os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)


# --- what survives a power cut ----------------------------------------------------------------------------------------


def sync(path: Path) -> None:
    """Bring a file's bytes, or the names in a folder, to the disk.

    Raises:
        OSError: The disk does not take them.
    """
    if fcntl is None and path.is_dir():  # Windows opens no folders
        return
    try:
        descriptor = os.open(path, os.O_RDONLY if fcntl is not None else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:  # a folder that may not be read; a file system that does not sync folders
            raise


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder, and those above it that lack, each on the disk when this returns.

    Args:
        mode: The rights of the folder itself.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode, exist_ok=True)
    sync(folder.parent)


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, over an old one of its name.

    Raises:
        FileError: It cannot be written.
    """
    try:
        with hidden_folder(path.parent) as hidden:
            file = hidden / "file"
            file.write_bytes(content)
            shutil.copymode(path, file) if path.exists() else None
            os.replace(file, path)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from None
