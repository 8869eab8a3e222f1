"""Where `graphengine` is run: consoles that know few characters, folders that cannot be written, no home."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

import pytest
from graphengine_nodes import Image

from graphengine import FileError, Graph, WorkflowError, node
from graphengine.cli.common import LONGEST_LINE, MOST_PROBLEMS, cut, print_problems
from graphengine.errors import Problem
from graphengine.planning.inputs import bind_inputs
from graphengine.results.outputs import check_folder
from graphengine.system.folders import cache_folder, state_folder
from tests.graphengine.cli.conftest import command, environment

SAY = 'from graphengine import node\n@node\ndef say(text: str) -> str:\n    print("said: " + text)\n    return text\n'
FLOW = "version: 1\nnodes: {a: {node: words.say, with: {text: 日本 café}}}\noutputs: {a: a}\n"


@pytest.mark.parametrize(
    ("encoding", "written"), [("cp1252", "\\u65e5\\u672c caf\xe9"), ("ascii", "\\u65e5\\u672c caf\\xe9")]
)
def test_a_console_that_lacks_characters_gets_escapes_and_nothing_is_made_that_is_not_written_into(
    tmp_path: Path, encoding: str, written: str
) -> None:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "say.py").write_text(SAY, "utf-8")
    (tmp_path / "flow.yaml").write_text(FLOW, "utf-8")
    own = environment(tmp_path, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    wish = command("run", "flow.yaml", "--packs", "words", "--backend", "inline", "--out", "out/of/it")
    done = subprocess.run(wish, cwd=tmp_path, env=own, capture_output=True, encoding=encoding, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"a: {written}\n" in done.stdout
    assert not (tmp_path / "out").exists()


@node(version=1)
def _number(x: int) -> int:
    """A number, which is written into no file."""
    return x


@node(version=1)
def _picture(x: int) -> Image:
    """A picture, which is never computed here."""
    raise AssertionError


def test_a_folder_is_looked_at_only_if_something_is_written_into_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Graph() as number:
        number.output("y", _number(1))
    with Graph() as picture:
        picture.output("y", _picture(1))
    check_folder(tmp_path / "file" / "sub", number)
    for folder, graph, why in (
        (tmp_path / "file", number, "a file is in its place"),
        (tmp_path / "file" / "sub", picture, "Not a directory"),
    ):
        with pytest.raises(FileError, match=f"^the folder {folder} cannot be written: {why}$"):
            check_folder(folder, graph)
    check_folder(tmp_path / "new" / "one", picture)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_who_has_no_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "GRAPHENGINE_CACHE", "GRAPHENGINE_STATE"):
        monkeypatch.delenv(name, raising=False)
    for folder, name in ((cache_folder, "GRAPHENGINE_CACHE"), (state_folder, "GRAPHENGINE_STATE")):
        with pytest.raises(FileError, match=f"^this user has no home folder; set HOME, or {name} to a folder$"):
            folder()
        monkeypatch.setenv(name, os.sep + "there")
        assert folder() == Path(os.sep + "there")


@pytest.mark.parametrize("arguments", [("run", "text_to_image"), ("queue", "submit", "text_to_image")])
def test_a_deleted_current_folder_is_told(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    run = f'rmdir "{gone}" && exec "$0" "$@"'
    own = environment(tmp_path, GRAPHENGINE_STATE=str(tmp_path / "state"))
    wish = ["sh", "-c", run, *command(*arguments)]
    done = subprocess.run(wish, cwd=gone, env=own, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "the current folder is not there any more; change into one that is (cd)\n"


@node(version=1)
def _needs(text: str) -> str:
    """A text that must be there."""
    return text


@node(version=1)
def _may(text: str = "none") -> str:
    """A text with a default."""
    return text


def test_null_is_refused_where_a_node_that_is_computed_takes_none() -> None:
    from graphengine.graph.flow import when

    with Graph() as g:
        needed = g.input("needed", str, "x")
        optional = g.input("optional", str, None)
        items = g.input("items", list[str], ["a"])
        g.output("a", _needs(needed))
        g.output("b", _may(optional))
        g.add(_needs, "each", text=items, each=["text"])
        g.output("c", g["each"])
        behind = g.input("behind", str, "x")
        g.output("d", when(g.input("use", bool, False), _needs(behind), "nothing"))
    bind_inputs(g, {})
    with pytest.raises(WorkflowError) as caught:
        bind_inputs(g, {"needed": None, "items": None, "behind": None, "optional": None})
    first, second = sorted(map(str, caught.value.problems), reverse=True)
    assert first.startswith("inputs.needed: ")
    assert first.endswith("text takes no null (give needed a value)")
    assert second == "inputs.items: null cannot be mapped over by each (give items a value)"


def test_long_lists_of_problems_and_long_texts_are_cut_with_a_count(capsys: pytest.CaptureFixture[str]) -> None:
    print_problems([Problem("bad", f"problem {n} {'x' * 10_000}") for n in range(1234)])
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == f"... and {1234 - MOST_PROBLEMS:,} more problems; --json writes all"
    assert len(lines) == MOST_PROBLEMS + 1
    assert all(len(line) < LONGEST_LINE + 50 for line in lines)
    assert lines[0].startswith("problem 0 xxx")
    assert lines[0].endswith("characters)")
    assert cut("short", 10) == "short"
    print_problems([Problem("bad", "one")])
    assert capsys.readouterr().err == "one\n"
