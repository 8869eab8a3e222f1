"""Values on disk: key -> digests, and digest -> bytes, kept apart as a build system does.

Layout of the folder: `keys/ab/cdef...` says which blobs make up a value and how it was made; `blobs/ab/cdef...`
holds bytes, called by their own hash. Everything is written to a temporary name and renamed, so that readers of any
process see whole files; what is truncated, damaged or foreign is a miss and is taken away. Who writes bytes that lie
there already compares them, so that damage is mended and not believed.

The budget is kept by whoever writes, in whichever process: before more than a share of it is written, the folder is
measured, and brought to `TARGET` of the budget where it is over `FULL`. What was used last is kept; blobs that no key
names yet (another process is about to write it, or sends them to a worker) count as used when they were written.
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
"""Parts of the budget: over which a folder is brought to which."""
SHARE = 50
"""A process looks at the folder when it has written one part of so many of the budget: five that write at once stay
within it."""
ORPHANED = 60.0
"""Blobs older than this, in seconds, that no key names, go first."""


class DiskStore:
    """A folder of values that survives a restart and is shared by processes.

    Args:
        folder: Where; made when something is first written.
        budget: Bytes; what was not used for longest goes when it is exceeded. None: as `cache budget` set it, else
            10 GiB.
    """

    def __init__(self, folder: str | Path, budget: int | None = None) -> None:
        self.folder = Path(folder)
        self._budget = budget
        self._written = 0
        self._checked = False
        self._made: set[Path] = set()

    @property
    def budget(self) -> int:
        if self._budget is None:
            try:
                self._budget = int(json.loads(read_file(self.folder / "config.json"))["budget"])
            except (OSError, ValueError, KeyError, TypeError):
                self._budget = BUDGET
        return self._budget

    def set_budget(self, budget: int) -> None:
        """Change the budget for every process that uses this folder from now on."""
        self._make(self.folder)
        write_private(self.folder / "config.json", json.dumps({"budget": budget}).encode())
        self._budget = budget
        self.evict()

    # --- values ---------------------------------------------------------------------------------------------------

    def __contains__(self, key: bytes) -> bool:
        return self._key_file(key).exists()

    def get(self, key: bytes) -> Entry | None:
        """The value of a key, or None: also when what lies there is damaged or of a type that is not known here.

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
        except UnknownType:  # a pack's that is not loaded here: others may know it
            return None
        except BaseException as error:  # truncated, damaged or foreign: whatever a codec raises on it, it is a miss
            if _is_damage(as_exception(error)):
                _remove(file)
            return None
        with contextlib.suppress(OSError):
            os.utime(file)
        return entry

    def put(self, key: bytes, entry: Entry) -> bool:
        """Write a value; False if it has no codec or the disk does not take it (which is no failure of the run).

        Raises:
            NotPrivate: The folder belongs to another user.
        """
        try:
            tree = to_tree(entry.value, self.put_blob)
            if not entry.sound:  # somebody changed it in place meanwhile
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
        """Write bytes under their hash; what lies there already is compared, and replaced where it is damaged.

        Raises:
            OSError: They cannot be written.
        """
        file = self._blob_file(name)
        with contextlib.suppress(OSError):
            if os.stat(file).st_size == len(content) and self._read(file) == content:
                os.utime(file)  # used now: it is not to go before the key is written that names it
                return
        self._write(file, content)

    def get_blob(self, name: str) -> bytes:
        """The bytes of a hash; damaged ones are taken away.

        Raises:
            OSError: They are not there.
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
        """Refuse a folder of ours that belongs to another user, once."""
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
        """The whole files of a part; temporary ones that are left over from a process that died are taken away."""
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
        """Bring the folder under its budget, least recently used first; returns the bytes that are left.

        Nothing is read while there is room.

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
        """All values; what is damaged is taken away."""
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
        """Forget everything; returns the number of values that there were.

        What others are writing at this moment stays: they find their files whole, or not at all.
        """
        count = 0
        for part in ("keys", "blobs"):
            for entry, _ in self._files(part):
                count += _remove(Path(entry.path)) and part == "keys"
        return count

    def sweep(self) -> list[Path]:
        """Take away what processes that died have written by half; what that was."""
        found = []
        with contextlib.suppress(OSError):
            for file in self.folder.glob("*/*/.*.tmp"):
                if is_leftover(file):
                    _remove(file)
                    found.append(file)
        return found

    def usage(self) -> tuple[int, int]:
        """How many values there are, and how many bytes they take."""
        count = size = 0
        for part in ("keys", "blobs"):
            for _, stat in self._files(part):
                size += stat.st_size
                count += part == "keys"
        return count, size


@dataclass(frozen=True, slots=True)
class _Value:
    """What is kept or goes as a whole: a key's file with the blobs that it names, or a blob that no key names."""

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
    """Whether an exception says that what lies there is wrong, and not that it cannot be read just now."""
    return not lacks_memory(error) and (not isinstance(error, OSError) or isinstance(error, FileNotFoundError))


def _remove(file: Path) -> bool:
    """Take a file away; whether it was there, and could be."""
    try:
        file.unlink()
    except OSError:
        return False
    return True


def seal(record: Mapping[str, Any]) -> bytes:
    """A record as it is written: JSON, and a line with its hash."""
    text = json.dumps(record, default=str).encode()
    return text + b"\n" + hashlib.blake2b(text, digest_size=20).hexdigest().encode()


def unseal(content: bytes) -> Any:
    """The record in a file; ValueError where it is not as it was written."""
    text, _, told = content.rpartition(b"\n")
    if hashlib.blake2b(text, digest_size=20).hexdigest().encode() != told:
        raise ValueError("damaged")
    return json.loads(text)
