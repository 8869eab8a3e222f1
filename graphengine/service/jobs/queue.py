"""The durable queue of jobs: one SQLite file, without any set-up. What `submit` has returned is on disk.

Any number of processes and threads may use one file. The service that runs its jobs holds the file's lease, whose epoch
is checked in every transaction that claims or ends a job: a holder that was taken for dead (it slept, a clock jumped)
changes nothing any more once another has taken over.

The module is long because every statement that reads or changes the table of jobs outside of a run is here.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from graphengine.service.jobs.checks import check, check_uuid, json_of
from graphengine.service.jobs.database import POLL, Database, QueueError
from graphengine.service.jobs.job import Attempt, Change, Job, JobEventKind, NewJob, State
from graphengine.service.jobs.tables import COLUMNS, NEXT, job_of

_PLACE = "coalesce(place, id)"
_NEW = "id, user, priority, facts, attempts, created, body, uuid"
_INSERT = f"insert into jobs ({_NEW}) values ({NEXT}, ?, ?, ?, ?, ?, ?, ?)"
_ORDER = f"priority desc, {_PLACE}, id"
ALL = ""
"""In `paused` and `limits`, all users."""


class NoJob(QueueError):
    """There is no job of that number."""


class NameTaken(QueueError):
    """There is a job of that UUID already."""


class QueueFull(QueueError):
    """As many jobs of a user wait as may."""


class LeaseLost(QueueError):
    """Another process runs the jobs of this file now."""


class Queue(Database):
    """A queue in a file.

    Args:
        file: The SQLite file; made, with its folder, if it does not exist.
        clock: A function that returns the seconds since the epoch.
        synchronous: With `FULL`, jobs whose numbers were returned survive a power cut; with `NORMAL` only the death of
            processes, which is ten times faster.
        patience: Seconds to wait while another process writes.

    Raises:
        QueueFileError: The file cannot be opened, or is no queue.
        QueueError: The file is of a newer version.
    """

    def __init__(
        self,
        file: str | Path,
        clock: Callable[[], float] = time.time,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        patience: float = 30.0,
    ) -> None:
        super().__init__(Path(file), synchronous, patience)
        self.clock = clock

    # --- submitting ---------------------------------------------------------------------------------------------------

    def submit(self, *jobs: NewJob, uuids: Sequence[str] = ()) -> list[int]:
        """Put jobs into the queue, all of them or none; they are on disk when this returns.

        Args:
            uuids: The UUIDs of the first jobs, in lower case; '' and those of the others are drawn.

        Returns:
            The jobs' numbers.

        Raises:
            QueueError: A job is no JSON data or too large; its user, priority or attempts are wrong.
            QueueFileError: The file cannot be written (disk full, locked).
            QueueFull: A user's limit would be exceeded.
            NameTaken: There is a job of a given UUID already.
        """
        for job in jobs:
            check(job)
        given = dict(enumerate(uuids))
        for name in filter(None, uuids):
            check_uuid(name)
        rows = [(json_of(job.body, "body"), json_of(job.facts, "facts") if job.facts else "{}", job) for job in jobs]
        now, ids = self.clock(), []
        with self.write() as base:
            self._check_limits(base, jobs)
            for number, (body, facts, job) in enumerate(rows):
                named = given.get(number)
                if named and base.execute("select 1 from jobs where uuid = ?", (named,)).fetchone() is not None:
                    raise NameTaken(f"there is a job {named} already")
                row = (job.user, job.priority, facts, job.attempts, now, body, named or str(uuid.uuid4()))
                base.execute(_INSERT, row)
                ids.append(int(base.lastrowid or 0))
                self.tell(base, ids[-1], JobEventKind.QUEUED)
        return ids

    def _check_limits(self, base: sqlite3.Cursor, jobs: Sequence[NewJob]) -> None:
        limits = dict(base.execute("select user, queued from limits").fetchall())
        if not limits:
            return
        for user in {job.user for job in jobs}:
            limit = limits.get(user, limits.get(ALL))
            count = base.execute("select count(*) from jobs where user = ? and state = 'queued'", (user,)).fetchone()[0]
            more = sum(job.user == user for job in jobs)
            if limit is not None and count + more > limit:
                name = user or "this user"
                raise QueueFull(f"{name} has {count} waiting; {more} more would be over the limit of {limit}")

    def set_limit(self, queued: int | None, user: str = ALL) -> None:
        """Limit how many jobs of a user may wait at once; None for any number. Without a user: of each user who has no
        limit of their own."""
        if queued is not None and queued < 0:
            raise QueueError(f"a limit is 0 or more, not {queued}")
        with self.write() as base:
            base.execute("delete from limits where user = ?", (user,))
            if queued is not None:
                base.execute("insert into limits values (?, ?)", (user, queued))

    def limits(self) -> dict[str, int]:
        """The limits of waiting jobs, by user; '' stands for users who have no limit of their own."""
        return dict(self.read("select user, queued from limits order by user"))

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, id: int) -> Job:
        """A job by its number.

        Raises:
            NoJob: There is no job of that number.
        """
        found = self.read(f"select {COLUMNS} from jobs where id = ?", (id,))
        if not found:
            raise NoJob(f"there is no job {id}")
        return job_of(found[0])

    def named(self, name: str) -> Job:
        """A job by its UUID.

        Raises:
            NoJob: There is no job of that UUID.
        """
        found = self.read(f"select {COLUMNS} from jobs where uuid = ?", (name,))
        if not found:
            raise NoJob(f"there is no job {name}")
        return job_of(found[0])

    def ahead(self, id: int) -> int | None:
        """How many jobs wait before a waiting one, those of other users and paused ones too; None if it does not
        wait."""
        query = f"select priority, {_PLACE} from jobs where id = ? and state = 'queued'"
        found = self.read(query, (id,))
        if not found:
            return None
        before = f"(priority > ? or (priority = ? and ({_PLACE}, id) < (?, ?)))"
        priority, place = found[0]
        query = f"select count(*) from jobs where state = 'queued' and {before}"
        return int(self.read(query, (priority, priority, place, id))[0][0])

    def body(self, id: int) -> Any:
        """The body with which a job was submitted."""
        found = self.read("select body from jobs where id = ?", (id,))
        if not found:
            raise NoJob(f"there is no job {id}")
        return json.loads(found[0][0])

    def attempts(self, id: int) -> list[Attempt]:
        """The attempts at a job, first to last."""
        found = self.read("select tries from jobs where id = ?", (id,))
        if not found:
            raise NoJob(f"there is no job {id}")
        return [Attempt(number, *facts) for number, facts in enumerate(json.loads(found[0][0]), start=1)]

    def waiting(self, limit: int = 1000, user: str | None = None, paused: bool = False) -> list[Job]:
        """The next jobs in their order: by priority, then as they came or were moved.

        Args:
            user: Only this user's.
            paused: Those that are paused too.
        """
        query, values = f"select {COLUMNS} from jobs where state = 'queued'", tuple[str, ...]()
        if user is not None:
            query, values = f"{query} and user = ?", (user,)
        if not paused:
            query += " and user not in (select user from paused) and not exists (select 1 from paused where user = '')"
        return [job_of(row) for row in self.read(f"{query} order by {_ORDER} limit ?", (*values, limit))]

    def first_of_users(self) -> list[Job]:
        """The next job of each user among the jobs of the highest priority, without paused ones."""
        waits = "state = 'queued' and user not in (select user from paused)"
        query = (  # of the rows of a group, SQLite takes the others' values from the one with the minimum
            f"select {COLUMNS}, min({_PLACE}) from jobs where {waits} and not exists (select 1 from paused where "
            f"user = '') and priority = (select max(priority) from jobs where {waits}) group by user"
        )
        return [job_of(row[:-1]) for row in self.read(query)]

    def running(self) -> list[Job]:
        """The jobs that run, or were running when their service died."""
        return [job_of(row) for row in self.read(f"select {COLUMNS} from jobs where state = 'running' order by id")]

    def unfinished(self) -> list[int]:
        """The numbers of all jobs that have not ended, paused ones too, as they came."""
        return [id for (id,) in self.read("select id from jobs where state in ('queued', 'running') order by id")]

    def folders(self) -> set[str]:
        """The names of the folders in which jobs keep their bytes; a job that is done and had a finisher keeps none."""
        query = (
            "select json_extract(body, '$.files') from jobs "
            "where state != 'done' or json_extract(body, '$.finish') is null"
        )
        return {name for (name,) in self.read(query) if name}

    def has_folder(self, name: str) -> bool:
        """Whether a job keeps its bytes in this folder."""
        query = (
            "select 1 from jobs where json_extract(body, '$.files') = ? "
            "and (state != 'done' or json_extract(body, '$.finish') is null)"
        )
        return bool(self.read(query, (name,)))

    def out_folders(self) -> list[str]:
        """The folders into which jobs write their outputs."""
        found = self.read("select distinct json_extract(body, '$.out') from jobs")
        return [folder for (folder,) in found if folder]

    def history(
        self,
        states: Iterable[State] = tuple(State),
        user: str | None = None,
        before: int | None = None,
        limit: int = 50,
        labels: Mapping[str, str] | None = None,
        workflow: str | None = None,
        skip: int = 0,
    ) -> list[Job]:
        """A page of jobs, the newest first.

        Args:
            before: The last number of the page before; None for the first page.
            skip: How many jobs to leave out at the beginning, for clients that count instead.
            labels: Only jobs whose facts have these among their `labels`; a name holds no quotation mark.
            workflow: Only jobs of the workflow of this name.
        """
        wanted = list(states)
        marks = ", ".join("?" * len(wanted))
        query = f"select {COLUMNS} from jobs where state in ({marks})"
        values: list[Any] = list(wanted)
        if user is not None:
            query, values = f"{query} and user = ?", [*values, user]
        if before is not None:
            query, values = f"{query} and id < ?", [*values, before]
        for name, value in (labels or {}).items():
            query, values = f"{query} and json_extract(facts, ?) = ?", [*values, f'$.labels."{name}"', value]
        if workflow is not None:
            query, values = f"{query} and json_extract(facts, '$.workflow') = ?", [*values, workflow]
        return [job_of(row) for row in self.read(f"{query} order by id desc limit ? offset ?", [*values, limit, skip])]

    def wrote(self, user: str, file: str) -> bool:
        """Whether a job of a user has written a file."""
        name = json.dumps(file)[1:-1]  # found fast as a text first
        query = (
            "select 1 from jobs where user = ? and state = 'done' and instr(result, ?) and exists "
            "(select 1 from json_each(result, '$.files') as file where file.value = ?) limit 1"
        )
        return bool(self.read(query, (user, name, file)))

    def counts(self, user: str | None = None) -> dict[State, int]:
        """How many jobs are in each state, of one user or of all."""
        which, values = ("", ()) if user is None else (" where user = ?", (user,))
        found = dict(self.read(f"select state, count(*) from jobs{which} group by state", values))
        return {state: found.get(state, 0) for state in State}

    def changes(self, after: int = 0, limit: int = 1000, job: int | None = None) -> list[Change]:
        """The changes after a number, oldest first; of one job, or of all."""
        which, values = ("", (after, limit)) if job is None else ("job = ? and ", (job, after, limit))
        query = f"select number, job, kind, time, facts from changes where {which}number > ? order by number limit ?"
        rows = self.read(query, values)
        return [Change(number, job, kind, when, json.loads(facts)) for number, job, kind, when, facts in rows]

    def last_change(self) -> int:
        """The number of the newest change."""
        return int(self.read("select coalesce(max(number), 0) from changes")[0][0])

    def wait(self, *ids: int, timeout: float | None = None) -> list[Job]:
        """Wait until all these jobs have ended; after `timeout` seconds, return them as they are."""
        end = None if timeout is None else time.monotonic() + timeout
        going = list(ids)
        while True:
            while going and self.get(going[0]).state.ended:
                going.pop(0)
            left = POLL if end is None else end - time.monotonic()
            if not going or left <= 0:
                return [self.get(id) for id in ids]
            self.wait_for_change(min(left, 1.0))

    # --- changing -----------------------------------------------------------------------------------------------------

    def cancel(self, id: int) -> State:
        """Cancel a job: at once if it waits; if it runs, its service ends it. A job that has ended stays as it is.

        Returns:
            The job's state now.
        """
        before = self.cancel_from(id)
        return State.CANCELLED if before is State.QUEUED else before

    def cancel_from(self, id: int) -> State:
        """As `cancel`; returns the state that the job had before."""
        with self.write() as base:
            state = _state_of(base, id)
            if state is State.QUEUED:
                base.execute("update jobs set state = 'cancelled', ended = ? where id = ?", (self.clock(), id))
                self.tell(base, id, JobEventKind.CANCELLED)
            if state is State.RUNNING:
                base.execute("update jobs set cancelling = 1 where id = ?", (id,))
                self.tell(base, id, JobEventKind.CANCELLING)
            return state

    def delete(self, id: int) -> None:
        """Take a job that has ended out of the history.

        Raises:
            QueueError: The job waits or runs; cancel it first.
        """
        with self.write() as base:
            state = _state_of(base, id)
            if not state.ended:
                raise QueueError(f"job {id} is {state}; cancel it first")
            base.execute("update deleted set highest = max(highest, ?)", (id,))
            base.execute("delete from jobs where id = ?", (id,))
            self.tell(base, id, JobEventKind.DELETED)

    def move(self, id: int, before: int | None = None) -> None:
        """Put a waiting job right before another one, with that one's priority; without another, before all.

        The change has the priority if that is changed.
        """
        with self.write() as base:
            if _state_of(base, id) is not State.QUEUED:
                raise QueueError(f"job {id} does not wait any more; only waiting jobs can be moved")
            (was,) = base.execute("select priority from jobs where id = ?", (id,)).fetchone()
            if before is None:
                first = (
                    f"select priority, {_PLACE} from jobs where state = 'queued' and id != ? order by {_ORDER} limit 1"
                )
                other = base.execute(first, (id,)).fetchone()
                if other is None:
                    return
            else:
                if _state_of(base, before) is not State.QUEUED or before == id:
                    raise QueueError(f"job {before} is no other waiting job; a job is moved before one that waits")
                other = base.execute(f"select priority, {_PLACE} from jobs where id = ?", (before,)).fetchone()
            priority, place = other
            query = (
                f"select max({_PLACE}) from jobs where state = 'queued' and priority = ? and {_PLACE} < ? and id != ?"
            )
            left = base.execute(query, (priority, place, id)).fetchone()[0]
            between = place - 1.0 if left is None else (left + place) / 2
            if left is not None and not left < between < place:  # no number lies between them any more
                later = f"state = 'queued' and {_PLACE} >= ?"
                base.execute(f"update jobs set place = {_PLACE} + 1 where {later}", (place,))
                between = (left + place + 1) / 2
            base.execute("update jobs set priority = ?, place = ? where id = ?", (priority, between, id))
            self.tell(base, id, JobEventKind.MOVED, **({} if priority == was else {"priority": priority}))

    def prefer(self, priority: int, *ids: int) -> None:
        """Give waiting jobs another priority; jobs that do not wait any more stay as they are."""
        with self.write() as base:
            for id in ids:
                query = "update jobs set priority = ? where id = ? and state = 'queued' and priority != ?"
                if base.execute(query, (priority, id, priority)).rowcount:
                    self.tell(base, id, JobEventKind.PREFERRED, priority=priority)

    def pause(self, user: str = ALL) -> None:
        """Pause the jobs of a user, or all: no more are begun; those that a worker has begun go on."""
        with self.write() as base:
            base.execute("insert or ignore into paused values (?)", (user,))
            self.tell(base, 0, JobEventKind.PAUSED, user=user)

    def resume(self, user: str = ALL) -> None:
        """End a pause."""
        with self.write() as base:
            base.execute("delete from paused where user = ?", (user,))
            self.tell(base, 0, JobEventKind.RESUMED, user=user)

    def paused(self) -> list[str]:
        """The users whose jobs are paused; '' stands for all."""
        return [user for (user,) in self.read("select user from paused order by user")]

    def tell(self, base: sqlite3.Cursor, job: int, kind: JobEventKind, **facts: Any) -> None:
        """Record a change, in the transaction that makes it."""
        values = (job, kind, self.clock(), json.dumps(facts) if facts else "{}")
        base.execute("insert into changes (job, kind, time, facts) values (?, ?, ?, ?)", values)


def _state_of(base: sqlite3.Cursor, id: int) -> State:
    found = base.execute("select state from jobs where id = ?", (id,)).fetchone()
    if found is None:
        raise NoJob(f"there is no job {id}")
    return State(found[0])
