"""What a picture carries: records, files by hash, where a value comes from."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from graphengine import File, FileError, Graph, SocketType, node, register_type, run
from graphengine.declare import registry
from graphengine.provenance.describe import describe
from graphengine.provenance.steps import Step, steps
from graphengine.results.record import differences, graph_of, locate, parse


@dataclass(frozen=True)
class Ink:
    """A reference."""

    digest_: str
    source: str

    def digest(self, part: str | None = None) -> str:
        return self.digest_


@dataclass(frozen=True)
class Sheet:
    """A value that JSON cannot hold."""

    content: bytes


register_type(SocketType(Ink, "MetadataInk", digest=Ink.digest))
register_type(SocketType(Sheet, "MetadataSheet", encode=lambda sheet: sheet.content, decode=Sheet))


@node(version=1)
def ink(source: Annotated[str | Path, File("weights", names=True)]) -> Ink:
    """Refer to ink."""
    return Ink(f"digest of {Path(source).name}", str(source))


@node(version=3)
def write(ink: Ink, text: str, size: int = 12) -> str:
    """Write."""
    return f"{ink.source} {text} {size}"


@node(version=1)
def read(path: Annotated[Path | list[Path], File()]) -> str:
    """Read files."""
    return "".join(p.read_text() for p in (path if isinstance(path, list) else [path]))


@node(version=1)
def length(sheet: Sheet) -> int:
    """Length."""
    return len(sheet.content)


registry.register(sys.modules[__name__])


def test_a_record_names_files_without_folders(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "black.ink").write_text("black")
    (secret / "a.txt").write_text("a")
    with Graph("letter") as graph:
        source = graph.input("ink", str, str(secret / "black.ink"))
        graph.output("text", write.named("write")(ink.named("ink")(source), read.named("read")([secret / "a.txt"])))
    for inputs in ({}, {"ink": str(secret / "black.ink")}):
        result = run(graph, inputs=inputs)
        record = describe(graph, inputs, "text", result.made["text"])
        text = json.dumps(record)
        assert "secret" not in text
        assert str(tmp_path) not in text
        assert sorted(f["name"] for f in record["files"]) == ["a.txt", "black.ink"]
        assert record["weights"] == {
            "ink": {"type": "MetadataInk", "name": "black.ink", "digest": "digest of black.ink"}
        }
        files, missing = locate(record["files"], [tmp_path / "secret"])
        assert missing == []
        again, given = graph_of(json.loads(text), files)
        assert run(again, inputs=given)["text"] == result["text"]


def test_files_are_found_by_content(tmp_path: Path) -> None:
    import hashlib

    (tmp_path / "x/y").mkdir(parents=True)
    (tmp_path / "name.txt").write_text("other")
    (tmp_path / "x/y/renamed.txt").write_text("right")
    facts = {"at": ["inputs", "a"], "name": "name.txt", "size": 5, "sha256": hashlib.sha256(b"right").hexdigest()}
    found, missing = locate([facts], [tmp_path])
    assert found == {("inputs", "a"): tmp_path / "x/y/renamed.txt"}
    assert missing == []
    found, missing = locate([facts | {"sha256": "0" * 64}], [tmp_path])
    assert found == {}
    assert "the file name.txt (SHA-256 000000000000…) is not found" in missing[0]


def test_values_that_json_cannot_hold_are_carried() -> None:
    with Graph() as graph:
        graph.output("n", length(Sheet(b"\0\1\2")))
    record = json.loads(json.dumps(describe(graph, {}, "n", {})))
    again, given = graph_of(record, {})
    assert run(again, inputs=given)["n"] == 3


def test_node_versions_are_pinned() -> None:
    with Graph() as graph:
        graph.output("t", write.named("w")(ink("blue"), "x"))
    assert describe(graph, {}, "t", {})["workflow"]["nodes"]["w"]["node"].endswith("write@3")


def test_differences() -> None:
    then = {"versions": {"graphengine": "1", "python": "3.11", "packs": {"p": ["torch==2", "abc"]}},
            "weights": {"m": {"name": "tiny", "digest": "x"}}, "made": {"device": "cpu", "batch": 4}}  # fmt: skip
    now = {"versions": {"graphengine": "1", "python": "3.12", "packs": {"p": ["torch==3", "abd"]}},
           "weights": {"m": {"name": "tiny", "digest": "y"}}, "made": {"device": "cpu", "worker": "w1"}}  # fmt: skip
    assert differences(then, now) == [
        "python: 3.11 then, 3.12 now",
        "torch: 2 then, 3 now",
        "the sources of pack p: abc then, abd now",
        "the weights of m (tiny): x then, y now",
        "batch: 4 then, none now",
    ]
    assert differences(then, then) == []


def test_steps_tell_where_a_value_comes_from() -> None:
    with Graph("inner") as inner:
        inner.output("t", write(ink("green"), inner.input("text", str, "inside"), inner.input("size", int, None)))
    with Graph() as graph:
        graph.output("t", write.named("last")(ink("red"), inner(text="outside")))
    last = steps(graph, {}, "t")
    assert isinstance(last, Step)
    assert last.inputs["size"] == 12
    assert last.inputs["ink"].value == Ink("digest of red", "red")
    before = last.inputs["text"]
    assert before.inputs["text"] == "outside"
    assert before.inputs["size"] == 12


def test_steps_of_a_long_chain() -> None:
    with Graph() as graph:
        text = graph.input("text", str, "x")
        black = ink("black")
        for _ in range(3000):
            text = write(black, text)
        graph.output("t", text)
    assert isinstance(steps(graph, {}, "t"), Step)


def test_a_record_that_names_a_file_it_does_not_use() -> None:
    record = {"workflow": {"version": 1, "nodes": {}}, "inputs": {}}
    with pytest.raises(FileError, match="damaged"):
        graph_of(record, {("inputs", "a", "b"): Path("x")})


def test_a_newer_record_is_refused() -> None:
    with pytest.raises(FileError, match="newer"):
        parse('{"format": 2, "workflow": {}, "inputs": {}, "output": "", "files": []}', "p.png")
