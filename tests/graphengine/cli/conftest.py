"""Real processes: `graphengine` as a user runs it, each test with a folder and a cache of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT

PACKS = Path(__file__).parent / "packs"

PAINT = """\
version: 1
title: Paint
inputs:
  prompt: {type: str, default: a red circle}
  seed: {type: int, default: 0, min: 0, max: 1000}
  steps: {type: int, default: 2}
  side: {type: int, default: 16}
  brush: {type: str, default: plain}
nodes:
  brush: {node: toy.load_brush, from: {source: inputs.brush}}
  words: {node: toy.mix, from: {brush: brush, prompt: inputs.prompt}}
  image:
    node: toy.paint
    from: {brush: brush, prompt: words, seed: inputs.seed, steps: inputs.steps, side: inputs.side}
outputs: {image: image}
"""


@dataclass
class Done:
    """A process that has ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Done]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The environment of a process: our sources, a cache of its own, one thread."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "nodes")])
    own = {"PYTHONPATH": path, "GRAPHENGINE_CACHE": str(folder / "cache"), "GRAPHENGINE_PACKS": str(PACKS / "toy")}
    return {**os.environ, **own, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "graphengine.cli", *map(str, arguments)]


@pytest.fixture
def cli(tmp_path: Path) -> Run:
    """Runs `graphengine` with these arguments in the test's folder."""

    def run(*arguments: object, cwd: Path = tmp_path, timeout: float = 300, **env: str) -> Done:
        done = subprocess.run(
            command(*arguments), cwd=cwd, env=environment(tmp_path, **env), capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr or "--debug" in arguments, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def paint(tmp_path: Path) -> Path:
    """A workflow that makes a picture of one colour."""
    file = tmp_path / "paint.yaml"
    file.write_text(PAINT)
    return file


@pytest.fixture
def workflow(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a workflow file."""

    def write(text: str, name: str = "flow.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write
