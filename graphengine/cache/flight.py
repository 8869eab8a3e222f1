"""A key that is being computed, and all who want it."""

from __future__ import annotations

import logging
from typing import Any, Protocol


class Wanter(Protocol):
    """Who wants a key: a run, which knows it by a task of its own."""

    def landed(self, task: Any, outcome: Any) -> None:
        """The computation that the task joined has ended, with an `Entry` or an exception."""

    @property
    def watching(self) -> bool:
        """Whether it does anything with what it is told."""

    def told(self, task: Any, kind: str, facts: dict[str, Any]) -> None:
        """The computation goes on: progress, a preview."""


class Flight:
    """A computation under way. It belongs to all who want it and is cancelled when the last of them has left.

    Attributes:
        wanted_by: Who wants it, each with its own task.
        joined: Who is to be told when it has ended: all but the one who computes it.
        has_landed: It has ended; what it is said to have given later is taken by nobody.
    """

    __slots__ = ("_first", "_more", "cancelled", "has_landed", "joined", "key")

    def __init__(self, key: bytes | None, who: Wanter, task: Any) -> None:
        self.key = key
        self.cancelled = self.has_landed = False
        self._first: tuple[Wanter, Any] | None = (who, task)  # most are wanted by one: no more is made for them
        self._more: dict[Wanter, Any] | None = None
        self.joined: list[tuple[Wanter, Any]] | None = None

    @property
    def wanted_by(self) -> dict[Wanter, Any]:
        return dict(() if self._first is None else (self._first,)) | (self._more or {})

    def join(self, who: Wanter, task: Any) -> None:
        """Somebody else waits for it, and, unless it was cancelled already, wants it to go on."""
        self.joined = [*(self.joined or ()), (who, task)]
        if not self.cancelled:
            self._more = {**(self._more or {}), who: task}

    def leave(self, who: Wanter) -> None:
        """Somebody no longer wants it."""
        if self._first is not None and self._first[0] is who:
            self._first = None
        if self._more is not None:
            self._more.pop(who, None)
        self.cancelled = self.cancelled or not self.wanted_by

    def tell(self, kind: str, facts: dict[str, Any]) -> None:
        """Tell everybody who wants it."""
        for who, task in self.wanted_by.items():
            try:
                who.told(task, kind, facts)
            except Exception:  # one who listens badly must not fail what all want
                logging.getLogger("graphengine").exception("a listener failed on %s", kind)
