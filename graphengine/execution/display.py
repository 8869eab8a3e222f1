"""Starts the progress display of a run that lasts: the entry point `graphengine.progress` of an installed package.

The engine draws nothing. When a run has lasted half a second, and standard error is a terminal or this is a notebook,
the entry point of the group `graphengine.progress` is called, and what it returns becomes a listener of the run.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from queue import SimpleQueue
from typing import Any, Protocol

from graphengine.events import Event, Kind, Listener, Reuse

GROUP = "graphengine.progress"
"""Its entry points are called with a title, a function that counts the run's nodes, and when it began
(`time.monotonic`); they return a listener with a method `close`, or None where they cannot show anything."""
VARIABLE = "GRAPHENGINE_PROGRESS"
"""The environment variable that silences: `0`, `off`, `no` or `false`."""
AFTER = 0.5
"""Seconds of work before anything is shown."""

_log = logging.getLogger(__name__)


class Shown(Protocol):
    """A listener that draws until it is closed."""

    def __call__(self, event: Event, /) -> None: ...

    def close(self) -> None: ...


class Work(Protocol):
    """What is shown of a run."""

    number: int
    reuse: dict[str, Reuse]
    listeners: list[Listener]

    def expected(self) -> int:
        """How many nodes it may need, as far as that is known by now."""

    def under_way(self) -> Sequence[tuple[str, str]]:
        """Ids and types of the nodes that are being computed."""


def is_watched() -> bool:
    """Whether there is a terminal or a notebook, and nobody wants silence."""
    if os.environ.get(VARIABLE, "").strip().lower() in ("0", "off", "no", "false"):
        return False
    return "ipykernel" in sys.modules or on_terminal()


def on_terminal() -> bool:
    """Whether standard error is a terminal."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def showing(work: Work, title: str) -> AbstractContextManager[object]:
    """Show a run, once it has lasted."""
    if not is_watched():
        return contextlib.nullcontext()
    return contextlib.closing(Waiting(functools.partial(_begin, work, title, time.monotonic())))


class Waiting:
    """Something that is shown when half a second has passed, unless it is closed before.

    Args:
        begin: Called then, on a thread of its own: begins to show, and returns what ends it.
    """

    def __init__(self, begin: Callable[[], Callable[[], None] | None]) -> None:
        self._begin: Callable[[], Callable[[], None] | None] | None = begin
        self._end: Callable[[], None] | None = None
        self._lock = threading.Lock()
        try:
            _clock(os.getpid()).put((time.monotonic() + AFTER, self))
        except RuntimeError as error:  # no thread can be started: the run matters more
            _log.debug("nothing is shown: %s", error)

    def show(self) -> None:
        with self._lock:
            if self._begin is not None:
                try:
                    self._end = self._begin()
                except Exception as error:  # as above
                    _log.debug("nothing is shown: %s", error, exc_info=True)

    def close(self) -> None:
        """No longer show it. What was to be shown is let go of at once: it may hold large values."""
        with self._lock:
            end, self._begin, self._end = self._end, None, None
        if end is not None:
            end()


@functools.cache
def _clock(process: int) -> SimpleQueue[tuple[float, Waiting]]:
    """A queue of what is shown later, and a thread that waits for each in turn; after a fork there is another."""
    waiting: SimpleQueue[tuple[float, Waiting]] = SimpleQueue()

    def work() -> None:
        while True:
            due, item = waiting.get()
            time.sleep(max(0.0, due - time.monotonic()))
            item.show()
            del item

    threading.Thread(target=work, name="graphengine-progress", daemon=True).start()
    return waiting


def _begin(work: Work, title: str, since: float) -> Callable[[], None] | None:
    """Make a listener, and tell it what it has missed."""
    for point in _entry_points():
        shown: Shown | None = point.load()(title, work.expected, since)
        if shown is None:
            continue
        work.listeners.append(shown)
        for id, type_ in work.under_way():
            shown(Event(Kind.NODE_STARTED, work.number, id, type_))
        for id, reuse in list(work.reuse.items()):
            if id:
                shown(Event(Kind.NODE_FINISHED, work.number, id, reuse=reuse))
        return shown.close
    return None


def _entry_points() -> Any:
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)
