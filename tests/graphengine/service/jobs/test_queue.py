"""The queue: what was acknowledged is on disk, each job is begun once, who lost the lease changes nothing."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from subprocess import PIPE
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphengine.service.jobs.database import QueueError, QueueFileError
from graphengine.service.jobs.job import NewJob, State
from graphengine.service.jobs.lease import Lease, holder, take
from graphengine.service.jobs.queue import LeaseLost, NameTaken, NoJob, Queue, QueueFull
from graphengine.service.retry import SERVICES

VERSION_1 = """
create table jobs (
    id integer primary key autoincrement, state text not null default 'queued', user text not null,
    priority integer not null, place real, facts text not null, attempt integer not null default 0,
    attempts integer not null, worker text, cancelling integer not null default 0, created real not null,
    started real, ended real, result text, error text, tries text not null default '[]', body text not null);
create index waiting on jobs (priority desc, coalesce(place, id), id) where state = 'queued';
create index running on jobs (id) where state = 'running';
create table changes (
    number integer primary key, job integer not null, kind text not null, time real not null, facts text not null);
create table lease (one integer primary key check (one = 1), epoch integer not null, holder text, until real not null);
insert into lease values (1, 0, null, 0);
create table paused (user text primary key) without rowid;
create table limits (user text primary key, queued integer not null) without rowid;
"""
"""What files of version 1 hold, whatever becomes of today's tables."""


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> Queue:
    return Queue(tmp_path / "queue.sqlite", clock)


def job(**facts: Any) -> NewJob:
    return NewJob({"graph": "a graph"}, **facts)


def lease_of(queue: Queue, name: str = "me") -> Lease:
    lease = take(queue, name)
    assert lease is not None
    return lease


def ids(queue: Queue) -> list[int]:
    return [job.id for job in queue.waiting()]


# --- submitting and order --------------------------------------------------------------------------------------------


def test_a_submitted_job_is_in_the_file(queue: Queue, clock: Clock) -> None:
    (number,) = queue.submit(NewJob({"graph": {"ä": [1, None]}}, "ann", 2, 5, {"models": ["tiny"]}))
    other = Queue(queue.file)
    found = other.get(number)
    assert (found.state, found.user, found.priority, found.limit) == (State.QUEUED, "ann", 2, 5)
    assert (found.facts, found.created, found.attempt) == ({"models": ["tiny"]}, 1000.0, 0)
    assert other.body(number) == {"graph": {"ä": [1, None]}}
    assert other.counts() == {State.QUEUED: 1} | {state: 0 for state in State if state is not State.QUEUED}


def test_order_is_by_priority_then_as_they_came(queue: Queue) -> None:
    low, high, later = queue.submit(job(), job(priority=1), job())
    assert ids(queue) == [high, low, later]


def test_moving(queue: Queue) -> None:
    a, b, c, d = queue.submit(job(), job(), job(), job(priority=1))
    queue.move(c, before=b)
    assert ids(queue) == [d, a, c, b]
    queue.move(b)
    assert ids(queue) == [b, d, a, c]
    queue.move(d, before=c)
    assert ids(queue) == [b, a, d, c]
    with pytest.raises(QueueError, match="no other waiting job"):
        queue.move(a, before=a)
    queue.cancel(a)
    with pytest.raises(QueueError, match="does not wait any more"):
        queue.move(a)


@settings(max_examples=40, deadline=None)
@given(moves=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), max_size=80))
def test_moves_are_those_of_a_list(tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[int, int]]) -> None:
    queue = Queue(tmp_path_factory.mktemp("queue") / "q.sqlite", synchronous="NORMAL")
    order = queue.submit(*[job()] * 5)
    for source, target in moves:
        moved = order[source]
        before = None if target == 5 else order[target]
        if moved == before:
            continue
        queue.move(moved, before=before)
        order.remove(moved)
        order.insert(0 if before is None else order.index(before), moved)
        assert ids(queue) == order
    queue.close()


def test_many_moves_between_two_jobs_keep_the_order(queue: Queue) -> None:
    """Halving the room between two numbers ends after some fifty times."""
    a, b, c = queue.submit(job(), job(), job())
    for _ in range(60):
        queue.move(c, before=b)
        queue.move(b, before=c)
    assert ids(queue) == [a, b, c]


@pytest.mark.parametrize(
    ("body", "message"),
    [({"x": object()}, "no JSON data"), ({"x": float("nan")}, "no JSON data"), ({"x": "a" * 33_000_000}, "more than")],
)
def test_what_is_no_job_is_refused_and_nothing_is_taken(queue: Queue, body: Any, message: str) -> None:
    with pytest.raises(QueueError, match=message):
        queue.submit(job(), NewJob(body))
    assert ids(queue) == []


def test_limits_of_users(queue: Queue) -> None:
    queue.set_limit(2)
    queue.set_limit(3, "ann")
    queue.submit(job(user="bob"), job(user="bob"), *[job(user="ann")] * 3)
    with pytest.raises(QueueFull, match="bob has 2 waiting; 1 more would be over the limit of 2"):
        queue.submit(job(user="bob"))
    with pytest.raises(QueueFull, match="over the limit of 3"):
        queue.submit(job(user="eve"), job(user="ann"))
    assert queue.counts()[State.QUEUED] == 5
    queue.set_limit(None, "ann")
    queue.set_limit(None)
    queue.submit(job(user="bob"), job(user="ann"))


def test_pauses(queue: Queue) -> None:
    ann, bob = queue.submit(job(user="ann"), job(user="bob"))
    queue.pause("ann")
    assert ids(queue) == [bob]
    queue.pause()
    assert (ids(queue), queue.paused()) == ([], ["", "ann"])
    queue.resume()
    queue.resume("ann")
    assert ids(queue) == [ann, bob]


def test_history_by_pages(queue: Queue) -> None:
    numbers = queue.submit(*[job(user="ann")] * 5, job(user="bob"))
    queue.cancel(numbers[1])
    first = queue.history(limit=3)
    assert [found.id for found in first] == numbers[:2:-1]
    assert [found.id for found in queue.history(before=first[-1].id)] == numbers[2::-1]
    assert [found.id for found in queue.history(user="bob")] == numbers[5:]
    assert [found.id for found in queue.history([State.CANCELLED])] == [numbers[1]]


# --- running ----------------------------------------------------------------------------------------------------------


def test_a_job_is_begun_once_and_ends_once(queue: Queue, clock: Clock) -> None:
    (number,) = queue.submit(job())
    lease = lease_of(queue)
    begun = lease.claim(number, "w1")
    assert begun is not None
    assert (begun.state, begun.attempt, begun.worker, begun.started) == (State.RUNNING, 1, "w1", 1000.0)
    assert lease.claim(number, "w2") is None
    clock.now += 5
    assert lease.done(number, 1, {"pictures": ["a.png"]})
    assert not lease.done(number, 1, {"pictures": ["b.png"]})
    assert not lease.failed(number, 1, "late")
    found = queue.get(number)
    assert (found.state, found.result, found.ended) == (State.DONE, {"pictures": ["a.png"]}, 1005.0)
    (attempt,) = queue.attempts(number)
    assert (attempt.number, attempt.worker, attempt.outcome, attempt.ended) == (1, "w1", "done", 1005.0)


def test_a_lost_job_waits_where_it_stood_until_too_many_services_have_died(queue: Queue) -> None:
    first, second = queue.submit(job(), job())
    lease = lease_of(queue)
    lease.claim(first, "w1")
    assert lease.lost(first, 1, "w1 was killed")
    assert ids(queue) == [first, second]
    assert queue.get(first).error == "w1 was killed"
    lease.claim(first, "w2")
    assert not lease.done(first, 1, None)  # what was taken for dead speaks up
    for attempt in range(2, SERVICES):
        assert lease.lost(first, attempt, "killed")
        lease.claim(first, f"w{attempt + 1}")
    assert queue.get(first).state is State.RUNNING
    assert lease.lost(first, SERVICES, "killed")
    found = queue.get(first)
    assert (found.state, found.error) == (State.FAILED, f"killed (given up after {SERVICES} services)")
    assert [a.outcome for a in queue.attempts(first)] == ["lost"] * SERVICES
    assert ids(queue) == [second]


def test_services_that_take_the_lease_from_one_another_fail_no_job(queue: Queue) -> None:
    (id,), lease = queue.submit(job()), lease_of(queue)
    for attempt in range(1, SERVICES + 6):
        lease.claim(id, f"service {attempt % 2}")
        assert lease.lost(id, attempt, "taken over")
    assert queue.get(id).state is State.QUEUED
    for more in range(2, SERVICES):  # those two count once each
        assert queue.get(id).state is State.QUEUED
        lease.claim(id, f"service {more}")
        assert lease.lost(id, SERVICES + 4 + more, "killed")
    assert queue.get(id).state is State.FAILED


def test_being_left_to_be_begun_again_is_no_death(queue: Queue) -> None:
    (id,), lease = queue.submit(job()), lease_of(queue)
    for attempt in range(1, SERVICES + 2):
        lease.claim(id, "w")
        assert lease.left(id, attempt, "stopped")
    assert queue.get(id).state is State.QUEUED
    lease.claim(id, "w")
    queue.cancel(id)
    assert lease.left(id, SERVICES + 2, "stopped")
    assert queue.get(id).state is State.CANCELLED


def test_cancelling(queue: Queue) -> None:
    waits, runs, dies = queue.submit(job(), job(), job())
    lease = lease_of(queue)
    lease.claim(runs, "w1")
    lease.claim(dies, "w2")
    assert [queue.cancel(id) for id in (waits, runs, dies)] == [State.CANCELLED, State.RUNNING, State.RUNNING]
    assert lease.claim(waits, "w1") is None
    assert queue.get(runs).cancelling
    assert lease.cancelled(runs, 1)
    assert lease.lost(dies, 1, "w2 was killed")  # it is not begun again
    assert [queue.get(id).state for id in (waits, runs, dies)] == [State.CANCELLED] * 3
    assert queue.cancel(runs) is State.CANCELLED
    with pytest.raises(QueueError, match="there is no job 99"):
        queue.cancel(99)


def test_deleting_keeps_numbers_used(queue: Queue) -> None:
    (number,) = queue.submit(job())
    with pytest.raises(QueueError, match="is queued; cancel it first"):
        queue.delete(number)
    queue.cancel(number)
    queue.delete(number)
    with pytest.raises(QueueError, match="no job"):
        queue.get(number)
    assert queue.submit(job()) == [number + 1]


def test_every_change_is_told(queue: Queue) -> None:
    one, two = queue.submit(job(), job())
    lease = lease_of(queue)
    lease.claim(one, "w")
    lease.lost(one, 1, "gone")
    lease.claim(one, "w")
    lease.done(one, 2, None)
    queue.pause()
    queue.cancel(two)
    told = queue.changes()
    assert [(change.job, change.kind) for change in told] == [
        (one, "queued"), (two, "queued"), (one, "running"), (one, "lost"), (one, "running"), (one, "done"),
        (0, "paused"), (two, "cancelled"),
    ]  # fmt: skip
    assert told[3].facts == {"attempt": 1, "error": "gone"}
    assert queue.changes(after=told[-2].number) == told[-1:]
    assert queue.last_change() == told[-1].number


# --- the lease --------------------------------------------------------------------------------------------------------


def test_one_holder_at_a_time(queue: Queue, clock: Clock) -> None:
    first = lease_of(queue, "first")
    assert take(queue, "second") is None
    assert holder(queue) == "first"
    clock.now += 10
    first.renew()
    clock.now += 10
    assert take(queue, "second") is None
    first.release()
    assert holder(queue) is None
    lease_of(queue, "second")


def test_a_lease_lasts_as_long_as_its_holder_said(queue: Queue, clock: Clock) -> None:
    assert take(queue, "patient", seconds=60) is not None
    clock.now += 20
    assert take(queue, "hasty", seconds=5) is None
    clock.now += 41
    assert take(queue, "hasty", seconds=5) is not None


def test_who_lost_the_lease_changes_nothing(queue: Queue, clock: Clock) -> None:
    number, other = queue.submit(job(), job())
    first = lease_of(queue, "first")
    first.claim(number, "w1")
    clock.now += 1000
    second = lease_of(queue, "second")
    assert second.recover() == [number]
    for call in (
        lambda: first.done(number, 1, None),
        lambda: first.claim(other, "w1"),
        lambda: first.lost(number, 1, "x"),
        first.renew,
        first.release,
    ):
        with pytest.raises(LeaseLost, match="another process runs the jobs"):
            call()
    assert queue.get(number).state is State.QUEUED
    assert second.claim(number, "w2") is not None


def test_a_clock_that_was_set_back_locks_nobody_out(queue: Queue, clock: Clock) -> None:
    lease_of(queue, "first")
    clock.now -= 900
    lease_of(queue, "second")


# --- many at once, and deaths -----------------------------------------------------------------------------------------

AT_ONCE = """
import sys
from graphengine.service.jobs.job import NewJob
from graphengine.service.jobs.lease import Lease
from graphengine.service.jobs.queue import Queue
queue = Queue(sys.argv[1], synchronous="NORMAL")
lease = Lease(queue, "all", 1, 3600)
print("ready", flush=True)
sys.stdin.readline()
for n in range(25):
    print("put", *queue.submit(NewJob({}), NewJob({})))
    for job in queue.waiting(20):
        if lease.claim(job.id, sys.argv[2]):
            print("begun", job.id)
"""


def test_threads_and_processes_at_once_begin_each_job_once(tmp_path: Path) -> None:
    """Six processes and six threads submit and claim, all from the same moment on, always for the same next jobs."""
    file = tmp_path / "queue.sqlite"
    queue = Queue(file, synchronous="NORMAL")
    lease = take(queue, "all", 3600)
    assert lease is not None
    barrier = threading.Barrier(7)
    put: list[int] = []
    begun: list[int] = []

    def both(name: str) -> None:
        barrier.wait()
        for _ in range(25):
            put.extend(queue.submit(job(), job()))
            begun.extend(one.id for one in queue.waiting(20) if lease.claim(one.id, name) is not None)

    command = [sys.executable, "-c", AT_ONCE, str(file)]
    processes = [subprocess.Popen([*command, f"p{n}"], stdin=PIPE, stdout=PIPE, text=True) for n in range(6)]
    threads = [threading.Thread(target=both, args=(f"t{n}",)) for n in range(6)]
    [thread.start() for thread in threads]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    barrier.wait()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    [thread.join() for thread in threads]
    for process in processes:
        out, _ = process.communicate(timeout=600)
        assert process.returncode == 0
        for kind, *numbers in (line.split() for line in out.splitlines()):
            (put if kind == "put" else begun).extend(map(int, numbers))
    assert Counter(put) == Counter(range(1, 601))
    assert Counter([*begun, *ids(queue)]) == Counter(put)
    assert len(begun) > 300
    assert all(queue.get(number).attempt == 1 for number in begun)


SUBMITTER = """
import sys
from graphengine.service.jobs.job import NewJob
from graphengine.service.jobs.queue import Queue
queue = Queue(sys.argv[1])
while True:
    print(queue.submit(NewJob({"graph": "x" * 5000}), NewJob({}))[0], flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    file = tmp_path / "queue.sqlite"
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", SUBMITTER, str(file)], stdout=PIPE, text=True)
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(40)]
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout.read().split("\n")[:-1]]
        process.wait()
        queue = Queue(file)
        found = {one.id for one in queue.waiting(100_000)}
        assert {n for number in acknowledged for n in (number, number + 1)} <= found
        assert len(found) % 2 == 0  # both jobs of a submit, or none
        queue.close()
    assert sqlite3.connect(file).execute("pragma integrity_check").fetchone() == ("ok",)


def test_a_full_disk_takes_nothing_and_loses_nothing(queue: Queue) -> None:
    queue.submit(job())
    queue._base.execute(f"pragma max_page_count = {queue._base.execute('pragma page_count').fetchone()[0] + 2}")
    with pytest.raises(QueueError, match="disk is full"):
        queue.submit(job(), NewJob({"large": "x" * 100_000}))
    queue._base.execute("pragma max_page_count = 1000000")
    assert len(ids(queue)) == 1
    queue.submit(job())


def test_a_locked_file_is_waited_for_and_then_told(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "queue.sqlite", patience=0.1)
    patient = Queue(queue.file, patience=10)
    other = sqlite3.connect(queue.file, isolation_level=None, check_same_thread=False)
    other.execute("begin immediate")
    with pytest.raises(QueueError, match="locked"):
        queue.submit(job())
    threading.Timer(0.2, lambda: other.execute("commit")).start()
    assert patient.submit(job()) == [1]


def test_no_number_is_given_twice(queue: Queue) -> None:
    for several, deleted in ((3, [3]), (1, [2, 1, 4])):
        queue.submit(*[job()] * several)
        for number in deleted:
            queue.cancel(number)
            queue.delete(number)
    assert Queue(queue.file).submit(job(), job()) == [5, 6]


def test_a_file_of_version_1_is_gone_on_with(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "old", isolation_level=None)) as old:
        for statement in VERSION_1.split(";\n"):
            old.execute(statement)
        for _ in range(3):
            old.execute(
                "insert into jobs (user, priority, facts, attempts, created, body) values ('', 0, '{}', 3, 0, 1)"
            )
        old.execute("delete from jobs where id = 3")
        old.execute("pragma user_version = 1")
    names = set()
    for _ in range(2):
        queue = Queue(tmp_path / "old")
        assert ids(queue) == [1, 2]
        names |= {queue.get(1).uuid, queue.get(2).uuid}
    assert len(names) == 2  # given once, and kept
    assert {UUID(name).version for name in names} == {4}
    assert queue.submit(job()) == [4]
    assert lease_of(queue).claim(4, "w") is not None


def test_a_job_has_a_uuid_that_no_other_has(queue: Queue) -> None:
    given = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
    first, second = queue.submit(job(), job(), uuids=["", given])
    assert UUID(queue.get(first).uuid).version == 4
    assert queue.named(given).id == second
    with pytest.raises(NameTaken, match="there is a job 6ba7b810"):
        queue.submit(job(), job(), uuids=["", given])
    assert ids(queue) == [first, second]  # nothing of it was submitted
    with pytest.raises(NoJob, match="there is no job x"):
        queue.named("x")
    for wrong in ("x", given.upper(), f"{{{given}}}"):
        with pytest.raises(QueueError, match="must be a UUID in lower case"):
            queue.submit(job(), uuids=[wrong])


def test_how_many_jobs_wait_before_one(queue: Queue) -> None:
    queue.submit(job(), job(), NewJob({}, priority=1), job())
    assert [queue.ahead(number) for number in (1, 2, 3, 4)] == [1, 2, 0, 3]
    queue.move(4, before=2)
    assert [queue.ahead(number) for number in (1, 2, 3, 4)] == [1, 3, 0, 2]
    queue.cancel(3)
    assert [queue.ahead(number) for number in (1, 2, 3, 4)] == [0, 2, None, 1]


def test_jobs_and_changes_are_selected(queue: Queue) -> None:
    queue.submit(*(NewJob({}, facts={"labels": labels}) for labels in ({"a": "1"}, {"a": "2", "b c": "'"}, {})))
    assert [one.id for one in queue.history(labels={"a": "2"})] == [2]
    assert [one.id for one in queue.history(labels={"a": "2", "b c": "'"})] == [2]
    assert queue.history(labels={"a": "1", "b c": "'"}) == []
    queue.cancel(2)
    assert [(one.job, one.kind) for one in queue.changes(job=2)] == [(2, "queued"), (2, "cancelled")]


def test_files_that_are_no_queue(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no queue at all, but a text that is longer than the header of a database" * 20)
    with pytest.raises(QueueError, match="cannot be opened as a queue"):
        Queue(tmp_path / "text")
    Queue(tmp_path / "new").close()
    sqlite3.connect(tmp_path / "new", isolation_level=None).execute("pragma user_version = 99")
    with pytest.raises(QueueError, match="of version 99"):
        Queue(tmp_path / "new")


def test_what_is_no_queue_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no queue at all, but a text that is longer than the header of a database" * 20)
    with closing(sqlite3.connect(tmp_path / "other", isolation_level=None)) as other:
        other.execute("create table bookmarks (name text)")
    os.mkfifo(tmp_path / "pipe")
    before = {file.name: (file.stat().st_mode, file.stat().st_size) for file in tmp_path.iterdir()}
    for name, why in (("text", "not a database"), ("other", "a database of something else"), ("pipe", "it is no file")):
        with pytest.raises(QueueFileError, match=f"{name} cannot be opened as a queue: .*{why}"):
            Queue(tmp_path / name)
    with pytest.raises(QueueFileError, match=r"text/queue cannot be opened as a queue: .*text is no folder"):
        Queue(tmp_path / "text" / "queue")
    assert {file.name: (file.stat().st_mode, file.stat().st_size) for file in tmp_path.iterdir()} == before
    (tmp_path / "empty").touch(0o644)
    Queue(tmp_path / "empty").close()
    assert (tmp_path / "empty").stat().st_mode & 0o777 == 0o600


def test_waiting_for_jobs_of_another_process(queue: Queue) -> None:
    (number,) = queue.submit(job())
    assert queue.wait(number, timeout=0.05)[0].state is State.QUEUED
    other = Queue(queue.file)
    threading.Timer(0.2, other.cancel, [number]).start()
    assert queue.wait(number, timeout=600)[0].state is State.CANCELLED


def test_one_who_is_woken_by_a_change_does_not_put_others_to_sleep(queue: Queue) -> None:
    asleep, woken = threading.Barrier(4), []

    def wait() -> None:
        queue.wait_for_change(0)  # what was before
        asleep.wait()
        woken.append(queue.wait_for_change(30) and queue.get(1).state)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    asleep.wait()
    queue.submit(job())
    for thread in threads:
        thread.join()
    assert woken == [State.QUEUED] * 3


def test_the_next_of_each_user_are_found_behind_the_many_of_one(queue: Queue) -> None:
    queue.submit(*[job(user="big") for _ in range(30)])
    (urgent, small, other) = queue.submit(job(user="big"), job(user="small"), job(user="other"))
    assert [found.id for found in queue.first_of_users()] == [1, other, small]
    queue.move(urgent)
    queue.pause("other")
    assert [found.id for found in queue.first_of_users()] == [urgent, small]


def test_of_very_many_changes_the_oldest_are_forgotten(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphengine.service.jobs.lease.KEPT", 5)
    lease = take(queue, "s")
    assert lease is not None
    queue.submit(*[job() for _ in range(20)])
    lease.renew()
    assert [change.job for change in queue.changes()] == [16, 17, 18, 19, 20]


def test_numbers_that_the_file_cannot_hold_are_told(queue: Queue) -> None:
    with pytest.raises(QueueError, match="beyond 63 bits"):
        queue.get(2**63)
    assert ids(queue) == []
    assert queue.submit(job()) == [1]


def test_what_is_no_unicode_is_told(queue: Queue) -> None:
    with pytest.raises(QueueError, match="a lone surrogate"):
        queue.submit(NewJob({"text": "\udcff"}))
    with pytest.raises(QueueError, match="a limit is 0 or more, not -5"):
        queue.set_limit(-5)
    with pytest.raises(QueueError, match="a lone surrogate"):
        queue.history(user="\udcff")
    (number,), lease = queue.submit(job()), take(queue, "s")
    assert lease is not None
    assert lease.claim(number, "s") is not None
    assert lease.failed(number, 1, "no file \udcff")
    assert queue.get(number).error == "no file \\udcff"


@pytest.mark.parametrize(
    ("named", "what"),
    [
        ({"user": None}, "user is None, but must be a text"),
        ({"user": "a\x1b[2J"}, r"user is 'a\\x1b\[2J', which has characters that cannot be printed"),
        ({"user": "\udcff"}, r"user is '\\udcff', which has characters that cannot be printed"),
        ({"priority": "high"}, "priority is 'high', but must be a whole number from -9223372036854775808 to 9"),
        ({"priority": 2.7}, "priority is 2.7"),
        ({"priority": 2**63}, "priority is 9223372036854775808, but must be"),
        ({"attempts": 0}, "attempts is 0, but must be a whole number from 1 to 1000"),
        ({"attempts": True}, "attempts is True"),
    ],
)
def test_what_is_no_job_is_refused(queue: Queue, named: dict[str, Any], what: str) -> None:
    with pytest.raises(QueueError, match=what):
        queue.submit(job(), NewJob({}, **named))
    assert sum(queue.counts().values()) == 0


def test_of_a_long_error_the_beginning_is_kept(queue: Queue) -> None:
    (id,), lease = queue.submit(job()), lease_of(queue)
    lease.claim(id, "w")
    lease.failed(id, 1, "x" * 5_000_000)
    error = queue.get(id).error
    assert error is not None
    assert error.endswith("x … (5,000,000 characters in all)")
    assert len(error) < 30_000
