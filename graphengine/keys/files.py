"""Files that nodes are given: resolving their paths, keeping them inside allowed folders, and hashing their content."""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import io
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from graphengine.declare.sockets import File
from graphengine.errors import FileError, nearest
from graphengine.system.folders import cache_folder
from graphengine.system.opening import Outside, check_inside, entries_of, open_file, rooted
from graphengine.system.private import make_file, make_private

REMEMBERED = 4 << 20
"""The hashes of files of at least this many bytes are kept between processes."""

FINE, COARSE = 20_000_000, 2_000_000_000
"""The longest tick, in nanoseconds, of a file system's clock: of one that follows the kernel, and of one in seconds."""


def resolve(value: str | Path, rule: File, base: Path, roots: Sequence[Path] | None = None) -> str | Path:
    """Resolve a file parameter to an absolute path; returns a text if it is a name that the rule allows.

    Args:
        value: The text or path that was given.
        rule: The rule of the input.
        base: The folder at which relative paths start.
        roots: Folders that must contain the path, also when it is opened later (`system.opening.Rooted`); None allows
            all.

    Raises:
        FileError: The path does not exist, or is outside the allowed folders.
    """
    text = os.fspath(value)
    if text in rule.known and not isinstance(value, Path):
        return text
    if "\0" in text or len(text) > 4096:
        raise FileError(f"{text[:60]!r} is no path")
    path = Path(os.path.expanduser(text)) if roots is None else Path(text)
    path = Path(os.path.normpath(base / path))
    try:
        exists = path.exists()
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from None
    if rule.names and not exists and not _looks_like_path(text):
        return text
    if roots is not None:
        try:
            check_inside(path, roots, links=not rule.write)
        except Outside as error:
            raise FileError(f"{text} {str(error.strerror).removeprefix('it ')}") from None
        except OSError as error:
            raise FileError(f"{path} cannot be looked through: {error.strerror or error}") from None
        path = rooted(path, roots)
    if exists and not (path.is_file() or path.is_dir()):
        raise FileError(f"{path} is neither a file nor a folder")
    if not exists and not (rule.write or rule.missing):
        near = nearest(path.name, _names(path.parent))
        advice = f"; did you mean {' or '.join(near)}?" if near else ""
        raise FileError(f"there is no file or folder {path}{advice}")
    return path


_confined: contextvars.ContextVar[bool] = contextvars.ContextVar("graphengine_confined", default=False)


@contextlib.contextmanager
def confining() -> Iterator[None]:
    """Note inside a `with` block that a graph runs: all paths are resolved, and remaining texts are names."""
    token = _confined.set(True)
    try:
        yield
    finally:
        _confined.reset(token)


def confined() -> bool:
    """Whether a graph runs, so that a text must not be taken for a path."""
    return _confined.get()


def _looks_like_path(text: str) -> bool:
    return text.startswith((".", "/", "~", os.sep)) or text.endswith((".safetensors", ".ckpt", ".pt", ".bin", "/"))


def _names(folder: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(folder)
    return []


# --- fingerprints -----------------------------------------------------------------------------------------------------

_known: dict[str, tuple[tuple[int, int, int], str]] = {}
_lock = threading.Lock()


def fingerprint(path: Path) -> str:
    """Hash a file's content by SHA-256, or the names and contents in a folder; returns 64 hexadecimal digits.

    The hash of a large file is kept by path, size, inode and time of change, in memory and on disk, so that a
    checkpoint is read once on each machine.

    Raises:
        FileError: It cannot be read.
    """
    try:
        if path.is_dir():
            digest = hashlib.sha256()
            for file in sorted(path / entry.path for entry in entries_of(path) if entry.is_file()):
                digest.update(f"{file.relative_to(path).as_posix()}\0{fingerprint(file)}\n".encode())
            return digest.hexdigest()
        return _of_file(path)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from None


def _of_file(path: Path) -> str:
    with open_file(path) as file:
        return _of_open(os.path.realpath(path), file)


def _of_open(name: str, file: io.BufferedReader) -> str:
    stat = os.fstat(file.fileno())
    state = (stat.st_size, stat.st_ino, stat.st_ctime_ns)
    known = _known.get(name)
    if known is not None and known[0] == state:
        return known[1]
    large = stat.st_size >= REMEMBERED
    settled = _is_settled(stat)
    digest = _remembered(name, state) if large else None
    if digest is None:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if large and settled:
            _remember(name, state, digest)
    if settled:
        with _lock:
            _known[name] = (state, digest)
    return digest


def _is_settled(stat: os.stat_result) -> bool:
    """Whether a change of the file from now on would change its time of change, which advances in ticks."""
    tick = COARSE if stat.st_ctime_ns % 1_000_000_000 == 0 else FINE
    return time.time_ns() - stat.st_ctime_ns > tick


def _open() -> sqlite3.Connection:
    folder = cache_folder()
    make_private(folder, folder)
    make_file(folder / "hashes.sqlite")
    base = sqlite3.connect(folder / "hashes.sqlite", timeout=5)
    base.execute("create table if not exists hashes (path text primary key, size, inode, changed, digest text)")
    return base


def _remembered(name: str, state: tuple[int, int, int]) -> str | None:
    # If the database cannot be opened or is damaged, the file is hashed again.
    with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(_open()) as base:
        row = base.execute("select size, inode, changed, digest from hashes where path = ?", (name,)).fetchone()
        if row is not None and tuple(row[:3]) == state and isinstance(row[3], str) and len(row[3]) == 64:
            return str(row[3])
    return None


def _remember(name: str, state: tuple[int, int, int], digest: str) -> None:
    with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(_open()) as base, base:
        base.execute("insert or replace into hashes values (?, ?, ?, ?, ?)", (name, *state, digest))
