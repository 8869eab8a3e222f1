"""A pipe between a service and a worker that are in one process: both of its ends."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Iterator

from graphengine.service.workers.wire import unpack


class InProcessPipe:
    """The connection to a worker without a process of its own: messages to it go in, its messages come out."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()

    # --- the worker's end ---------------------------------------------------------------------------------------------

    def send_bytes(self, data: bytes) -> None:
        """Send a message to the service; the worker calls this."""
        self._told.put(data)

    def recv_bytes(self) -> bytes:
        """Wait for a message of the service; the worker calls this.

        Raises:
            EOFError: The service has closed the pipe.
        """
        data = self._orders.get()
        if data is None:
            raise EOFError
        return data

    def end(self, error: BaseException | None) -> None:
        """Close the worker's end: later messages of it are dropped.

        Args:
            error: What the worker failed with, if it did.
        """
        self._told.put(error)

    # --- the service's end --------------------------------------------------------------------------------------------

    def order(self, data: bytes) -> None:
        """Send a message to the worker; the service calls this."""
        self._orders.put(data)

    def close(self) -> None:
        """Close the service's end: the worker reads the end of the pipe, and its messages are dropped."""
        self._orders.put(None)
        self._told.put(None)

    def told(self, spacing: float = 0.0) -> Iterator[list[bytes]]:
        """The messages of the worker until it has ended: steps and previews in groups, others at once.

        Args:
            spacing: Seconds between groups of steps and previews.
        """
        due, group = 0.0, list[bytes]()
        while True:
            with contextlib.suppress(queue.Empty):
                data = self._told.get(timeout=max(0.0, due - time.monotonic()) if group else None)
                if not isinstance(data, bytes):
                    break
                group.append(data)
                if time.monotonic() < due and unpack(data)[0]["op"] in ("progress", "preview"):
                    continue
            yield group
            due, group = time.monotonic() + spacing, []
        if group:
            yield group
        if data is not None:
            raise data
