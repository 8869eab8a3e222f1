"""Memory, disk and the keys being computed, as one: what the executor asks before it computes anything."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from graphengine.cache.disk import DiskStore
from graphengine.cache.flight import Flight, Wanter
from graphengine.cache.memory import NOTHING, Entry, Memory
from graphengine.errors import Cancelled, Exhausted, Lost, Spoiled, as_exception, lacks_memory
from graphengine.values.checksum import twin_of

WORTH_WRITING = 0.002
"""Seconds; what took less to compute is computed again sooner than read from a disk."""

class Store:
    """Single flight over memory and disk.

    A key being computed is reserved, whoever else needs it joins. `reserve`, `land` and `leave` are the whole
    interface to reservations; here they serve the threads of one process.
    """

    def __init__(self, memory: int = 2 << 30, disk: DiskStore | None = None) -> None:
        self.memory = Memory(memory)
        self.disk = disk
        self.flights: dict[bytes, Flight] = {}
        self.lock: threading.Lock = self.memory.lock

    @property
    def persistent(self) -> bool:
        """Whether values may be found that are not in memory."""
        return self.disk is not None

    def peek(self, key: bytes) -> Entry | None:
        """A value that is in memory."""
        entry = self.memory.entries.get(key)
        if entry is not None:
            self.memory.touch(entry)
        return entry

    def renew(self, key: bytes, entry: Entry) -> Entry | None:
        """Put a copy in a remembered value's place, which nobody holds; forget the value if somebody has changed it."""
        twin = entry if entry.sum is None else Entry(twin_of(entry.value), entry.made, entry.cost)
        sound = entry.sound
        with self.lock:
            if self.memory.entries.get(key) is entry:
                self.memory.drop(key)
                if sound:
                    self.memory.put(key, twin)
        return twin if sound else None

    def find(self, key: bytes) -> tuple[Entry, bool] | None:
        """A remembered value and whether it came from the disk."""
        entry = self.memory.get(key)
        if entry is not None:
            return entry, False
        if self.disk is not None and (entry := self.disk.get(key)) is not None:
            with self.lock:
                self.memory.put(key, entry)
            return entry, True
        return None

    def reserve(self, key: bytes, who: Wanter, task: Any) -> Entry | Flight | None:
        """A value that came meanwhile; or a new flight, which the caller must compute and `land`; or None: somebody
        computes it already, and `who.landed(task, ...)` is called when that ends."""
        with self.lock:
            entry = self.memory.entries.get(key)
            if entry is not None:
                self.memory.touch(entry)
                return entry
            flight = self.flights.get(key)
            if flight is None:
                flight = self.flights[key] = Flight(key, who, task)
                return flight
            flight.join(who, task)
            return None

    def land(
        self, flight: Flight, outcome: Any, made: Mapping[str, Any] = NOTHING, cost: float = 0.0, keep: str = "disk"
    ) -> Entry | BaseException:
        """End a flight with a value or an exception. Values are remembered, exceptions go to who waits now. What it
        gives after it has landed is not."""
        key = flight.key
        try:
            result = outcome if isinstance(outcome, BaseException) else Entry(outcome, made, cost)
        except BaseException as error:  # its size cannot be told: who waits must not wait for ever
            result = as_exception(error)
        if key is None:
            flight.has_landed = True
            return result
        with self.lock:
            if flight.has_landed:
                return result
            flight.has_landed = True
            if keep != "never" and type(result) is Entry:
                self.memory.put(key, result)
            del self.flights[key]
        if flight.joined:
            told = result
            # A cancellation, Ctrl-C or a lack of memory is not the node's failure: another takes over.
            lacking = lacks_memory(result) or isinstance(result, Exhausted | Spoiled)
            if lacking or isinstance(result, Cancelled) or not isinstance(result, Entry | Exception):
                told = Lost("who computed it was cancelled or ran out of memory")
            for who, task in flight.joined:
                who.landed(task, told)
        if cost >= WORTH_WRITING and keep == "disk" and self.disk is not None and type(result) is Entry:
            self.disk.put(key, result)
        return result

    def leave(self, key: bytes, who: Wanter) -> None:
        """No longer want a key; when the last has left, its computation is cancelled."""
        with self.lock:
            flight = self.flights.get(key)
            if flight is not None:
                flight.leave(who)

    def clear(self) -> None:
        """Forget all values, in memory and on disk."""
        self.memory.clear()
        if self.disk is not None:
            self.disk.clear()
