"""The event hub for clients over the network, on an event loop: names of workers and paths of files are removed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Any

from graphengine.server.problems import ApiError
from graphengine.server.tokens import Caller
from graphengine.service.jobs.job import Change, Job, JobEventKind
from graphengine.service.service import Service
from graphengine.service.watcher import MOST_LIVE, NOTHING, Watcher, WatchEvent

MOST_WATCHERS, MOST_OF_USER = 2000, 500
"""The most clients that watch jobs at once, and the most of a user who is no admin."""
FLUSH_SECONDS = 0.1
"""Seconds between two wakes of watchers for steps: what happens meanwhile is told at once, with less work."""


class AsyncHub:
    """Tells clients over the network what happens to jobs, from the service's hub. Used on the loop.

    Args:
        service: The service whose hub is used.
        shown: Makes of an error's sentence what clients may see of it.

    Attributes:
        closed: Set when all watching has ended.
    """

    def __init__(self, service: Service, shown: Callable[[str], str] = str) -> None:
        self.hub, self._shown = service.hub, shown
        self._watchers = set[Watcher]()
        self._of_user = Counter[str]()
        self._listeners: list[Callable[[Sequence[Change]], None]] = []
        self._waking = set[asyncio.Event]()
        self._lock = threading.Lock()  # of `_waking`
        self._flushed = 0.0
        self.closed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end_listening: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begin to hear of changes."""
        self._loop = asyncio.get_running_loop()
        self._end_listening = self.hub.listen(functools.partial(self._on_loop, self._changed))

    def close(self) -> None:
        """End all watching."""
        self.closed.set()
        self._end_listening()
        for watcher in self._watchers:
            watcher.close()

    def listen(self, on_changes: Callable[[Sequence[Change]], None]) -> None:
        """Call a function with the changes of all jobs as they happen, on the loop; it must not block."""
        self._listeners.append(on_changes)

    @property
    def watching(self) -> int:
        """How many clients watch jobs."""
        return len(self._watchers)

    def check_room(self, caller: Caller | None) -> None:
        """Refuse a client that wants to watch a job where too many do.

        Raises:
            ApiError: All places are taken, or all those of the user.
        """
        if self.watching >= MOST_WATCHERS:
            raise ApiError("unavailable", "too many clients watch jobs; ask again later", headers={"Retry-After": "5"})
        if caller is not None and not caller.admin and self._of_user[caller.user] >= MOST_OF_USER:
            what = f"a user watches at most {MOST_OF_USER} jobs at once; end some of these streams"
            raise ApiError("busy", what, headers={"Retry-After": "5"})

    def is_watched(self, job: Job) -> bool:
        """Whether a client watches a job."""
        return self.hub.is_watched(job.id)

    async def watch(
        self, job: Job, after: int = 0, silence: float = 15.0, previews: bool = True, caller: Caller | None = None
    ) -> AsyncGenerator[WatchEvent]:
        """What happens to a job, event by event; see `batches`."""
        async with contextlib.aclosing(self.batches(job, after, silence, previews, caller)) as batches:
            async for batch in batches:
                for event in batch:
                    yield event

    async def batches(
        self, job: Job, after: int = 0, silence: float = 15.0, previews: bool = True, caller: Caller | None = None
    ) -> AsyncGenerator[list[WatchEvent]]:
        """What happens to a job, from the change after a number on, until its end; what is there at once, at once.

        Args:
            after: The number of the last change that the client knows; 0 for all that the log holds.
            silence: Seconds after which a client is told that nothing has happened.
            previews: Whether the client is told previews; where none is, none are made.
            caller: Whose place this takes; None for what the server itself needs.

        Raises:
            ApiError: There is no place, see `check_room`.
        """
        self.check_room(caller)
        user = "" if caller is None else caller.user
        woken = asyncio.Event()
        quiet = _Quiet(silence, woken)
        with self.hub.watching(job.id, after, previews, MOST_LIVE, functools.partial(self._wake, woken)) as watcher:
            self._watchers.add(watcher)
            self._of_user[user] += 1
            try:
                while not (watcher.closed or self.closed.is_set()):
                    woken.clear()  # first: news that comes after `take` wakes
                    if (batch := watcher.take()) is None:
                        batch = await asyncio.to_thread(watcher.read)
                    if batch:
                        yield [
                            self._for_others(event) if "worker" in event.data or "error" in event.data else event
                            for event in batch
                        ]
                        if watcher.ended:
                            return
                        quiet.end()
                    elif quiet.is_over:
                        watcher.lag()
                        yield [NOTHING]
                        quiet.end()
                    await woken.wait()
            finally:
                quiet.timer.cancel()
                self._watchers.discard(watcher)
                self._of_user -= Counter([user])  # drops users who watch nothing

    async def ended(self, job: Job, seconds: float, caller: Caller | None = None) -> bool:
        """Wait until a job has ended, at most so long; whether it has."""
        with contextlib.suppress(TimeoutError, ApiError):  # too many watch: the client asks again
            async with asyncio.timeout(seconds), contextlib.aclosing(
                self.watch(job, previews=False, caller=caller)
            ) as events:
                async for event in events:
                    if event.last:
                        return True
        return False

    def _for_others(self, event: WatchEvent) -> WatchEvent:
        """An event without what is of this machine: workers, places in errors, and commands for its shell."""
        data = {name: value for name, value in event.data.items() if name != "worker"}
        if event.kind == JobEventKind.SILENT:
            data.pop("error", None)
        if isinstance(data.get("error"), str):
            data["error"] = self._shown(data["error"])
        return replace(event, data=data)

    def _wake(self, woken: asyncio.Event, at_once: bool) -> None:
        """Wake who waits, at once or with others soon; called on any thread."""
        with self._lock:
            is_due = bool(self._waking)
            self._waking.add(woken)
        if at_once:
            self._on_loop(self._flush)
        elif not is_due:
            self._on_loop(self._flush_soon)

    def _flush_soon(self) -> None:
        assert self._loop is not None
        self._loop.call_at(max(self._flushed + FLUSH_SECONDS, self._loop.time()), self._flush)

    def _flush(self) -> None:
        assert self._loop is not None
        with self._lock:
            waking, self._waking = self._waking, set()
        if waking:
            self._flushed = self._loop.time()
        for woken in waking:
            woken.set()

    def _changed(self, changes: Sequence[Change]) -> None:
        for on_changes in self._listeners:
            on_changes(changes)

    def _on_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *arguments)


class _Quiet:
    """Wakes a client when it was told nothing for so long. (A timeout of each wait takes longer than what is told.)"""

    def __init__(self, seconds: float, woken: asyncio.Event) -> None:
        self._loop, self._seconds, self._woken = asyncio.get_running_loop(), seconds, woken
        self.is_over, self._since = False, self._loop.time()
        self.timer = self._loop.call_later(seconds, self._look)

    def end(self) -> None:
        """Note that the client was told something."""
        self._since = self._loop.time()
        if self.is_over:
            self.is_over = False
            self.timer = self._loop.call_later(self._seconds, self._look)

    def _look(self) -> None:
        left = self._since + self._seconds - self._loop.time()
        if left > 0:
            self.timer = self._loop.call_later(left, self._look)
        else:
            self.is_over = True
            self._woken.set()
