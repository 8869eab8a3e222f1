"""Type checkers see the real types: right graphs pass `mypy --strict`, wrong ones fail where they are wrong."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "typing"
FILES = sorted(HERE.glob("*.py"))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, set[str]]]:
    """The errors that mypy tells, by file and line; one run for all files."""
    pytest.importorskip("mypy")
    elsewhere = tmp_path_factory.mktemp("elsewhere")  # as a user has it: only the installed package is found
    files = [shutil.copy(file, elsewhere) for file in FILES]
    environment = {name: value for name, value in os.environ.items() if name not in ("MYPYPATH", "PYTHONPATH")}
    command = [
        sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", "--no-pretty",
        "--cache-dir", str(tmp_path_factory.mktemp("mypy")), *map(str, files),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=elsewhere, env=environment)
    assert not done.stderr, done.stderr
    found: dict[str, dict[int, set[str]]] = {file.name: {} for file in FILES}
    for line in done.stdout.splitlines():
        match = re.match(r"(.*?):(\d+): error: .*\[([\w-]+)\]$", line)
        if match and Path(match[1]).name in found:
            found[Path(match[1]).name].setdefault(int(match[2]), set()).add(match[3])
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_errors_are_told_where_they_are_and_nowhere_else(told: dict[str, dict[int, set[str]]], file: Path) -> None:
    expected = {
        number: match[1]
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if (match := re.search(r"# E: ([\w-]+)$", line))
    }
    assert file.name != "wrong.py" or len(expected) > 15
    found = told[file.name]
    assert sorted(found) == sorted(expected), {n: found.get(n) or expected.get(n) for n in {*found, *expected}}
    for line, code in expected.items():
        assert code in found[line], (line, found[line])
