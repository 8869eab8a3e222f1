"""Files and settings that the editor keeps for each user.

A name such as `workflows/portraits/anna.json` is a file of the server's workflows folder, `portraits/anna.json` there:
it is at once a workflow that can be run by name. Only admins have that folder; other users have one each, as all their
other files (`user.css`, bookmarks) are in a folder of the server's state.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from graphengine.errors import FileError
from graphengine.server.problems import ApiError
from graphengine.server.tokens import Caller
from graphengine.system.folders import state_folder
from graphengine.system.opening import Outside, check_inside, open_file, rooted, write_file
from graphengine.system.private import make_private, write_private

WORKFLOWS = "workflows"
"""The folder of users' files whose names are workflows."""
LARGEST = 32 << 20
"""The most bytes of a file."""
MOST_FILES = 10_000
"""The most files that are listed, and that a user may have."""
DEEPEST = 12
"""The most folders in each other of a name."""
LARGEST_SETTINGS = 1 << 20
"""The most bytes of a user's settings."""


@dataclass(frozen=True, slots=True)
class UserFile:
    """A file of a user.

    Attributes:
        name: With `/` between folders, as `workflows/anna.json`.
        size: In bytes.
        modified: When it was written, in seconds since 1970.
    """

    name: str
    size: int
    modified: float


class UserFiles:
    """The files and settings of all users. Every method is safe to call from any thread.

    Args:
        folder: The folder of the state, made when it is needed.
        workflows: The folder of admins' workflows.
    """

    def __init__(self, folder: Path, workflows: Path) -> None:
        self.folder, self.workflows = folder, workflows
        self._lock = threading.RLock()  # files are few and written by hand: one writer at a time

    # --- settings -----------------------------------------------------------------------------------------------------

    def settings(self, caller: Caller) -> dict[str, Any]:
        """The settings that a user has changed, by name."""
        try:
            with open_file(self._own(caller) / "settings.json") as file:
                found = json.loads(file.read())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise FileError(f"the settings in {self._own(caller)} cannot be read: {error}") from None
        return found if isinstance(found, dict) else {}

    def change_settings(self, caller: Caller, changes: Mapping[str, Any]) -> None:
        """Keep settings of a user; others stay as they are."""
        with self._lock:
            content = json.dumps(self.settings(caller) | dict(changes), indent=1).encode()
            if len(content) > LARGEST_SETTINGS:
                raise ApiError("too_large", f"the settings of a user have at most {LARGEST_SETTINGS:,} bytes")
            with _writing(self._own(caller)):
                make_private(self._own(caller), state_folder())
                write_private(self._own(caller) / "settings.json", content)

    # --- files --------------------------------------------------------------------------------------------------------

    def files(self, caller: Caller, folder: str) -> list[UserFile]:
        """The files in a folder and the folders in it, by name.

        Raises:
            ApiError: There is no such folder.
        """
        place, root = self.place(caller, folder) if folder else (self._own(caller) / "files", None)
        found: list[UserFile] = []
        if place.is_dir() and (root is None or _inside(place, root)):
            for here, folders, names in os.walk(place):
                folders[:] = sorted(one for one in folders if not one.startswith("."))
                for name in sorted(one for one in names if not one.startswith(".")):
                    with contextlib.suppress(OSError):  # removed meanwhile
                        file = Path(here, name)
                        stat = file.stat()
                        inner = file.relative_to(place).as_posix()
                        found.append(UserFile(f"{folder}/{inner}" if folder else inner, stat.st_size, stat.st_mtime))
                if len(found) > MOST_FILES:
                    break
        elif folder and folder != WORKFLOWS:
            raise ApiError("not_found", f"there is no folder {folder[:80]!r}")
        return found[:MOST_FILES]

    def read(self, caller: Caller, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            ApiError: There is none.
        """
        place, root = self.place(caller, name)
        try:
            with open_file(rooted(place, [root])) as file:
                if os.fstat(file.fileno()).st_size > LARGEST:
                    raise ApiError("too_large", f"{name[:80]} has more than {LARGEST:,} bytes")
                return file.read()
        except OSError:
            raise ApiError("not_found", f"there is no file {name[:80]!r}") from None

    def facts(self, caller: Caller, name: str) -> UserFile:
        """The size and time of a file.

        Raises:
            ApiError: There is none.
        """
        place, root = self.place(caller, name)
        if not place.is_file() or not _inside(place, root):
            raise ApiError("not_found", f"there is no file {name[:80]!r}")
        stat = place.stat()
        return UserFile(name, stat.st_size, stat.st_mtime)

    def write(self, caller: Caller, name: str, content: bytes, overwrite: bool) -> UserFile:
        """Write a file, whole or not at all.

        Args:
            overwrite: Whether it may replace one of that name.

        Raises:
            ApiError: There is one already.
        """
        place, root = self.place(caller, name)
        with self._lock, _writing(root):
            if os.path.lexists(place):
                if not overwrite:
                    raise ApiError("conflict", f"there is a file {name[:80]!r} already")
            elif len(self.files(caller, name.partition("/")[0] if "/" in name else "")) >= MOST_FILES:
                raise ApiError("conflict", f"there are {MOST_FILES:,} files already; remove some first")
            self._make_folder(place.parent, root)
            write_file(rooted(place, [root]), content)
        return self.facts(caller, name)

    def delete(self, caller: Caller, name: str) -> None:
        """Remove a file.

        Raises:
            ApiError: There is none.
        """
        place, root = self.place(caller, name)
        with self._lock, _writing(root):
            self.facts(caller, name)
            place.unlink()

    def move(self, caller: Caller, name: str, to: str, overwrite: bool) -> UserFile:
        """Give a file another name.

        Args:
            overwrite: Whether it may replace one of that name.

        Raises:
            ApiError: There is none, or one of the new name already.
        """
        with self._lock:
            place, root = self.place(caller, name)
            target, target_root = self.place(caller, to)
            self.facts(caller, name)
            if os.path.lexists(target) and not overwrite:
                raise ApiError("conflict", f"there is a file {to[:80]!r} already")
            with _writing(target_root):
                self._make_folder(target.parent, target_root)
                if root == target_root:
                    place.replace(target)
                    return self.facts(caller, to)
            made = self.write(caller, to, self.read(caller, name), overwrite)
            self.delete(caller, name)
            return made

    def _own(self, caller: Caller) -> Path:
        return self.folder / hashlib.sha256(caller.user.encode()).hexdigest()[:32]

    def place(self, caller: Caller, name: str) -> tuple[Path, Path]:
        """Where a file or folder of this name lies, and the folder that it may not leave."""
        parts = checked(name)
        if parts[0] == WORKFLOWS and caller.admin and not any(part.startswith(".") for part in parts):
            return self.workflows.joinpath(*parts[1:]), self.workflows
        root = self._own(caller) / "files"
        return root.joinpath(*parts), root

    def _make_folder(self, folder: Path, root: Path) -> None:
        """Make the folder of a file; it may not lead out of the root."""
        make_private(root, state_folder() if root.is_relative_to(state_folder()) else None)
        if not _inside(folder, root):
            raise ApiError("forbidden", "this name leads out of the folder of your files")
        folder.mkdir(parents=True, exist_ok=True)


def checked(name: str) -> tuple[str, ...]:
    """The parts of a name.

    Raises:
        ApiError: No file may have that name.
    """
    parts = PurePosixPath(name).parts
    wrong = (
        not parts or name.startswith("/") or len(name) > 400 or len(parts) > DEEPEST
        or any(part in ("..", "~") or len(part.encode(errors="replace")) > 200 for part in parts)
        or any(ord(char) < 32 or char in '\\:*?"<>|\x7f' or 0xD800 <= ord(char) <= 0xDFFF for char in name)
    )  # fmt: skip
    if wrong:
        raise ApiError("bad_request", f"{ascii(name)[:80]} cannot be the name of a file here")
    return parts


def _inside(path: Path, root: Path) -> bool:
    try:
        check_inside(path, [root], links=False)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except Outside:
        raise ApiError("forbidden", "this name leads out of the folder of your files") from None
    except IsADirectoryError:
        raise ApiError("conflict", "a folder has this name") from None
    except (NotADirectoryError, FileExistsError):
        raise ApiError("conflict", "a file stands where a folder of this name would be") from None
    except OSError as error:
        raise FileError(f"{folder} cannot be written: {error.strerror or error}") from None
