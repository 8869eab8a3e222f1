"""Every process can tell whether a ServiceThread is present, however its process ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from multigen.presence import Presence, is_present

THERE = """
import os, sys, time
from pathlib import Path
from multigen.presence import Presence
one = Presence(Path(sys.argv[1]))
if os.fork() == 0:
    time.sleep(2)  # what is forked holds nothing
    os._exit(0)
print(one.name, flush=True)
sys.stdin.read()
"""


def test_in_one_process(tmp_path: Path) -> None:
    first, second = Presence(tmp_path), Presence(tmp_path)
    for _ in range(2):  # to look is to take nothing away
        assert is_present(tmp_path, first.name)
        assert is_present(tmp_path, second.name)
    first.end()
    assert not is_present(tmp_path, first.name)
    assert is_present(tmp_path, second.name)
    second.end()
    assert list(tmp_path.iterdir()) == []


def test_of_another_process_that_is_killed_and_not_reaped(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", THERE, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    assert is_present(tmp_path, name)
    assert is_present(tmp_path, name)
    process.kill()
    assert process.stdout.read() == ""  # it has ended, and nobody has asked how
    assert not is_present(tmp_path, name)
    assert list(tmp_path.iterdir()) == []
    with process:
        pass


@pytest.mark.parametrize("name", ["", "../x", "12345:17.25:ab", "none"])
def test_what_is_no_name_is_not_there(tmp_path: Path, name: str) -> None:
    assert not is_present(tmp_path / "folder", name)
