"""Both ends of what would be a worker's pipe, inside one process."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Iterator

from graphengine.service.workers.wire import unpack


class InProcessPipe:
    """The connection of a worker whose process has no pipe: orders are put into it, what the worker tells comes out."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()

    # --- the worker's end ---------------------------------------------------------------------------------------------

    def send_bytes(self, data: bytes) -> None:
        """The worker tells something."""
        self._told.put(data)

    def recv_bytes(self) -> bytes:
        """The worker waits for an order.

        Raises:
            EOFError: The service has closed it.
        """
        data = self._orders.get()
        if data is None:
            raise EOFError
        return data

    def end(self, error: BaseException | None) -> None:
        """The worker has ended; what it tells from now on is heard by nobody."""
        self._told.put(error)

    # --- the service's end --------------------------------------------------------------------------------------------

    def order(self, data: bytes) -> None:
        """The service orders something."""
        self._orders.put(data)

    def close(self) -> None:
        """The service is done with the worker, and hears nothing more of it."""
        self._orders.put(None)
        self._told.put(None)

    def told(self, spacing: float = 0.0) -> Iterator[list[bytes]]:
        """What the worker tells, until it has ended: steps and previews in groups, the rest at once.

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
