"""Paths among the inputs of a node are followed by content, wherever they stand and however they come."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import pytest

from graphengine import Graph, Store, each, node
from graphengine.errors import NodeError
from graphengine.keys.files import fingerprint

RUNS: list[str] = []


@dataclass
class Job:
    name: str
    file: Path


@dataclass(frozen=True)
class Nested:
    jobs: list[Job]
    extra: Path | None = None


class Pair(NamedTuple):
    left: Path
    number: int


class Options(TypedDict):
    file: Path


class Handle:
    """No data."""


@dataclass
class Open:
    file: Path
    handle: Handle


def _read(*files: Path | str | None) -> str:
    RUNS.append("read")
    return " ".join("" if file is None else Path(file).read_text() for file in files)


@node(version=1)
def bare(p: Path) -> str:
    return _read(p)


@node(version=1)
def optional(p: Path | None = None) -> str:
    return _read(p)


@node(version=1)
def text_or_path(p: str | Path) -> str:
    return _read(p)


@node(version=1)
def listed(p: list[Path]) -> str:
    return _read(*p)


@node(version=1)
def in_tuple(p: tuple[str, Path]) -> str:
    return _read(p[1])


@node(version=1)
def in_dict(p: dict[str, Path | None]) -> str:
    return _read(*p.values())


@node(version=1)
def as_keys(p: dict[Path, str]) -> str:
    return _read(*p)


@node(version=1)
def in_tuples_as_keys(p: dict[tuple[Path, int], Path]) -> str:
    return _read(*(file for file, _ in p), *p.values())


@node(version=1)
def in_typed_dict(p: Options) -> str:
    return _read(p["file"])


@node(version=1)
def in_dataclass(p: Job) -> str:
    return _read(p.file)


@node(version=1)
def in_nested(p: Nested) -> str:
    return _read(*(job.file for job in p.jobs), p.extra)


@node(version=1)
def in_named_tuple(p: Pair) -> str:
    return _read(p.left)


@node(version=1)
def in_open(p: Open) -> str:
    return _read(p.file)


WAYS: list[tuple[Any, Callable[[Path], Any]]] = [
    (bare, lambda p: p),
    (bare, str),
    (optional, lambda p: p),
    (text_or_path, str),
    (listed, lambda p: [str(p), p]),
    (in_tuple, lambda p: ("x", p)),
    (in_dict, lambda p: {"a": p, "b": None}),
    (as_keys, lambda p: {p: "a"}),
    (in_tuples_as_keys, lambda p: {(p, 1): p}),
    (in_typed_dict, lambda p: {"file": p}),
    (in_dataclass, lambda p: Job("x", p)),
    (in_nested, lambda p: Nested([Job("x", p)], p)),
    (in_named_tuple, lambda p: Pair(p, 1)),
    (in_open, lambda p: Open(p, Handle())),
]


def _write(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


@pytest.mark.parametrize(("reads", "value"), WAYS, ids=[f"{n}-{way[0].name}" for n, way in enumerate(WAYS)])
@pytest.mark.parametrize("given", ["literal", "input", "linked"])
def test_a_path_is_followed_by_content(tmp_path: Path, reads: Any, value: Callable[[Path], Any], given: str) -> None:
    file = _write(tmp_path / "data.txt", "one")
    made = value(file)

    @node(version=1, name=f"make_{given}_{reads.name}")
    def make() -> Any:
        return made

    with Graph() as g:
        source: Any = made
        if given == "input":
            source = g.input("p", reads.sockets["p"].type)
        elif given == "linked":
            source = make()
        out = reads(source)
    store, inputs = Store(), {"p": made} if given == "input" else {}
    RUNS.clear()
    texts = []
    for text in ("one", "one", "two"):
        if text != file.read_text():
            _write(file, text)
        texts.append(set(g.run(want=out, inputs=inputs, store=store).split()))
    assert texts == [{"one"}, {"one"}, {"two"}]
    if not (reads is in_open and given != "linked"):  # what is no data is of one run
        assert len(RUNS) == 2


def test_a_path_that_is_mapped_is_followed(tmp_path: Path) -> None:
    files = [_write(tmp_path / name, name) for name in ("a", "b")]
    with Graph() as g:
        g.output("o", each(g.input("files", list[Path]), bare))
    store = Store()
    RUNS.clear()
    assert g.run(inputs={"files": files}, store=store)["o"] == ["a", "b"]
    _write(files[1], "c")
    assert g.run(inputs={"files": files}, store=store)["o"] == ["a", "c"]
    assert len(RUNS) == 3


def test_equal_files_share_a_value_and_a_folder_is_followed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _write(tmp_path / name, "same")
    with Graph() as g:
        g.output("o", bare(tmp_path / "a"))
        g.output("p", bare(tmp_path / "b"))
    RUNS.clear()
    g.run(store=Store())
    assert len(RUNS) == 1

    @node(version=1)
    def names(folder: Path) -> str:
        return " ".join(sorted(file.name for file in folder.iterdir()))

    with Graph() as g:
        out = names(tmp_path)
    store = Store()
    assert g.run(want=out, store=store) == "a b"
    _write(tmp_path / "c", "new")
    assert g.run(want=out, store=store) == "a b c"


def test_a_path_that_is_not_there_is_no_error_until_it_is_read(tmp_path: Path) -> None:
    @node(version=1)
    def exists(p: Path) -> bool:
        return p.exists()

    with Graph() as g:
        out, read = exists(tmp_path / "later"), bare(tmp_path / "later")
    store = Store()
    assert g.run(want=out, store=store) is False
    with pytest.raises(NodeError, match="No such file"):
        g.run(want=read, store=store)
    _write(tmp_path / "later", "x")
    assert g.run(want=[out, read], store=store) == [True, "x"]


def test_a_path_in_a_workflow_file_starts_in_its_folder(tmp_path: Path) -> None:
    _write(tmp_path / "data.txt", "here")
    with Graph() as g:
        out = bare("data.txt")
    g.base = tmp_path
    assert g.run(want=out, store=Store()) == "here"


def test_roots_confine_every_path(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    secret = _write(tmp_path / "secret", "x")
    for reads, value in WAYS:
        with Graph() as g:
            out = reads(value(secret))
        with pytest.raises(NodeError, match="outside the allowed folders"):
            g.run(want=out, store=Store(), roots=[inside])


def test_a_file_that_changes_within_a_tick_of_the_clock_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _write(tmp_path / "a", "one")
    stat = os.stat(file)
    monkeypatch.setattr(time, "time_ns", lambda: stat.st_ctime_ns + 1_000_000)
    before = fingerprint(file)
    real = os.stat

    def frozen(path: Any, *args: Any, **options: Any) -> os.stat_result:
        return stat if path == str(file) else real(path, *args, **options)

    file.write_text("two")
    monkeypatch.setattr(os, "stat", frozen)  # as a file system says whose clock stood still
    assert fingerprint(file) != before


@node(version=1)
def of_any_type(p: Any) -> str:
    return _read(*(sorted(p, key=str) if isinstance(p, list | set | dict) else [p]))


@pytest.mark.parametrize(
    "make", [lambda p: p, lambda p: [p], lambda p: {p}, lambda p: {p: 1}], ids=["bare", "list", "set", "keys"]
)
@pytest.mark.parametrize("declared", [False, True], ids=["literal", "declared input"])
def test_a_path_in_an_input_of_any_type(make: Callable[[Path], Any], declared: bool, tmp_path: Path) -> None:
    store = Store()
    file = tmp_path / "data.txt"
    with Graph() as g:
        g.output("text", of_any_type(g.input("p", Any) if declared else make(file)))
    inputs = {"p": make(file)} if declared else {}
    for text in ("one", "two"):
        file.write_text(text)
        os.utime(file, (time.time() + len(RUNS), time.time() + len(RUNS)))
        assert g.run(inputs=inputs, store=store)["text"] == text
    RUNS.clear()
    g.run(inputs=inputs, store=store)
    assert RUNS == []
