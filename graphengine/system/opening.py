"""Opening files that people name: regular files only, never a wait for one, and below a root where there is one.

A FIFO, a device or a socket under a file's name would hang whoever opens it, or give bytes without an end. So files are
opened without waiting (`O_NONBLOCK`) and looked at by their descriptor: what is looked at is what is read, whatever
happens to the name meanwhile. Below a root (`Rooted`) a path is gone down folder by folder from the root's descriptor,
and no link is followed on the way: one that is swapped in after a path was allowed leads nowhere.

Systems without `O_NONBLOCK` (Windows) have no FIFOs in folders; there the name is looked at before it is opened.
Systems that cannot open below a descriptor look again, after the opening, where the path leads and whether it is the
file that was opened.
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
"""Folders inside each other, at most, in a folder that is given to a node."""

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
    """What lies at a path is a folder, a FIFO, a device or a socket, where a file is needed."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(errno.EINVAL, "it is no regular file", str(path))


class Outside(OSError):
    """A path leads out of the folders that are allowed."""

    def __init__(self, path: str | Path, roots: Iterable[str | Path], leads: str = "") -> None:
        allowed = ", ".join(map(str, roots)) or "none"
        super().__init__(errno.EACCES, f"it lies outside the allowed folders ({allowed}){leads}", str(path))


class Rooted(_Path):
    """A path that may be opened only below some folders; what is made of it (`/`, `parent`) is as confined.

    `open`, `read_bytes`, `read_text` and their like, and `open_file`, keep it there. Who opens its text otherwise
    (`open(str(path))`, a library) follows links as they are then.
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
        """As `Path.open`; an OSError where the path has come to lead out of its roots, or to no regular file."""
        encoding = encoding if "b" in mode else io.text_encoding(encoding)
        return open(self, mode, buffering, encoding, errors, newline, opener=_opener(self))


def rooted(path: str | Path, roots: Sequence[str | Path]) -> Path:
    """A path that may be opened only below these folders."""
    return _class_of(tuple(map(str, roots)))(path)


def roots_of(path: str | Path) -> tuple[str, ...] | None:
    """The folders that a path may not leave; None for one that may lead anywhere."""
    return path.roots if isinstance(path, Rooted) else None


@functools.lru_cache(maxsize=1000)
def _class_of(roots: tuple[str, ...]) -> type[Rooted]:
    return type("Rooted", (Rooted,), {"roots": roots, "__module__": __name__})  # the class: `/` hands it on


# --- opening ----------------------------------------------------------------------------------------------------------


def open_file(path: str | Path) -> io.BufferedReader:
    """Open a regular file for reading, at once; a `Rooted` path below its roots.

    Raises:
        OSError: It cannot be opened, is no regular file (`NotRegular`) or not below its roots (`Outside`).
    """
    return os.fdopen(_opened(path, _READ, roots_of(path)), "rb")


def read_file(path: str | Path) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError: As `open_file` raises it.
    """
    with open_file(path) as file:
        return file.read()


@contextlib.contextmanager
def library_path(path: str | Path) -> Iterator[str]:
    """A path under which a library that opens files by name finds the regular file that lies at `path` now.

    It is that of a descriptor where the system has such paths (`/proc/self/fd`), else the path itself.

    Raises:
        OSError: As `open_file` raises it.
    """
    with open_file(path) as file:
        name = f"/proc/self/fd/{file.fileno()}"
        yield name if os.path.exists(name) else os.fspath(path)


def _opener(path: Rooted) -> Any:
    return lambda _, flags: _opened(path, flags, path.roots)


def _opened(path: str | Path, flags: int, roots: Sequence[str] | None) -> int:
    """The descriptor of a regular file."""
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
        if error.errno == errno.ENXIO or isinstance(error, IsADirectoryError):  # a socket; a FIFO that nobody reads
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
    """The descriptor of the folder that a path lies in, and the path's name there; no link is followed from the root
    on."""
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
        if error.errno in (errno.ELOOP, errno.ENOTDIR):  # a link that was not there a moment ago
            raise Outside(path, roots) from None
        raise
    finally:
        os.close(place)


def _root_of(path: str | Path, real: str, roots: Sequence[str]) -> str:
    root = next((one for one in map(os.path.realpath, roots) if is_below(real, one)), None)
    if root is None:
        raise Outside(path, roots)
    return root


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, over an old one of its name; a `Rooted` path below its roots.

    It gets the rights that any new file of its user gets.

    Raises:
        OSError: It cannot be written; nothing is left of it.
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
    """Whether one resolved path is another one, or lies below it."""
    return Path(real).is_relative_to(root)


# --- folders ----------------------------------------------------------------------------------------------------------


def check_inside(path: Path, roots: Sequence[str | Path], links: bool = True) -> None:
    """Refuse a path that leads out of folders, or a folder in which a link does.

    Raises:
        Outside: It does.
        OSError: It is a folder that is too deep, or cannot be looked through.
    """
    real = list(map(os.path.realpath, roots))
    if not any(is_below(os.path.realpath(path), root) for root in real):
        raise Outside(path, roots)
    if links and path.is_dir():
        for entry in entries_of(path):
            if entry.is_symlink() and not any(is_below(os.path.realpath(entry.path), root) for root in real):
                raise Outside(path, roots, f": {entry.name} in it leads out of them")


def check_folder(folder: str | Path) -> None:
    """Refuse a folder that a library is about to read where anything in it is neither a file nor a folder.

    Raises:
        NotRegular: Names the first that is neither.
        OSError: It is too deep, or cannot be looked through.
    """
    for entry in entries_of(folder):
        with contextlib.suppress(FileNotFoundError):  # a link to nowhere, or it went away
            mode = entry.stat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise NotRegular(entry.path)
    roots = roots_of(folder)
    if roots is not None:
        check_inside(Path(folder), roots)


def entries_of(folder: str | Path, all: bool = True) -> Iterator[os.DirEntry[str]]:
    """Everything in a folder and in those below it; links to folders are not gone into.

    Args:
        all: Whether it is an error that a folder cannot be read, or is too deep; otherwise it is left out.

    Raises:
        OSError: A folder cannot be read, or there are more than `DEEPEST` inside each other.
    """
    stack = [(os.fspath(folder), 0)]
    while stack:
        place, depth = stack.pop()
        try:
            if depth > DEEPEST:
                why = f"there are more than {DEEPEST} folders inside each other"
                raise OSError(errno.ELOOP, why, os.fspath(folder))
            with os.scandir(place) as found:
                entries = list(found)
        except OSError:
            if all:
                raise
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                stack.append((entry.path, depth + 1))
            yield entry
