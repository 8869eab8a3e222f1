"""Batch limits are learnt from seconds and from lack of memory."""

from __future__ import annotations

from graphengine.service.scheduling.batch_limits import FIRST, GROUPS, Limits


def test_a_limit_doubles_while_it_pays() -> None:
    limits = Limits()
    assert limits.of("g", "cpu") == FIRST
    limits.took("g", "cpu", 4, 1.0)
    assert limits.of("g", "cpu") == 8
    limits.took("g", "cpu", 8, 0.7)
    assert limits.of("g", "cpu") == 16
    limits.took("g", "cpu", 16, 0.69)
    assert limits.of("g", "cpu") == 16
    assert limits.of("g", "cuda") == limits.of("other", "cpu") == FIRST
    assert limits.seconds("g", "cpu") == 0.69
    assert limits.seconds("g", "cuda") is None


def test_smaller_batches_than_allowed_teach_nothing_of_larger_ones() -> None:
    limits = Limits()
    limits.took("g", "cpu", 1, 1.0)
    limits.took("g", "cpu", 2, 0.1)
    assert limits.of("g", "cpu") == FIRST


def test_a_lack_of_memory_is_not_forgotten() -> None:
    limits = Limits()
    limits.took("g", "cpu", 4, 1.0)
    limits.lacked("g", "cpu", 8)
    assert limits.of("g", "cpu") == 4
    limits.took("g", "cpu", 4, 0.5)
    assert limits.of("g", "cpu") == 4
    for expected in (2, 1, 1):
        limits.lacked("g", "cpu", limits.of("g", "cpu"))
        assert limits.of("g", "cpu") == expected


def test_three_that_lack_leave_two() -> None:
    limits = Limits()
    limits.lacked("g", "cpu", 3)
    assert limits.of("g", "cpu") == 2


def test_the_most_is_kept_to() -> None:
    limits = Limits(most=2)
    assert limits.of("g", "cpu") == 2


def test_of_very_many_groups_the_oldest_is_forgotten() -> None:
    limits = Limits()
    for group in range(GROUPS + 1):
        limits.took(group, "cpu", FIRST, 1.0)
    assert limits.of(0, "cpu") == FIRST
    assert limits.of(1, "cpu") == limits.of(GROUPS, "cpu") == 2 * FIRST
