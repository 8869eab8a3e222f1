"""Ctrl-C in the middle of a step, and bars at a terminal."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.graphengine.cli.conftest import Run, command, environment

Write = Callable[..., Path]
WAIT = "version: 1\nnodes:\n  w: {node: toy.wait, with: {seconds: 3600}}\noutputs: {w: w}\n"


def started(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """A process with --json that has begun with its second step."""
    process = subprocess.Popen(
        command(*arguments, "--json"), cwd=folder, env=environment(folder), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["kind"] == "progress" and json.loads(line)["step"] >= 2:
            break
    return process


def test_ctrl_c_ends_within_a_step(workflow: Write, tmp_path: Path) -> None:
    workflow(WAIT)
    process = started(tmp_path, "run", "flow.yaml")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert err == "cancelled\n"
    assert json.loads(out.splitlines()[-1]) == {"kind": "error", "code": 130, "error": "cancelled"}
    assert not (tmp_path / "out").exists()


def test_ctrl_c_while_the_command_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer':\n"
        "            raise KeyboardInterrupt\n"
        "from graphengine.cli import main\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "sys.exit(main(['queue', 'list']))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "cancelled\n")


def test_sigterm_does_the_same(workflow: Write, tmp_path: Path) -> None:
    workflow(WAIT)
    process = started(tmp_path, "run", "flow.yaml")
    process.terminate()
    _, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (130, "cancelled\n")


@pytest.mark.slow
def test_ctrl_c_in_the_middle_of_sampling(tmp_path: Path) -> None:
    process = started(tmp_path, "run", "text_to_image", "--set", "steps=1000", "--no-cache")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "cancelled"
    assert not (tmp_path / "out").exists()


def test_what_was_computed_before_ctrl_c_is_kept(cli: Run, paint: Path, tmp_path: Path) -> None:
    process = started(tmp_path, "run", "paint.yaml", "--set", "steps=100")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=600)
    lines = cli("run", "paint.yaml", "--json").lines
    assert {line["node"]: line["reuse"] for line in lines if line["kind"] == "node_finished"}["words"] == "disk"


def test_bars_are_drawn_at_a_terminal(workflow: Write, tmp_path: Path) -> None:
    workflow(WAIT.replace("3600", "2"))
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command("run", "flow.yaml"), cwd=tmp_path,
        env=environment(tmp_path, TERM="xterm", COLUMNS="100"), stdout=subprocess.PIPE, stderr=slave,
    )  # fmt: skip
    os.close(slave)
    seen = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:
            break
        if not part:
            break
        seen += part
    out, _ = process.communicate(timeout=600)
    os.close(master)
    assert process.returncode == 0
    assert out == b"w: 2.0\n"
    assert "/20" in seen.decode()
