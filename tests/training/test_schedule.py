from __future__ import annotations

import pytest

from training.errors import TrainingError
from training.schedule import Budget, Schedule


def test_the_rate_rises_over_the_warm_up_and_falls_to_the_floor() -> None:
    schedule = Schedule(rate=1.0, warmup=4, floor=0.1, budget=Budget(samples=100))
    assert [schedule.rate_at(step, 0.0) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert schedule.rate_at(10, 0.5) == pytest.approx(0.55)
    assert schedule.rate_at(10, 1.0) == pytest.approx(0.1) == schedule.rate_at(10, 7.0)


def test_a_budget_counts_minutes_or_samples() -> None:
    assert Budget(minutes=2).spent(seconds=60, seen=10**6) == 0.5
    assert Budget(samples=200).spent(seconds=10**6, seen=50) == 0.25


@pytest.mark.parametrize(("minutes", "samples"), [(None, None), (1.0, 5), (0.0, None), (None, -3)])
def test_a_budget_is_one_positive_amount(minutes: float | None, samples: int | None) -> None:
    with pytest.raises(TrainingError, match="either --minutes or --samples"):
        Budget(minutes, samples)
