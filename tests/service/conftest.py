"""Shared by the tests of the service: a folder of light nodes, loaded here and in every worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphengine import registry

PACK = Path(__file__).parent / "pack"


@pytest.fixture(scope="session", autouse=True)
def light_nodes() -> None:
    """The nodes of `pack/light.py`, by their bare names."""
    assert registry.load_folder(PACK) == []
