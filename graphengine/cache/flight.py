"""A key that is being computed, and all who want it."""

from __future__ import annotations

from typing import Any, Protocol


class Wanter(Protocol):
    """Who wants a key: a run, which knows it by a task of its own."""

    def landed(self, task: Any, outcome: Any) -> None:
        """The computation that the task joined has ended, with an `Entry` or an exception."""

    def told(self, task: Any, kind: str, facts: dict[str, Any]) -> None:
        """The computation goes on: progress, a preview."""


class Flight:
    """A computation under way. It belongs to all who want it and is cancelled when the last of them has left."""

    __slots__ = ("cancelled", "joined", "key", "wanted_by")

    def __init__(self, key: bytes | None, who: Wanter, task: Any) -> None:
        self.key = key
        self.cancelled = False
        self.wanted_by: dict[Wanter, Any] = {who: task}
        self.joined: list[tuple[Wanter, Any]] = []

    def tell(self, kind: str, facts: dict[str, Any]) -> None:
        """Tell everybody who wants it."""
        for who, task in list(self.wanted_by.items()):
            who.told(task, kind, facts)
