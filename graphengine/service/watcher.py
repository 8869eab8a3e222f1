"""A watcher of jobs: joins the changes of the queue's log with the steps of running jobs, in the order of what happens.

The log holds what happens to jobs: a watcher can go on from the number of any change in it, also after a restart of the
service. Steps and previews of runs are in no log, and are told as they happen. A job runs before it makes a step, and
its end comes after them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphengine.service.jobs.job import LAST_KINDS, Change, JobEventKind
from graphengine.service.jobs.queue import NoJob, Queue

MOST_KEPT = 200
"""Changes that are kept for a watcher who reads slowly; beyond, it reads them from the log again."""
MOST_LIVE = 256
"""Steps that are kept for a watcher who reads slowly; beyond, the latest of each node."""
PAGE = 1000
"""Changes that are read from the log at once."""


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

    Any thread adds to it; one at a time takes from it, by `batches`, or by `take` and `read`.

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
        self._running: dict[int, int] = {}  # the jobs of which was told that they run, with the numbers of the attempts
        self._attempts: dict[int, int] = {}  # the number of a job's attempt from which its steps come, if it began here
        self._lags = True  # whether changes are missing here, and the log is to be read
        self._unsure = False  # whether a step may have come before the change that its attempt runs
        self._waking = self._began = False

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
            if self._running.get(event.job, 0) < self._attempts.get(event.job, 1):
                self._unsure = True
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
            self._woken.clear()  # first: news that comes after `take` wakes
            if (batch := self.take()) is None:
                batch = self.read()
            if batch:
                yield batch
                if self.ended:
                    return
            if not self._woken.wait(silence):
                self.lag()
                yield [NOTHING]

    def take(self) -> list[WatchEvent] | None:
        """What has come since the last call, maybe nothing; None if the log is to be read first."""
        with self._lock:
            if self._lags or (self._unsure and not self._run(self._changes)):
                return None
            changes, self._changes, live, self._live, self._waking = self._changes, [], self._live, [], False
            return self._told(changes, live)

    def read(self) -> list[WatchEvent]:
        """What has come, with the changes of the log. Blocks while the file is read.

        Raises:
            QueueError: The log cannot be read.
        """
        now = None if self._began or self.job is None else self._progress(self.job)
        with self._lock:
            before = {event.job: self._attempts.get(event.job) for event in self._live}
            self._changes, self._lags, self._waking = [], False, False
        changes = self._queue.changes(self._known, PAGE, self.job)
        end = None if changes else self._end()
        if end is not None:  # since the log was read, maybe: it is read once more
            changes = self._queue.changes(self._known, PAGE, self.job)
        is_whole = len(changes) < PAGE
        ended = {change.job for change in changes if change.kind in LAST_KINDS}
        with self._lock:
            # The log holds that the attempts run from which there were steps, and all steps of jobs that end in it are
            # here; what has come since then from others waits until it is read again.
            running = {job for job, attempt in before.items() if is_whole and attempt == self._attempts.get(job)}
            live = [event for event in self._live if event.job in running | ended]
            self._live = [event for event in self._live if event.job not in running | ended]
            if is_whole:
                self._began = True
                return self._told(changes, live or ([] if now is None else [now]), end)
            told = self._told(changes, live)
        self.lag()  # there is more
        return told

    def _run(self, changes: Sequence[Change]) -> bool:
        """Whether all attempts from which there are steps run, by what was told or by changes that are told next."""
        runs = self._running | {one.job: _attempt(one.facts) for one in changes if one.kind == JobEventKind.RUNNING}
        return all(runs.get(event.job, 0) >= self._attempts.get(event.job, 1) for event in self._live)

    def _told(
        self, changes: Sequence[Change], live: list[WatchEvent], end: WatchEvent | None = None
    ) -> list[WatchEvent]:
        """Changes and events of runs in the order in which they are told; called with the lock."""
        runs, attempts, self._unsure = self._running, self._attempts, bool(self._live)
        for job in {event.job for event in live}:  # its attempt runs: the log holds it, or the client knows it already
            runs[job] = attempts.get(job, runs.get(job, 1))
        news = [event_of(change) for change in changes if change.number > self._known]
        if end is not None and not any(event.last for event in news):
            news.append(end)
        if not news:
            return live
        for event in news:
            self._known = event.number or self._known
            if event.kind == JobEventKind.RUNNING:
                runs[event.job] = _attempt(event.data)
            elif event.kind in (JobEventKind.LOST, JobEventKind.LEFT):
                runs.pop(event.job, None)
        live = [step for step in live if runs.get(step.job, 0) == attempts.get(step.job, runs.get(step.job))]
        batch = list[WatchEvent]()
        for event in news:
            if event.last:  # its job's steps come before it
                batch += [step for step in live if step.job == event.job]
                live = [step for step in live if step.job != event.job]
                runs.pop(event.job, None)
                attempts.pop(event.job, None)
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


def event_of(change: Change) -> WatchEvent:
    """A change of the log as an event."""
    data = {"time": change.time, **change.facts}
    return WatchEvent(change.job, change.number, change.kind, data, change.kind in LAST_KINDS)


def _attempt(facts: Mapping[str, Any]) -> int:
    """The number of the attempt that runs by a change."""
    return int(facts.get("attempt", 1))
