"""Batch limits: how many calls of a group a device computes together, learnt from durations and lacks of memory."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

FIRST = 4
"""The batch limit of a group of which nothing is known."""
MOST = 32
"""The largest batch limit."""
WORTH = 0.95
"""A larger batch pays if a call of it takes at most this part of the seconds of a call of a smaller batch."""
GROUPS = 4096
"""Groups that are remembered: each size, model and number of steps is a group."""


@dataclass
class _Known:
    limit: int = FIRST
    ceiling: int = MOST
    seconds: dict[int, float] = field(default_factory=dict)


class Limits:
    """Batch limits by group and kind of device."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._known: dict[tuple[Hashable, str], _Known] = {}

    def of(self, group: Hashable, device: str) -> int:
        """How many calls of a group may be computed together on a device."""
        known = self._known.get((group, device))
        return min(self.most, FIRST if known is None else min(known.limit, known.ceiling))

    def took(self, group: Hashable, device: str, count: int, seconds: float) -> None:
        """Note that each of `count` calls that were computed together took so many seconds."""
        known = self._of(group, device)
        before = known.seconds.get(count)
        known.seconds[count] = seconds if before is None else min(before, seconds)
        smaller = [size for size in known.seconds if size < count]
        if count < known.limit or (smaller and known.seconds[count] > WORTH * known.seconds[max(smaller)]):
            return  # a larger batch would not pay
        known.limit = max(known.limit, 2 * count)

    def seconds(self, group: Hashable, device: str) -> float | None:
        """The seconds of a call in the best batch so far; None if no call of the group was computed."""
        known = self._known.get((group, device))
        return min(known.seconds.values(), default=None) if known is not None else None

    def _of(self, group: Hashable, device: str) -> _Known:
        if len(self._known) >= GROUPS and (group, device) not in self._known:
            del self._known[next(iter(self._known))]  # the oldest
        return self._known.setdefault((group, device), _Known())

    def lacked(self, group: Hashable, device: str, count: int) -> None:
        """Note that so many calls together did not fit into the device's memory."""
        known = self._of(group, device)
        known.ceiling = known.limit = max(1, min(known.ceiling, count - 1, (count + 1) // 2))
