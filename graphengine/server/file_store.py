"""The store of uploaded files: bytes as they came, by the SHA-256 of their content, for each user apart.

A file is held by its user under one or more ids: its hash, as `/v1/files` names it, and the ids of assets, which have
names and may expire. It is removed when nothing holds it any longer.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from blake3 import blake3

from graphengine.errors import FileError
from graphengine.server.file_records import Changing, FileRecords, Record
from graphengine.server.problems import ApiError
from graphengine.system.folders import state_folder
from graphengine.system.opening import open_file, rooted
from graphengine.system.private import make_private
from graphengine.system.staging import sync

PREFIX = "sha256:"
UNKNOWN = "application/octet-stream"
SHOWN = ("image/png", "image/jpeg", "image/webp", "video/mp4")
"""The types of files that a browser may show; all others it saves."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ENDING = re.compile(r"\.[a-z0-9]{1,12}")
MOST_FILES = 50_000
"""The most files of a user."""
UNUSED_SECONDS = 90 * 24 * 3600
"""Seconds after their last use, by a job or a download, after which uploads that are no assets are removed."""
HEAD = 64
"""The first bytes of a file, by which its type is told."""
KEY_SECONDS = 24 * 3600
"""Seconds after which an Idempotency-Key may be used again."""


def type_of(head: bytes) -> str:
    """The type of a file by its first bytes: one of `SHOWN`, else `UNKNOWN`."""
    if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR":
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP" and head[12:15] == b"VP8":
        return "image/webp"
    if head[4:8] == b"ftyp" and head[8:12] in (b"isom", b"iso2", b"iso4", b"iso5", b"iso6", b"mp41", b"mp42", b"avc1"):
        return "video/mp4"
    return UNKNOWN


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a user.

    Attributes:
        id: `sha256:` and 64 hexadecimal digits.
        new: Whether it was not there before.
    """

    id: str
    size: int
    type: str
    created: float
    path: Path
    new: bool = False


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as a user holds it under an id of its own.

    Attributes:
        record: Its id, hash, name and times.
        new: Whether its bytes were not there before.
        made: Whether the asset was not there before.
    """

    record: Record
    path: Path
    new: bool = False
    made: bool = False


@dataclass(frozen=True, slots=True)
class NewAsset:
    """What a user says of an asset: its name, its media type, words, the seconds after which it expires (None: never),
    and the key of the request."""

    name: str | None = None
    type: str | None = None
    tags: tuple[str, ...] = ()
    seconds: int | None = None
    key: str | None = None


class Upload:
    """A file that arrives piece by piece; `keep` puts it into the store, `close` discards what was not kept."""

    def __init__(self, store: FileStore, user: str) -> None:
        self._store, self._user, self._folder, self.size = store, user, store.of(user), 0
        self._sha256, self._blake3 = hashlib.sha256(), blake3()
        make_private(self._folder, state_folder())
        self._part = self._folder / f".{uuid.uuid4().hex}.tmp"
        self._file = os.fdopen(os.open(self._part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")

    def write(self, piece: bytes) -> None:
        """Take a piece.

        Raises:
            ApiError: The file is larger than may be.
        """
        self.size += len(piece)
        if self.size > self._store.most:
            raise ApiError("too_large", f"a file has at most {self._store.most:,} bytes here")
        self._sha256.update(piece)
        self._blake3.update(piece)
        self._file.write(piece)

    @property
    def blake3(self) -> str:
        """The BLAKE3 hash of what has arrived, in hexadecimal digits."""
        return self._blake3.hexdigest()

    def keep(self, expected: str | None = None) -> StoredFile:
        """Put the file into the store, held by its hash; it is on the disk when this returns.

        Args:
            expected: The id that the client has computed.
        """
        digest = self._sha256.hexdigest()
        if expected is not None and expected != PREFIX + digest:
            raise ApiError("bad_request", f"the file that arrived is {PREFIX}{digest}, not {expected[:80]}")
        with self._store.records.changing(self._user) as records:
            new = self._place(records, digest)
            records.add(Record(PREFIX + digest, digest, self.blake3, self.size, UNKNOWN, time.time()))
        return _stored(self._folder / digest, new)

    def keep_as(self, asset: NewAsset) -> Asset:
        """Put the file into the store as an asset; it is on the disk when this returns."""
        digest = self._sha256.hexdigest()
        with self._store.records.changing(self._user) as records:
            check_key(records, asset.key)
            new = self._place(records, digest)
            record, made = _asset(records, digest, self.blake3, self.size, asset)
        return Asset(record, self._folder / digest, new, made)

    def _place(self, records: Changing, digest: str) -> bool:
        """Give the file its name; whether it is new.

        Raises:
            ApiError: The user holds as much as may be.
        """
        if not records.find("digest", digest):
            (count, size), most = records.held(), self._store.most_of_user
            if count >= MOST_FILES or size + self.size > most:
                what = f"your uploads are {count:,} files with {size:,} bytes; they may be {MOST_FILES:,} with {most:,}"
                raise ApiError("too_large", f"{what}; delete some of them")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        path = self._folder / digest
        new = not path.exists()
        os.replace(self._part, path)
        sync(self._folder)
        return new

    def close(self) -> None:
        """Discard what was not kept."""
        self._file.close()
        with contextlib.suppress(OSError):
            self._part.unlink()


def check_key(records: Changing, key: str | None) -> None:
    """Refuse an Idempotency-Key with which an asset was made."""
    if key is not None and any(record.created > time.time() - KEY_SECONDS for record in records.find("key", key)):
        raise ApiError("key_reused", "this Idempotency-Key was used; a new request needs a new key")


def _asset(records: Changing, digest: str, hash: str, size: int, asset: NewAsset) -> tuple[Record, bool]:
    """The record of an asset, and whether it was made: one of the same bytes, name and tags is used again, and expires
    no earlier than it did."""
    now = time.time()
    expires = None if asset.seconds is None else now + asset.seconds
    for record in records.find("digest", digest):
        if not record.id.startswith(PREFIX) and (record.name, record.tags) == (asset.name, asset.tags) \
                and not _is_over(record):
            longer = None if record.expires is None or expires is None else max(record.expires, expires)
            record = replace(record, expires=longer, key=asset.key or record.key)
            records.add(record)
            return record, False
    type = asset.type or UNKNOWN
    made = Record(str(uuid.uuid4()), digest, hash, size, type, now, asset.name, asset.tags, expires, asset.key)
    records.add(made)
    return made, True


def _is_over(record: Record) -> bool:
    return record.expires is not None and record.expires <= time.time()


class FileStore:
    """The files of all users, in a folder.

    Args:
        folder: Made when the first file arrives.
        most: The most bytes of a file.
        most_of_user: The most bytes of all files of a user.
    """

    def __init__(self, folder: Path, most: int = 100 << 20, most_of_user: int = 20 << 30) -> None:
        self.folder, self.most, self.most_of_user = folder, most, most_of_user
        self.records = FileRecords(folder / "records.db")

    def tidy(self) -> None:
        """Remove assets whose time is over, uploads that nobody has used for long, and halves of files that a server
        which was killed has left; an upload lasts no hour."""
        for user in self.records.users():
            self.expire(user)
        for part in self.folder.glob("*/.*.tmp"):
            with contextlib.suppress(OSError):
                if part.stat().st_mtime < time.time() - 3600:
                    part.unlink()

    def of(self, user: str) -> Path:
        """The folder of a user's files."""
        return self.folder / hashlib.sha256(user.encode()).hexdigest()[:32]

    def upload(self, user: str) -> Upload:
        """Begin to take a file of a user."""
        try:
            return Upload(self, user)
        except OSError as error:
            raise FileError(f"{self.folder} cannot be written: {error.strerror or error}") from None

    def put(self, user: str, content: bytes) -> StoredFile:
        """Keep bytes as a file of a user."""
        upload = self.upload(user)
        try:
            upload.write(content)
            return upload.keep()
        finally:
            upload.close()

    def copy(self, user: str, file: IO[bytes], asset: NewAsset) -> Asset:
        """Keep the bytes of an open file as an asset of a user."""
        upload = self.upload(user)
        try:
            while piece := file.read(1 << 20):
                upload.write(piece)
            return upload.keep_as(asset)
        finally:
            upload.close()

    def get(self, user: str, id: str) -> StoredFile:
        """A file of a user by its id.

        Raises:
            ApiError: The user has no such file.
        """
        digest = id.removeprefix(PREFIX)
        if not id.startswith(PREFIX) or _DIGEST.fullmatch(digest) is None:
            raise ApiError("not_found", f"{id!r:.90} is no id of a file: sha256: and 64 hexadecimal digits")
        try:
            path = self.of(user) / digest
            found = _stored(path, new=False)
            _use(path)
        except OSError:
            raise ApiError("not_found", f"there is no file {id}; upload it first") from None
        return found

    def delete(self, user: str, id: str) -> None:
        """Remove a file of a user. Jobs that wait for it fail.

        Raises:
            ApiError: The user has no such file, or it is an asset too.
        """
        path = self.get(user, id).path
        with self.records.changing(user) as records:
            if any(record.id != id for record in records.find("digest", path.name)):
                raise ApiError("conflict", "the file is an asset of /api/v2; it goes when that is deleted there")
            records.remove(id)
            self._drop(user, records, path.name)

    # --- assets -------------------------------------------------------------------------------------------------------

    def asset(self, user: str, id: str) -> Asset:
        """An asset of a user by its id.

        Raises:
            ApiError: The user has no such asset.
        """
        with self.records.changing(user) as records:
            found = [record for record in records.find("id", id) if not _is_over(record)]
        if not found or id.startswith(PREFIX):
            raise ApiError("not_found", f"there is no asset {id[:80]!r}")
        return Asset(found[0], self.of(user) / found[0].digest)

    def with_hash(self, user: str, hash: str) -> Record | None:
        """A record of a user's file by its BLAKE3 hash, in hexadecimal digits; None if the user has no such file."""
        with self.records.changing(user) as records:
            found = [record for record in records.find("blake3", hash) if not _is_over(record)]
        return next((record for record in found if (self.of(user) / record.digest).exists()), None)

    def hold(self, user: str, hash: str, asset: NewAsset) -> Asset | None:
        """Make an asset of bytes that the user has already, by their BLAKE3 hash; None if the user has none."""
        known = self.with_hash(user, hash)
        if known is None:
            return None
        with self.records.changing(user) as records:
            path = self.of(user) / known.digest
            if not path.exists():  # it was removed meanwhile
                return None
            given = replace(asset, type=asset.type or known.type)
            record, made = _asset(records, known.digest, hash, known.size, given)
        return Asset(record, path, made=made)

    def delete_asset(self, user: str, id: str) -> None:
        """Remove an asset; its bytes stay while the user holds them in another way. Jobs that wait for it fail.

        Raises:
            ApiError: The user has no such asset.
        """
        record = self.asset(user, id).record
        with self.records.changing(user) as records:
            records.remove(id)
            self._drop(user, records, record.digest)

    def expire(self, user: str) -> None:
        """Remove the assets of a user whose time is over, and the uploads that were not used for `UNUSED_SECONDS`."""
        with self.records.changing(user) as records:
            unused = [record for record in records.uploads(PREFIX) if self._is_unused(self.of(user) / record.digest)]
            for record in (*records.expired(time.time()), *unused):
                records.remove(record.id)
                self._drop(user, records, record.digest)

    def _is_unused(self, path: Path) -> bool:
        try:
            return path.stat().st_atime < time.time() - UNUSED_SECONDS
        except OSError:  # its bytes are gone already
            return True

    def path_like(self, asset: Asset) -> Path:
        """A path to an asset's file that ends as its name does, for nodes that tell files by their endings."""
        ending = Path(asset.record.name or "").suffix.lower()
        if _ENDING.fullmatch(ending) is None:
            return asset.path
        named = asset.path.with_name(asset.path.name + ending)
        with contextlib.suppress(FileExistsError):
            os.link(asset.path, named)
        return named

    def _drop(self, user: str, records: Changing, digest: str) -> None:
        """Remove a file that nobody holds."""
        if not records.find("digest", digest):
            for path in self.of(user).glob(f"{digest}*"):
                path.unlink(missing_ok=True)


def _use(path: Path) -> None:
    """Note that a file is used now: by its time of access, at most once a day."""
    stat = path.stat()
    if stat.st_atime < time.time() - 24 * 3600:
        os.utime(path, ns=(time.time_ns(), stat.st_mtime_ns))


def _stored(path: Path, new: bool) -> StoredFile:
    with open_file(path) as file:
        stat, head = os.fstat(file.fileno()), file.read(HEAD)
    return StoredFile(PREFIX + path.name, stat.st_size, type_of(head), stat.st_mtime, path, new)


def open_inside(path: str | Path, folders: Sequence[Path]) -> tuple[IO[bytes], int, str]:
    """Open a file inside one of some folders, following no symbolic link; returns it, its bytes and its type.

    Raises:
        ApiError: It is gone, or lies outside.
    """
    try:
        file = open_file(rooted(Path(path), list(folders)))
    except OSError:
        raise ApiError("not_found", f"the file {Path(path).name} is gone") from None
    head = file.read(HEAD)
    file.seek(0)
    return file, os.fstat(file.fileno()).st_size, type_of(head)
