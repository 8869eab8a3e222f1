"""Values in memory, within a budget of bytes; what is dear to recompute for its size stays longest."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from typing import Any

from graphengine.values.checksum import checksum, measure

OVERHEAD = 200
"""Bytes that an entry takes besides its value."""

NOTHING: Mapping[str, Any] = {}


_FLAT = {kind: size + OVERHEAD for kind, size in ((int, 32), (float, 24), (bool, 28), (type(None), 16))}


class Entry:
    """A remembered value, how it was made, what it cost in seconds, and what it was when it landed.

    Attributes:
        size: Bytes that it keeps in memory; beyond any budget where something in it does not show its size.
        sum: Its checksum; None where nothing in it can be changed.
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
        """Whether the value is what it was when it landed."""
        return self.sum is None or checksum(self.value) == self.sum


class Memory:
    """Key to value under a byte budget.

    Eviction is GreedyDual-Size (Cao and Irani 1997): an entry's priority is its cost per byte above a floor that
    rises to the priority of what was evicted last, so that even dear values age. Entries are sorted only when the
    budget is exceeded, and then a tenth of it is made free, so that an insertion costs O(log n) on average.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self.entries: dict[bytes, Entry] = {}
        self.floor = 0.0
        self.lock = threading.Lock()

    def get(self, key: bytes) -> Entry | None:
        entry = self.entries.get(key)
        if entry is not None:
            self.touch(entry)
        return entry

    def touch(self, entry: Entry) -> None:
        """An entry was used."""
        entry.priority = self.floor + entry.cost / entry.size

    def put(self, key: bytes, entry: Entry) -> None:
        """Remember; the caller holds the lock. A value larger than the whole budget is not."""
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
        """Forget a value; the caller holds the lock."""
        self.used -= self.entries.pop(key).size

    def _evict(self, target: int) -> None:
        for key, entry in sorted(self.entries.items(), key=lambda item: item[1].priority):
            if self.used <= target:
                break
            del self.entries[key]
            self.used -= entry.size
            self.floor = entry.priority

    def clear(self) -> None:
        with self.lock:
            self.entries.clear()
            self.used, self.floor = 0, 0.0

    def resize(self, budget: int) -> None:
        with self.lock:
            self.budget = budget
            if self.used > budget:
                self._evict(budget)
