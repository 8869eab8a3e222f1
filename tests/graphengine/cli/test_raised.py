"""Commands say what failed, and exit with a code for it, also where code of a pack raises what is no Exception."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.graphengine.cli.conftest import Run

PACK = """\
from dataclasses import dataclass
from graphengine import SocketType, node, register_type

class Speechless(Exception):
    def __str__(self):
        raise SystemExit(0)
    __repr__ = __str__

RAISED = {"SystemExit": SystemExit(0), "GeneratorExit": GeneratorExit("0"), "Speechless": Speechless()}

@dataclass(frozen=True)
class Raising:
    where: str

def at(value, where):
    if value.where == where:
        raise SystemExit(0)

def encode(value):
    at(value, "encode")
    return value.where.encode()

def size(value):
    at(value, "size")
    return 1

def save(value, path, text):
    at(value, "save")
    return []

register_type(SocketType(Raising, "Raising", encode=encode, decode=lambda data: 0, size=size, save=save))

@node(version=1)
def makes(where: str) -> Raising:
    '''A value that raises.'''
    return Raising(where)

@node(version=1)
def here(name: str) -> int:
    '''Raise.'''
    raise RAISED[name]

@node(version=1, on="device")
def device(name: str) -> int:
    '''Raise.'''
    raise RAISED[name]
"""


@pytest.fixture
def packs(tmp_path: Path) -> str:
    folder = tmp_path / "packs" / "bad"
    folder.mkdir(parents=True)
    (folder / "bad.py").write_text(PACK)
    return str(folder)


def workflow(folder: Path, *nodes: str) -> None:
    """Write a workflow of nodes, all of which are wanted."""
    lines = [f"  n{n}: {{node: bad.{node}}}" for n, node in enumerate(nodes)]
    wanted = ", ".join(f"y{n}: n{n}" for n in range(len(nodes)))
    (folder / "w.yaml").write_text("\n".join(["version: 1", "nodes:", *lines, f"outputs: {{{wanted}}}", ""]))


@pytest.mark.parametrize("keep_going", [False, True])
def test_a_run_says_which_node_raised_what_is_no_exception(
    cli: Run, tmp_path: Path, packs: str, keep_going: bool
) -> None:
    cases = [(on, name) for on in ("here", "device") for name in ("SystemExit", "GeneratorExit", "Speechless")]
    workflow(tmp_path, *(f"{on}, with: {{name: {name}}}" for on, name in (cases if keep_going else cases[:1])))
    options = ["--keep-going"] if keep_going else []
    done = cli("run", "w.yaml", "--backend", "inline", "--packs", packs, *options)
    assert done.code == 1
    for n, (on, name) in enumerate(cases if keep_going else cases[:1]):
        text = "Speechless" if name == "Speechless" else "0"
        assert f"node n{n} (bad.{on}) failed: {name}: {text}" in done.err


@pytest.mark.parametrize("where", ["size", "save"])
def test_a_run_fails_where_a_type_raises_what_is_no_exception(cli: Run, tmp_path: Path, packs: str, where: str) -> None:
    workflow(tmp_path, f"makes, with: {{where: {where}}}")
    done = cli("run", "w.yaml", "--backend", "inline", "--packs", packs)
    assert done.code == 1
    assert "SystemExit: 0" in done.err


@pytest.mark.parametrize(
    ("source", "code", "text"),
    [
        ("class E(Exception):\n    def __str__(self): raise SystemExit\nraise E", 0, "did not load: E: E"),
        ("raise SystemExit('bye')", 0, "did not load: SystemExit: bye"),
        ("raise KeyboardInterrupt", 130, "cancelled while node pack bad was loaded"),
    ],
)
def test_a_pack_that_does_not_load_is_named(cli: Run, tmp_path: Path, source: str, code: int, text: str) -> None:
    folder = tmp_path / "packs" / "bad"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(source)
    done = cli("nodes", "--packs", str(folder))
    assert done.code == code
    assert text in done.err
    assert bool(done.out) is (code == 0)
