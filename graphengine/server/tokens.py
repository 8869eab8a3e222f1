"""Tokens of the server's users: made once, kept as hashes in a file that only its owner can read."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from graphengine.errors import FileError, GraphEngineError, Problem, WorkflowError, nearest
from graphengine.system.folders import state_folder
from graphengine.system.opening import read_file
from graphengine.system.private import make_private, write_private

PREFIX = "ge_"
LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        user: The user whose jobs and files these are; '' where no tokens are needed.
        admin: May see and change what belongs to others too, and pause the whole queue.
        read_only: May submit, upload and change nothing.
        workflows: The named workflows of which alone jobs may be made; None for any graph.
    """

    user: str
    admin: bool = False
    read_only: bool = False
    workflows: tuple[str, ...] | None = None

    @property
    def scope(self) -> str | None:
        """The user whose jobs are shown; None for those of all."""
        return None if self.admin else self.user


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is kept: its user, the SHA-256 of its text, its rights, and when it was made."""

    name: str
    hash: str
    admin: bool
    created: float
    read_only: bool = False
    workflows: tuple[str, ...] | None = None


def token_file() -> Path:
    """The file of tokens that is read if none is named."""
    return state_folder() / "server" / "tokens.json"


class Tokens:
    """The tokens in a file, read again when it changes.

    Args:
        file: It need not exist.

    Raises:
        FileError: It is no file of tokens; every method raises this.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._state: tuple[int, int, int] | None = None
        self._tokens: list[Token] = []
        self.all()

    def all(self) -> list[Token]:
        """All tokens."""
        with self._lock:
            try:
                stat = self.file.stat()
            except FileNotFoundError:
                self._state, self._tokens = None, []
                return []
            except OSError as error:
                raise FileError(f"{self.file} cannot be read: {error.strerror or error}") from None
            state = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if state != self._state:
                self._tokens = _read(self.file)
                self._state = state
            return self._tokens

    def caller(self, text: str) -> Caller | None:
        """The user of a token; None if nobody has it. Takes as long for a wrong one as for a right one."""
        given, found = _hash(text), None
        for token in self.all():
            if hmac.compare_digest(token.hash, given):
                found = Caller(token.name, token.admin, token.read_only, token.workflows)
        return found

    def add(
        self, name: str, admin: bool = False, read_only: bool = False, workflows: Sequence[str] | None = None
    ) -> str:
        """Make a token; its text is returned, and kept nowhere.

        Args:
            admin, read_only, workflows: As those of `Caller`.

        Raises:
            WorkflowError: The name is wrong, or has a token already.
        """
        if not name or len(name) > LONGEST_NAME or not all(c.isalnum() or c in "-_.@" for c in name):
            what = f"{name!r:.80} cannot be a user's name"
            raise WorkflowError(Problem("bad name", what, hint=f"letters, digits and -_.@, at most {LONGEST_NAME}"))
        known = self.all()
        if any(token.name == name for token in known):
            raise WorkflowError(Problem("bad name", f"{name} has a token already", hint="remove it first"))
        named = None if workflows is None else tuple(workflows)
        text = PREFIX + secrets.token_urlsafe(32)
        self._write([*known, Token(name, _hash(text), admin, time.time(), read_only, named)])
        return text

    def remove(self, name: str) -> None:
        """Take a user's token away.

        Raises:
            WorkflowError: The user has none.
        """
        known = self.all()
        names = [token.name for token in known]
        if name not in names:
            raise WorkflowError(Problem("bad name", f"{name!r:.80} has no token", nearest=nearest(name, names)))
        self._write([token for token in known if token.name != name])

    def _write(self, tokens: list[Token]) -> None:
        text = json.dumps({"version": 1, "tokens": [asdict(token) for token in tokens]}, indent=1)
        try:
            make_private(self.file.parent, state_folder())
            write_private(self.file, text.encode(), durable=True)
        except OSError as error:
            raise FileError(f"{self.file} cannot be written: {error.strerror or error}") from None


def _hash(text: str) -> str:
    # A token has 256 random bits: a slow hash, as passwords need, would protect nothing more.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _read(file: Path) -> list[Token]:
    try:
        data = json.loads(read_file(file))
        if data["version"] != 1:
            raise GraphEngineError(f"version {data['version']}")
        tokens = [Token(**token) for token in data["tokens"]]
        return [t if t.workflows is None else replace(t, workflows=tuple(t.workflows)) for t in tokens]
    except OSError as error:
        raise FileError(f"{file} cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError, GraphEngineError):
        raise FileError(f"{file} is no file of tokens; `graphengine serve token add NAME` makes one") from None
