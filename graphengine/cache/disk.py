"""Values on disk: key -> digests, and digest -> bytes, kept apart as a build system does.

Layout of the folder: `keys/ab/cdef...` says which blobs make up a value and how it was made; `blobs/ab/cdef...`
holds bytes, called by their own hash. Everything is written to a temporary name and renamed, so that readers of any
process see whole files; what is truncated, damaged or foreign is a miss and is taken away.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graphengine.cache.memory import Entry
from graphengine.cache.tree import UnknownType, blob_name, blobs_of, from_tree, to_tree

FORMAT = 1
BUDGET = 10 << 30
KEPT_SECONDS = 3600.0
"""Temporary files older than this are left over from a process that died."""


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
        self._made: set[Path] = set()

    @property
    def budget(self) -> int:
        if self._budget is None:
            try:
                self._budget = int(json.loads((self.folder / "config.json").read_text())["budget"])
            except (OSError, ValueError, KeyError, TypeError):
                self._budget = BUDGET
        return self._budget

    def set_budget(self, budget: int) -> None:
        """Change the budget for every process that uses this folder from now on."""
        self._budget = budget
        self._write(self.folder / "config.json", json.dumps({"budget": budget}).encode())
        self.evict()

    # --- values ---------------------------------------------------------------------------------------------------

    def __contains__(self, key: bytes) -> bool:
        return self._key_file(key).exists()

    def get(self, key: bytes) -> Entry | None:
        """The value of a key, or None: also when what lies there is damaged or of a type that is not known here."""
        file = self._key_file(key)
        try:
            text = file.read_bytes()
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
        except Exception:  # truncated, damaged or foreign: whatever a codec raises on it, it is a miss
            with contextlib.suppress(OSError):
                file.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(file)
        return entry

    def put(self, key: bytes, entry: Entry) -> bool:
        """Write a value; False if it has no codec or the disk does not take it (which is no failure of the run)."""
        try:
            tree = to_tree(entry.value, self.put_blob)
            record = {"format": FORMAT, "key": key.hex(), "value": tree, "made": dict(entry.made), "cost": entry.cost}
            self._write(self._key_file(key), seal(record))
        except Exception:  # no codec, one that raises, a full disk: the value stays in memory only
            return False
        if self._written > self.budget // 20:
            self.evict()
        return True

    def put_blob(self, name: str, content: bytes) -> None:
        """Write bytes under their hash."""
        file = self._blob_file(name)
        if not file.exists():
            self._write(file, content)

    def get_blob(self, name: str) -> bytes:
        """The bytes of a hash; damaged ones are taken away.

        Raises:
            OSError: They are not there.
            ValueError: They are damaged.
        """
        content = self._blob_file(name).read_bytes()
        if blob_name(content) != name:
            with contextlib.suppress(OSError):
                self._blob_file(name).unlink()
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

    def _write(self, file: Path, content: bytes) -> None:
        if file.parent not in self._made:
            self.folder.mkdir(0o700, parents=True, exist_ok=True)  # what was made is nobody else's business
            file.parent.mkdir(parents=True, exist_ok=True)
            self._made.add(file.parent)
        temporary = file.parent / f".{uuid.uuid4().hex}.tmp"
        try:
            temporary.write_bytes(content)
            temporary.replace(file)
        except FileNotFoundError:  # the folder was cleared meanwhile
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
            temporary.replace(file)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        self._written += len(content)

    def _files(self, part: str) -> Iterator[os.DirEntry[str]]:
        with contextlib.suppress(OSError):
            for folder in sorted((self.folder / part).iterdir()):
                with contextlib.suppress(OSError), os.scandir(folder) as entries:
                    yield from entries

    def evict(self) -> int:
        """Bring the folder under its budget, least recently used first, and take away what nothing points to."""
        self._written = 0
        keys: list[tuple[float, Path, list[str], int]] = []
        for entry in self._files("keys"):
            try:
                stat = entry.stat()
                if entry.name.endswith(".tmp"):
                    self._drop_old(entry.path, stat.st_mtime)
                    continue
                record = unseal(Path(entry.path).read_bytes())
                keys.append((stat.st_mtime, Path(entry.path), list(blobs_of(record["value"])), stat.st_size))
            except Exception:  # truncated, damaged or foreign, in whatever way
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
        sizes = {}
        for entry in self._files("blobs"):
            with contextlib.suppress(OSError):
                stat = entry.stat()
                if entry.name.endswith(".tmp"):
                    self._drop_old(entry.path, stat.st_mtime)
                else:
                    sizes[Path(entry.path).parent.name + entry.name] = stat.st_size
        kept, used, freed = set[str](), 0, set[str]()
        for _, file, blobs, size in sorted(keys, key=lambda k: k[0], reverse=True):
            more = size + sum(sizes.get(b, 0) for b in set(blobs) - kept)
            if used + more <= self.budget:
                kept.update(blobs)
                used += more
            else:
                freed.update(blobs)
                with contextlib.suppress(OSError):
                    file.unlink()
        now = time.time()
        for name in set(sizes) - kept:
            blob = self._blob_file(name)
            with contextlib.suppress(OSError):
                # A blob just written may belong to a key that another process is about to write.
                if name in freed or now - blob.stat().st_mtime > 60:
                    blob.unlink()
        return used

    def _drop_old(self, path: str, modified: float) -> None:
        if time.time() - modified > KEPT_SECONDS:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def clear(self) -> int:
        """Forget everything; returns the number of values that there were."""
        count = 0
        for part in ("keys", "blobs"):
            for entry in self._files(part):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
                    count += part == "keys"
        return count

    def usage(self) -> tuple[int, int]:
        """How many values there are, and how many bytes they take."""
        count = size = 0
        for part in ("keys", "blobs"):
            for entry in self._files(part):
                with contextlib.suppress(OSError):
                    size += entry.stat().st_size
                    count += part == "keys"
        return count, size


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
