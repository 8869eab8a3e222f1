"""The store of uploaded files: bytes as they came, by the SHA-256 of their content, for each user apart."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from graphengine.errors import FileError
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
HEAD = 64
"""The first bytes of a file, by which its type is told."""


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


class Upload:
    """A file that arrives piece by piece; `keep` puts it into the store, `close` discards what was not kept."""

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most, self._hash, self.size = folder, most, hashlib.sha256(), 0
        make_private(folder, state_folder())
        self._part = folder / f".{uuid.uuid4().hex}.tmp"
        self._file = os.fdopen(os.open(self._part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")

    def write(self, piece: bytes) -> None:
        """Take a piece.

        Raises:
            ApiError: The file is larger than may be.
        """
        self.size += len(piece)
        if self.size > self._most:
            raise ApiError("too_large", f"a file has at most {self._most:,} bytes here")
        self._hash.update(piece)
        self._file.write(piece)

    def keep(self, expected: str | None = None) -> StoredFile:
        """Put the file into the store; it is on the disk when this returns.

        Args:
            expected: The id that the client has computed.
        """
        digest = self._hash.hexdigest()
        if expected is not None and expected != PREFIX + digest:
            raise ApiError("bad_request", f"the file that arrived is {PREFIX}{digest}, not {expected[:80]}")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        path = self._folder / digest
        new = not path.exists()
        os.replace(self._part, path)
        sync(self._folder)
        return _stored(path, new)

    def close(self) -> None:
        """Discard what was not kept."""
        self._file.close()
        with contextlib.suppress(OSError):
            self._part.unlink()


class FileStore:
    """The files of all users, in a folder.

    Args:
        folder: Made when the first file arrives.
        most: The most bytes of a file.
    """

    def __init__(self, folder: Path, most: int = 100 << 20) -> None:
        self.folder, self.most = folder, most

    def tidy(self) -> None:
        """Remove halves of files that a server which was killed has left; an upload lasts no hour."""
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
            return Upload(self.of(user), self.most)
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

    def get(self, user: str, id: str) -> StoredFile:
        """A file of a user by its id.

        Raises:
            ApiError: The user has no such file.
        """
        digest = id.removeprefix(PREFIX)
        if not id.startswith(PREFIX) or _DIGEST.fullmatch(digest) is None:
            raise ApiError("not_found", f"{id!r:.90} is no id of a file: sha256: and 64 hexadecimal digits")
        try:
            return _stored(self.of(user) / digest, new=False)
        except OSError:
            raise ApiError("not_found", f"there is no file {id}; upload it first") from None

    def delete(self, user: str, id: str) -> None:
        """Remove a file of a user. Jobs that wait for it fail."""
        self.get(user, id).path.unlink(missing_ok=True)


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
