"""Every test session has caches of its own, and what is told to end by Ctrl-C does."""

import os
import signal
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: Path = tmp_path_factory.mktemp("cache")
    os.environ["GRAPHENGINE_CACHE"] = str(folder)


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun in the background of a script; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") is not None:
            item.add_marker(pytest.mark.timeout(0))
