"""The disk store: values by key in a folder that processes share, as records that refer to blobs by their hash.

Layout of the folder: `keys/ab/cdef...` says which blobs make up a value and how it was made; `blobs/ab/cdef...` holds
bytes under their own hash. Every file is written under a temporary name and renamed, so that all processes read whole
files only. A truncated, damaged or foreign file counts as missing and is removed. Writing bytes that are stored already
compares them, so that damage is repaired.

Each writing process keeps the budget: before it writes more than a share of it (`SHARE`), it measures the folder. A
folder that holds more than `FULL` of the budget is brought down to `TARGET`, least recently used values first. Blobs
that no key names yet (another process is about to write the key, or sends them to a worker) count as used when written.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphengine.cache.memory import Entry
from graphengine.cache.tree import UnknownType, blob_name, blobs_of, from_tree, to_tree
from graphengine.errors import as_exception, lacks_memory
from graphengine.system.folders import cache_folder
from graphengine.system.opening import read_file
from graphengine.system.private import NotPrivate, make_private, write_private
from graphengine.system.staging import is_leftover

FORMAT = 1
BUDGET = 10 << 30
FULL, TARGET = 0.9, 0.8
"""Parts of the budget: a folder that holds more than the first is brought down to the second."""
SHARE = 50
"""A process measures the folder each time it has written this fraction (1/50) of the budget, so that five processes
that write at once stay within it."""
ORPHANED = 60.0
"""Seconds after which a blob that no key names is removed first."""


class DiskStore:
    """A folder of values that outlives the process and is shared by processes.

    Args:
        folder: The folder; it is made when the first value is written.
        budget: The most bytes; if it is exceeded, the least recently used values are removed. None: the budget that
            `graphengine cache budget` has set, else 10 GiB.
    """

    def __init__(self, folder: str | Path, budget: int | None = None) -> None:
        self.folder = Path(folder)
        self._budget = budget
        self._written = 0
        self._checked = False
        self._made: set[Path] = set()

    @property
    def budget(self) -> int:
        """The most bytes that the folder may hold."""
        if self._budget is None:
            try:
                self._budget = int(json.loads(read_file(self.folder / "config.json"))["budget"])
            except (OSError, ValueError, KeyError, TypeError):
                self._budget = BUDGET
        return self._budget

    def set_budget(self, budget: int) -> None:
        """Set the budget in bytes, for every process that opens this folder from now on, and evict values beyond it."""
        self._make(self.folder)
        write_private(self.folder / "config.json", json.dumps({"budget": budget}).encode())
        self._budget = budget
        self.evict()

    # --- values ---------------------------------------------------------------------------------------------------

    def __contains__(self, key: bytes) -> bool:
        return self._key_file(key).exists()

    def get(self, key: bytes) -> Entry | None:
        """Read the value of a key; None if it is missing, damaged, or of a type that is not known here.

        Raises:
            NotPrivate: The folder belongs to another user.
        """
        file = self._key_file(key)
        try:
            text = self._read(file)
        except NotPrivate:
            raise
        except OSError:
            return None
        try:
            record = unseal(text)
            if record["format"] != FORMAT or record["key"] != key.hex():
                return None
            value = from_tree(record["value"], self.get_blob)
            entry = Entry(value, dict(record["made"]), float(record["cost"]))
        except UnknownType:  # of a pack that is not loaded here; other processes may know it
            return None
        except BaseException as error:  # a codec may raise anything on truncated, damaged or foreign bytes
            if _is_damage(as_exception(error)):
                _remove(file)
            return None
        with contextlib.suppress(OSError):
            os.utime(file)
        return entry

    def put(self, key: bytes, entry: Entry) -> bool:
        """Write a value; returns False if it has no codec or cannot be written, which does not fail the run.

        Raises:
            NotPrivate: The folder belongs to another user.
        """
        try:
            tree = to_tree(entry.value, self.put_blob)
            if not entry.sound:  # it was changed in place while it was written
                return False
            record = {"format": FORMAT, "key": key.hex(), "value": tree, "made": dict(entry.made), "cost": entry.cost}
            self._write(self._key_file(key), seal(record))
            return True
        except NotPrivate:
            raise
        except BaseException as error:  # no codec, one that raises, a full disk: the value stays in memory only
            as_exception(error)
            return False

    def put_blob(self, name: str, content: bytes) -> None:
        """Write bytes under their hash; bytes that are stored already are compared, and replaced if damaged.

        Raises:
            OSError: They cannot be written.
        """
        file = self._blob_file(name)
        with contextlib.suppress(OSError):
            if os.stat(file).st_size == len(content) and self._read(file) == content:
                os.utime(file)  # marks it as used, so that it is not removed before the key that names it is written
                return
        self._write(file, content)

    def get_blob(self, name: str) -> bytes:
        """Read the bytes of a hash; a damaged file is removed.

        Raises:
            OSError: They are not stored.
            ValueError: They are damaged.
        """
        file = self._blob_file(name)
        content = self._read(file)
        if blob_name(content) != name:
            _remove(file)
            raise ValueError("damaged")
        return content

    # --- files ----------------------------------------------------------------------------------------------------

    def _key_file(self, key: bytes) -> Path:
        name = key.hex()
        return self.folder / "keys" / name[:2] / name[2:]

    def _blob_file(self, name: str) -> Path:
        if not name.isalnum():
            raise ValueError("no name of a blob")
        return self.folder / "blobs" / name[:2] / name[2:]

    def _read(self, file: Path) -> bytes:
        self._check()
        return read_file(file)

    def _check(self) -> None:
        """Check once that the folder does not belong to another user."""
        if not self._checked and self.folder.is_dir():
            make_private(self.folder, cache_folder())
            self._checked = True

    def _write(self, file: Path, content: bytes) -> None:
        self._written += len(content)
        if self._written > self.budget // SHARE:
            if len(content) > self.budget * TARGET:
                raise OSError(errno.EFBIG, "it is larger than the budget of the disk store")
            self.evict(len(content))
        if file.parent not in self._made:
            self._make(file.parent)
        try:
            write_private(file, content)
        except FileNotFoundError:  # the folder was cleared meanwhile
            self._make(file.parent)
            write_private(file, content)

    def _make(self, folder: Path) -> None:
        make_private(self.folder, cache_folder())
        make_private(folder)
        self._made.add(folder)

    def _files(self, part: str) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
        """The files under `keys` or `blobs`; temporary files that a process which died has left are removed."""
        with contextlib.suppress(OSError):
            for folder in sorted((self.folder / part).iterdir()):
                with contextlib.suppress(OSError), os.scandir(folder) as entries:
                    for entry in entries:
                        with contextlib.suppress(OSError):
                            stat = entry.stat(follow_symlinks=False)
                            if not entry.name.endswith(".tmp"):
                                yield entry, stat
                            elif is_leftover(Path(entry.path)):
                                os.unlink(entry.path)

    def evict(self, room: int = 0) -> int:
        """Bring the folder within its budget, removing the least recently used values; returns the bytes it holds then.

        Records are read only if the folder is nearly full.

        Args:
            room: Bytes that are about to be written.
        """
        self._written = room
        self._check()
        used = self.usage()[1]
        if used + room <= self.budget * FULL:
            return used
        files = [(Path(entry.path), stat) for entry, stat in self._files("blobs")]
        blobs = {file.parent.name + file.name: _Blob(file, stat.st_size, stat.st_mtime) for file, stat in files}
        values = self._values()
        named = {name for value in values for name in value.blobs}
        orphans = [name for name in blobs if name not in named]
        young = time.time() - ORPHANED
        values += [_Value(blobs[name].used, None, [name], 0) for name in orphans if blobs[name].used > young]
        kept, used, gone = set[str](), 0, list[Path]()
        for value in sorted(values, key=lambda value: value.used, reverse=True):
            more = value.size + sum(blobs[name].size for name in set(value.blobs) - kept if name in blobs)
            if used + room + more <= self.budget * TARGET:
                kept.update(value.blobs)
                used += more
            elif value.file is not None:
                gone.append(value.file)
        for file in (*gone, *(blob.file for name, blob in blobs.items() if name not in kept)):
            _remove(file)
        return used

    def _values(self) -> list[_Value]:
        """List all values; damaged records are removed."""
        values = []
        for entry, stat in self._files("keys"):
            file = Path(entry.path)
            try:
                record = unseal(self._read(file))
                values.append(_Value(stat.st_mtime, file, list(blobs_of(record["value"])), stat.st_size))
            except Exception as error:  # truncated, damaged or foreign, in whatever way
                if _is_damage(error):
                    _remove(file)
        return values

    def clear(self) -> int:
        """Remove all values; returns how many there were. Files that other processes are writing now are kept."""
        count = 0
        for part in ("keys", "blobs"):
            for entry, _ in self._files(part):
                count += _remove(Path(entry.path)) and part == "keys"
        return count

    def sweep(self) -> list[Path]:
        """Remove the temporary files that processes which died have left; returns their paths."""
        removed = []
        with contextlib.suppress(OSError):
            for file in self.folder.glob("*/*/.*.tmp"):
                if is_leftover(file):
                    _remove(file)
                    removed.append(file)
        return removed

    def usage(self) -> tuple[int, int]:
        """The number of values, and the bytes that they take."""
        count = size = 0
        for part in ("keys", "blobs"):
            for _, stat in self._files(part):
                size += stat.st_size
                count += part == "keys"
        return count, size


@dataclass(frozen=True, slots=True)
class _Value:
    """A unit of eviction: a key's file with the blobs that it names, or a blob that no key names."""

    used: float
    file: Path | None
    blobs: list[str]
    size: int


@dataclass(frozen=True, slots=True)
class _Blob:
    """A file of bytes."""

    file: Path
    size: int
    used: float


def _is_damage(error: Exception) -> bool:
    """Whether an exception means that a stored value is damaged, and not only that it cannot be read at the moment."""
    return not lacks_memory(error) and (not isinstance(error, OSError) or isinstance(error, FileNotFoundError))


def _remove(file: Path) -> bool:
    """Remove a file; returns whether it existed and could be removed."""
    try:
        file.unlink()
    except OSError:
        return False
    return True


def seal(record: Mapping[str, Any]) -> bytes:
    """Encode a record for a file: JSON, and a line with the hash of the JSON."""
    text = json.dumps(record, default=str).encode()
    return text + b"\n" + hashlib.blake2b(text, digest_size=20).hexdigest().encode()


def unseal(content: bytes) -> Any:
    """Decode the record in a file.

    Raises:
        ValueError: It is damaged: the hash does not match.
    """
    text, _, digest = content.rpartition(b"\n")
    if hashlib.blake2b(text, digest_size=20).hexdigest().encode() != digest:
        raise ValueError("damaged")
    return json.loads(text)
