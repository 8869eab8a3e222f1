"""The memory store: values by key within a budget of bytes; values that cost much time for their size stay longest."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from typing import Any

from graphengine.values.checksum import checksum, measure

OVERHEAD = 200
"""The bytes that an entry takes besides its value."""

NOTHING: Mapping[str, Any] = {}


_FLAT = {kind: size + OVERHEAD for kind, size in ((int, 32), (float, 24), (bool, 28), (type(None), 16))}


class Entry:
    """A value to remember, with how it was made, what it cost, and its checksum.

    Attributes:
        value: The value.
        made: How it was made (device, threads, ...).
        cost: The seconds that computing it took.
        size: The bytes that it keeps in memory; larger than any budget if a part of it does not show its size.
        sum: Its checksum; None if nothing in it can be changed.
    """

    __slots__ = ("cost", "made", "priority", "size", "sum", "value")

    def __init__(self, value: Any, made: Mapping[str, Any] = NOTHING, cost: float = 0.0) -> None:
        self.value, self.made, self.cost, self.priority = value, made, cost, 0.0
        size = _FLAT.get(type(value))
        if size is not None:
            self.size, self.sum = size, None
        else:
            content = measure(value)
            self.size, self.sum = sys.maxsize if content.unseen else content.size + OVERHEAD, content.sum

    @property
    def sound(self) -> bool:
        """Whether the value is unchanged since the entry was made."""
        return self.sum is None or checksum(self.value) == self.sum


class Memory:
    """Values by key within a budget of bytes.

    Eviction is GreedyDual-Size (Cao and Irani 1997): an entry's priority is its cost per byte plus a floor, which rises
    to the priority of the entry that was evicted last, so that expensive values age too. Entries are sorted only when
    the budget is exceeded; then a tenth of it is freed, so that an insertion costs O(log n) on average.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self.entries: dict[bytes, Entry] = {}
        self.floor = 0.0
        self.lock = threading.Lock()

    def get(self, key: bytes) -> Entry | None:
        """Find an entry, which counts as a use of it."""
        entry = self.entries.get(key)
        if entry is not None:
            self.touch(entry)
        return entry

    def touch(self, entry: Entry) -> None:
        """Raise an entry's priority, because it was used."""
        entry.priority = self.floor + entry.cost / entry.size

    def put(self, key: bytes, entry: Entry) -> None:
        """Store an entry unless it is larger than the whole budget; the caller holds the lock."""
        if entry.size > self.budget:
            return
        if key in self.entries:
            self.drop(key)
        entry.priority = self.floor + entry.cost / entry.size
        self.entries[key] = entry
        self.used += entry.size
        if self.used > self.budget:
            self._evict(int(self.budget * 0.9))

    def drop(self, key: bytes) -> None:
        """Remove a value; the caller holds the lock."""
        self.used -= self.entries.pop(key).size

    def _evict(self, target: int) -> None:
        for key, entry in sorted(self.entries.items(), key=lambda item: item[1].priority):
            if self.used <= target:
                break
            del self.entries[key]
            self.used -= entry.size
            self.floor = entry.priority

    def clear(self) -> None:
        """Remove all entries."""
        with self.lock:
            self.entries.clear()
            self.used, self.floor = 0, 0.0

    def resize(self, budget: int) -> None:
        """Set the budget; entries that no longer fit are evicted."""
        with self.lock:
            self.budget = budget
            if self.used > budget:
                self._evict(budget)
