"""`graphengine workflows`: the list, one workflow with its inputs, and copies that run as the original does."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from graphengine.api import load
from graphengine.workflow.copies import copy_workflow
from graphengine.workflow.files import shipped
from tests.graphengine.cli.conftest import PACKS, ROOT, Run

Write = Callable[..., Path]

FLOW = """\
version: 1
title: Two colours   # with a comment
description: "A \\e[31mred one."
inputs:
  prompt: {type: str, help: "[bold]What[/bold] it shows\\e[1m."}
  seed: {type: int, default: 0, min: 0, max: 9, choices: [0, 1, 9], help: The same makes the same.}
  brush: {type: str, default: brushes/one.txt}
  other: {type: str, default: "\\e\\e", help: Nothing.}
nodes:
  brush: {node: toy.load_brush, from: {source: inputs.brush}}
  image: {node: toy.paint, from: {brush: brush, prompt: inputs.prompt, seed: inputs.seed}}
outputs: {image: image}
"""
PACK = """\
from graphengine import node


@node(version=1)
def shipping_one() -> int:
    return 1
"""


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A pack that brings two workflows; one of them cannot be read."""
    folder = tmp_path / "shipping"
    (folder / "workflows").mkdir(parents=True)
    (folder / "nodes.py").write_text(PACK)
    (folder / "workflows" / "two_colours.yaml").write_text(FLOW)
    (folder / "workflows" / "broken.yaml").write_text("nodes: [\n")
    return folder


def test_the_list_says_what_each_makes(cli: Run) -> None:
    done = cli("workflows")
    assert done.code == 0
    names = [line.split()[0] for line in done.out.splitlines()]
    assert names == list(shipped())
    assert "text_to_image          A picture from a prompt.\n" in done.out
    told = json.loads(cli("workflows", "--json").out)
    assert [one["name"] for one in told] == names
    assert all(one["description"] and one["inputs"] and one["outputs"] for one in told)


def test_workflows_of_other_packs_are_listed_cleaned(cli: Run, pack: Path) -> None:
    done = cli("workflows", "--packs", pack)
    assert "two_colours            A \\x1b[31mred one.\n" in done.out
    assert "broken                 cannot be read\n" in done.out
    assert done.code == 0
    assert len(done.err.splitlines()) == 1
    assert "broken.yaml" in done.err
    told = {one["name"]: one for one in json.loads(cli("workflows", "--packs", pack, "--json").out)}
    assert "broken.yaml" in told["broken"]["error"]


def test_one_workflow_is_shown_with_its_inputs(cli: Run, pack: Path) -> None:
    packs = ("--packs", pack, "--packs", PACKS / "toy")
    done = cli("workflows", "two_colours", *packs)
    assert done.code == 0
    lines = {words[0]: words[1:] for line in done.out.splitlines() if (words := line.split())}
    assert done.out.startswith("two_colours: Two colours\n\nA \\x1b[31mred one.\n")
    assert lines["prompt"] == ["str", "must", "be", "given", "[bold]What[/bold]", "it", "shows\\x1b[1m."]
    assert " ".join(lines["seed"]) == "int 0 0..9; one of 0, 1, 9; The same makes the same."
    (seed,) = (line.index("0..9;") for line in done.out.splitlines() if "0..9;" in line)
    (other,) = (line.index("Nothing.") for line in done.out.splitlines() if "Nothing." in line)
    assert seed == other
    assert lines["image:"] == ["Card"]
    assert "  toy.load_brush, toy.paint\n" in done.out
    assert done.out.endswith("Run it:\n  graphengine run two_colours --set prompt=PROMPT\n")
    told = json.loads(cli("workflows", "two_colours", *packs, "--json").out)
    assert told["inputs"][1] == {
        "name": "seed", "type": "int", "required": False, "default": 0, "range": [0, 9, None], "choices": [0, 1, 9],
        "help": "The same makes the same.",
    }  # fmt: skip
    assert told["outputs"] == [{"name": "image", "type": "Card"}]
    assert told["nodes"] == ["toy.load_brush", "toy.paint"]


def test_the_command_that_is_shown_is_right(cli: Run) -> None:
    words = shlex.split(json.loads(cli("workflows", "controlnet", "--json").out)["command"])
    assert words[:3] == ["graphengine", "run", "controlnet"]
    done = cli("why", *words[2:])
    assert (done.code, done.err) == (0, "")


def test_a_file_is_shown_as_well(cli: Run, paint: Path) -> None:
    assert json.loads(cli("workflows", "paint.yaml", "--json").out)["title"] == "Paint"


@pytest.mark.parametrize(("arguments", "code", "sentence"), [
    (["inpaintin"], 2, "there is no file and no shipped workflow inpaintin; did you mean inpainting?"),
    (["--copy", "x.yaml"], 2, "--copy needs the name of a workflow: graphengine workflows NAME --copy x.yaml"),
    (["lora", "--force"], 2, "--force belongs to --copy FILE"),
    (["lora", "--copy", "x.txt"], 2, "x.txt is no name of a workflow file (end it in .yaml or .json)"),
    (["lora", "--copy", "file/x.yaml"], 3, "nothing can be written into file: that is a file, not a folder"),
])  # fmt: skip
def test_what_is_wrong_is_one_sentence(
    cli: Run, tmp_path: Path, arguments: list[str], code: int, sentence: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    done = cli("workflows", *arguments)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(sentence)
    assert len(done.err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"] or done.code == 3


@pytest.mark.parametrize("name", list(shipped()))
@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_copy_is_the_same_graph_with_the_same_files(tmp_path: Path, name: str, suffix: str) -> None:
    target = tmp_path / "own" / f"mine{suffix}"
    assert copy_workflow(shipped()[name], target)[-1] == target
    original, copy = load(name), load(target)
    assert copy == original
    assert copy.problems() == original.problems() == []
    defaults = [given.default for given in original.inputs.values()]
    named = [one for default in defaults for one in (default if isinstance(default, list) else [default])]
    files = [one for one in named if str(one).endswith(".png")]
    for file in files:
        assert (target.parent / file).read_bytes() == (ROOT / "workflows" / file).read_bytes()
    written = {str(path.relative_to(target.parent)) for path in target.parent.rglob("*") if path.is_file()}
    assert written == {target.name, *files}


def test_a_copy_gives_what_the_original_gave(cli: Run, tmp_path: Path, pack: Path) -> None:
    packs = ("--packs", pack, "--packs", PACKS / "toy")
    (pack / "workflows" / "brushes").mkdir()
    (pack / "workflows" / "brushes" / "one.txt").write_text("a brush")
    assert cli("run", "two_colours", "--set", "prompt=x", *packs).code == 0
    assert cli("workflows", "two_colours", "--copy", "deep/in/mine.yaml", *packs).code == 0
    assert (tmp_path / "deep" / "in" / "mine.yaml").read_text() == FLOW
    assert (tmp_path / "deep" / "in" / "brushes" / "one.txt").read_text() == "a brush"
    told = json.loads(cli("why", "deep/in/mine.yaml", "--set", "prompt=x", "--json", *packs).out)
    assert {reason["node"]: reason["state"] for reason in told}["image"] == "disk"
    assert cli("run", "deep/in/mine.yaml", "--set", "prompt=x", "--out", "again", *packs).code == 0
    (first,), (second,) = (list((tmp_path / folder).glob("*.png")) for folder in ("out", "again"))
    import PIL.Image

    with PIL.Image.open(first) as one, PIL.Image.open(second) as other:
        assert one.tobytes() == other.tobytes()


def test_nothing_is_overwritten_without_force(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mask.png").write_text("mine")
    done = cli("workflows", "inpainting", "--copy", "own.yaml")
    assert (done.code, done.err) == (3, "images/mask.png would be overwritten; say --force to do that\n")
    assert not (tmp_path / "own.yaml").exists()
    assert not (tmp_path / "images" / "tree.png").exists()
    done = cli("workflows", "inpainting", "--copy", "own.yaml", "--force", "--json")
    assert json.loads(done.out)["files"] == ["images/tree.png", "images/mask.png", "own.yaml"]
    assert (tmp_path / "images" / "mask.png").read_bytes() == (ROOT / "workflows" / "images" / "mask.png").read_bytes()
    (tmp_path / "own.yaml").write_text("mine")
    done = cli("workflows", "inpainting", "--copy", "own.yaml")
    assert (done.code, done.err) == (3, "own.yaml would be overwritten; say --force to do that\n")
    assert (tmp_path / "own.yaml").read_text() == "mine"
    assert cli("workflows", "inpainting", "--copy", "own.yaml", "--force").out == "own.yaml\n"


def test_a_workflow_is_never_its_own_copy(cli: Run, workflow: Write) -> None:
    text = "version: 1\nnodes:\n  a: {node: toy.add, with: {a: 1}}\noutputs: {a: a}\n"
    file = workflow(text)
    done = cli("workflows", "flow.yaml", "--copy", "flow.yaml", "--force")
    assert (done.code, done.err) == (3, "flow.yaml is the workflow itself, or a file that it uses\n")
    assert file.read_text() == text


def test_a_copy_brings_the_workflows_and_values_that_it_uses(cli: Run, tmp_path: Path) -> None:
    from graphengine import Graph
    from graphengine.graph import flow

    (tmp_path / "here" / "parts").mkdir(parents=True)
    with Graph(title="outer") as graph:
        graph.output("all", flow.collect([bytes(range(9)), 2]))
    graph.save(tmp_path / "here" / "parts" / "inner.yaml")
    values = [file.name for file in (tmp_path / "here" / "parts").iterdir() if file.name != "inner.yaml"]
    assert values
    (tmp_path / "here" / "outer.yaml").write_text(
        "version: 1\nnodes:\n  a: {workflow: parts/inner.yaml}\n  b: {workflow: outer.yaml}\noutputs: {all: a.all}\n"
    )
    done = cli("workflows", "here/outer.yaml", "--copy", "there/outer.yaml")
    assert set(done.out.splitlines()) == {
        "there/parts/inner.yaml", *(f"there/parts/{name}" for name in values), "there/outer.yaml",
    }  # fmt: skip
    assert load(tmp_path / "there" / "parts" / "inner.yaml").problems() == []


def test_a_file_outside_of_the_folder_is_not_copied(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "one.txt").write_text("a brush")
    (tmp_path / "here" / "flow.yaml").write_text(FLOW.replace("brushes/one.txt", "../one.txt"))
    done = cli("workflows", "here/flow.yaml", "--copy", "there.yaml")
    assert done.code == 2
    assert "it names ../one.txt, which does not lie in its folder" in done.err
    assert not (tmp_path / "there.yaml").exists()
