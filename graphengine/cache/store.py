"""`Store`: memory, disk and the keys that are being computed, as one; a run asks it before it computes anything."""

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
"""Seconds; a value that took less to compute is not written, since computing it again is faster than reading it."""


class Store:
    """Values in memory and on disk, with single flight: a key is computed once, however many runs of a process need it.

    A key that is being computed is reserved, and other runs that need it join. `reserve`, `land` and `leave` are the
    interface to reservations.

    Args:
        memory: The budget of values in memory, in bytes.
        disk: The disk store; None: values are kept in memory only.
    """

    def __init__(self, memory: int = 2 << 30, disk: DiskStore | None = None) -> None:
        self.memory = Memory(memory)
        self.disk = disk
        self.flights: dict[bytes, Flight] = {}
        self.lock: threading.Lock = self.memory.lock

    @property
    def persistent(self) -> bool:
        """Whether there is a disk store."""
        return self.disk is not None

    def peek(self, key: bytes) -> Entry | None:
        """The entry of a key in memory; None if there is none."""
        entry = self.memory.entries.get(key)
        if entry is not None:
            self.memory.touch(entry)
        return entry

    def renew(self, key: bytes, entry: Entry) -> Entry | None:
        """Replace a remembered value by a fresh copy, which nobody else holds; returns the copy's entry.

        If the value was changed in place, it is forgotten, and None is returned.
        """
        twin = entry if entry.sum is None else Entry(twin_of(entry.value), entry.made, entry.cost)
        sound = entry.sound
        with self.lock:
            if self.memory.entries.get(key) is entry:
                self.memory.drop(key)
                if sound:
                    self.memory.put(key, twin)
        return twin if sound else None

    def find(self, key: bytes) -> tuple[Entry, bool] | None:
        """The entry of a key, and whether it came from the disk; None if the key is not remembered."""
        entry = self.memory.get(key)
        if entry is not None:
            return entry, False
        if self.disk is not None and (entry := self.disk.get(key)) is not None:
            with self.lock:
                self.memory.put(key, entry)
            return entry, True
        return None

    def reserve(self, key: bytes, who: Wanter, task: Any) -> Entry | Flight | None:
        """Reserve a key for computing it.

        Returns:
            An `Entry` if the value is in memory by now; a new `Flight`, which the caller must compute and `land`; or
            None if another run computes it already: `who.landed(task, outcome)` is then called when that ends.
        """
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
        """End a flight with a value or an exception, and notify the runs that joined it.

        Args:
            flight: The flight; if it has landed already, the outcome is ignored.
            outcome: The value, or the exception that computing it raised.
            made: How the value was made.
            cost: The seconds that it took.
            keep: Where to remember it: `disk` (and memory), `memory` or `never`.
        """
        key = flight.key
        try:
            result = outcome if isinstance(outcome, BaseException) else Entry(outcome, made, cost)
        except BaseException as error:  # measuring the value failed; runs that wait must be notified all the same
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
            shared = result
            # A cancellation, Ctrl-C or a lack of memory is not the node's failure: another run computes the key.
            lacking = lacks_memory(result) or isinstance(result, Exhausted | Spoiled)
            if lacking or isinstance(result, Cancelled) or not isinstance(result, Entry | Exception):
                shared = Lost("the run that computed it was cancelled or ran out of memory")
            for who, task in flight.joined:
                who.landed(task, shared)
        if cost >= WORTH_WRITING and keep == "disk" and self.disk is not None and type(result) is Entry:
            self.disk.put(key, result)
        return result

    def leave(self, key: bytes, who: Wanter) -> None:
        """Withdraw a run from a key; when the last run has left, the computation is cancelled."""
        with self.lock:
            flight = self.flights.get(key)
            if flight is not None:
                flight.leave(who)

    def clear(self) -> None:
        """Remove all values, in memory and on disk."""
        self.memory.clear()
        if self.disk is not None:
            self.disk.clear()
