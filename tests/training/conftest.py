"""The checkout on the path (training is not installed), one thread, and a small work folder of the shipped parts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from training import classifier  # noqa: E402
from training.encode import encode  # noqa: E402
from training.parallel import one_thread  # noqa: E402
from training.pictures import blueprint  # noqa: E402
from training.vae import draw_pictures  # noqa: E402
from training.work import Work  # noqa: E402

SHIPPED = ROOT / "nodes" / "graphengine_nodes" / "tiny"


@pytest.fixture(autouse=True, scope="session")
def slim() -> None:
    one_thread()


@pytest.fixture(autouse=True)
def subnormal() -> Iterator[None]:
    """Training lets the processor take the smallest numbers for zero; what is tested after it must not be."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def shipped() -> Path:
    return SHIPPED


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """The shipped parts with a few encoded pictures; tests read it, and write elsewhere."""
    work = Work(tmp_path_factory.mktemp("work"))
    work.take(SHIPPED, "unet")
    draw_pictures(work.path("pictures.npy"), 24)
    encode(work, "latents.npy", 24, processes=1)
    encode(work, "blueprint.npy", 16, blueprint, processes=1)
    return work


@pytest.fixture(scope="session")
def judging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation's folder with its classifier trained, which takes minutes: for slow tests."""
    folder = tmp_path_factory.mktemp("judging")
    classifier.load(Work(folder))
    return folder
