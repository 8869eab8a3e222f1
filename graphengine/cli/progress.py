"""What is told while a run goes on: bars for people at a terminal, JSON lines for programs."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from graphengine.events import Event, Kind

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class JsonLines:
    """Writes each event as one line of JSON. What nodes print goes to standard error meanwhile.

    When the reader goes away, the run is stopped.
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
        """Where nobody reads any more, the run's own end does not matter: BrokenPipeError."""
        try:
            yield
        except BaseException:
            if self.broken:
                raise BrokenPipeError from None
            raise
        if self.broken:
            raise BrokenPipeError

    def write(self, data: dict[str, Any]) -> None:
        """Write one line."""
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


class Bars:
    """A bar for the nodes that are done, and one for each node that counts its steps. Only at a terminal.

    Args:
        total: How many nodes the run may need.
        what: Stands before the upper bar.
    """

    def __init__(self, total: int, what: str) -> None:
        self.total, self.what = total, what
        self._progress: Progress | None = None
        self._whole: TaskID | None = None
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Bars:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.markup import escape
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            self._progress = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._whole = self._progress.add_task(escape(self.what), total=self.total)
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, event: Event) -> None:
        progress, whole = self._progress, self._whole
        if progress is None or whole is None:
            return
        from rich.markup import escape

        with self._lock:
            if event.kind is Kind.NODE_STARTED:
                self._tasks[event.node] = progress.add_task(f"  {escape(event.node)}", total=None)
            elif event.kind is Kind.PROGRESS and event.node in self._tasks:
                progress.update(self._tasks[event.node], completed=event.step, total=event.total)
            elif event.kind in (Kind.NODE_FINISHED, Kind.NODE_FAILED):
                if (task := self._tasks.pop(event.node, None)) is not None:
                    progress.remove_task(task)
                progress.advance(whole)
            elif event.kind is Kind.RUN_FINISHED:
                progress.update(whole, completed=self.total)

    def next(self, what: str) -> None:
        """Begin with another run of several."""
        if self._progress is not None and self._whole is not None:
            from rich.markup import escape

            self._progress.reset(self._whole, total=self.total, description=escape(what))
