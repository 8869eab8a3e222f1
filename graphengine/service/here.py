"""The service of this user on this machine: where its queue lies, and the socket on which it tells what happens.

Jobs go through the queue's file; the socket, which only its owner may open, is for what is not worth a disk: whether
a service runs, which packs it has, progress and previews. It speaks lines of JSON.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from graphengine.errors import as_exception
from graphengine.files import home
from graphengine.service.channel import Listener, connected, is_closed
from graphengine.types import socket_type

if TYPE_CHECKING:
    from graphengine.service.happenings import JobEvent

LONGEST = 100_000
"""Bytes of one line that is read."""
LOOK = 1.0
"""Seconds without an event between looks whether who watches is still there."""


def state_folder() -> Path:
    """Where this user's queue lies: GRAPHENGINE_STATE, else `graphengine` in the user's state folder."""
    given = os.environ.get("GRAPHENGINE_STATE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_STATE_HOME") or home("GRAPHENGINE_STATE") / ".local" / "state") / "graphengine"


def queue_file() -> Path:
    """This user's queue."""
    return state_folder() / "queue.sqlite"


def identity(roots: Sequence[str | Path] | None = None) -> dict[str, Any]:
    """What must be the same on both sides for a job to mean the same: version, packs, allowed folders."""
    from graphengine import __version__, registry
    from graphengine.pack import pack_of, stamp

    packs = {pack.name: list(stamp(pack)) for pack in map(pack_of, registry.modules())}
    allowed = None if roots is None else sorted(str(Path(root).absolute()) for root in roots)
    return {"version": __version__, "packs": packs, "roots": allowed}


class Announced(Protocol):
    """A service, as those who ask it see it."""

    @property
    def queue(self) -> Any:
        """The queue whose jobs it runs."""

    @property
    def active(self) -> bool:
        """Whether it runs the queue's jobs, or stands by."""

    @property
    def backend(self) -> Any:
        """What computes."""

    def doing(self) -> dict[int, dict[str, Any]]:
        """What its jobs are doing, by number."""

    def subscribe(self, listener: Callable[[JobEvent], None], /) -> Callable[[], None]:
        """Be told of everything that happens to jobs; the function that is returned ends it."""


class Announcer:
    """The service's end of the socket.

    Args:
        service: Whose events are told.
        facts: Its identity.

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
        """One client: its line says what it wants."""
        asked = json.loads(client.rfile.readline(LONGEST))
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
                with contextlib.suppress(queue.Full):  # who does not read loses events, not the service its memory
                    events.put_nowait(event)

        end = self.service.subscribe(listen)
        try:
            _write(client, {"kind": "watching"})
            while not is_closed(client.request):
                with contextlib.suppress(queue.Empty):
                    _write(client, as_dict(events.get(timeout=LOOK)))
        finally:
            end()


def as_dict(event: JobEvent) -> dict[str, Any]:
    """An event as JSON data, a preview as a small PNG."""
    found: dict[str, Any] = {} if event.event is None else event.event.as_dict()
    found |= {"job": event.job, "kind": event.kind, "time": event.time, **event.facts}
    if event.kind == "preview" and event.event is not None:
        found["png"] = preview_png(event.event.value)
    return found


def preview_png(value: Any) -> str | None:
    """A value as a person sees it, as a PNG in base64."""
    kind = socket_type(type(value))
    if kind is None or kind.view is None:
        return None
    try:
        views = kind.view(value)
    except BaseException as error:  # code of a pack; who watches is told all else
        as_exception(error)
        return None
    first = views[0] if isinstance(views, list) else views
    return None if first.png is None else base64.b64encode(first.png).decode()


def _write(client: socketserver.StreamRequestHandler, data: Mapping[str, Any]) -> None:
    client.wfile.write(json.dumps(data, default=str).encode() + b"\n")


# --- the client's end -------------------------------------------------------------------------------------------------


def hello(file: Path) -> dict[str, Any] | None:
    """What runs a queue's jobs on this machine; None if nothing does. Of another version than this program, it tells
    no more than its version: the rest may mean anything."""
    from graphengine import __version__

    try:
        found = _answer(file, "hello")
    except (OSError, ValueError):
        return None
    version = found.get("version") if isinstance(found, dict) else None
    return found if version == __version__ else {"version": version, "active": True, "workers": []}


def doing(file: Path) -> dict[int, dict[str, Any]]:
    """What the jobs do that run on this machine, by number, as `Doing.facts` tells it; empty if nothing runs them."""
    try:
        found = _answer(file, "jobs")
    except (OSError, ValueError):  # none runs, or one of an older version, which knows no such question
        return {}
    return {int(number): facts for number, facts in found.items()} if isinstance(found, dict) else {}


def _answer(file: Path, op: str) -> Any:
    """The one line with which a service answers.

    Raises:
        OSError, ValueError: None runs, or it says nothing that can be read.
    """
    with connected(file) as stream:
        stream.write(json.dumps({"op": op}).encode() + b"\n")
        stream.flush()
        return json.loads(stream.readline())


def watch(file: Path, job: int | None = None, kinds: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """What happens to a job, or to all, until the service ends; the first is `watching`.

    Args:
        kinds: Those that are wanted; by default all.

    Raises:
        OSError: Nothing runs the queue's jobs.
    """
    with connected(file, timeout=None) as stream:
        stream.write(json.dumps({"op": "watch", "job": job, "kinds": kinds}).encode() + b"\n")
        stream.flush()
        for line in stream:
            yield json.loads(line)
