"""The socket of a service, on which clients of this user ask what it is, what its jobs do, and follow events.

Jobs go through the queue's file; the socket, which only its owner may open, is for facts that are not worth a disk:
whether a service runs, which packs it has, progress and previews. Requests and answers are lines of JSON.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import socketserver
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from graphengine.events import Kind
from graphengine.service.jobs.job import JobEventKind
from graphengine.service.previews import preview_png
from graphengine.system.channel import Listener, is_closed

if TYPE_CHECKING:
    from graphengine.service.job_events import JobEvent

LONGEST_REQUEST = 100_000
"""The most bytes of a request, which is one line."""
CHECK_SECONDS = 1.0
"""Seconds without an event after which it is checked whether a watching client is still connected."""


class Announced(Protocol):
    """A service, as its socket sees it."""

    @property
    def queue(self) -> Any:
        """The queue whose jobs it runs."""

    @property
    def active(self) -> bool:
        """Whether it runs the queue's jobs, or stands by."""

    @property
    def backend(self) -> Any:
        """The backend that computes."""

    def doing(self) -> dict[int, dict[str, Any]]:
        """The activity of its jobs, by number."""

    def subscribe(
        self, listener: Callable[[JobEvent], None], previews: Callable[[int], bool] = ..., /
    ) -> Callable[[], None]:
        """Call a listener with every event of jobs; returns a function that ends that."""


class SocketServer:
    """The service's end of the socket.

    Args:
        service: The service whose state and events are told.
        facts: The service's identity.

    Raises:
        OSError: The socket cannot be made.
    """

    def __init__(self, service: Announced, facts: Mapping[str, Any]) -> None:
        self.service, self.facts = service, facts
        self._listener = Listener(service.queue.file, self.answer)
        threading.Thread(target=self._listener.serve_forever, name="graphengine-socket", daemon=True).start()

    def close(self) -> None:
        """Answer no more."""
        self._listener.shutdown()
        self._listener.server_close()

    def answer(self, client: socketserver.StreamRequestHandler) -> None:
        """Answer one client, whose first line is a request."""
        asked = json.loads(client.rfile.readline(LONGEST_REQUEST))
        if not isinstance(asked, dict):
            return
        if asked.get("op") == "hello":
            active = self.service.active
            workers = [asdict(status) for status in self.service.backend.status()] if active else []
            _write(client, {**self.facts, "active": active, "pid": os.getpid(), "workers": workers})
        elif asked.get("op") == "jobs":
            doing = self.service.doing() if self.service.active else {}
            _write(client, {str(number): facts for number, facts in doing.items()})
        elif asked.get("op") == "watch":
            self._watch(client, asked.get("job"), asked.get("kinds"))

    def _watch(self, client: socketserver.StreamRequestHandler, job: int | None, kinds: Sequence[str] | None) -> None:
        events: queue.Queue[JobEvent] = queue.Queue(10_000)

        def listen(event: JobEvent) -> None:
            if (job is None or event.job == job) and (kinds is None or event.kind in kinds):
                with contextlib.suppress(queue.Full):  # a client that does not read loses events
                    events.put_nowait(event)

        def wants_previews(number: int) -> bool:
            return job in (None, number) and (kinds is None or Kind.PREVIEW in kinds)

        end = self.service.subscribe(listen, wants_previews)
        try:
            _write(client, {"kind": JobEventKind.WATCHING})
            while not is_closed(client.request):
                with contextlib.suppress(queue.Empty):
                    _write(client, as_dict(events.get(timeout=CHECK_SECONDS)))
        finally:
            end()


def as_dict(event: JobEvent) -> dict[str, Any]:
    """An event as JSON data; a preview is a small PNG."""
    found: dict[str, Any] = {} if event.event is None else event.event.as_dict()
    found |= {"job": event.job, "kind": event.kind, "time": event.time, **event.facts}
    if event.kind == Kind.PREVIEW and event.event is not None:
        png = preview_png(event.event.value)
        found["png"] = None if png is None else base64.b64encode(png).decode()
    return found


def _write(client: socketserver.StreamRequestHandler, data: Mapping[str, Any]) -> None:
    client.wfile.write(json.dumps(data, default=str).encode() + b"\n")
