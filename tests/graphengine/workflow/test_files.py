"""Workflow files: what a document means, what is wrong with it, and that graphs come back from files as they were."""

import enum
import hashlib
import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphengine import Choices, FileError, Graph, Input, Link, Node, Range, WorkflowError, collect, when
from graphengine.api import load, loads
from graphengine.graph.elements import bad_id
from graphengine.values.socket_types import type_called
from graphengine.workflow.copies import copy_workflow
from graphengine.workflow.files import dumps, from_document, save, to_document
from graphengine.workflow.write import type_in_file
from graphengine.workflow.yaml12 import load as parse
from tests.graphengine.workflow.test_yaml12 import MISREAD, exact, json_values
from tests.graphengine.workflow_pack import (
    Blob,
    Corner,
    Counted,
    Mode,
    Pair,
    as_given,
    join,
    read,
    scale,
    size,
    unversioned,
)

# --- every graph comes back -------------------------------------------------------------------------------------------

words = st.text(max_size=12) | st.sampled_from(MISREAD)
ids = words.filter(lambda id: id and not bad_id(id))
names = st.sampled_from(["value", "items", "text", "then", "path"]) | words.filter(bool)
blobs = st.binary(max_size=8).map(Blob)
links = st.builds(Link, ids, st.sampled_from(["", "first", "a.b", "no"])) | st.builds(
    Link, st.sampled_from(["inputs", "values"]), words.filter(bool)
)
literals = json_values | st.sampled_from([Mode.GOOD, Path("a/b.png"), (1, 2), Pair(1, "no")])
mixed = st.recursive(st.lists(links | literals | blobs, max_size=4), lambda inner: st.lists(inner | links, max_size=3))
arguments = st.dictionaries(names, links | literals | blobs | mixed, max_size=4)
ui = st.dictionaries(words, json_values, max_size=2)
KINDS = [scale, unversioned, read, join, size, when, collect]
TYPES = ["int", "float", "str", "bool", "path", "any", "dict", "Blob", "list[Blob]", "list", "list[int | null]",
         "'a' | 'no'", "int | str", "null"]  # fmt: skip


@st.composite
def inputs(draw: st.DrawFn) -> dict[str, Input]:
    from graphengine.values.socket_types import parse_type

    found = {}
    for name in draw(st.lists(words.filter(bool), max_size=4, unique=True)):
        required = draw(st.booleans())
        limits = st.none() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False)
        bounds = draw(st.none() | st.builds(Range, limits, limits, limits))
        choices = draw(st.none() | st.lists(json_values, max_size=3))
        found[name] = Input(
            name, parse_type(draw(st.sampled_from(TYPES))), required, None if required else draw(json_values),
            draw(words), bounds, None if choices is None else Choices(*choices),
        )  # fmt: skip
    return found


@st.composite
def graphs(draw: st.DrawFn, depth: int = 0) -> Graph:
    graph = Graph(draw(words), draw(words))
    graph.inputs = draw(inputs())
    graph.values = draw(st.dictionaries(words.filter(bool), blobs | json_values, max_size=3))
    graph.ui = draw(ui)
    for id in draw(st.lists(ids, max_size=5, unique=True)):
        kind: Any = draw(st.sampled_from(KINDS) | words.map(lambda name: "nix." + name.replace("@", "")))
        version = kind.version if not isinstance(kind, str) and draw(st.booleans()) else None
        if isinstance(kind, str):
            version = draw(st.none() | st.integers(0, 99))
        if depth < 2 and draw(st.integers(0, 4)) == 0:
            kind, version = draw(graphs(depth + 1)), None
        each = draw(st.lists(names, max_size=2))
        graph.nodes[id] = Node(kind, draw(arguments), each, version, None, draw(ui))
    graph.outputs = draw(st.dictionaries(words.filter(bool), links, max_size=3))
    return graph


def same_nodes(first: Graph, second: Graph) -> bool:
    pairs = [(node.kind, second.nodes[id].kind) for id, node in first.nodes.items()]
    return list(first.nodes) == list(second.nodes) and all(
        same_nodes(a, b) if isinstance(a, Graph) and isinstance(b, Graph) else a == b for a, b in pairs
    )


@settings(max_examples=100, deadline=None)
@given(graphs(), st.sampled_from(["yaml", "json"]))
def test_every_graph_comes_back(graph: Graph, format: str) -> None:
    kept: dict[str, bytes] = {}
    document = to_document(graph, keep=kept.__setitem__)
    again = loads(dumps(document, format), f"x.{format}", fetch=kept.get)
    assert again.problems_at_load == []
    assert exact(to_document(again)) == exact(document)
    assert same_nodes(graph, again)
    assert list(again.values) == list(document.get("values", {}))
    assert {n: graph.values[n] for n in graph.values} == {n: again.values[n] for n in graph.values}
    for id, node in graph.nodes.items():
        assert [n for n, v in node.args.items() if type(v) is Link] == [
            n for n, v in again.nodes[id].args.items() if type(v) is Link and n in node.args and node.args[n] == v
        ]


def test_every_graph_comes_back_from_files(tmp_path: Path) -> None:
    graph = everything()
    for name in ("a.yaml", "b.json"):
        save(graph, tmp_path / name)
        assert to_document(load(tmp_path / name), values_folder=tmp_path) == to_document(
            graph, values_folder=tmp_path, pin=True, stem=Path(name).stem
        )
        assert load(tmp_path / name).values["held"] == Blob(b"1")


def everything() -> Graph:
    """A graph that uses each feature once, and is right."""
    inner = Graph("inner")
    with inner:
        inner.output("both", scale(inner.input("x", float), 2.0))
    with Graph("all of it", "for tests") as graph:
        flag = graph.input("flag", bool, False, "which one")
        number = graph.input("number", float, range=Range(0, 5))
        chosen = when.named("no")(flag, scale(number, 2.0), 1.0)
        inside = graph.call(inner, (), {"x": chosen}, id="inside")
        pair = unversioned("1e-4")
        items = join([chosen, 3, pair.first, [inside, "y"]], Blob(b"2"))
        graph.output("items", items)
        graph.output("pair", pair)
    graph.values["held"] = Blob(b"1")
    graph.connect("join", "blob", "values.held")
    graph.add(scale, "mapped", each=["value"], value=[1.0, 2.0], factor=number)
    graph.ui = {"positions": {"no": [1, 2]}}
    return graph


def test_the_graph_with_everything_is_right_and_equal_to_what_comes_back() -> None:
    graph = everything()
    kept: dict[str, bytes] = {}
    again = loads(dumps(to_document(graph, keep=kept.__setitem__)), fetch=kept.get)
    assert [p for p in graph.problems() if p.severity == "error"] == []
    assert again.problems() == graph.problems()
    assert again == graph


# --- what a document means --------------------------------------------------------------------------------------------

TEXT = """\
version: 1
title: A title
inputs:
  number: {type: float, default: 1.5, min: 0, max: 2, step: 0.5, help: a number}
  mode: {type: str, default: no, choices: [no, on]}
  needed: {type: 'list[int]'}
nodes:
  double: {node: wf.scale@3, from: {value: inputs.number}, with: {factor: 2}}
  pair: {node: unversioned, from: {text: inputs.mode}, with: {mode: good, word: b}}
  all:
    node: join
    from:
      items: [double, pair.first, {value: {deep: [1]}}, [inputs.needed, {value: null}]]
  many: {node: scale, from: {value: inputs.needed}, each: [value], ui: {x: 1}}
outputs: {all: all, first: pair.first}
"""


def test_a_document_written_by_hand() -> None:
    graph = loads(TEXT)
    assert graph.problems() == []
    assert graph.title == "A title"
    number = graph.inputs["number"]
    assert (number.type, number.required, number.default, number.range) == (float, False, 1.5, Range(0, 2, 0.5))
    assert graph.inputs["needed"].required
    assert graph.inputs["mode"].choices == Choices("no", "on")
    assert graph.nodes["double"].args == {"value": Link("inputs", "number"), "factor": 2}
    assert (graph.nodes["double"].kind, graph.nodes["double"].version) == (scale, 3)
    assert graph.nodes["pair"].args == {"text": Link("inputs", "mode"), "mode": "good", "word": "b"}
    assert graph.nodes["pair"].version is None
    items = [Link("double"), Link("pair", "first"), {"deep": [1]}, [Link("inputs", "needed"), None]]
    assert graph.nodes["all"].args["items"] == items
    assert graph.nodes["many"].each == ("value",)
    assert graph.nodes["many"].ui == {"x": 1}
    assert graph.outputs == {"all": Link("all"), "first": Link("pair", "first")}


def test_a_document_in_full_is_written_as_it_was_read() -> None:
    text = TEXT.replace("node: u", "node: wf.u").replace("node: j", "node: wf.j").replace("node: s", "node: wf.s")
    data = parse(text, "x")[0]
    assert to_document(from_document(data)) == data


def test_nodes_are_written_with_the_version_they_were_written_for_and_pinned_on_demand() -> None:
    graph = loads(TEXT)
    assert to_document(graph)["nodes"]["many"]["node"] == "wf.scale"
    pinned = to_document(graph, pin=True)["nodes"]
    assert (pinned["many"]["node"], pinned["pair"]["node"]) == ("wf.scale@3", "wf.unversioned")


def test_types_that_files_cannot_name_are_widened() -> None:
    assert type_in_file(dict[str, int]) == "dict"

    class Undeclared(enum.Enum):
        FAST = "fast"

    assert type_in_file(list[Undeclared] | None) == "list[any] | null"
    assert type_in_file(int | Undeclared) == "any"


# --- problems ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f.yaml: the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("- a\n- b", "this is a list, not a workflow"),
        ("hello", "this is a single value, not a workflow"),
        ("version: 99\nnodes: {}", "format version 99, this graphengine reads up to 1"),
        ("version: one", "the format version 'one' is no number"),
        ("version: 0", "the format version 0 is no number from 1 on"),
        ("version: true", "the format version True"),
        ("version: 1\nnodes:\n\ta: 1", "f.yaml:3: a tab indents this line"),
    ],
)
def test_unreadable_documents_are_raised_at_once(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(text)
    with pytest.raises(WorkflowError) as caught:
        load(file)
    assert message in str(caught.value)
    assert caught.value.problems[0].where.file == str(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes: {}", "the file does not say its format version (write `version: 1` first)"),
        ("version: 1\nnodse: {}", "<text>:2: nodse: a workflow has no key 'nodse'; did you mean nodes?"),
        ("version: 1\nnodes: [a]", "<text>:2: nodes: `nodes` must be a mapping"),
        ("version: 1\ntitle: 3", "`title` must be a text"),
        ("version: 1\ninputs:\n  a: {typ: int}", "<text>:3: inputs.a: an input has no key 'typ'; did you mean type?"),
        ("version: 1\ninputs:\n  a: {typ: int}", "the input does not say its type"),
        ("version: 1\ninputs: {a: {type: itn}}", "no type is called itn"),
        ("version: 1\ninputs: {a: {type: 'list['}}", "'list[' is no type"),
        ("version: 1\ninputs: {a: {type: int, min: low}}", "`min` must be a number"),
        ("version: 1\ninputs: {a: {type: int, choices: 3}}", "`choices` must be a list"),
        ("version: 1\ninputs: {a: int}", "an input is declared as a mapping (write `a: {type: str, default: ...}`)"),
        ("version: 1\nnodes:\n  a: {nod: x}", "<text>:3: a: a node has no key 'nod'; did you mean node?"),
        ("version: 1\nnodes: {a: {with: {}}}", "a: it does not say which node it is"),
        ("version: 1\nnodes: {a: wf.scale}", "a: a node is a mapping"),
        ("version: 1\nnodes: {a: {node: scale, form: {value: b}}}", "has no key 'form'; did you mean from?"),
        ("version: 1\nnodes: {a: {node: scale, from: {value: 3}}}", "3 is no link (values stand under `with`)"),
        ("version: 1\nnodes: {a: {node: scale, from: {value: inputs}}}", "'inputs' is no link"),
        ("version: 1\nnodes: {a: {node: join, from: {items: [3]}}}", "a value in a list stands as {value: ...}"),
        ("version: 1\nnodes: {a: {node: scale, from: {value: b}, with: {value: 1}}}",
         "a.value: value stands under `from` and under `with`"),
        ("version: 1\nnodes: {a: {node: scale, each: value}}", "`each` is a list of inputs"),
        ("version: 1\nnodes: {a: {node: scale@x, with: {value: 1}}}", "'scale@x' has no version number"),
        ("version: 1\nnodes: {a: {node: scale@9, with: {value: 1}}}",
         "written for version 9 of wf.scale, installed is version 3 (update the pack)"),
        ("version: 1\nnodes: {a: {node: gap@3, with: {value: 1}}}",
         "version 3 of wf.gap, installed is version 5, and the pack has no migration from version 3"),
        ("version: 1\nnodes: {a: {node: gap@4, with: {value: 1}}}", "the migration from version 4 failed: KeyError"),
        ("version: 1\nnodes: {a: {node: unversioned@1, with: {text: a}}}", "the installed one declares no version"),
        ("version: 1\nnodes: {a: {node: scale, workflow: b.yaml}}", "`node` or a `workflow`, not both"),
        ("version: 1\nnodes: {a: {workflow: 3}}", "`workflow` is a path of a workflow file"),
        ("version: 1\nnodes: {a: {workflow: nix.yaml}}", "the workflow 'nix.yaml' cannot be read"),
        ("version: 1\nnodes: {a: {workflow: nix.yaml}}", "'nix.yaml' cannot be read: there is no such file"),
        ("version: 1\nnodes: {a: {workflow: /etc/passwd}}", "is an absolute path; write it relative to this file"),
        ("version: 1\nnodes: {a: {workflow: {nodse: {}}}}", "a workflow has no key 'nodse'"),
        ("version: 1\noutputs: {a: [b]}", "outputs.a: an output comes from one node"),
        ("version: 1\nvalues: {a: 3}", "values.a: a value is a mapping"),
        ("version: 1\nvalues: {a: {type: int, digest: x}}", "'int' is no type whose values lie in files"),
        ("version: 1\nvalues: {a: {type: Blob}}", "it has no digest"),
        ("version: 1\nvalues: {a: {type: Blob, digest: ab}}", "nothing here holds the value with the digest ab"),
        ("version: 1\nvalues: {a: {type: Blob, digest: ab, file: ../x}}", "'../x' does not lie beside the workflow"),
        ("version: 1\nvalues: {a: {type: Blob, digest: ab, file: /etc/passwd}}", "does not lie beside the workflow"),
        ("version: 1\nvalues: {a: {type: Blob, digest: ab, file: nix}}", "'nix' cannot be read"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_among_the_problems(text: str, message: str) -> None:
    graph = loads(text)
    told = [str(problem) for problem in graph.problems()]
    assert any(message in problem for problem in told), told
    assert dumps(to_document(graph))  # what was wrong does not keep a graph from being written


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\nnodes: []",
        "version: 1\ninputs: {class_type: {type: str, default: a}}",
        "version: 1\nnodes: {class_type: {node: sample}}",
        "version: 1\nui: {class_type: x}",
    ],
)
def test_what_only_looks_like_comfyui_is_read_as_ours(text: str) -> None:
    assert all("ComfyUI" not in problem.what for problem in loads(text).problems())


def test_all_problems_at_once_with_lines_and_the_validators_own(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(
        "version: 1\ninputs:\n  x: {type: float, extra: 1}\nnodes:\n  a:\n    node: scale\n    from:\n      value: b\n"
        "    with:\n      facto: 2\n  c:\n    node: nix\n"
        "  d:\n    workflow:\n      nodes:\n        e:\n          node: nox\n"
    )
    told = {(p.kind, p.where.line, p.where.node) for p in load(file).problems()}
    assert {
        ("unknown key", 3, "inputs"), ("unused input", 3, "inputs"), ("dangling link", 8, "a"),
        ("unknown socket", 10, "a"), ("unknown node", 11, "c"), ("unknown node", 16, "d/e"),
    } <= told  # fmt: skip
    assert {p.where.file for p in load(file).problems()} == {str(file)}


# --- versions ---------------------------------------------------------------------------------------------------------


def test_nodes_written_for_older_versions_are_migrated() -> None:
    text = "version: 1\nnodes: {a: {node: scale@1, from: {value: b}, with: {times: 4}}, b: {node: scale@2, with: "
    graph = loads(text + "{value: 1, by: 2}}}")
    assert graph.problems() == []
    assert graph.nodes["a"].args == {"value": Link("b"), "factor": 4}
    assert to_document(graph)["nodes"]["b"] == {"node": "wf.scale@3", "with": {"value": 1, "factor": 2}}


def test_documents_of_older_formats_are_migrated(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphengine.workflow import read as workflow_read

    monkeypatch.setattr(workflow_read, "FORMAT", 3)
    monkeypatch.setitem(workflow_read.MIGRATIONS, 1, lambda data: {**data, "nodes": data["steps"], "version": 2})
    monkeypatch.setitem(
        workflow_read.MIGRATIONS, 2, lambda data: {k: v for k, v in data.items() if k != "steps"} | {"version": 3}
    )
    graph = loads("version: 1\nsteps: {a: {node: scale, with: {value: 1}}}")
    assert graph.problems() == []
    monkeypatch.delitem(workflow_read.MIGRATIONS, 2)
    with pytest.raises(WorkflowError, match="format version 2 cannot be brought to 3"):
        loads("version: 1\nsteps: {}")


# --- workflows used as nodes ------------------------------------------------------------------------------------------

INNER = """\
version: 1
inputs: {x: {type: float}}
nodes: {s: {node: wf.scale, from: {value: inputs.x}}}
outputs: {y: s}
"""


def outer(path: str) -> str:
    return f"version: 1\nnodes: {{a: {{workflow: {path}, with: {{x: 1.5}}}}}}\noutputs: {{y: a}}\n"


def test_a_file_used_as_a_node(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "inner.yaml").write_text(INNER)
    (tmp_path / "outer.yaml").write_text(outer("parts/inner.yaml"))
    graph = load(tmp_path / "outer.yaml")
    assert graph.problems() == []
    assert isinstance(graph.nodes["a"].kind, Graph)
    assert to_document(graph)["nodes"]["a"] == {"workflow": "parts/inner.yaml", "with": {"x": 1.5}}
    embedded = to_document(graph, embed=True)["nodes"]["a"]["workflow"]
    assert embedded == {k: v for k, v in parse(INNER, "x")[0].items() if k != "version"}
    assert to_document(from_document(to_document(graph, embed=True))) == to_document(graph, embed=True)
    save(graph, tmp_path / "parts" / "moved.yaml")
    assert "workflow: inner.yaml" in (tmp_path / "parts" / "moved.yaml").read_text()
    assert load(tmp_path / "parts" / "moved.yaml").problems() == []


def test_a_file_that_is_used_twice_is_read_once(tmp_path: Path) -> None:
    for level in range(20):  # read each time, it would be read a million times
        text = f"version: 1\nnodes: {{a: {{workflow: {level + 1}.yaml}}, b: {{workflow: {level + 1}.yaml}}}}\n"
        (tmp_path / f"{level}.yaml").write_text(text)
    (tmp_path / "20.yaml").write_text("version: 1\nnodes: {}\n")
    graph = load(tmp_path / "0.yaml")
    assert graph.nodes["a"].kind is graph.nodes["b"].kind
    with pytest.raises(WorkflowError, match="more than 100,000 nodes"):
        to_document(graph, embed=True)


def test_files_that_use_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(outer("b.yaml"))
    (tmp_path / "b.yaml").write_text(outer("a.yaml"))
    told = "\n".join(str(p) for p in load(tmp_path / "a.yaml").problems())
    assert "is used in itself, whatever its inputs are (use it behind a `when` or a `switch`" in told


def test_files_that_use_one_another_too_deeply(tmp_path: Path) -> None:
    for level in range(100):
        (tmp_path / f"{level}.yaml").write_text(outer(f"{level + 1}.yaml"))
    assert "nested deeper than 32 files" in "\n".join(str(p) for p in load(tmp_path / "0.yaml").problems())


def test_a_file_in_a_file_with_a_syntax_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(outer("b.yaml"))
    (tmp_path / "b.yaml").write_text("version: 1\nnodes: {\n")
    told = [str(p) for p in load(tmp_path / "a.yaml").problems()]
    assert any("a.yaml:2: a: the workflow 'b.yaml' cannot be read" in p for p in told)
    assert any("b.yaml:3: this is no YAML" in p for p in told)


@pytest.mark.parametrize("path", ["../out.yaml", "link.yaml"])
def test_files_stay_inside_the_roots(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "out.yaml").write_text(INNER)
    (folder / "link.yaml").symlink_to(tmp_path / "out.yaml")
    (folder / "a.yaml").write_text(outer(path))
    assert load(folder / "a.yaml").problems() == []
    assert load(folder / "a.yaml", roots=[tmp_path]).problems() == []
    assert "lies outside the allowed folders" in str(load(folder / "a.yaml", roots=[folder]).problems()[0])
    with pytest.raises(WorkflowError, match="lies outside the allowed folders"):
        load(tmp_path / "out.yaml", roots=[folder])


# --- values that JSON cannot hold -------------------------------------------------------------------------------------


def test_values_lie_in_files_beside_the_workflow(tmp_path: Path) -> None:
    with Graph() as graph:
        size(Blob(b"one"))
        size.named("same")(Blob(b"one"))
        size.named("other")(Blob(b"two"))
    save(graph, tmp_path / "w.yaml")
    digest = hashlib.sha256(b"BLOBone").hexdigest()
    document = parse((tmp_path / "w.yaml").read_text(), "x")[0]
    assert document["values"]["size_blob"] == {
        "type": "Blob", "file": "w.size_blob.safetensors", "digest": digest
    }  # fmt: skip
    assert document["nodes"]["same"]["from"] == {"blob": "values.size_blob"}
    assert sorted(os.listdir(tmp_path)) == ["w.other_blob.safetensors", "w.size_blob.safetensors", "w.yaml"]
    again = load(tmp_path / "w.yaml")
    assert again.problems() == []
    assert again.values == {"size_blob": Blob(b"one"), "other_blob": Blob(b"two")}
    (tmp_path / "w.size_blob.safetensors").write_bytes(b"BLOBxxx")
    assert "is not the one that was saved: the digests differ" in str(load(tmp_path / "w.yaml").problems()[0])


def _counted() -> Counted:
    made = Counted(3)
    made.second = 99
    return made


HELD: list[tuple[Any, Any]] = [
    (Mode | str, Mode.FAST), (Any, Mode.FAST), (list[Mode | str], [Mode.FAST, "fast"]), (Counted, _counted()),
    (Any, _counted()), (bool, np.bool_(True)), (Pair, Pair(1, "x")), (Corner, (0, 0)), (Corner, (1, (2, 3))),
    (Corner, Corner.HIGH), (Any, np.float32(0.1)), (float, np.float32(0.1)), (dict, OrderedDict(b=1, a=2)),
    (set, {1, 2}), (bytes, b"x"), (dict[int, str], {1: "a"}), (tuple, (1, 2)), (np.ndarray, np.arange(3)),
    (Any, {"of": [Blob(b"1"), frozenset({2})]}),
]  # fmt: skip
"""Types of inputs, each with a default that JSON cannot hold, or of which it cannot say what it is."""


@pytest.mark.parametrize("number", range(len(HELD)))
def test_a_default_comes_back_as_what_it_is(tmp_path: Path, number: int) -> None:
    kind, default = HELD[number]
    with Graph() as graph:
        given = graph.input("given", kind, default)
        graph.output("out", as_given(given))
    save(graph, tmp_path / "w.yaml")
    again = load(tmp_path / "w.yaml")
    assert again.problems() == graph.problems() == []
    (value, _), (wanted, _) = again.run(progress=False)["out"], graph.run(progress=False)["out"]
    assert type(value) is type(wanted)
    assert repr(value) == repr(wanted)
    (tmp_path / "copy").mkdir()
    copy_workflow(tmp_path / "w.yaml", tmp_path / "copy" / "w.json")
    assert repr(load(tmp_path / "copy" / "w.json").run(progress=False)["out"][0]) == repr(wanted)
    kept: dict[str, bytes] = {}
    document = to_document(graph, keep=kept.__setitem__)
    assert repr(from_document(document, fetch=kept.get).inputs["given"].default) == repr(again.inputs["given"].default)


def test_the_value_of_a_member_may_be_a_tuple(tmp_path: Path) -> None:
    with Graph() as graph:
        graph.output("out", as_given(1, corner=(1, (2, 3))))
    save(graph, tmp_path / "w.yaml")
    again = load(tmp_path / "w.yaml")
    assert again.problems() == []
    assert again.run(progress=False)["out"] == (1, Corner.HIGH)


def test_a_default_whose_file_is_gone_is_named_with_its_line(tmp_path: Path) -> None:
    with Graph() as graph:
        graph.output("out", as_given(graph.input("given", bytes, b"x")))
    save(graph, tmp_path / "w.yaml")
    (tmp_path / "w.given.packed").unlink()
    (told,) = map(str, load(tmp_path / "w.yaml").problems())
    assert told.startswith(f"{tmp_path / 'w.yaml'}:")
    assert "inputs.given: 'w.given.packed' cannot be read: No such file" in told
    text = "version: 1\ninputs:\n  a: {type: int, default: 1, default_file: {value: 2}}\n"
    assert "a `default` or a `default_file`, not both" in str(loads(text).problems()[0])


def test_a_values_file_that_its_codec_refuses() -> None:
    content = b"nothing"
    digest = hashlib.sha256(content).hexdigest()
    text = f"version: 1\nvalues: {{a: {{type: Blob, digest: {digest}}}}}\n"
    assert "cannot be read as Blob: no blob" in str(loads(text, fetch=lambda _: content).problems()[0])


def test_names_of_values_make_safe_file_names(tmp_path: Path) -> None:
    graph = Graph()
    graph.values = {"../a/b": Blob(b"1"), ".. a b": Blob(b"2")}
    save(graph, tmp_path / "w.json")
    assert sorted(os.listdir(tmp_path)) == ["w._a_b.safetensors", "w._a_b_2.safetensors", "w.json"]
    assert load(tmp_path / "w.json").values == graph.values


# --- saving -----------------------------------------------------------------------------------------------------------


def test_relative_paths_of_files_are_kept_right_when_a_workflow_is_saved_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("x")
    text = "version: 1\nnodes: {a: {node: wf.read, with: {path: data.txt, more: [data.txt, nix.txt]}}}\n"
    (tmp_path / "w.yaml").write_text(text)
    (tmp_path / "sub").mkdir()
    save(load(tmp_path / "w.yaml"), tmp_path / "sub" / "w.yaml")
    args = load(tmp_path / "sub" / "w.yaml").nodes["a"].args
    assert args == {"path": "../data.txt", "more": ["../data.txt", "nix.txt"]}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "nan is no finite number"), (object(), "type object has no form in which it could be"),
        ("\ud800", "half a surrogate pair"), ({1: len}, "type builtin_function_or_method has no form"),
    ],
)  # fmt: skip
def test_literals_that_cannot_be_written(value: object, message: str) -> None:
    graph = Graph()
    graph.nodes["a"] = Node("x", {"s": value, "t": [value]})
    with pytest.raises(WorkflowError) as caught:
        to_document(graph)
    assert [p.where.socket for p in caught.value.problems] == ["s", "t"]
    assert message in str(caught.value)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "w.yaml"
    save(Graph("old"), file)
    before = file.read_bytes()
    huge = Graph("x" * 100_000)
    # A real limit on the size of files stands for a full disk.
    import resource
    import signal

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with pytest.raises(FileError, match=r"w\.yaml cannot be written"):
            save(huge, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["w.yaml"]
    with pytest.raises(FileError, match="No such file or directory"):
        save(Graph(), tmp_path / "nix" / "w.yaml")
    with pytest.raises(WorkflowError, match=r"end it in \.yaml or \.json"):
        save(Graph(), tmp_path / "w.txt")


def test_json_and_yaml_are_one_document(tmp_path: Path) -> None:
    graph = loads(TEXT)
    save(graph, tmp_path / "a.json")
    save(graph, tmp_path / "a.yaml")
    assert json.loads((tmp_path / "a.json").read_text()) == parse((tmp_path / "a.yaml").read_text(), "a")[0]


# --- finding files ----------------------------------------------------------------------------------------------------


def test_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "portrait.yaml").write_text("version: 1\nnodes: {}")
    with pytest.raises(WorkflowError, match=r"there is no such file; did you mean portrait\.yaml"):
        load(tmp_path / "portrai.yaml")
    with pytest.raises(WorkflowError, match="this is no file"):
        load(tmp_path)
    with pytest.raises(WorkflowError, match="no file and no shipped workflow nonsense"):
        load("nonsense")
    with pytest.raises(WorkflowError, match="is no path"):
        load("a\0b")


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"version: 1\ntitle: \xff\xfe")
    with pytest.raises(WorkflowError, match=r"a\.yaml:2: the file is no UTF-8 text"):
        load(tmp_path / "a.yaml")
    with open(tmp_path / "big.yaml", "wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(WorkflowError, match="the file is larger than 10 MB"):
        load(tmp_path / "big.yaml")


def test_the_pack_of_these_tests_registers_its_type() -> None:
    assert type_called("Blob") is not None
