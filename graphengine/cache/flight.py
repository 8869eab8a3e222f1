"""Keys that are being computed, each shared by all runs that want its value (single flight)."""

from __future__ import annotations

import logging
from typing import Any, Protocol


class Wanter(Protocol):
    """A run that wants a key's value, with a task of its own for it."""

    def landed(self, task: Any, outcome: Any) -> None:
        """Take the outcome of a computation that the task has joined: an `Entry` or an exception."""

    @property
    def watching(self) -> bool:
        """Whether it uses the reports that `told` passes to it."""

    def told(self, task: Any, kind: str, facts: dict[str, Any]) -> None:
        """Take a report of a computation that goes on: progress, a preview."""


class Flight:
    """A computation of one key. It belongs to all runs that want it, and is cancelled when the last of them leaves.

    Attributes:
        wanted_by: The runs that want it, each with its own task.
        joined: The runs to notify when it ends: all except the one that computes it.
        has_landed: It has ended; a later outcome is ignored.
    """

    __slots__ = ("_first", "_more", "cancelled", "has_landed", "joined", "key")

    def __init__(self, key: bytes | None, who: Wanter, task: Any) -> None:
        self.key = key
        self.cancelled = self.has_landed = False
        self._first: tuple[Wanter, Any] | None = (who, task)  # most flights have one wanter, and need no dictionary
        self._more: dict[Wanter, Any] | None = None
        self.joined: list[tuple[Wanter, Any]] | None = None

    @property
    def wanted_by(self) -> dict[Wanter, Any]:
        return dict(() if self._first is None else (self._first,)) | (self._more or {})

    def join(self, who: Wanter, task: Any) -> None:
        """Add a run that waits for the outcome; it keeps the flight alive unless that is cancelled already."""
        self.joined = [*(self.joined or ()), (who, task)]
        if not self.cancelled:
            self._more = {**(self._more or {}), who: task}

    def leave(self, who: Wanter) -> None:
        """Remove a run that no longer wants it; without any, the flight is cancelled."""
        if self._first is not None and self._first[0] is who:
            self._first = None
        if self._more is not None:
            self._more.pop(who, None)
        self.cancelled = self.cancelled or not self.wanted_by

    def tell(self, kind: str, facts: dict[str, Any]) -> None:
        """Pass a report to every run that wants it."""
        for who, task in self.wanted_by.items():
            try:
                who.told(task, kind, facts)
            except Exception:  # a failing listener of one run must not fail the others
                logging.getLogger("graphengine").exception("a listener failed on %s", kind)
