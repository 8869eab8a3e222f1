"""Environments of clients, made from the package registry."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Environment = Callable[..., Path]


@pytest.fixture(scope="session")
def client_environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Makes an environment that holds some packages and nothing of ours; returns its Python."""
    made: dict[tuple[str, ...], Path] = {}

    def make(*packages: str) -> Path:
        if packages not in made:
            folder = tmp_path_factory.mktemp("client")
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
            command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                pytest.skip(f"{' '.join(packages)} cannot be installed here: {done.stderr[-300:]}")
            made[packages] = python
        return made[packages]

    return make
