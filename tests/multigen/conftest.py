"""Fixtures of multigen's tests: one thread, and a ServiceThread whose worker is started once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Before torch computes for the first time: with more threads than free cores every step waits for the slowest.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

torch.set_num_threads(1)

if TYPE_CHECKING:
    from multigen.worker import ServiceThread


@pytest.fixture(autouse=True)
def _nothing_was_told() -> None:
    """Warnings that a process gives once are given in every test."""
    from multigen.pipes import base

    base.warn_once.cache_clear()


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceThread]:
    """One that was started, of all tests that leave its configuration as it is; each has users of its own."""
    from multigen.worker import ServiceThread
    from tests.multigen.serving import PATIENCE, prepare

    made = ServiceThread(prepare(tmp_path_factory.mktemp("service")))
    made.start()
    yield made
    made.stop()
    made.join(PATIENCE)
    assert not made.is_alive()


@pytest.fixture
def idle(tmp_path: Path) -> ServiceThread:
    """One that was not started: what it queues stays."""
    from multigen.worker import ServiceThread
    from tests.multigen.serving import prepare

    return ServiceThread(prepare(tmp_path))
