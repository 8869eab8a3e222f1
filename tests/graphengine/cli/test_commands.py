"""The commands that run no model: validate, nodes, schema, draw, cache, why."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.graphengine.cli.conftest import ROOT, Run, environment

Write = Callable[..., Path]
TEXT_TO_IMAGE = ROOT / "workflows" / "text_to_image.yaml"


def test_validate_tells_every_problem_of_every_file(cli: Run, paint: Path, workflow: Write) -> None:
    workflow("version: 1\nnodes:\n  a: {node: toy.add, with: {a: 1.5, c: 2}}\noutputs: {a: b}\n", "wrong.yaml")
    workflow("- 1\n", "list.yaml")
    workflow("", "empty.yaml")
    done = cli("validate", "paint.yaml", "wrong.yaml", "list.yaml", "empty.yaml", "gone.yaml")
    assert done.code == 2
    assert done.out == "paint.yaml: ok\n"
    lines = done.err.splitlines()
    assert sum(line.startswith("wrong.yaml:3: a.") for line in lines) == 2
    assert any(line.startswith("wrong.yaml:4:") and "no node b" in line for line in lines)
    for name in ("list.yaml", "empty.yaml", "gone.yaml"):
        assert any(name in line for line in lines)


@pytest.mark.parametrize("command", [("run", "paint.yaml"), ("run", "paint.yaml", "--backend", "local"), ("worker",)])
def test_a_device_that_cannot_be_is_refused_at_once(cli: Run, paint: Path, command: tuple[str, ...]) -> None:
    done = cli(*command, "--device", "foo", COLUMNS="200")
    assert (done.code, done.out) == (2, "")
    assert "'--device': there is no device 'foo' (devices are called cpu, cuda:0" in done.err


def test_validate_as_json(cli: Run, paint: Path, workflow: Write) -> None:
    workflow("version: 1\nnodes:\n  a: {node: toy.add}\n", "wrong.yaml")
    done = cli("validate", "paint.yaml", "wrong.yaml", "--json")
    assert done.code == 2
    right, wrong = json.loads(done.out)
    assert right == {"file": "paint.yaml", "ok": True, "problems": []}
    assert (wrong["ok"], wrong["problems"][0]["kind"]) == (False, "missing input")
    assert wrong["problems"][0]["where"] == {"file": "wrong.yaml", "line": 3, "node": "a", "socket": "a"}


def test_a_warning_is_shown_and_is_no_failure(cli: Run, workflow: Write) -> None:
    workflow("version: 1\ninputs: {x: {type: int, default: 1}}\nnodes:\n  a: {node: toy.add, with: {a: 1}}\n"
             "outputs: {a: a}\n")  # fmt: skip
    done = cli("validate", "flow.yaml")
    assert (done.code, done.out) == (0, "flow.yaml: ok\n")
    assert "warning: flow.yaml:2: inputs.x: nothing uses this input" in done.err
    done = cli("run", "flow.yaml")
    assert (done.code, done.out) == (0, "a: 2\n")
    assert "nothing uses this input" in done.err


def test_nodes_lists_them_and_shows_the_help_of_one(cli: Run) -> None:
    done = cli("nodes")
    assert "toy.paint" in done.out
    assert "Paint a picture." in done.out
    assert "std.sample" in done.out
    done = cli("nodes", "paint")
    assert done.out.startswith("toy.paint@1\n\nPaint a picture.\n\nIts colour comes from")
    assert "0..1000; -1 or null draws one; What the colour is drawn from." in done.out
    assert "  Card" in done.out
    told = json.loads(cli("nodes", "toy.paint", "--json").out)
    assert [i["name"] for i in told["inputs"]] == ["brush", "prompt", "seed", "steps", "side"]
    done = cli("nodes", "pant")
    assert done.code == 2
    assert "did you mean paint" in done.err


def test_schema_is_json_schema(cli: Run, tmp_path: Path) -> None:
    import jsonschema

    text = cli("schema").out
    jsonschema.Draft202012Validator.check_schema(json.loads(text))
    assert "toy.paint" in text
    assert cli("schema", "--out", "s.json").out == "s.json\n"
    assert (tmp_path / "s.json").read_text() == text


def test_draw_has_three_formats(cli: Run, paint: Path, tmp_path: Path) -> None:
    assert cli("draw", "paint.yaml").out.lstrip().startswith(("flowchart", "graph", "---"))
    assert cli("draw", "paint.yaml", "--format", "dot").out.startswith("digraph")
    assert cli("draw", "paint.yaml", "--out", "p.svg").out == "p.svg\n"
    assert "<svg" in (tmp_path / "p.svg").read_text()
    assert cli("draw", "paint.yaml", "--format", "png").code == 2


def test_cache_shows_limits_and_clears(cli: Run, paint: Path) -> None:
    cli("run", "paint.yaml")
    facts = json.loads(cli("cache", "show", "--json").out)
    assert facts["values"] == 2
    assert facts["bytes"] > 0
    assert "5.0 GB" in cli("cache", "budget", "5G").out
    assert json.loads(cli("cache", "show", "--json").out)["budget"] == 5 * 10**9
    done = cli("cache", "budget", "much")
    assert done.code == 2
    assert "'much' is no size" in done.err
    assert cli("cache", "clear").out.startswith("2 values forgotten")
    assert json.loads(cli("cache", "show", "--json").out)["values"] == 0
    assert "there is no record" in cli("why", "paint.yaml").out


def test_a_budget_is_kept(cli: Run, paint: Path) -> None:
    cli("run", "paint.yaml")
    cli("cache", "budget", "0")
    assert json.loads(cli("cache", "show", "--json").out)["values"] == 0


def test_why_tells_what_runs_and_what_differs(cli: Run, paint: Path) -> None:
    def why(*more: str) -> dict[str, tuple[str, list[str]]]:
        found = json.loads(cli("why", "paint.yaml", "--json", *more).out)
        return {reason["node"]: (reason["state"], reason["differs"]) for reason in found}

    assert why()["image"] == ("runs", ["there is no record of a run of this workflow"])
    cli("run", "paint.yaml")
    assert why() == {
        "brush": ("not needed", []), "words": ("not needed", []), "image": ("disk", []),
    }  # fmt: skip
    assert why("--set", "seed=7") == {
        "brush": ("reference", []), "words": ("disk", []), "image": ("runs", ["seed was 0, is 7"]),
    }  # fmt: skip
    found = why("--set", "prompt=a blue square")
    assert found["words"] == ("runs", ["prompt was 'a red circle', is 'a blue square'"])
    assert found["image"] == ("runs", ["prompt comes from words, which runs"])
    found = why("--set", "brush=fine")
    assert found["words"] == ("runs", ["brush comes from brush: brush.source was 'plain', is 'fine'"])
    lines = cli("why", "paint.yaml", "--set", "seed=7").out.splitlines()
    assert [line.split()[:2] for line in lines] == [["reference", "brush"], ["disk", "words"], ["runs", "image"]]


def test_why_agrees_with_what_then_happens(cli: Run, paint: Path) -> None:
    cli("run", "paint.yaml")
    for more in (["--set", "seed=3"], ["--set", "prompt=x"], ["--set", "steps=5"], []):
        told = {r["node"] for r in json.loads(cli("why", "paint.yaml", "--json", *more).out) if r["state"] == "runs"}
        lines = cli("run", "paint.yaml", "--json", *more).lines
        computed = {line["node"] for line in lines if line["kind"] == "node_finished" and line["reuse"] == "computed"}
        assert told == computed - {"brush"}


LOADED = """
import sys
from graphengine.cli import main
code = main(sys.argv[1:])
heavy = ("torch", "diffusers", "transformers", "numpy", "networkx", "PIL", "rich")
print([name for name in heavy if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["validate", str(TEXT_TO_IMAGE)], ["nodes"], ["nodes", "std.sample"], ["schema"], ["draw", "text_to_image"],
        ["draw", "text_to_image", "--format", "svg"], ["why", "text_to_image"], ["cache", "show"],
        ["workflows"], ["workflows", "inpainting"], ["workflows", "inpainting", "--copy", "x.json"],
    ],
    ids=lambda arguments: " ".join(arguments)[-30:],
)  # fmt: skip
def test_what_runs_no_model_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], cwd=tmp_path, env=environment(tmp_path, GRAPHENGINE_PACKS=""),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


def test_the_end_of_a_command_takes_nothing_apart(tmp_path: Path) -> None:
    ended = "import gc; from graphengine.cli import main; main(['nodes']); print(gc.isenabled(), gc.get_freeze_count())"
    done = subprocess.run(
        [sys.executable, "-c", ended], cwd=tmp_path, env=environment(tmp_path, GRAPHENGINE_PACKS=""),
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    enabled, frozen = done.stdout.splitlines()[-1].split()
    assert enabled == "True"
    assert int(frozen) > 10_000
