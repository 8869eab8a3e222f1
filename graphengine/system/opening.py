"""Safe opening of files that users name: regular files only, without blocking, and inside allowed folders.

Opening a FIFO, a device or a socket could block for ever, or give endless bytes. So files are opened without waiting
(`O_NONBLOCK`) and their type is checked by the descriptor: the file that is checked is the file that is read, even if
the name is replaced meanwhile. A path with roots (`Rooted`) is opened folder by folder from the root's descriptor, and
no symbolic link is followed on the way: a link that is put there after the path was checked cannot lead outside.

Systems without `O_NONBLOCK` (Windows) have no FIFOs in folders; there the name is checked before it is opened. Systems
that cannot open relative to a descriptor check after opening that the path still leads to the opened file.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import stat
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar

DEEPEST = 100
"""The most levels of nested folders in a folder that is given to a node."""

_READ = os.O_RDONLY
_ALWAYS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_BY_DESCRIPTOR = os.open in getattr(os, "supports_dir_fd", ()) and bool(_NO_LINK)
if TYPE_CHECKING:
    _Path = Path
else:
    _Path = type(Path())


class NotRegular(OSError):
    """A path leads to a folder, a FIFO, a device or a socket where a regular file is needed."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(errno.EINVAL, "it is no regular file", str(path))


class Outside(OSError):
    """A path leads outside the allowed folders."""

    def __init__(self, path: str | Path, roots: Iterable[str | Path], leads: str = "") -> None:
        allowed = ", ".join(map(str, roots)) or "none"
        super().__init__(errno.EACCES, f"it lies outside the allowed folders ({allowed}){leads}", str(path))


class Rooted(_Path):
    """A path that may be opened only inside some folders, its roots; paths made of it (`/`, `parent`) have them too.

    `open`, `read_bytes`, `read_text` and `open_file` hold to the roots. Code that opens the path as a text
    (`open(str(path))`, a library) is not held by them, and follows links.
    """

    roots: ClassVar[tuple[str, ...]] = ()

    def open(  # type: ignore[override]
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Open the file as `Path.open` does; raises OSError if it is outside the roots or no regular file."""
        encoding = encoding if "b" in mode else io.text_encoding(encoding)
        return open(self, mode, buffering, encoding, errors, newline, opener=_opener(self))


def rooted(path: str | Path, roots: Sequence[str | Path]) -> Path:
    """Make a path that may be opened only inside these folders."""
    return _class_of(tuple(map(str, roots)))(path)


def roots_of(path: str | Path) -> tuple[str, ...] | None:
    """The folders inside which a path may be opened; None if it may lead anywhere."""
    return path.roots if isinstance(path, Rooted) else None


@functools.lru_cache(maxsize=1000)
def _class_of(roots: tuple[str, ...]) -> type[Rooted]:
    return type("Rooted", (Rooted,), {"roots": roots, "__module__": __name__})  # a class, since `/` keeps the class


# --- opening ----------------------------------------------------------------------------------------------------------


def open_file(path: str | Path) -> io.BufferedReader:
    """Open a regular file for reading, without blocking; a `Rooted` path inside its roots only.

    Raises:
        OSError: It cannot be opened, is no regular file (`NotRegular`), or is outside its roots (`Outside`).
    """
    return os.fdopen(_opened(path, _READ, roots_of(path)), "rb")


def read_file(path: str | Path) -> bytes:
    """Read the bytes of a regular file.

    Raises:
        OSError: As from `open_file`.
    """
    with open_file(path) as file:
        return file.read()


@contextlib.contextmanager
def library_path(path: str | Path) -> Iterator[str]:
    """A path for a library that opens files by name: it leads to the regular file that is at `path` now.

    It is the path of an open descriptor on systems that have such paths (`/proc/self/fd`), else `path` itself.

    Raises:
        OSError: As from `open_file`.
    """
    with open_file(path) as file:
        name = f"/proc/self/fd/{file.fileno()}"
        yield name if os.path.exists(name) else os.fspath(path)


def _opener(path: Rooted) -> Any:
    return lambda _, flags: _opened(path, flags, path.roots)


def _opened(path: str | Path, flags: int, roots: Sequence[str] | None) -> int:
    """Open a regular file and return its descriptor."""
    try:
        if not _ALWAYS & getattr(os, "O_NONBLOCK", 0) and not stat.S_ISREG(os.stat(path).st_mode):
            raise NotRegular(path)
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    try:
        flags |= _ALWAYS
        descriptor = os.open(path, flags, 0o666) if roots is None else _open_below(path, flags, roots)
    except OSError as error:
        if error.errno == errno.ENXIO or isinstance(error, IsADirectoryError):  # ENXIO: a socket, a FIFO without reader
            raise NotRegular(path) from None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise NotRegular(path)


def _open_below(path: str | Path, flags: int, roots: Sequence[str]) -> int:
    if not _BY_DESCRIPTOR:
        real = os.path.realpath(path)
        _root_of(path, real, roots)
        descriptor = os.open(real, flags, 0o666)
        if os.path.realpath(real) == real and os.path.samestat(os.fstat(descriptor), os.stat(real)):
            return descriptor
        os.close(descriptor)
        raise Outside(path, roots)
    with _folder_below(path, roots) as (place, name):
        return os.open(name, flags | _NO_LINK, 0o666, dir_fd=place)


@contextlib.contextmanager
def _folder_below(path: str | Path, roots: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Open the folder of a path from its root down, following no link; gives its descriptor and the name in it."""
    real = os.path.realpath(path)
    root = _root_of(path, real, roots)
    *folders, name = Path(real).relative_to(root).parts or (".",)
    place = os.open(root, _FOLDER)
    try:
        for folder in folders:
            below = os.open(folder, _FOLDER | _NO_LINK, dir_fd=place)
            os.close(place)
            place = below
        yield place, name
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):  # a link, put there since the path was resolved
            raise Outside(path, roots) from None
        raise
    finally:
        os.close(place)


def _root_of(path: str | Path, real: str, roots: Sequence[str]) -> str:
    root = next((root for root in map(os.path.realpath, roots) if is_below(real, root)), None)
    if root is None:
        raise Outside(path, roots)
    return root


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, replacing an old one; a `Rooted` path inside its roots only.

    Its mode is that of any new file of the user (by the umask).

    Raises:
        OSError: It cannot be written; no part of it is left.
    """
    temporary = f".{uuid.uuid4().hex}{path.suffix}"
    roots = roots_of(path)
    if roots is None or not _BY_DESCRIPTOR:
        part = path.with_name(temporary)
        if roots is not None:
            check_inside(path, roots, links=False)
        try:
            with open(part, "xb") as file:
                file.write(content)
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise
        return
    with _folder_below(path, roots) as (place, name):
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK
            with os.fdopen(os.open(temporary, flags, 0o666, dir_fd=place), "wb") as file:
                file.write(content)
            os.replace(temporary, name, src_dir_fd=place, dst_dir_fd=place)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=place)
            raise


def is_below(real: str | Path, root: str | Path) -> bool:
    """Whether a resolved path is a folder's path, or is inside that folder."""
    return Path(real).is_relative_to(root)


# --- folders ----------------------------------------------------------------------------------------------------------


def check_inside(path: Path, roots: Sequence[str | Path], links: bool = True) -> None:
    """Refuse a path that leads outside the allowed folders, or a folder that holds a link leading outside.

    Args:
        path: A file or a folder.
        roots: The allowed folders.
        links: Whether to check the links in a folder too.

    Raises:
        Outside: The path, or a link in it, leads outside.
        OSError: It is a folder that is nested too deep, or cannot be read.
    """
    real = list(map(os.path.realpath, roots))
    if not any(is_below(os.path.realpath(path), root) for root in real):
        raise Outside(path, roots)
    if links and path.is_dir():
        for entry in entries_of(path):
            if entry.is_symlink() and not any(is_below(os.path.realpath(entry.path), root) for root in real):
                raise Outside(path, roots, f": {entry.name} in it leads out of them")


def check_folder(folder: str | Path) -> None:
    """Refuse a folder that holds anything but files and folders, before a library reads it.

    Raises:
        NotRegular: Names the first entry that is neither a file nor a folder.
        OSError: The folder is nested too deep, or cannot be read.
    """
    for entry in entries_of(folder):
        with contextlib.suppress(FileNotFoundError):  # a dangling link, or it was removed meanwhile
            mode = entry.stat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise NotRegular(entry.path)
    roots = roots_of(folder)
    if roots is not None:
        check_inside(Path(folder), roots)


def entries_of(folder: str | Path, all: bool = True) -> Iterator[os.DirEntry[str]]:
    """List everything in a folder and its subfolders, without following links to folders.

    Args:
        folder: The folder.
        all: Raise an error for a folder that cannot be read or is nested too deep; otherwise it is left out.

    Raises:
        OSError: A folder cannot be read, or is more than `DEEPEST` levels deep.
    """
    stack = [(os.fspath(folder), 0)]
    while stack:
        place, depth = stack.pop()
        try:
            if depth > DEEPEST:
                why = f"there are more than {DEEPEST} folders inside each other"
                raise OSError(errno.ELOOP, why, os.fspath(folder))
            with os.scandir(place) as scan:
                entries = list(scan)
        except OSError:
            if all:
                raise
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                stack.append((entry.path, depth + 1))
            yield entry
