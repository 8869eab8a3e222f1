"""How long calls take, and how much longer where models are loaded for them."""

from __future__ import annotations

import pytest

from graphengine.service.scheduling.durations import LOAD, UNKNOWN, Durations


def test_what_is_known_of_a_node_falls_at_once_and_rises_slowly() -> None:
    durations = Durations()
    assert durations.of("sample") == UNKNOWN
    durations.took("sample", 4.0, 1, 0)
    durations.took("sample", 2.0, 1, 0)
    assert durations.of("sample") == 2
    durations.took("sample", 12.0, 1, 0)
    assert durations.of("sample") == pytest.approx(0.7 * 2 + 0.3 * 12)
    assert durations.of("decode") == UNKNOWN


def test_what_loading_adds_is_learnt_by_halves() -> None:
    durations = Durations()
    durations.took("sample", 2.0, 1, 0)
    assert durations.load == LOAD
    durations.took("sample", 32.0, 1, 2)  # 15 s for each of two
    assert durations.load == pytest.approx((LOAD + 15) / 2)


def test_those_that_went_together_have_loaded_once() -> None:
    durations = Durations()
    durations.took("sample", 2.0, 1, 0)
    for _ in range(4):  # each says its part of 2 * 4 and of 30 seconds
        durations.took("sample", 2.0 + 30.0 / 4, 4, 2)
    assert LOAD < durations.load < (LOAD + 15) / 2
