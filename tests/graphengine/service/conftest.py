"""Shared by the tests of the service: a folder of light nodes, loaded here and in every worker; workers of a backend.

Where `GRAPHENGINE_TEST_RAY` is set, the workers are a Ray cluster's: `test_ray.py` runs tests that way.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphengine.cache import DiskStore
from graphengine.declare import registry
from graphengine.service.retry import CRASHES, KILLS_PER_CRASH
from graphengine.service.workers.pool import WorkerRunner
from graphengine.service.workers.process import Handle, LocalWorker
from graphengine.testing import FakeWorker

PACK = Path(__file__).parent / "pack"
RAY = "GRAPHENGINE_TEST_RAY" in os.environ
LOST = CRASHES * KILLS_PER_CRASH if RAY else CRASHES
"""How many workers a call that ends each is tried on: Ray does not tell a crash from a kill."""

Workers = Callable[[int, "str | None"], list[Handle]]
Runners = Callable[..., WorkerRunner]


@pytest.fixture(scope="session", autouse=True)
def light_nodes() -> None:
    """The nodes of `pack/light.py`, by their bare names."""
    assert registry.load_folder(PACK) == []


def local(count: int, store: str | None) -> list[Handle]:
    """Workers of this machine that share the folder of a store."""
    return [LocalWorker(f"w{n}", threads=1, store=store, packs=(str(PACK),)) for n in range(count)]


def fake(count: int, store: str | None) -> list[Handle]:
    """Workers of this process."""
    return [FakeWorker(f"w{n}", store=store) for n in range(count)]


@pytest.fixture
def workers(request: pytest.FixtureRequest) -> Workers:
    """Makes workers of the backend under test, or of the one that a test is parametrized with."""
    made: Workers = request.getfixturevalue("actors") if RAY else getattr(request, "param", local)
    return made


@pytest.fixture
def tiny_everywhere(request: pytest.FixtureRequest) -> None:
    """`tiny` has been loaded once where each worker is."""
    if RAY:
        request.getfixturevalue("cluster").load("tiny")


@pytest.fixture
def backend(workers: Workers, tmp_path: Path) -> Runners:
    """Makes runners of workers that share the test's store."""

    def make(count: int = 2, **options: Any) -> WorkerRunner:
        store = str(tmp_path / "store")
        return WorkerRunner(workers(count, store), DiskStore(store), **options)

    return make
