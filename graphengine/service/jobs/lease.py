"""The lease of a queue's file, whose holder runs the file's jobs. Its epoch fences every write of its holder."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.job import Job, JobEventKind, State
from graphengine.service.jobs.queue import LeaseLost, Queue
from graphengine.service.jobs.tables import COLUMNS, job_of
from graphengine.service.retry import job_is_given_up, services_lost

SECONDS = 15.0
"""Seconds that a lease lasts if it is not renewed."""

LONGEST_ERROR = 20_000
"""Characters of an error that are kept."""
KEPT = 100_000
"""Changes that are kept in the file."""

_RUNS = "and attempt = ? and state = 'running'"


class Lease:
    """The right to run a queue's jobs; made by `take`.

    Attributes:
        epoch: Grows with each holder; writes of an earlier holder are refused.
    """

    def __init__(self, queue: Queue, holder: str, epoch: int, seconds: float) -> None:
        self.queue, self.holder, self.epoch, self.seconds = queue, holder, epoch, seconds

    @contextmanager
    def _fenced(self) -> Iterator[sqlite3.Cursor]:
        with self.queue.write() as base:
            if base.execute("select epoch from lease").fetchone()[0] != self.epoch:
                raise LeaseLost(f"another process runs the jobs of {self.queue.file} now")
            yield base

    def renew(self) -> None:
        """Renew the lease, well before its seconds are over.

        Raises:
            LeaseLost: Another process has taken it; all methods raise this.
        """
        with self._fenced() as base:
            base.execute("update lease set until = ?", (self.queue.clock() + self.seconds,))
            base.execute("delete from changes where number <= (select max(number) from changes) - ?", (KEPT,))

    def release(self) -> None:
        """Give the lease back, so that another process can take it at once."""
        with self._fenced() as base:
            base.execute("update lease set holder = null, until = 0, epoch = epoch + 1")

    # --- running jobs -------------------------------------------------------------------------------------------------

    def claim(self, id: int, worker: str) -> Job | None:
        """Begin an attempt at a job; None if the job does not wait any more (it was cancelled, or begun).

        Args:
            worker: The service's name, which no other has, nor the same one when it is started again: services that
                were lost with a job are counted by it.
        """
        now = self.queue.clock()
        with self._fenced() as base:
            row = base.execute(
                "update jobs set state = 'running', attempt = attempt + 1, worker = ?, started = ?, error = null, "
                f"tries = json_insert(tries, '$[#]', json(?)) where id = ? and state = 'queued' returning {COLUMNS}",
                (worker, now, json.dumps([worker, now, None, "running", None]), id),
            ).fetchone()
            if row is None:
                return None
            job = job_of(row)
            self.queue.tell(base, id, JobEventKind.RUNNING, attempt=job.attempt, worker=worker)
            return job

    def done(self, id: int, attempt: int, result: Any) -> bool:
        """Record that an attempt made the job's outputs; returns whether this was news: a second record changes
        nothing."""
        return self._end(id, attempt, State.DONE, JobEventKind.DONE, None, json.dumps(result))

    def failed(self, id: int, attempt: int, error: str, facts: Any = None) -> bool:
        """Record that an attempt failed by the job's own fault; the job is not tried again. `facts` about the error are
        its result."""
        result = None if facts is None else json.dumps(facts)
        return self._end(id, attempt, State.FAILED, JobEventKind.FAILED, error, result)

    def cancelled(self, id: int, attempt: int) -> bool:
        """Record that an attempt was stopped because the job is cancelled."""
        return self._end(id, attempt, State.CANCELLED, JobEventKind.CANCELLED, None)

    def lost(self, id: int, attempt: int, why: str) -> bool:
        """Record that an attempt ended without an outcome, as its service died: the job waits again in its former
        place, or has failed after too many lost services, see `retry`. A cancelled job has ended."""
        return self._again(id, attempt, JobEventKind.LOST, why)

    def left(self, id: int, attempt: int, why: str) -> bool:
        """Record that an attempt was given up by its service: the job waits again in its former place, however often. A
        cancelled job has ended."""
        return self._again(id, attempt, JobEventKind.LEFT, why)

    def _again(self, id: int, attempt: int, outcome: JobEventKind, why: str) -> bool:
        with self._fenced() as base:
            query = f"select cancelling, tries from jobs where id = ? {_RUNS}"
            found = base.execute(query, (id, attempt)).fetchone()
            if found is None:
                return False
            *before, last = json.loads(found[1])
            services = services_lost([*((one[0], one[3]) for one in before), (last[0], outcome)])
            waits = State.FAILED if job_is_given_up(services) else State.QUEUED
            state = State.CANCELLED if found[0] else waits
            error = why if state is not State.FAILED else f"{why} (given up after {services} services)"
            self._close(base, id, attempt, state, outcome, error)
            return True

    def writes(self, id: int, attempt: int, files: Mapping[str, str]) -> None:
        """Record that an attempt is about to write files: if its end is never recorded, the next attempt removes them.

        Args:
            files: All of them, the marks by path.
        """
        with self._fenced() as base:
            query = f"update jobs set tries = json_set(tries, '$[{attempt - 1}][5]', json(?)) where id = ? {_RUNS}"
            if not base.execute(query, (json.dumps(files), id, attempt)).rowcount:
                raise QueueError(f"attempt {attempt} of job {id} has ended already")

    def worker_lost(self, id: int, attempt: int, why: str) -> None:
        """Record that a worker was lost while it computed for a job, which goes on."""
        with self._fenced() as base:
            self.queue.tell(base, id, JobEventKind.WORKER_LOST, attempt=attempt, error=why)

    def recover(self, clear: Callable[[Job], object] = lambda job: None) -> list[int]:
        """Record jobs as lost that an earlier holder left running; returns their numbers.

        Args:
            clear: Called with each job before, to remove the files of its attempt.
        """
        found = []
        for job in self.queue.running():
            clear(job)
            if self.lost(job.id, job.attempt, "the service that ran it ended"):
                found.append(job.id)
        return found

    def _end(
        self, id: int, attempt: int, state: State, outcome: JobEventKind, error: str | None, result: Any = None
    ) -> bool:
        with self._fenced() as base:
            if base.execute(f"select 1 from jobs where id = ? {_RUNS}", (id, attempt)).fetchone() is None:
                return False
            self._close(base, id, attempt, state, outcome, error, result)
            return True

    def _close(
        self, base: sqlite3.Cursor, id: int, attempt: int, state: State, outcome: JobEventKind, error: str | None,
        result: str | None = None,
    ) -> None:  # fmt: skip
        now = self.queue.clock()
        if error is not None:
            error = error.encode(errors="backslashreplace").decode()  # of a file's name, say
            if len(error) > LONGEST_ERROR:
                error = f"{error[:LONGEST_ERROR]} … ({len(error):,} characters in all)"
        last = f"$[{attempt - 1}]"
        base.execute(
            "update jobs set state = ?, cancelling = 0, ended = ?, error = ?, result = ?, tries = json_set(tries, "
            f"'{last}[2]', ?, '{last}[3]', ?, '{last}[4]', ?) where id = ?",
            (state, now if state.ended else None, error, result, now, outcome, error, id),
        )
        facts = {"attempt": attempt} | ({} if error is None else {"error": error})
        self.queue.tell(base, id, JobEventKind(state) if state.ended else outcome, **facts)


def take(queue: Queue, holder: str, seconds: float = SECONDS) -> Lease | None:
    """Take the lease of a queue if no process holds it, or its holder did not renew it in time; else None.

    An expiry later than one lease from now means that the clock was set back; it is ignored.
    """
    with queue.write() as base:
        epoch, until, lasts = base.execute("select epoch, until, seconds from lease").fetchone()
        now = queue.clock()
        if now < until <= now + 2 * lasts:
            return None
        query = "update lease set epoch = ?, holder = ?, until = ?, seconds = ?"
        base.execute(query, (epoch + 1, holder, now + seconds, seconds))
        return Lease(queue, holder, epoch + 1, seconds)


def holder(queue: Queue) -> str | None:
    """The name of the service that holds a queue's lease; None if none does."""
    name, until = queue.read("select holder, until from lease")[0]
    return str(name) if name is not None and queue.clock() < until else None
