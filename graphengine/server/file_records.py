"""Records of stored files: who holds the bytes of which hash under which id, in an SQLite file beside the files."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from graphengine.errors import FileError
from graphengine.system.folders import state_folder
from graphengine.system.private import make_file, make_private

_SCHEMA = """
create table if not exists records (
    user text not null, id text not null, digest text not null, blake3 text not null, size integer not null,
    type text not null, created real not null, name text, tags text not null, expires real, key text,
    primary key (user, id)
) without rowid
"""
_INDEX = "create index if not exists records_by_{0} on records (user, {0})"
_COLUMNS = "id, digest, blake3, size, type, created, name, tags, expires, key"


@dataclass(frozen=True, slots=True)
class Record:
    """A user's hold on a stored file; the file stays while anybody holds it.

    Attributes:
        id: By which the user asks for it.
        digest: The SHA-256 of the bytes, in hexadecimal digits, which names the file.
        blake3: The BLAKE3 hash of the bytes, in hexadecimal digits.
        size: The bytes.
        type: The media type that the user has declared.
        created: Seconds since the epoch.
        name: The name that the user gave, a relative path.
        tags: Words of the user.
        expires: Seconds since the epoch from which on it is gone; None for never.
        key: The Idempotency-Key with which it was made.
    """

    id: str
    digest: str
    blake3: str
    size: int
    type: str
    created: float
    name: str | None = None
    tags: tuple[str, ...] = ()
    expires: float | None = None
    key: str | None = None


class Changing:
    """One transaction on the records of a user: nobody else changes any record or removes a file meanwhile."""

    def __init__(self, base: sqlite3.Connection, user: str) -> None:
        self._base, self._user = base, user

    def add(self, record: Record) -> None:
        """Add a record, or replace the one of its id."""
        values = (record.id, record.digest, record.blake3, record.size, record.type, record.created, record.name,
                  json.dumps(record.tags), record.expires, record.key)  # fmt: skip
        marks = ", ".join("?" * (len(values) + 1))
        self._base.execute(f"insert or replace into records (user, {_COLUMNS}) values ({marks})", (self._user, *values))

    def remove(self, id: str) -> None:
        """Remove a record."""
        self._base.execute("delete from records where user = ? and id = ?", (self._user, id))

    def find(self, column: str, value: str) -> list[Record]:
        """The records with a value in `id`, `digest`, `blake3` or `key`, the oldest first."""
        query = f"select {_COLUMNS} from records where user = ? and {column} = ? order by created"
        return [_record(row) for row in self._base.execute(query, (self._user, value)).fetchall()]

    def held(self) -> tuple[int, int]:
        """How many files the user holds, and their bytes."""
        files = "select distinct digest, size from records where user = ?"
        row = self._base.execute(f"select count(*), coalesce(sum(size), 0) from ({files})", (self._user,)).fetchone()
        return row[0], row[1]

    def users(self) -> list[str]:
        """All users who hold files."""
        return [user for (user,) in self._base.execute("select distinct user from records").fetchall()]

    def uploads(self, prefix: str) -> list[Record]:
        """The records whose ids begin with a prefix."""
        query = f"select {_COLUMNS} from records where user = ? and id >= ? and id < ?"
        return [_record(row) for row in self._base.execute(query, (self._user, prefix, f"{prefix}~")).fetchall()]

    def expired(self, now: float) -> list[Record]:
        """The records whose time is over."""
        query = f"select {_COLUMNS} from records where user = ? and expires <= ?"
        return [_record(row) for row in self._base.execute(query, (self._user, now)).fetchall()]


class FileRecords:
    """The records of all users. Any number of threads and processes may use them.

    Args:
        file: The SQLite file; made, readable by its owner only, when the first record is.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    @contextlib.contextmanager
    def changing(self, user: str) -> Iterator[Changing]:
        """One transaction; all of it is on the disk after the block, or nothing of it.

        Raises:
            FileError: The file cannot be read or written.
        """
        try:
            if not self.file.exists():
                make_private(self.file.parent, state_folder())
                make_file(self.file)
            with contextlib.closing(sqlite3.connect(self.file, 30.0, isolation_level=None)) as base:
                base.execute("pragma synchronous = full")
                base.execute("begin immediate")
                base.execute(_SCHEMA)
                for column in ("digest", "blake3", "key"):
                    base.execute(_INDEX.format(column))
                try:
                    yield Changing(base, user)
                except BaseException:
                    base.execute("rollback")
                    raise
                base.execute("commit")
        except sqlite3.Error as error:
            raise FileError(f"{self.file} cannot be used: {error}") from None

    def users(self) -> list[str]:
        """The users who hold files."""
        if not self.file.exists():
            return []
        with self.changing("") as changing:
            return changing.users()


def _record(row: tuple[object, ...]) -> Record:
    values = list(row)
    values[7] = tuple(json.loads(str(values[7])))
    return Record(*values)  # type: ignore[arg-type]
