"""How many calls of one group a device computes together: learnt from how long they took, and from lack of memory."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

FIRST = 4
"""Calls that are tried together before anything is known."""
MOST = 32
WORTH = 0.95
"""A larger batch must take at most this part of the seconds per call of the smaller one."""
GROUPS = 4096
"""Groups that are remembered: every size, model and number of steps is one."""


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
        """How many calls may go together now."""
        known = self._known.get((group, device))
        return min(self.most, FIRST if known is None else min(known.limit, known.ceiling))

    def took(self, group: Hashable, device: str, count: int, seconds: float) -> None:
        """So many calls together took so many seconds for each of them."""
        known = self._of(group, device)
        before = known.seconds.get(count)
        known.seconds[count] = seconds if before is None else min(before, seconds)
        smaller = [size for size in known.seconds if size < count]
        if count < known.limit or (smaller and known.seconds[count] > WORTH * known.seconds[max(smaller)]):
            return  # no larger one is worth a try
        known.limit = max(known.limit, 2 * count)

    def seconds(self, group: Hashable, device: str) -> float | None:
        """What a call takes when as many go together as pays; None where none has been computed."""
        known = self._known.get((group, device))
        return min(known.seconds.values(), default=None) if known is not None else None

    def _of(self, group: Hashable, device: str) -> _Known:
        if len(self._known) >= GROUPS and (group, device) not in self._known:
            del self._known[next(iter(self._known))]  # the oldest
        return self._known.setdefault((group, device), _Known())

    def lacked(self, group: Hashable, device: str, count: int) -> None:
        """So many calls together did not fit into the device's memory."""
        known = self._of(group, device)
        known.ceiling = known.limit = max(1, min(known.ceiling, count - 1, (count + 1) // 2))
