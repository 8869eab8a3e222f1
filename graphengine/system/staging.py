"""Hidden folders in which files are made before they appear, locks on them, and the removal of leftovers.

A process that makes such a folder holds a lock on it. The system releases the lock when the process ends, however that
happens, so a folder without a lock is a leftover. Files that must survive a power cut are synced, and so are the
folders that hold their names.
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
"""The beginning of the names of hidden folders."""
ABANDONED = 24 * 3600.0
"""Seconds without a change after which a folder counts as a leftover, on file systems without locks."""
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM)


class Hold:
    """A lock on a folder or file, held until `release` or until the process ends."""

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self.path, self._descriptor = path, descriptor

    def release(self) -> None:
        """Release the lock."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    __del__ = release


def hold_file(descriptor: int) -> None:
    """Lock an open file until it is closed or the process ends; meanwhile it is no leftover (`is_leftover`)."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)


def is_leftover(file: Path) -> bool:
    """Whether no process holds a file, so that a process that died has left it."""
    hold = _held_if_free(file)
    if hold is not None:
        hold.release()
    return hold is not None


def make_held(make: Callable[[], Path]) -> Hold:
    """Make a folder and hold its lock.

    Args:
        make: Makes the folder; called again if another process removed it as a leftover before it was locked.
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
    """Make a hidden folder inside `beside`, in which files can be made before they are moved there.

    The folder is removed at the end of the context.

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
    """Remove the leftovers among the subfolders of a folder; yields each before it is removed.

    Args:
        folder: The folder to look in.
        is_meant: Says by its name whether a subfolder may be removed when no process holds it; called once more when
            this process holds its lock.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if is_meant(entry.name) and entry.is_dir(follow_symlinks=False)]
    except OSError:  # the folder is gone, or cannot be read
        return
    for name in names:
        hold = _held_if_free(folder / name)
        if hold is not None:
            if is_meant(name):
                yield hold.path
                shutil.rmtree(hold.path, ignore_errors=True)
            hold.release()


def _held_if_free(path: Path) -> Hold | None:
    """Lock a folder or file that no process holds; None if one does, or may do."""
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
    """Open a folder or file and return its descriptor; None on systems that cannot lock folders."""
    return None if fcntl is None else os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)


# --- what survives a power cut ----------------------------------------------------------------------------------------


def sync(path: Path) -> None:
    """Write a file's bytes, or the names in a folder, to the disk (fsync).

    Raises:
        OSError: They cannot be written.
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
    """Make a folder and all missing folders above it, each on the disk when this returns.

    Args:
        folder: The folder.
        mode: The mode of the folder itself.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode, exist_ok=True)
    sync(folder.parent)


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, replacing an old one.

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
