"""The hub of events: one reader of the queue's log and of the service for all who watch jobs over the network."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import threading
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graphengine.events import Event, Kind
from graphengine.server.problems import ApiError
from graphengine.service.job_events import JobEvent
from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.job import LAST_KINDS, Change, Job, JobEventKind
from graphengine.service.jobs.queue import NoJob
from graphengine.service.previews import preview_png, small_picture
from graphengine.service.service import Service

log = logging.getLogger(__name__)

MOST_KEPT = 200
"""Changes that are kept for a watcher who reads slowly; beyond, it reads them from the log again."""
MOST_LIVE = 256
"""Steps that are kept for a watcher who reads slowly; beyond, the latest of each node."""
MOST_WATCHERS = 2000
PAGE = 1000
PAUSE = 0.5
"""Seconds after which the log is read though nothing has told of a change."""
FLUSH_SECONDS = 0.1
"""Seconds between two wakes of watchers for steps: what happens meanwhile is told at once, with less work."""
PREVIEW_SECONDS = 0.5
"""Seconds between two previews of a job; of those that come meanwhile, the newest is shown."""
LIVE = (Kind.PROGRESS, Kind.NODE_STARTED, Kind.NODE_FINISHED)


@dataclass(frozen=True)
class WatchEvent:
    """An event of a job as its watchers see it.

    Attributes:
        number: Its number in the queue's log, from which a watcher can go on; None for progress and previews, which are
            in no log.
        kind: A `JobEventKind`, or a `Kind` of events of runs; `""` for a sign that nothing has happened for a while.
        last: Nothing happens to the job after it.
    """

    number: int | None
    kind: str
    data: dict[str, Any]
    last: bool = False

    def message(self, job: str) -> str:
        """The event as JSON text, made once for all watchers of the job."""
        if (text := self.__dict__.get("_message")) is None:
            number = {} if self.number is None else {"number": self.number}
            data = {"job": job, "kind": self.kind, **self.data, **number, **({"last": True} if self.last else {})}
            text = self.__dict__["_message"] = json.dumps(data, default=str)
        return text


class Watcher:
    """What one client is still to be told of a job; used on the loop's thread only.

    Args:
        previews: Whether it is told previews.
    """

    def __init__(self, previews: bool = True) -> None:
        self.previews = previews
        self.changes: list[Change] = []
        self.live: list[WatchEvent] = []
        self.behind = self.closed = False
        self.wake = asyncio.Event()

    def change(self, change: Change) -> None:
        """Take a change."""
        if len(self.changes) >= MOST_KEPT:
            self.changes, self.behind = [], True
        if not self.behind:
            self.changes.append(change)
        self.wake.set()

    def happen(self, event: WatchEvent) -> None:
        """Take an event of the job's run; `wake` is set by the hub, for several events at once."""
        self.live.append(event)
        if len(self.live) > MOST_LIVE:
            latest = {(event.kind, event.data.get("node")): event for event in self.live}
            self.live = list(latest.values())[-MOST_LIVE // 2 :]

    def close(self) -> None:
        """End the watching."""
        self.closed = True
        self.wake.set()


class EventHub:
    """Tells watchers of jobs what happens. `start` and `watch` are called on the loop.

    Args:
        service: The service whose queue is read; progress comes from it where it runs the jobs.
        shown: Makes of an error's sentence what watchers may see of it.

    Attributes:
        closed: Set when all watching has ended.
    """

    def __init__(self, service: Service, shown: Callable[[str], str] = str) -> None:
        self.service, self.queue, self._shown = service, service.queue, shown
        self._watchers: defaultdict[int, set[Watcher]] = defaultdict(set)
        self._seeing: Counter[int] = Counter()  # watchers that want previews, by job
        self._newest: dict[int, Event] = {}  # the preview that is shown next, by job
        self._showing: dict[int, asyncio.Task[None]] = {}
        self._listeners: list[Callable[[Sequence[Change]], None]] = []
        self._count = self._known = 0
        self._waking: set[Watcher] = set()  # watchers that are woken at the next flush
        self._flushed = 0.0
        self.closed = asyncio.Event()
        self._stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unsubscribe = service.subscribe(self._hear, self.wants_previews)
        self._thread = threading.Thread(target=self._read, name="graphengine-events", daemon=True)

    def start(self) -> None:
        """Begin to read the log."""
        self._loop = asyncio.get_running_loop()
        self._known = self.queue.last_change()  # before anybody watches, so that no change is missed
        self._thread.start()

    def close(self) -> None:
        """End all watching."""
        self._stop.set()
        self.closed.set()
        for watchers in list(self._watchers.values()):
            for watcher in list(watchers):
                watcher.close()

    def listen(self, on_changes: Callable[[Sequence[Change]], None]) -> None:
        """Call a function with the changes of all jobs as they happen, on the loop; it must not block."""
        self._listeners.append(on_changes)

    @property
    def watching(self) -> int:
        """How many clients watch jobs."""
        return self._count

    @property
    def full(self) -> bool:
        """Whether no more clients may watch."""
        return self._count >= MOST_WATCHERS

    def is_watched(self, job: Job) -> bool:
        """Whether a client watches a job."""
        return bool(self._watchers.get(job.id))

    def wants_previews(self, job: int) -> bool:
        """Whether a client is to be told previews of a job; called on any thread."""
        return job in self._seeing

    async def watch(
        self, job: Job, after: int = 0, silence: float = 15.0, previews: bool = True
    ) -> AsyncGenerator[WatchEvent]:
        """What happens to a job, event by event; see `batches`."""
        async with contextlib.aclosing(self.batches(job, after, silence, previews)) as batches:
            async for batch in batches:
                for event in batch:
                    yield event

    async def batches(
        self, job: Job, after: int = 0, silence: float = 15.0, previews: bool = True
    ) -> AsyncGenerator[list[WatchEvent]]:
        """What happens to a job, from the change after a number on, until its end; what is there at once, at once.

        Args:
            after: The number of the last change that the client knows; 0 for all that the log holds.
            silence: Seconds after which a client is told that nothing has happened.
            previews: Whether the client is told previews; where none is, none are made.
        """
        if self.full:
            raise ApiError("unavailable", "too many clients watch jobs; ask again later", headers={"Retry-After": "5"})
        watcher, known, begun, has_ended = Watcher(previews), after, False, False
        in_run = False  # whether the changes that were told say that the job runs
        self._watchers[job.id].add(watcher)  # before the log is read, so that nothing is missed
        self._count += 1
        if previews:
            self._seeing[job.id] += 1
        try:
            watcher.behind = True
            while not watcher.closed:
                live, watcher.live = watcher.live, []  # taken first: the log then holds that the job runs
                watcher.behind |= bool(live) and not in_run
                if watcher.behind:
                    watcher.behind, watcher.changes = False, []
                    changes = await asyncio.to_thread(self.queue.changes, known, PAGE, job.id)
                    if len(changes) == PAGE:  # there is more, and it comes first
                        watcher.behind, live, watcher.live = True, [], live + watcher.live
                else:
                    changes, watcher.changes = watcher.changes, []
                news = [event for event in map(self._event_of, changes) if (event.number or 0) > known]
                batch = [event for event in news if not event.last] + live + [event for event in news if event.last][:1]
                if batch:
                    known = max([known, *(event.number for event in news if event.number)])
                    in_run = _runs(news, in_run or bool(live))
                    yield batch
                    if batch[-1].last:
                        return
                if watcher.behind or watcher.changes:
                    continue
                if not begun and not live and (now := self._progress(job)) is not None:
                    yield [now]
                begun = True
                if not changes and not live and (end := await asyncio.to_thread(self._ended, job)) is not None:
                    if has_ended:
                        yield [end]
                        return
                    has_ended = watcher.behind = True  # since the log was read, maybe: it is read once more
                    continue
                try:
                    async with asyncio.timeout(silence):
                        await watcher.wake.wait()
                except TimeoutError:
                    yield [WatchEvent(None, "", {})]
                watcher.wake.clear()
        finally:
            self._count -= 1
            self._seeing -= Counter([job.id] if previews else [])  # drops jobs of which nobody wants previews
            self._watchers[job.id].discard(watcher)
            if not self._watchers[job.id]:
                del self._watchers[job.id]

    def _progress(self, job: Job) -> WatchEvent | None:
        """The progress that was told before a client came."""
        now = self.service.doing().get(job.id, {})
        if now.get("step") is None:
            return None
        return WatchEvent(None, Kind.PROGRESS, {name: now[name] for name in ("node", "type", "step", "total")})

    def _ended(self, job: Job) -> WatchEvent | None:
        """The end of a job whose last change the client knows, or which the log holds no longer."""
        try:
            now = self.queue.get(job.id)
        except NoJob:
            return WatchEvent(None, JobEventKind.DELETED, {}, last=True)
        return WatchEvent(None, now.state, {}, last=True) if now.state.ended else None

    async def ended(self, job: Job, seconds: float) -> bool:
        """Wait until a job has ended, at most so long; whether it has."""
        with contextlib.suppress(TimeoutError, ApiError):  # too many watch: the client asks again
            async with asyncio.timeout(seconds), contextlib.aclosing(self.watch(job, previews=False)) as events:
                async for event in events:
                    if event.last:
                        return True
        return False

    def _hear(self, event: JobEvent) -> None:
        """Hear of a run's event, on any thread."""
        if event.job not in self._watchers or event.event is None or self._loop is None:
            return
        if event.kind is Kind.PREVIEW and event.job in self._seeing:
            self._on_loop(self._preview, event.job, event.event)
        if event.kind not in LIVE:
            return
        data = event.event.as_dict()
        data.pop("run", None)
        self._on_loop(self._happen, event.job, WatchEvent(None, str(event.kind), data))

    def _happen(self, job: int, event: WatchEvent) -> None:
        node = event.data.get("node")
        if event.kind == Kind.NODE_FINISHED and job in self._newest and self._newest[job].node == node:
            del self._newest[job]  # the value itself is there
        for watcher in self._watchers.get(job, ()):
            if watcher.previews or event.kind != Kind.PREVIEW:
                watcher.happen(event)
                if not self._waking:
                    self._wake_soon()
                self._waking.add(watcher)

    def _wake_soon(self) -> None:
        assert self._loop is not None
        self._loop.call_at(max(self._flushed + FLUSH_SECONDS, self._loop.time()), self._flush)

    def _flush(self) -> None:
        assert self._loop is not None
        self._flushed, waking, self._waking = self._loop.time(), self._waking, set()
        for watcher in waking:
            watcher.wake.set()

    def _preview(self, job: int, event: Event) -> None:
        self._newest[job] = event
        if job not in self._showing:
            self._showing[job] = asyncio.create_task(self._show(job))

    async def _show(self, job: int) -> None:
        """Show the newest preview of a job, again and again while there are any."""
        try:
            while (event := self._newest.pop(job, None)) is not None and job in self._seeing:
                data = await asyncio.to_thread(self._picture, job, event)
                if data is not None:
                    self._happen(job, WatchEvent(None, Kind.PREVIEW, data))
                await asyncio.sleep(PREVIEW_SECONDS)
        finally:
            del self._showing[job]

    def _picture(self, job: int, event: Event) -> dict[str, Any] | None:
        """A preview as data, with the step after which it was made; None if it is no picture."""
        try:
            png = preview_png(event.value)
            if png is None:
                return None
            type, data = small_picture(png)
        except Exception:  # of a pack's picture
            log.exception("a preview of %s could not be shown", event.node, extra={"job": job})
            return None
        now = self.service.doing().get(job, {})
        step, total = (now.get("step"), now.get("total")) if now.get("node") == event.node else (None, None)
        content = base64.b64encode(data).decode()
        return {"node": event.node, "step": step, "total": total, "type": type, "data": content}

    def _change(self, changes: list[Change]) -> None:
        for change in changes:
            for watcher in self._watchers.get(change.job, ()):
                watcher.change(change)
        for on_changes in self._listeners:
            on_changes(changes)

    def _on_loop(self, function: Any, *arguments: Any) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop has ended
            self._stop.set()

    def _read(self) -> None:
        while not self._stop.is_set():
            try:
                changes = self.queue.changes(self._known, PAGE)
                if changes:
                    self._known = changes[-1].number
                    self._on_loop(self._change, changes)
                if len(changes) < PAGE:
                    self.queue.wait_for_change(PAUSE)
            except QueueError as error:
                log.warning("%s; watchers of jobs wait", error)
                self._stop.wait(PAUSE)
        self._unsubscribe()

    def _event_of(self, change: Change) -> WatchEvent:
        facts = {name: value for name, value in change.facts.items() if name != "worker"}
        if isinstance(facts.get("error"), str):
            facts["error"] = self._shown(facts["error"])
        return WatchEvent(change.number, change.kind, {"time": change.time, **facts}, change.kind in LAST_KINDS)


def _runs(news: list[WatchEvent], before: bool) -> bool:
    """Whether a job runs after changes of it."""
    for event in reversed(news):
        if event.kind in (JobEventKind.RUNNING, JobEventKind.LOST, JobEventKind.LEFT):
            return event.kind == JobEventKind.RUNNING
    return before
