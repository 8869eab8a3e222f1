"""What was written, and what it is compared with."""

from __future__ import annotations

import importlib
from typing import Any

import pytest


@pytest.fixture(scope="session")
def values() -> Any:
    """The module `values`, with which the pack of these tests is loaded."""
    return importlib.import_module("tests.written_before.values")


@pytest.fixture(scope="session")
def jobs(values: Any) -> Any:
    """The module `jobs`."""
    return importlib.import_module("tests.written_before.jobs")
