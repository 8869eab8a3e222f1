"""The hub of events: joins the queue's log with what running jobs tell, for all who watch jobs, over whichever front.

The log holds what happens to jobs: a watcher can go on from the number of any change in it, also after a restart of the
service. Steps and previews of runs are in no log, and are told as they happen. A watcher is told both in one order: a
job runs before it makes progress, and its end comes last.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphengine.errors import Exhausted
from graphengine.events import Event, Kind
from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.job import LAST_KINDS, Change, JobEventKind
from graphengine.service.jobs.queue import NoJob, Queue
from graphengine.service.previews import preview_png, small_picture
from graphengine.system.threads import start

if TYPE_CHECKING:
    from graphengine.service.job_events import JobEvent

log = logging.getLogger(__name__)

MOST_KEPT = 200
"""Changes that are kept for a watcher who reads slowly; beyond, it reads them from the log again."""
MOST_LIVE = 256
"""Steps that are kept for a watcher who reads slowly; beyond, the latest of each node."""
PAGE = 1000
"""Changes that are read from the log at once."""
PAUSE = 0.5
"""Seconds after which the log is read though nothing has told of a change."""
PREVIEW_SECONDS = 0.5
"""Seconds between two previews of a job; of those that come meanwhile, the newest is shown."""
LIVE = (Kind.PROGRESS, Kind.NODE_STARTED, Kind.NODE_FINISHED, Kind.NODE_FAILED, JobEventKind.SILENT)
"""The kinds of events that are told as they happen, and are in no log; previews are too."""


@dataclass(frozen=True)
class WatchEvent:
    """An event of a job as its watchers see it.

    Attributes:
        job: The job's number.
        number: Its number in the queue's log, from which a watcher can go on; None for steps and previews, which are
            in no log.
        kind: A `JobEventKind`, or a `Kind` of events of runs; `""` for a sign that nothing has happened for a while.
        last: Nothing happens to the job after it.
    """

    job: int
    number: int | None
    kind: str
    data: dict[str, Any]
    last: bool = False

    def as_dict(self, job: int | str) -> dict[str, Any]:
        """The event as JSON data, the same on all fronts but for the job, which has a number on its machine, and a UUID
        elsewhere."""
        number = {} if self.number is None else {"number": self.number}
        return {"job": job, "kind": self.kind, **self.data, **number, **({"last": True} if self.last else {})}

    def message(self, job: str) -> str:
        """The event as JSON text, made once for all watchers of the job."""
        if (text := self.__dict__.get("_message")) is None:
            text = self.__dict__["_message"] = json.dumps(self.as_dict(job), default=str)
        return text


NOTHING = WatchEvent(0, None, "", {})
"""The sign that nothing has happened for a while."""


class Watcher:
    """What one client is still to be told. `EventHub.watching` makes those that hear of running jobs; one that is made
    by itself reads the log only.

    Any thread adds to it; one at a time takes from it, by `batches`, or by `behind`, `read` and `take`.

    Args:
        queue: The queue whose log is read.
        job: The number of the job that is watched; None for all jobs.
        after: The number of the last change that the client knows; 0 for all that the log holds.
        previews: Whether the client is told previews.
        most_live: Steps that are kept while the client reads slowly; beyond, the latest of each node.
        wake: Called on any thread when there is news: with True to tell it at once, with False if it can wait a little
            for more. By default `batches` is woken.
        progress: Returns the step at which a job is now, if any: it is told to a client that comes late.

    Attributes:
        closed: Whether nothing more is told.
        ended: Whether the job's last event was taken.
    """

    def __init__(
        self,
        queue: Queue,
        job: int | None,
        after: int = 0,
        previews: bool = False,
        most_live: int = MOST_LIVE,
        wake: Callable[[bool], None] | None = None,
        progress: Callable[[int], WatchEvent | None] = lambda job: None,
    ) -> None:
        self.job, self.previews, self.closed, self.ended = job, previews, False, False
        self._queue, self._known, self._most_live, self._progress = queue, after, most_live, progress
        self._woken = threading.Event()
        self._wake = wake or (lambda at_once: self._woken.set())
        self._lock = threading.Lock()
        self._changes: list[Change] = []
        self._live: list[WatchEvent] = []
        self._lags, self._waking, self._began = True, False, False
        self._running: dict[int, int] = {}  # the jobs of which was told that they run, with the numbers of the attempts
        self._attempts: dict[int, int] = {}  # the number of a job's attempt from which its steps come, if it began here

    # --- what happens, on any thread ----------------------------------------------------------------------------------

    def change(self, change: Change) -> None:
        """Take a change of the log."""
        with self._lock:
            if len(self._changes) >= MOST_KEPT:
                self._changes, self._lags = [], True
            if not self._lags:
                self._changes.append(change)
        self._wake(True)

    def happen(self, event: WatchEvent) -> None:
        """Take an event of a job's run."""
        with self._lock:
            self._live.append(event)
            if len(self._live) > self._most_live:
                latest = {(event.job, event.kind, event.data.get("node")): event for event in self._live}
                self._live = list(latest.values())[-self._most_live // 2 :]
            if self._waking:
                return
            self._waking = True
        self._wake(False)

    def begin(self, job: int, attempt: int) -> None:
        """Take only steps of a new attempt at a job from now on."""
        with self._lock:
            self._attempts[job] = attempt
            self._live = [event for event in self._live if event.job != job]

    def lag(self) -> None:
        """Have the log read again: there may be changes that nothing has told of."""
        with self._lock:
            self._lags = True
        self._wake(True)

    def close(self) -> None:
        """End the watching."""
        self.closed = True
        self._wake(True)

    # --- what is told -------------------------------------------------------------------------------------------------

    def batches(self, silence: float) -> Iterator[list[WatchEvent]]:
        """What happens, until the job's end or the end of the watching; what is there at once, at once. Blocks.

        Args:
            silence: Seconds after which `NOTHING` is told.
        """
        while not self.closed:
            self._woken.clear()
            batch = self.read() if self.behind else self.take()
            if batch:
                yield batch
                if self.ended:
                    return
            elif not self.behind and not self._woken.wait(silence):
                self.lag()
                yield [NOTHING]

    @property
    def behind(self) -> bool:
        """Whether the log is to be read next: its changes are not all here, or steps of a job have come before the
        change that it runs."""
        with self._lock:
            return self._is_behind()

    def _is_behind(self) -> bool:
        jobs = {event.job for event in self._live}
        return self._lags or any(self._running.get(job, 0) < self._attempts.get(job, 1) for job in jobs)

    def take(self) -> list[WatchEvent]:
        """What has come since the last call, maybe nothing; nothing if the log is to be read next."""
        with self._lock:
            if self._is_behind():
                return []
            changes, self._changes, live, self._live, self._waking = self._changes, [], self._live, [], False
            attempts = dict(self._attempts)
        return self._told(changes, live, attempts)

    def read(self) -> list[WatchEvent]:
        """What has come, with the changes of the log. Blocks while the file is read.

        Raises:
            QueueError: The log cannot be read.
        """
        now = None if self._began or self.job is None else self._progress(self.job)
        with self._lock:  # steps are taken before the log is read, which then holds that their jobs run
            live, self._live, self._waking = self._live, [], False
            self._changes, self._lags, attempts = [], False, dict(self._attempts)
        end = self._end()  # also before: the log then holds it, unless that was long ago
        changes = self._queue.changes(self._known, PAGE, self.job)
        if len(changes) == PAGE:  # there is more, and it comes first
            with self._lock:
                begun = {job for job, attempt in self._attempts.items() if attempt != attempts.get(job)}
                self._lags, self._live = True, [one for one in live if one.job not in begun] + self._live
            return self._told(changes, [], attempts)
        self._began = True
        live = live or ([] if now is None else [now])
        ended = {change.job for change in changes if change.kind in LAST_KINDS}
        with self._lock:  # steps that have come since then, before the end that the log holds
            live += [event for event in self._live if event.job in ended]
            self._live = [event for event in self._live if event.job not in ended]
        return self._told(changes, live, attempts, end)

    def _told(
        self,
        changes: Sequence[Change],
        live: list[WatchEvent],
        attempts: Mapping[int, int],
        end: WatchEvent | None = None,
    ) -> list[WatchEvent]:
        """Changes and events of runs in the order in which they are told.

        Args:
            attempts: From which attempts at their jobs the events of runs are, where these began here.
        """
        news = [event_of(change) for change in changes if change.number > self._known]
        if news:
            self._known = news[-1].number or 0
        runs = self._running
        for event in live:  # the log holds that its attempt runs, or the client knows that already
            runs[event.job] = attempts.get(event.job, runs.get(event.job, 1))
        for event in news:
            if event.kind == JobEventKind.RUNNING:
                runs[event.job] = int(event.data.get("attempt", 1))
            elif event.kind in (JobEventKind.LOST, JobEventKind.LEFT):
                runs.pop(event.job, None)
        live = [step for step in live if runs.get(step.job, 0) == attempts.get(step.job, runs.get(step.job))]
        if end is not None and not any(event.last for event in news):
            news.append(end)
        batch = list[WatchEvent]()
        for event in news:
            if event.last:  # its job's steps come before it
                batch += [step for step in live if step.job == event.job]
                live = [step for step in live if step.job != event.job]
                runs.pop(event.job, None)
                with self._lock:
                    self._attempts.pop(event.job, None)
            batch.append(event)
            if event.last and self.job is not None:
                self.ended = True
                return batch
        return batch + live

    def _end(self) -> WatchEvent | None:
        """The end of the job if it has ended; it may be one that the client knows, or that the log holds no longer."""
        if self.job is None:
            return None
        try:
            state = self._queue.get(self.job).state
        except NoJob:
            return WatchEvent(self.job, None, JobEventKind.DELETED, {}, last=True)
        return WatchEvent(self.job, None, state, {}, last=True) if state.ended else None


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
            self._listeners.append(on_changes)
            self._begin_reading(known)
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


def event_of(change: Change) -> WatchEvent:
    """A change of the log as an event."""
    data = {"time": change.time, **change.facts}
    return WatchEvent(change.job, change.number, change.kind, data, change.kind in LAST_KINDS)
