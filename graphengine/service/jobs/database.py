"""One SQLite file that any number of processes and threads read and write, and the errors of that."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from graphengine.errors import FileError, GraphEngineError
from graphengine.service.jobs.tables import SCHEMA, UPGRADES, VERSION
from graphengine.system.folders import state_folder
from graphengine.system.private import check_owner, make_file, make_private

POLL = 0.02
"""Seconds between looks at whether another process has changed the file."""

PAGES_KIB = 256
"""KiB of the file's pages that a connection keeps: SQLite's 2,000 were most by which a server grew over its first jobs,
and the system keeps the pages as well."""

HALF = "a text or a path of the job, or its user's name, contains an invalid character (a lone surrogate)"
_TOO_LARGE = "a number that was given is beyond 63 bits"


class QueueError(GraphEngineError):
    """The queue cannot take or do something; nothing of it was done."""


class QueueFileError(QueueError, FileError):
    """The queue's file cannot be opened, read or written: locked, damaged, a full disk."""


class Database:
    """A queue's file, opened; it is made, with its folder and tables, if it is not there.

    Args:
        file: Readable by its owner only.
        synchronous: As SQLite's pragma of that name.
        patience: Seconds to wait for another process's writing.

    Raises:
        QueueFileError: It cannot be opened, or is no queue.
        QueueError: It is of a newer version.
    """

    def __init__(self, file: Path, synchronous: Literal["FULL", "NORMAL"], patience: float) -> None:
        self.file = file
        self._lock = threading.RLock()
        self._changed = threading.Condition()
        self._versions_seen = threading.local()  # by thread: one that is woken must not hide a change from others
        try:
            if file.exists() and not file.is_file():
                raise QueueFileError(f"{file} cannot be opened as a queue: it is no file")
            make_private(file.parent, state_folder(), durable=True)
            if file.exists():
                check_owner(file)
            else:
                make_file(file)
            self._base = sqlite3.connect(file, patience, isolation_level=None, check_same_thread=False)
            version = self._check()  # before anything is changed
            for part in (file, *(file.with_name(file.name + ending) for ending in ("-wal", "-shm"))):
                if part.exists():
                    make_file(part)
            self._base.execute("pragma journal_mode = wal")
            self._base.execute(f"pragma cache_size = -{PAGES_KIB}")
            self._base.execute(f"pragma synchronous = {synchronous}")
            if version < VERSION:
                self._prepare()
        except (sqlite3.Error, OSError) as error:
            why = getattr(error, "strerror", None) or error
            if isinstance(error, FileExistsError | NotADirectoryError):
                why = f"{file.parent if file.parent.is_file() else error.filename} is no folder"
            raise QueueFileError(f"{file} cannot be opened as a queue: {why}") from None

    def _check(self) -> int:
        """The file's version, 0 of a new one; an error if it is no queue, or one that this program does not know."""
        has_tables = self._base.execute("select 1 from sqlite_master").fetchone() is not None
        version = int(self._base.execute("pragma user_version").fetchone()[0])  # second: another may be making it
        if version > VERSION:
            raise QueueError(f"{self.file} is of version {version}, this program knows {VERSION}; update it")
        if version == 0 and has_tables:
            raise QueueFileError(f"{self.file} cannot be opened as a queue: it is a database of something else")
        return version

    def _prepare(self) -> None:
        with self.write() as base:
            version = self._check()
            if version < VERSION:  # nobody else has done it meanwhile
                steps = [SCHEMA] if version == 0 else [UPGRADES[number] for number in range(version, VERSION)]
                for statement in ";\n".join(steps).split(";\n"):
                    base.execute(statement)
                base.execute(f"pragma user_version = {VERSION}")

    @contextmanager
    def _converted(self, done: str) -> Iterator[None]:
        """Convert SQLite errors to queue errors, which say what cannot be `done` with the file."""
        try:
            yield
        except sqlite3.Error as error:
            raise QueueFileError(f"{self.file} cannot be {done}: {error}") from None
        except OverflowError:
            raise QueueError(_TOO_LARGE) from None
        except UnicodeEncodeError:
            raise QueueError(HALF) from None

    @contextmanager
    def write(self) -> Iterator[sqlite3.Cursor]:
        """One transaction; all of it is on disk after the block, or nothing of it.

        Yields:
            What executes its statements: each ends what is left to fetch of the one before.
        """
        with self._lock, self._converted("written"):
            base = self._base.cursor()  # one for all: each takes time, a submit has five statements
            base.execute("begin immediate")
            try:
                yield base
                base.execute("commit")
            except BaseException:
                if self._base.in_transaction:
                    base.execute("rollback")
                raise
        with self._changed:
            self._changed.notify_all()

    def read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """The rows of a query."""
        with self._lock, self._converted("read"):
            return self._base.execute(query, values).fetchall()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._base.close()

    def wait_for_change(self, timeout: float) -> bool:
        """Wait until any process has written to the file since this thread called this last; whether one has."""
        end = time.monotonic() + timeout
        with self._changed:  # this process's own writing is told at once, others' is looked for
            while (version := self._version()) == getattr(self._versions_seen, "version", None):
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, POLL))
        self._versions_seen.version = version
        return True

    def _version(self) -> int:
        # `data_version` moves with other connections' commits, `total_changes` with this one's.
        with self._lock:
            return int(self.read("pragma data_version")[0][0]) + self._base.total_changes
