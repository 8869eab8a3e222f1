"""Promise: a queue's file is read: results of jobs that were done, why others failed, and what waits is run.

The folder in which the queue was made stands in its jobs, as where their relative paths begin; it was replaced by
`PLACE` when it was made, and is replaced here by the folder of the test.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from graphengine.service import Service
from graphengine.service.jobs.job import Job, State
from graphengine.service.jobs.queue import Queue
from graphengine.service.workers.inline import InlineRunner

from .make import PLACE

MADE = Path(__file__).parent / "made"


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    """A copy of the queue that was written before."""
    shutil.copytree(MADE / "queue", tmp_path / "queue")
    file = tmp_path / "queue" / "queue.sqlite"
    with closing(sqlite3.connect(file)) as base, base:
        base.execute("update jobs set body = replace(body, ?, ?)", (PLACE, str(tmp_path)))
    queue = Queue(file)
    yield queue
    queue.close()


def by_id(queue: Queue) -> dict[int, Job]:
    """All jobs of a queue."""
    return {job.id: job for job in queue.history()}


def test_the_history_shows_all_jobs(queue: Queue) -> None:
    found = by_id(queue)
    states = {number: job.state for number, job in found.items()}
    assert states == {
        1: State.DONE, 2: State.FAILED, 3: State.FAILED, 4: State.QUEUED, 5: State.CANCELLED, 6: State.QUEUED
    }  # fmt: skip
    assert [found[number].user for number in sorted(found)] == ["ann", "ann", "ben", "ann", "ben", "late"]
    assert (found[1].facts["workflow"], found[1].facts["inputs"]["number"], found[1].priority) == ("done", 3, 2)
    assert found[4].facts["more"] == [1]
    assert (queue.limits(), queue.paused()) == ({"ben": 7}, ["late"])
    assert [job.id for job in queue.waiting()] == [4]
    kinds = [(change.job, change.kind) for change in queue.changes()]
    assert kinds[0] == (1, "queued")
    assert {(1, "done"), (2, "failed"), (3, "failed"), (5, "cancelled"), (0, "paused")} <= set(kinds)
    assert [attempt.outcome for attempt in queue.attempts(1)] == ["done"]


def test_results_are_read(queue: Queue, jobs: Any, values: Any) -> None:
    outputs = Service(queue, InlineRunner()).outputs(1)
    assert outputs.keys() == jobs.DONE.keys()
    assert [name for name, value in outputs.items() if not values.same(value, jobs.DONE[name])] == []


def test_why_jobs_failed_is_read(queue: Queue) -> None:
    python, own = queue.get(2), queue.get(3)
    assert python.error == "node fails (golden.fails) failed: ValueError: 4 is not lucky\n  with x=4"
    assert (python.result["error"], python.result["cause"]) == ("NodeError", "ValueError")
    assert python.result["node"] == ["fails", "golden.fails"]
    assert python.result["outputs"] == {"made": {"json": 8}}
    assert own.error == "node unlucky (golden.unlucky) failed: 4 is unlucky\n  with x=4"
    assert (own.result["error"], own.result["cause"]) == ("NodeError", "Unlucky")


def test_what_waits_is_run(queue: Queue, jobs: Any, values: Any) -> None:
    with Service(queue, InlineRunner()) as service:
        (job,) = service.wait(4)
        assert job.state is State.DONE, job.error
        outputs = service.outputs(4)
        assert [name for name, value in outputs.items() if not values.same(value, jobs.WAITING[name])] == []
        assert outputs.keys() == jobs.WAITING.keys()
        queue.resume("late")
        (job,) = service.wait(6)
    assert job.state is State.FAILED
    assert job.result["cause"] == "Unlucky"


def test_it_takes_new_jobs_after_the_old_ones(queue: Queue, jobs: Any) -> None:
    with Service(queue, InlineRunner()) as service:
        number = service.submit(jobs.failing(), {"number": 1}, want="made")
        (job,) = service.wait(number)
        assert (number, job.state) == (7, State.DONE)
        assert service.outputs(number) == {"made": 2}
