"""Private folders and files, which only their user can read under any umask: caches, queues, histories, job data.

The mode is given when a folder or file is made, and corrected afterwards where the umask changed it; the umask itself,
which all threads share, is never changed. Systems without modes and owners (Windows) keep their own rules: there a
user's folders are private by inheritance.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
import uuid
from pathlib import Path

from graphengine.errors import FileError
from graphengine.system.staging import hold_file, sync

FOLDER, FILE = 0o700, 0o600
_OTHERS = 0o077
_HAS_OWNERS = hasattr(os, "geteuid")


class NotPrivate(FileError, PermissionError):
    """A folder or file that should be private belongs to another user."""

    def __init__(self, path: Path) -> None:
        FileError.__init__(self, refusal(path))
        self.strerror = str(self)

    def __str__(self) -> str:
        return str(self.args[0])


def refusal(path: Path) -> str:
    """The error message about a path that belongs to another user, with the command that corrects it."""
    quoted = shlex.quote(str(path))
    return (
        f"{path} belongs to another user, who could put anything into it; if it is yours, "
        f"`sudo chown -R $(id -u) {quoted}` gives it back, else `sudo rm -r {quoted}` takes it away"
    )


def make_private(folder: Path, top: Path | None = None, durable: bool = False) -> None:
    """Make a folder that only its user can enter, with all missing folders above it.

    An existing folder that the user named keeps its mode. The engine's own folders, from `top` down, are closed to
    other users, and refused if they belong to another user.

    Args:
        folder: The folder to make.
        top: The uppermost of the engine's own folders, which may be `folder` itself; None if the user named `folder`.
        durable: Whether the names of new folders must be on the disk when this returns.

    Raises:
        NotPrivate: One of the engine's own folders belongs to another user.
        OSError: It cannot be made.
    """
    _make(folder, durable)
    if not _HAS_OWNERS or top is None or not folder.is_relative_to(top):
        return
    for ours in (top, *(top.joinpath(*part) for part in _parts(folder.relative_to(top)))):
        if ours == top and str(top) in (os.environ.get("GRAPHENGINE_CACHE"), os.environ.get("GRAPHENGINE_STATE")):
            continue  # the user named this one and may keep other things in it
        check_owner(ours)
        if stat.S_IMODE(os.stat(ours).st_mode) & _OTHERS:
            os.chmod(ours, FOLDER)


def check_owner(path: Path) -> None:
    """Refuse a folder or file that belongs to another user.

    Raises:
        NotPrivate: It belongs to another user.
        OSError: It does not exist.
    """
    if _HAS_OWNERS and os.stat(path).st_uid != os.geteuid():
        raise NotPrivate(path)


def make_file(file: Path) -> None:
    """Make an empty file that only its user can read, or make an existing one so.

    Raises:
        NotPrivate: It belongs to another user.
        OSError: It cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE)
        try:
            _open_to_owner(descriptor)
        finally:
            os.close(descriptor)
        return
    check_owner(file)
    if _HAS_OWNERS and stat.S_IMODE(os.stat(file).st_mode) != FILE:
        os.chmod(file, FILE)


def write_private(file: Path, content: bytes, durable: bool = False) -> None:
    """Write a file that only its user can read, whole or not at all, replacing an old one.

    Args:
        file: The path.
        content: Its bytes.
        durable: Whether it must be on the disk when this returns (fsync), and not only in the system's buffers.

    Raises:
        OSError: It cannot be written; no part of it is left.
    """
    temporary = file.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), FILE)
        with os.fdopen(descriptor, "wb") as target:
            _open_to_owner(descriptor)
            hold_file(descriptor)
            target.write(content)
            if durable:
                target.flush()
                os.fsync(descriptor)
        os.replace(temporary, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _make(folder: Path, durable: bool) -> None:
    if folder.is_dir():
        return
    if folder.parent != folder:
        _make(folder.parent, durable)
        if not folder.parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder.parent))
    try:
        os.mkdir(folder, FOLDER)
    except FileExistsError:
        return  # another thread or process made it; or it is a file, and using it as a folder will fail
    if _HAS_OWNERS and stat.S_IMODE(os.stat(folder).st_mode) != FOLDER:  # an umask that removes rights of the owner
        os.chmod(folder, FOLDER)
    if durable:
        sync(folder.parent)


def _open_to_owner(descriptor: int) -> None:
    if _HAS_OWNERS and stat.S_IMODE(os.fstat(descriptor).st_mode) != FILE:  # an umask that removes rights of the owner
        os.fchmod(descriptor, FILE)


def _parts(path: Path) -> list[tuple[str, ...]]:
    return [path.parts[: n + 1] for n in range(len(path.parts))]
