"""The server that forks the commands of pages and examples."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.forking import PATIENCE, paths


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The address of a server that forks commands."""
    folder: Path = tmp_path_factory.mktemp("server")
    address = folder / "socket"
    file = Path(__file__).with_name("forking.py")
    process = subprocess.Popen([sys.executable, str(file), str(address)], env=paths())
    end = time.monotonic() + PATIENCE
    while not address.exists():
        assert process.poll() is None, "the server has ended"
        assert time.monotonic() < end, "the server has not begun"
        time.sleep(0.05)
    yield address
    process.kill()
    process.wait()
