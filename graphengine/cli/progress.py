"""Progress as JSON lines, for programs. (The bars for people are in `graphengine.progress`.)"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import IO, Any

from graphengine.events import Event


class JsonLines:
    """A listener that writes each event as a line of JSON to standard output.

    Inside its `with` block, everything that nodes print goes to standard error. If the reader of standard output goes
    away, the run is stopped.

    Args:
        stop: Stops the run.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self.broken = False
        self._stop = stop
        self._lock = threading.Lock()
        self._stdout: IO[str] | None = None
        self._stream: IO[str] | None = None

    def __enter__(self) -> JsonLines:
        self._stdout, sys.stdout = sys.stdout, sys.stderr
        self._stdout.flush()
        self._stream = os.fdopen(os.dup(self._stdout.fileno()), "w", encoding="utf-8", errors="backslashreplace")
        return self

    def __exit__(self, *_: object) -> None:
        if self._stdout is not None:
            sys.stdout = self._stdout
        if self._stream is not None:
            self.broken |= not _closed(self._stream)

    def __call__(self, event: Event) -> None:
        self.write(event.as_dict())

    @contextlib.contextmanager
    def last_word(self) -> Iterator[None]:
        """Raise BrokenPipeError at the end of a `with` block if the reader has gone, instead of the run's own error."""
        try:
            yield
        except BaseException:
            if self.broken:
                raise BrokenPipeError from None
            raise
        if self.broken:
            raise BrokenPipeError

    def write(self, data: dict[str, Any]) -> None:
        """Write a line of JSON."""
        assert self._stream is not None
        text = json.dumps(data, default=str)
        with self._lock:
            if self.broken:
                return
            try:
                self._stream.write(text + "\n")
                self._stream.flush()
                return
            except BrokenPipeError:
                self.broken = True
        self._stop()


def _closed(stream: IO[str]) -> bool:
    try:
        stream.close()
    except BrokenPipeError:
        return False
    return True
