"""Values in memory, within a budget of bytes; what is dear to recompute for its size stays longest."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Mapping
from typing import Any

from graphengine.types import socket_type

OVERHEAD = 200
"""Bytes that an entry takes besides its value."""

NOTHING: Mapping[str, Any] = {}


_FLAT = {int: 32, float: 24, bool: 28, type(None): 16}


class Entry:
    """A remembered value, how it was made, and what it cost in seconds."""

    __slots__ = ("cost", "made", "priority", "size", "value")

    def __init__(self, value: Any, made: Mapping[str, Any] = NOTHING, cost: float = 0.0) -> None:
        self.value, self.made, self.cost, self.priority = value, made, cost, 0.0
        self.size = (_FLAT.get(type(value)) or size_of(value)) + OVERHEAD


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
            self.used -= self.entries.pop(key).size
        entry.priority = self.floor + entry.cost / entry.size
        self.entries[key] = entry
        self.used += entry.size
        if self.used > self.budget:
            self._evict(int(self.budget * 0.9))

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


def size_of(value: Any) -> int:
    """Bytes that a value takes: as its type tells, else as Python does, items of lists and tuples counted."""
    kind = type(value)
    flat = _FLAT.get(kind)
    if flat is not None:
        return flat
    if kind is str or kind is bytes:
        return sys.getsizeof(value)
    registered = socket_type(kind)
    if registered is not None and registered.size is not None:
        with contextlib.suppress(Exception):  # a wrong size is no reason to lose a value
            return registered.size(value)
    if isinstance(value, list | tuple):
        return sys.getsizeof(value) + sum(map(size_of, value))
    if isinstance(value, dict):
        return sys.getsizeof(value) + sum(size_of(k) + size_of(v) for k, v in value.items())
    return int(getattr(value, "nbytes", 0)) or sys.getsizeof(value)
