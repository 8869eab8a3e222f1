"""The main job, a submitted job and ServiceThread run on a system without POSIX's own names."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.graphengine.cli.conftest import ROOT, Done, command, environment

BARE = Path(__file__).parent / "bare"

SERVICE_THREAD = """
from pathlib import Path
from multigen.worker import ServiceThread
from tests.multigen.serving import SMALL, generate, opened, prepare
service = ServiceThread(str(prepare(Path.cwd())))
service.start()
print(len(generate(service, opened(service, "first")).files), flush=True)
service.stop()
"""


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that lacks what Windows lacks, and notes that it was started so."""
    (tmp_path / "marks").mkdir()
    usual = environment(tmp_path, BARE_MARKS=str(tmp_path / "marks"), GRAPHENGINE_STATE=str(tmp_path / "state"))
    return {**usual, "PYTHONPATH": os.pathsep.join([str(BARE), usual["PYTHONPATH"]])}


def run(bare: dict[str, str], folder: Path, *arguments: object) -> Done:
    done = subprocess.run(
        list(map(str, arguments)), cwd=folder, env=bare, capture_output=True, text=True, timeout=600, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def started(folder: Path, word: str) -> int:
    """How many processes with a word in their command were started without POSIX's names."""
    return sum(word in mark.read_text() for mark in (folder / "marks").iterdir())


def test_our_modules_lack_the_names(bare: dict[str, str], tmp_path: Path) -> None:
    code = "import socket; assert hasattr(socket, 'AF_UNIX'); from graphengine.system import channel, process_tree; "
    code += "print(hasattr(channel.socket, 'AF_UNIX'), hasattr(process_tree.os, 'killpg'))"
    assert run(bare, tmp_path, sys.executable, "-c", code).out == "False False\n"


def test_the_main_job(bare: dict[str, str], tmp_path: Path) -> None:
    done = run(bare, tmp_path, *command("run", "text_to_image", "--set", "steps=1"))
    assert done.code == 0, done.err
    assert [file.suffix for file in (tmp_path / "out").iterdir()] == [".png"]


def test_submitted_jobs_and_a_run_that_is_handed_over(bare: dict[str, str], tmp_path: Path) -> None:
    service = subprocess.Popen(
        command("worker", "--workers", 1, "--threads", 1), cwd=tmp_path, env=bare, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert service.stdout is not None
        service.stdout.readline()  # it runs the queue's jobs
        assert (tmp_path / "state" / "queue.sqlite.port").stat().st_mode & 0o077 == 0
        for number in (1, 2):
            text = f"prompt=a red circle {number}"
            done = run(bare, tmp_path, *command("queue", "submit", "text_to_image", "--set", text, "--set", "steps=1"))
            assert (done.code, done.out) == (0, f"job {number}\n"), done.err
        waited = run(bare, tmp_path, *command("queue", "wait", "--timeout", 500))
        assert waited.code == 0, waited.err
        listed = run(bare, tmp_path, *command("queue", "list"))
        assert listed.out.count("done") == 2, listed.out
        handed = run(bare, tmp_path, *command("run", "text_to_image", "--set", "steps=1", "--backend", "service"))
        assert handed.code == 0, handed.err
        assert started(tmp_path, "graphengine.service.workers.worker") == 1
    finally:
        service.terminate()
        output = service.communicate(timeout=100)[0]
    assert service.returncode == 0, output
    assert not (tmp_path / "state" / "queue.sqlite.port").exists()


def test_a_service_thread(bare: dict[str, str], tmp_path: Path) -> None:
    done = run(bare, tmp_path, sys.executable, "-c", SERVICE_THREAD)
    assert done.out.splitlines()[-1:] == ["1"], done.out + done.err
    assert len(list((tmp_path / "_projects").rglob("*.png"))) == 1


def test_posix_names_are_imported_with_a_way_around() -> None:
    """Whoever imports `fcntl` and its like says in the same module what is done without."""
    blocked = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
    wrong = []
    for folder in (ROOT / "graphengine", ROOT / "nodes" / "graphengine_nodes", ROOT / "multigen"):
        for file in folder.rglob("*.py"):
            tree = ast.parse(file.read_text("utf-8"))
            guarded = {id(n) for block in ast.walk(tree) if isinstance(block, ast.Try) for n in ast.walk(block)}
            for node in ast.walk(tree):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module or ""]
                if blocked & set(names) and id(node) not in guarded:
                    wrong.append(f"{file}:{node.lineno}")
    assert wrong == []
