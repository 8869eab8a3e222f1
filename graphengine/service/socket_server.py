"""The socket of a service, on which clients of this user ask what it is, what its jobs do, and follow events.

Jobs go through the queue's file. The socket, which only its owner may open, says whether a service runs, which packs it
has and what its jobs do, and follows the service's hub of events, as clients over HTTP do. Requests and answers are
lines of JSON.
"""

from __future__ import annotations

import json
import logging
import os
import socketserver
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

from graphengine.errors import GraphEngineError
from graphengine.service.event_hub import EventHub
from graphengine.service.jobs.job import JobEventKind
from graphengine.system.channel import Listener

log = logging.getLogger(__name__)

LONGEST_REQUEST = 100_000
"""The most bytes of a request, which is one line."""
CHECK_SECONDS = 1.0
"""Seconds without an event after which a watching client is sent a sign, an event of the kind `""`; whether it has gone
is seen by that."""
MOST_LIVE = 10_000
"""Steps that are kept for a watching client that does not read; beyond, the latest of each node."""


class Announced(Protocol):
    """A service, as its socket sees it."""

    @property
    def queue(self) -> Any:
        """The queue whose jobs it runs."""

    @property
    def hub(self) -> EventHub:
        """The events of its jobs."""

    @property
    def active(self) -> bool:
        """Whether it runs the queue's jobs, or stands by."""

    @property
    def backend(self) -> Any:
        """The backend that computes."""

    def doing(self) -> dict[int, dict[str, Any]]:
        """The activity of its jobs, by number."""


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
        elif asked.get("op") == "events":
            job, after = asked.get("job"), asked.get("after", 0)
            if isinstance(job, int | None) and isinstance(after, int):
                self._tell_events(client, job, after, asked.get("previews") is True)

    def _tell_events(
        self, client: socketserver.StreamRequestHandler, job: int | None, after: int, previews: bool
    ) -> None:
        """Tell a client what happens to a job, or to all, after a change of the log, until it goes, or the jobs are run
        by another service, whose socket the client then looks for."""
        try:
            with self.service.hub.watching(job, after, previews, MOST_LIVE) as watcher:
                _write(client, {"kind": JobEventKind.WATCHING})
                for batch in watcher.batches(CHECK_SECONDS):
                    _write(client, *(event.as_dict(event.job) for event in batch))
                    if not self.service.active:
                        return
        except GraphEngineError as error:  # it comes again, or reads the queue's file
            log.warning("a client that watches jobs is let go: %s", error)


def _write(client: socketserver.StreamRequestHandler, *lines: Mapping[str, Any]) -> None:
    client.wfile.write(b"".join(json.dumps(line, default=str).encode() + b"\n" for line in lines))
