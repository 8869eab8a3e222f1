"""The event hub: reads the queue's log and the steps of running jobs once, for all clients here and over HTTP."""

from __future__ import annotations

import base64
import contextlib
import functools
import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphengine.errors import Exhausted
from graphengine.events import Event, Kind
from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.job import Change, JobEventKind
from graphengine.service.jobs.queue import Queue
from graphengine.service.previews import preview_png, small_picture
from graphengine.service.watcher import MOST_LIVE, PAGE, Watcher, WatchEvent
from graphengine.system.threads import start

if TYPE_CHECKING:
    from graphengine.service.job_events import JobEvent

log = logging.getLogger(__name__)

PAUSE = 0.5
"""Seconds after which the log is read though nothing has told of a change."""
PREVIEW_SECONDS = 0.5
"""Seconds between two previews of a job; of those that come meanwhile, the newest is shown."""
LIVE = (Kind.PROGRESS, Kind.NODE_STARTED, Kind.NODE_FINISHED, Kind.NODE_FAILED, JobEventKind.SILENT)
"""The kinds of events that are told as they happen, and are in no log; previews are too."""


class EventHub:
    """Tells watchers what happens to jobs. It is used on any thread; while nobody watches, it does nothing.

    Args:
        queue: The queue whose log is read.
        doing: Returns the activity of the jobs that run here, by number, as `JobActivity.facts` has it.
    """

    def __init__(self, queue: Queue, doing: Callable[[], Mapping[int, Mapping[str, Any]]] = dict) -> None:
        self.queue, self._doing = queue, doing
        self._lock = threading.Lock()
        self._watchers: defaultdict[int | None, set[Watcher]] = defaultdict(set)
        self._seeing: Counter[int | None] = Counter()  # watchers that are told previews, by job
        self._listeners: list[Callable[[Sequence[Change]], None]] = []
        self._newest: dict[int, Event] = {}  # the preview that is shown next, by job
        self._drawn: dict[int, Event] = {}  # the preview whose picture is being made, by job
        self._showing = set[int]()
        self._reading = False
        self._stop = threading.Event()

    def close(self) -> None:
        """End all watching, for good."""
        with self._lock:
            self._stop.set()
            watchers = [watcher for several in self._watchers.values() for watcher in several]
        for watcher in watchers:
            watcher.close()

    def listen(self, on_changes: Callable[[Sequence[Change]], None]) -> Callable[[], None]:
        """Call a function with the changes of all jobs from now on, on a thread of the hub; it must not block. Returns
        a function that ends that."""
        known = self.queue.last_change()
        with self._lock:
            self._begin_reading(known)
            self._listeners.append(on_changes)
        return lambda: self._listeners.remove(on_changes)

    @contextlib.contextmanager
    def watching(
        self,
        job: int | None,
        after: int = 0,
        previews: bool = True,
        most_live: int = MOST_LIVE,
        wake: Callable[[bool], None] | None = None,
    ) -> Iterator[Watcher]:
        """Watch a job, or all jobs, while the context lasts; arguments are those of `Watcher`."""
        watcher = Watcher(self.queue, job, after, previews, most_live, wake, self._progress)
        with self._lock:  # before the log is read, so that nothing is missed
            self._watchers[job].add(watcher)
            if previews:
                self._seeing[job] += 1
            watcher.closed = self._stop.is_set()
        try:
            with self._lock:
                self._begin_reading()
            yield watcher
        finally:
            with self._lock:
                self._seeing -= Counter([job] if previews else [])  # drops jobs of which nobody wants previews
                self._watchers[job].discard(watcher)
                if not self._watchers[job]:
                    del self._watchers[job]

    def is_watched(self, job: int) -> bool:
        """Whether a client watches this job."""
        return job in self._watchers

    def wants_previews(self, job: int) -> bool:
        """Whether a client is to be told previews of a job."""
        return job in self._seeing or None in self._seeing

    def hear(self, event: JobEvent) -> None:
        """Hear of an event of a job that runs here."""
        if event.job not in self._watchers and None not in self._watchers:
            return
        if event.kind is JobEventKind.RUNNING:
            with self._lock:
                for watcher in self._of(event.job):
                    watcher.begin(event.job, int(event.facts.get("attempt", 1)))
        elif event.kind is Kind.PREVIEW and event.event is not None and self.wants_previews(event.job):
            self._preview(event.job, event.event)
        elif event.kind in LIVE:
            data = {"time": event.time} if event.event is None else event.event.as_dict()
            facts = {name: value for name, value in data.items() if name not in ("run", "kind")}
            self._happen(WatchEvent(event.job, None, str(event.kind), {**facts, **event.facts}))

    def _happen(self, event: WatchEvent) -> None:
        with self._lock:
            for previews in (self._newest, self._drawn) if event.kind == Kind.NODE_FINISHED else ():
                if event.job in previews and previews[event.job].node == event.data.get("node"):
                    del previews[event.job]  # the value itself is there
            if event.kind == Kind.PREVIEW and self._drawn.pop(event.job, None) is None:
                return
            for watcher in self._of(event.job):
                if watcher.previews or event.kind != Kind.PREVIEW:
                    watcher.happen(event)

    def _of(self, job: int) -> list[Watcher]:
        """The watchers of a job, and those of all jobs."""
        return [*self._watchers.get(job, ()), *self._watchers.get(None, ())]

    def _progress(self, job: int) -> WatchEvent | None:
        """The progress that a job made before a client came."""
        now = self._doing().get(job, {})
        if now.get("step") is None:
            return None
        return WatchEvent(job, None, Kind.PROGRESS, {name: now[name] for name in ("node", "type", "step", "total")})

    # --- the log ------------------------------------------------------------------------------------------------------

    def _begin_reading(self, known: int | None = None) -> None:
        if not self._reading and not self._stop.is_set():
            start(functools.partial(self._read, known), "graphengine-events")
            self._reading = True

    def _read(self, known: int | None) -> None:
        """Read the log for all who watch, until nobody does."""
        while self._is_needed():
            try:
                if known is None:
                    known = self.queue.last_change()
                    with self._lock:
                        for watcher in [one for several in self._watchers.values() for one in several]:
                            watcher.lag()  # it may have read the log before
                changes = self.queue.changes(known, PAGE)
                if changes:
                    known = changes[-1].number
                    self._tell(changes)
                if len(changes) < PAGE:
                    self.queue.wait_for_change(PAUSE)
            except QueueError as error:
                log.warning("%s; watchers of jobs wait", error)
                self._stop.wait(PAUSE)
            except Exception:  # of a listener; all who watch wait for this thread
                log.exception("changes of jobs could not be told")
                self._stop.wait(PAUSE)

    def _is_needed(self) -> bool:
        with self._lock:
            self._reading = bool(self._watchers or self._listeners) and not self._stop.is_set()
            return self._reading

    def _tell(self, changes: Sequence[Change]) -> None:
        with self._lock:
            for change in changes:
                for watcher in self._of(change.job):
                    watcher.change(change)
        for on_changes in list(self._listeners):
            on_changes(changes)

    # --- previews -----------------------------------------------------------------------------------------------------

    def _preview(self, job: int, event: Event) -> None:
        with self._lock:
            self._newest[job] = event
            if job in self._showing:
                return
            self._showing.add(job)
        try:
            start(functools.partial(self._show, job), "graphengine-previews")
        except Exhausted:  # it is only a preview
            self._next_preview(job, give_up=True)

    def _next_preview(self, job: int, give_up: bool = False) -> Event | None:
        """The newest preview of a job; None, and none is shown any more, if there is none or nobody wants it."""
        with self._lock:
            event = self._newest.pop(job, None)
            if event is None or give_up or not self.wants_previews(job):
                self._showing.discard(job)
                return None
            self._drawn[job] = event
        return event

    def _show(self, job: int) -> None:
        """Show the newest preview of a job, again and again while there are any."""
        while (event := self._next_preview(job)) is not None:
            data = self._picture(job, event)
            if data is not None and job in self._doing():  # nothing is told after its end
                self._happen(WatchEvent(job, None, Kind.PREVIEW, data))
            self._drawn.pop(job, None)
            self._stop.wait(PREVIEW_SECONDS)

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
        now = self._doing().get(job, {})
        step, total = (now.get("step"), now.get("total")) if now.get("node") == event.node else (None, None)
        content = base64.b64encode(data).decode()
        return {"node": event.node, "step": step, "total": total, "type": type, "data": content}
