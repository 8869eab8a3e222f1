"""Fairness between users, decision by decision; `test_scheduler.py` and `test_service.py` show what comes of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest

from graphengine.service.scheduling import fairness


@dataclass(frozen=True)
class Job:
    user: str
    priority: int = 0
    number: int = 0


A1, A2, B1, C1 = Job("a", 0, 1), Job("a", 0, 2), Job("b", 0, 3), Job("c", 0, 4)
URGENT = Job("b", 1, 5)

BEGIN = [
    # what waits, what runs, turns, free places: what begins
    ([A1, A2, B1], {}, {}, 1, A1),
    ([A1, A2, B1], {"a": 1}, {}, 1, B1),
    ([A1, A2, B1], {"a": 1, "b": 1}, {"a": 5, "b": 6}, 1, A1),
    ([A1, A2, B1], {"a": 1, "b": 1}, {"a": 6, "b": 5}, 1, B1),
    ([A1, B1, C1], {"a": 2, "b": 1}, {"c": 9}, 1, C1),
    ([URGENT, A1], {"b": 9}, {"b": 9}, 1, URGENT),
    ([A1, A2, B1], {"a": 1}, {}, 0, B1),
    ([A1, A2, B1], {"a": 1, "b": 1}, {}, 0, None),
    ([A1, A2, B1], {"a": 1}, {}, -3, B1),
    ([URGENT, A1], {"b": 1}, {}, 0, None),
    ([], {}, {}, 1, None),
]


@pytest.mark.parametrize(("waiting", "running", "turns", "free", "begins"), BEGIN)
def test_the_job_that_begins_next(
    waiting: list[Job], running: dict[str, int], turns: dict[str, int], free: int, begins: Job | None
) -> None:
    jobs = fairness.contenders(waiting, running, free)
    assert (fairness.next_job(jobs, running, turns) if jobs else None) == begins


@pytest.mark.parametrize(("most", "running", "free", "full"), [(64, 0, 64, False), (4, 4, 0, False), (4, 8, -4, True)])
def test_there_are_as_many_places_again_for_users_of_whom_nothing_runs(
    most: int, running: int, free: int, full: bool
) -> None:
    assert fairness.free_places(most, running) == free
    assert fairness.is_full(most, free) is full


@pytest.mark.parametrize(
    ("turns", "user", "users", "after"),
    [({}, "a", ["a"], 1), ({"a": 3}, "a", ["a", "b"], 4), ({"b": 7, "c": 9}, "a", ["a", "b", "c"], 8)],
)
def test_a_user_who_comes_back_is_not_owed_turns(
    turns: dict[str, int], user: str, users: list[str], after: int
) -> None:
    assert fairness.turns_after(turns, user, users) == after


def test_users_take_turns_though_one_has_many_more_jobs() -> None:
    waiting = [Job("many", 0, n) for n in range(20)] + [Job("few", 0, n) for n in range(20, 24)]
    turns: Counter[str] = Counter()
    begun: list[str] = []
    while len(begun) < 8:
        jobs = fairness.contenders(waiting, {}, 1)
        job = fairness.next_job(jobs, {}, turns)
        waiting.remove(job)
        turns[job.user] = fairness.turns_after(turns, job.user, jobs)
        begun.append(job.user)
    assert begun == ["many", "few"] * 4


@pytest.mark.parametrize(("virtual", "end", "due"), [(5.0, None, 5.0), (5.0, 3.0, 5.0), (5.0, 8.0, 8.0)])
def test_a_call_is_due_after_the_one_before_it_of_its_user(virtual: float, end: float | None, due: float) -> None:
    assert fairness.due(virtual, end) == due


def test_calls_go_by_priority_then_by_when_they_are_due_then_as_they_came() -> None:
    calls = [(0, 1.0, 1), (0, 0.0, 3), (1, 9.0, 4), (0, 0.0, 2)]
    assert sorted(calls, key=lambda call: fairness.order(*call)) == [calls[2], calls[3], calls[1], calls[0]]


@pytest.mark.parametrize(
    ("overtaken", "yielded", "missing", "may"),
    [(99, 0.0, 0, True), (100, 0.0, 0, False), (0, 1e6, 0, True), (0, 39.9, 2, True), (0, 40.0, 2, False)],
)
def test_how_long_a_call_may_be_overtaken(overtaken: int, yielded: float, missing: int, may: bool) -> None:
    assert fairness.may_be_overtaken(overtaken, 100, yielded, missing, load=10.0) is may


def test_a_user_has_few_calls_beside_one_with_more_than_four_times_as_many() -> None:
    assert [fairness.has_few(1, others) for others in (3, 4, 5)] == [False, False, True]
