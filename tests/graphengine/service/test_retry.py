"""The rules for retries, and that `docs/retries.md` says what their constants say."""

from __future__ import annotations

import importlib
import re
import signal
from pathlib import Path

import pytest

import graphengine
from graphengine.service import retry
from graphengine.service.retry import Fault, Losses, Remedy

PAGE = Path(graphengine.__file__).parents[1] / "docs" / "retries.md"


def test_the_table_of_limits_has_the_values_of_the_constants() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.read_text("utf-8").splitlines()]
    stated = [(row[-2], name) for row in rows if row for name in re.findall(r"`([\w.]+\.[A-Z_]+)`", row[-1])]
    assert len(stated) >= 25
    assert sum(name.startswith("retry.") for _, name in stated) >= 9
    for limit, name in stated:
        module, _, constant = name.rpartition(".")
        value = getattr(importlib.import_module(f"graphengine.service.{module}"), constant)
        numbers = [float(number) for number in re.findall(r"[\d.]+", limit.replace(",", ""))]
        wanted = [*map(float, value)] if isinstance(value, tuple) else [float(value)]
        assert numbers[: len(wanted)] == wanted, f"{name} is {value}, the table says {limit}"


@pytest.mark.parametrize(
    ("code", "memory_kills", "fault"),
    [
        (0, 0, Fault.CALL),
        (7, 0, Fault.CALL),
        (-signal.SIGSEGV, 0, Fault.CALL),
        (-signal.SIGKILL, 0, Fault.UNKNOWN),
        (-signal.SIGKILL, 1, Fault.CALL),
        (-signal.SIGTERM, 1, Fault.UNKNOWN),
        (-1000, 0, Fault.CALL),
    ],
)
def test_what_the_exit_of_a_worker_is_counted_against(code: int, memory_kills: int, fault: Fault) -> None:
    assert retry.fault_of_exit(code, memory_kills) is fault


@pytest.mark.parametrize(
    ("faults", "crashes", "again"),
    [
        ([], 1, True),
        ([Fault.CALL], 1, False),
        ([Fault.CALL] * 2, 3, True),
        ([Fault.CALL] * 3, 3, False),
        ([Fault.UNKNOWN] * 11, 3, True),
        ([Fault.UNKNOWN] * 12, 3, False),
        ([Fault.UNKNOWN] * 11 + [Fault.CALL] * 2, 3, True),
        ([Fault.NOBODY] * 100, 1, True),
    ],
)
def test_how_many_losses_leave_a_call_another_try(faults: list[Fault], crashes: int, again: bool) -> None:
    losses = Losses()
    for fault in faults:
        losses = losses.and_another(fault)
    assert losses.leave_another_try(crashes) is again
    assert losses.count == len([fault for fault in faults if fault is not Fault.NOBODY])


def test_calls_that_lack_memory_are_fewer_together_before_they_go_elsewhere() -> None:
    assert [retry.remedy_for_memory(count) for count in (32, 2, 1)] == [Remedy.FEWER, Remedy.FEWER, Remedy.ELSEWHERE]


def test_pauses_before_a_worker_is_started_again_double_until_it_computes() -> None:
    pause, seconds = retry.WORKER_PAUSES.first, []
    for computed in (False, False, False, False, False, False, False, False, True, False):
        wait, pause = retry.restart(pause, computed)
        seconds.append(wait)
    assert seconds == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 0.0, 0.5]


def test_a_large_message_may_be_acknowledged_later() -> None:
    assert retry.acknowledged_by(100.0) == 110.0
    assert retry.acknowledged_by(100.0, 50_000_000) == 115.0


@pytest.mark.parametrize(("since", "now", "lacking"), [(0.0, 1e9, False), (5.0, 14.9, False), (5.0, 15.0, True)])
def test_a_run_ends_without_workers_only_after_a_while(since: float, now: float, lacking: bool) -> None:
    assert retry.lack_workers(since, now) is lacking


def test_a_worker_is_unusable_after_three_failed_starts_and_late_after_a_minute() -> None:
    assert [retry.is_unusable(starts) for starts in (0, 2, 3)] == [False, False, True]
    assert [retry.is_starting(100.0, now) for now in (100.0, 159.9, 160.0)] == [True, True, False]


def test_services_that_were_lost_with_a_job_are_counted_once_each() -> None:
    runs = [("a", "lost"), ("b", "lost"), ("a", "lost"), ("c", "left"), ("d", "running")]
    assert retry.services_lost(runs) == 2
    assert [retry.job_runs_alone(services) for services in (4, 5)] == [False, True]
    assert [retry.job_is_given_up(services) for services in (9, 10)] == [False, True]


def test_a_service_that_lacks_something_runs_half_as_many_jobs_and_blames_one_that_is_alone_later() -> None:
    halved = [retry.jobs_after_shortage(*jobs) for jobs in ((64, 20), (8, 64), (2, 1), (1, 0))]
    assert halved == [10, 4, 1, 1]
    assert [retry.shortage_is_of_job(times) for times in (2, 3)] == [False, True]
