"""Files as ComfyUI's clients name them (`filename`, `subfolder`, `type`): shown, made smaller, uploaded, painted on.

What is uploaded is kept in the input folder, where jobs find it by its name. Where there are several users, each has a
folder of their own in it, whose name nobody else can guess: the input folder as such is open to the jobs of all.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import os
import re
import secrets
import threading
import time
import unicodedata
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from graphengine.errors import FileError
from graphengine.server.comfy.jobs import TEMP
from graphengine.server.file_store import HEAD, MOST_FILES, NewAsset, open_inside, type_of
from graphengine.server.job_api import JobApi
from graphengine.server.problems import ApiError
from graphengine.server.tokens import Caller
from graphengine.system.folders import state_folder
from graphengine.system.opening import check_inside, entries_of, read_file
from graphengine.system.private import make_private, write_private
from graphengine.warning_filters import warnings_as

if TYPE_CHECKING:
    import PIL.Image

USERS = "users"
"""The folder inside the input folder with a folder for each user."""
SECRET = "uploads.key"
PREVIEW, PREVIEW_SECONDS = "ComfyUI_temp_", 7 * 24 * 3600
"""What the names of pictures begin with that jobs make to be looked at, and the seconds for which they are kept."""
COPY_SECONDS = 7 * 24 * 3600
"""Seconds for which a copy of an output is kept that a job takes as its input, from the last time on."""
TYPES = ("output", "input", TEMP)
FORMATS = {"webp": "image/webp", "jpeg": "image/jpeg", "jpg": "image/jpeg"}
"""The formats of smaller copies."""
CHANNELS = ("rgba", "rgb", "a")
LONGEST_NAME = 150
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MODELS = (".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".bin", ".pth", ".pkl", ".gguf")
MOST_LISTED = 20_000
_WRONG = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\/]')


@dataclass(frozen=True, slots=True)
class Named:
    """A file as clients name it."""

    filename: str
    subfolder: str = ""
    type: str = "output"

    def facts(self) -> dict[str, str]:
        """The answer to an upload."""
        return {"name": self.filename, "subfolder": self.subfolder, "type": self.type}


class Files:
    """The files that clients name. Every method is safe to call from any thread.

    Args:
        api: Knows the folders, and which job wrote a file.
    """

    def __init__(self, api: JobApi) -> None:
        self.api, self.folders = api, api.folders
        self._lock = threading.Lock()

    def tidy(self) -> None:
        """Remove pictures that jobs made long ago to be looked at."""
        with contextlib.suppress(OSError):
            for entry in entries_of(self.folders.output / TEMP, all=False):
                with contextlib.suppress(OSError):
                    is_old = entry.stat(follow_symlinks=False).st_mtime < time.time() - PREVIEW_SECONDS
                    if is_old and entry.name.startswith(PREVIEW) and entry.is_file(follow_symlinks=False):
                        os.unlink(entry.path)

    # --- where files are ----------------------------------------------------------------------------------------------

    def root(self, type: str) -> Path:
        """The folder of the files of a type.

        Raises:
            ApiError: There is no such type.
        """
        if type not in TYPES:
            raise ApiError("bad_request", f"type must be output, input or temp, not {type[:40]!r}")
        return self.folders.output if type == "output" else self.folders.input / (TEMP if type == TEMP else "")

    def own(self, caller: Caller) -> PurePosixPath:
        """The folder of a user inside the input folder, as clients write it; empty for an admin."""
        if caller.scope is None:
            return PurePosixPath()
        return PurePosixPath(USERS, hmac.digest(self._secret(), caller.user.encode(), "sha256").hex()[:32])

    def _secret(self) -> bytes:
        """What makes the names of users' folders."""
        with self._lock:
            file = self.api.files.folder.parent / SECRET
            if not file.exists():
                make_private(file.parent, state_folder())
                write_private(file, secrets.token_bytes(32), durable=True)
            return read_file(file)

    def path(self, caller: Caller, named: Named) -> Path:
        """The path of a file that the caller may read.

        Raises:
            ApiError: The name is none, or the file is not the caller's.
        """
        root, inside = self.root(named.type), _inside(named.subfolder, named.filename)
        path, is_written = root.joinpath(*inside.parts), named.type == "output"
        if named.type == TEMP and not path.exists():  # no upload, but what a job wrote
            path, is_written = self.folders.output.joinpath(TEMP, *inside.parts), True
        gone = ApiError("not_found", f"there is no file {inside.name[:80]!r}")
        if caller.scope is None:
            return path
        if is_written and not self.api.queue.wrote(caller.user, str(path)):
            raise gone
        if not is_written and inside.parts[0] == USERS and not inside.is_relative_to(self.own(caller)):
            raise gone
        return path

    def open(self, caller: Caller, named: Named) -> tuple[IO[bytes], int, str]:
        """Open a file; returns it, its bytes and its type."""
        return self._open(self.path(caller, named), named)

    def _open(self, path: Path, named: Named) -> tuple[IO[bytes], int, str]:
        return open_inside(path, [self.root(named.type), self.folders.output / TEMP])

    def held(self, caller: Caller, named: Named) -> str:
        """The path of a file of the types `output` and `temp` as jobs of the caller may name it: that of an upload, or
        of a copy of what a job wrote, which is kept for a while.

        Raises:
            ApiError: There is no such file, or the caller has no room for the copy.
        """
        path = self.path(caller, named)
        file, _, type = self._open(path, named)
        with file:
            if path.is_relative_to(self.folders.input / TEMP):
                return path.relative_to(self.folders.input).as_posix()
            asset = self.api.files.copy(caller.user, file, NewAsset(named.filename, type, seconds=COPY_SECONDS))
        return str(self.api.files.path_like(asset))

    def listed(self, caller: Caller, folder: Path, endings: Sequence[str]) -> list[str]:
        """The files in a folder and below, with certain endings, by their paths in it; without those of others."""
        found = []
        with contextlib.suppress(OSError):
            for entry in entries_of(folder, all=False):
                if entry.name.lower().endswith(tuple(endings)) and entry.is_file():
                    found.append(Path(entry.path).relative_to(folder))
                if len(found) >= MOST_LISTED:
                    break
        own = self.own(caller)
        if folder == self.folders.input and caller.scope is not None:
            found = [path for path in found if path.parts[0] != USERS or path.is_relative_to(own)]
        return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))

    # --- showing ------------------------------------------------------------------------------------------------------

    def smaller(self, file: IO[bytes], format: str, quality: int) -> tuple[bytes, str]:
        """A copy of a picture in a format that takes fewer bytes; returns it and its type."""
        with _picture(file) as picture:
            shown = picture.convert("RGB" if format != "webp" or "A" not in picture.getbands() else "RGBA")
            buffer = io.BytesIO()
            shown.save(buffer, "WEBP" if format == "webp" else "JPEG", quality=quality)
        return buffer.getvalue(), FORMATS[format]

    def channel(self, file: IO[bytes], channel: str) -> tuple[bytes, str]:
        """A picture's colours, or its alpha as the alpha of a black picture; returns a PNG and its type."""
        import PIL.Image

        with _picture(file) as picture:
            if channel == "rgb":
                shown = picture.convert("RGB")
            else:
                alpha = picture.getchannel("A") if "A" in picture.getbands() else PIL.Image.new("L", picture.size, 255)
                shown = PIL.Image.new("RGBA", picture.size)
                shown.putalpha(alpha)
            buffer = io.BytesIO()
            shown.save(buffer, "PNG")
        return buffer.getvalue(), "image/png"

    # --- taking -------------------------------------------------------------------------------------------------------

    def begin(self, most: int) -> Upload:
        """Begin to take a file.

        Args:
            most: The most bytes that are taken.
        """
        try:
            return Upload(self.folders.input, most)
        except OSError as error:
            raise FileError(f"{self.folders.input} cannot be written: {error.strerror or error}") from None

    def keep(self, caller: Caller, upload: Upload, named: Named, overwrite: bool) -> Named:
        """Put a file that has arrived into its folder; returns its name there.

        A name that is taken by another content gets a number, unless the other file is to be replaced.
        """
        root = self.root(named.type)
        if named.type == "output":
            raise ApiError("forbidden", "files are uploaded as type input or temp; outputs are written by jobs")
        name = clean(named.filename)
        inside = _inside(named.subfolder, name) if named.subfolder else PurePosixPath(name)
        own = self.own(caller)
        if own.parts and not inside.is_relative_to(own):
            inside = own / inside
        if own.parts:
            self._check_room(own, upload.size)
        folder = root.joinpath(*inside.parent.parts)
        try:
            root.mkdir(exist_ok=True)
            check_inside(folder, [root], links=False)
            folder.mkdir(parents=True, exist_ok=True)
            check_inside(folder, [root], links=False)
            final = upload.place(folder, name, overwrite)
        except OSError as error:
            raise ApiError("bad_request", f"{inside.as_posix()[:80]!r} cannot be written: {error.strerror}") from None
        subfolder = inside.parent.as_posix()
        return Named(final, "" if subfolder == "." else subfolder, named.type)

    def _check_room(self, own: PurePosixPath, size: int) -> None:
        """Refuse a file for which a user's folders have no room."""
        count, most = 0, self.api.files.most_of_user
        with contextlib.suppress(OSError):
            for type in ("input", TEMP):
                for entry in entries_of(self.root(type).joinpath(*own.parts), all=False):
                    count, size = count + 1, size + entry.stat(follow_symlinks=False).st_size
        if count >= MOST_FILES or size > most:
            raise ApiError("too_large", f"your uploads may be {MOST_FILES:,} files with {most:,} bytes together")

    def painted(self, original: IO[bytes], mask: IO[bytes]) -> bytes:
        """A picture with the alpha of another one of its size, as a PNG: what the mask editor makes."""
        with _picture(mask) as drawn, _picture(original) as picture:
            if drawn.size != picture.size:
                what = f"the mask has {drawn.width}x{drawn.height} pixels, the picture {picture.width}x{picture.height}"
                raise ApiError("bad_request", what)
            if "A" not in drawn.getbands():
                raise ApiError("bad_request", "the mask has no alpha: it is the alpha of a PNG or WebP")
            result = picture.convert("RGBA")
            result.putalpha(drawn.getchannel("A"))
            buffer = io.BytesIO()
            result.save(buffer, "PNG", compress_level=4)
        return buffer.getvalue()


class Upload:
    """A file that arrives piece by piece in a folder; `place` gives it its name, `close` discards it."""

    def __init__(self, folder: Path, most: int) -> None:
        self.size, self._most, self._hash = 0, most, hashlib.sha256()
        self._part = folder / f".{uuid.uuid4().hex}.tmp"
        self._file = os.fdopen(os.open(self._part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644), "w+b")

    def write(self, piece: bytes) -> None:
        """Take a piece.

        Raises:
            ApiError: The file is larger than may be.
        """
        self.size += len(piece)
        if self.size > self._most:
            what = f"a file has at most {self._most:,} bytes here"
            raise ApiError("too_large", what, headers={"Connection": "close"})
        self._hash.update(piece)
        self._file.write(piece)

    def read(self) -> IO[bytes]:
        """The file so far."""
        self._file.flush()
        self._file.seek(0)
        return self._file

    def place(self, folder: Path, name: str, overwrite: bool) -> str:
        """Give the file its name, or one with a number if that is taken by another content; returns it."""
        self._file.flush()
        if overwrite:
            os.replace(self._part, folder / name)
            return name
        stem, ending = os.path.splitext(name)
        for number in range(10_000):
            given = name if number == 0 else f"{stem} ({number}){ending}"
            try:
                os.link(self._part, folder / given)
            except FileExistsError:
                if self._is_same(folder / given):
                    return given
                continue
            return given
        raise ApiError("conflict", f"there are too many files called {name[:80]!r}")

    def _is_same(self, path: Path) -> bool:
        if path.is_symlink() or not path.is_file() or path.stat().st_size != self.size:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest() == self._hash.digest()

    def close(self) -> None:
        """Discard what was given no name."""
        self._file.close()
        with contextlib.suppress(OSError):
            self._part.unlink()


def clean(name: str) -> str:
    """A file name of what a client calls its file: its last part, without characters that mean something elsewhere.

    Raises:
        ApiError: Nothing is left.
    """
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rpartition("/")[2]
    plain = _WRONG.sub("_", last).strip().lstrip(".")
    stem, ending = os.path.splitext(plain)
    plain = stem[: LONGEST_NAME - len(ending[:20])] + ending[:20]
    if not plain or len(plain.encode()) > 250:
        raise ApiError("bad_request", f"{name[:80]!r} is no name of a file")
    return plain


def _inside(subfolder: str, filename: str) -> PurePosixPath:
    """The path of a file in its root, from what a client sent."""
    whole = f"{subfolder}/{filename}" if subfolder else filename
    path = PurePosixPath(whole.replace("\\", "/"))
    wrong = "\0" in whole or len(whole) > 2000 or not filename or filename.startswith("/") or path.is_absolute()
    if wrong or not path.parts or any(part.startswith(".") for part in path.parts):
        raise ApiError("bad_request", f"{whole[:80]!r} is no path inside the folders of this server")
    return path


@contextlib.contextmanager
def _picture(file: IO[bytes]) -> Iterator[PIL.Image.Image]:
    """Open a picture that a stranger made."""
    import PIL.Image

    file.seek(0)
    if not type_of(file.read(HEAD)).startswith("image/"):
        raise ApiError("bad_request", "the file is no picture: PNG, JPEG or WebP")
    file.seek(0)
    try:
        with warnings_as("error", PIL.Image.DecompressionBombWarning), PIL.Image.open(file) as picture:
            picture.load()
            yield picture
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        raise ApiError("too_large", "the picture would unpack to more pixels than are taken here") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ApiError("bad_request", f"the picture cannot be read: {str(error)[:100]}") from None
