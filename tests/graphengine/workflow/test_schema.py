"""The JSON Schema of workflow files: it takes what is right, and refuses what an editor should show as wrong."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from graphengine.workflow import files as workflow
from graphengine.workflow.schema import schema
from graphengine.workflow.yaml12 import load as parse
from tests.graphengine.workflow.test_files import TEXT, everything

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return schema()


@pytest.fixture(scope="module")
def validator(made: dict[str, Any]) -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


def right() -> dict[str, Any]:
    data: dict[str, Any] = parse(TEXT, "x")[0]
    return data


def test_what_is_right(validator: jsonschema.Draft202012Validator) -> None:
    validator.validate(right())
    validator.validate(workflow.to_document(everything()))
    validator.validate({"version": 1, "nodes": {"a": {"node": "scale@1", "with": {"value": 1, "times": 2}}}})


def with_(node: str, **values: Any) -> Change:
    return lambda data: data["nodes"][node].setdefault("with", {}).update(values)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda d: d.pop("version"), ""),
        (lambda d: d.update(version=2), "version"),
        (lambda d: d.update(nodse={}), ""),
        (lambda d: d["nodes"]["double"].update(node="wf.scael"), "nodes/double/node"),
        (lambda d: d["nodes"]["double"].update(node="scale@9"), "nodes/double/node"),
        (lambda d: d["nodes"]["double"].pop("from"), "nodes/double"),
        (lambda d: d["nodes"]["double"].update(workflow="a.yaml"), "nodes/double"),
        (lambda d: d["nodes"]["double"].update(form={}), "nodes/double"),
        (lambda d: d["nodes"]["double"]["from"].update(valeu="b"), "nodes/double/from"),
        (lambda d: d["nodes"]["double"]["from"].update(value="inputs"), "nodes/double/from/value"),
        (lambda d: d["nodes"]["double"]["from"].update(value=3), "nodes/double/from/value"),
        (lambda d: d["nodes"]["many"].update(each=["valeu"]), "nodes/many/each/0"),
        (with_("double", factor="2"), "nodes/double/with/factor"),
        (with_("double", factor=11), "nodes/double/with/factor"),
        (with_("double", facto=1), "nodes/double/with"),
        (with_("pair", mode="slow"), "nodes/pair/with/mode"),
        (with_("pair", word="c"), "nodes/pair/with/word"),
        (with_("all", blob="text"), "nodes/all/with/blob"),
        (lambda d: d["inputs"]["number"].update(type="flaot"), "inputs/number/type"),
        (lambda d: d["inputs"]["number"].pop("type"), "inputs/number"),
        (lambda d: d["inputs"]["number"].update(min="low"), "inputs/number/min"),
        (lambda d: d["outputs"].update(all=["all"]), "outputs/all"),
        (lambda d: d.update(values={"v": {"type": "Blob"}}), "values/v"),
        (lambda d: d["nodes"].update(s={"workflow": {"nodse": {}}}), "nodes/s/workflow"),
    ],
)
def test_what_is_wrong_is_refused_at_its_place(
    validator: jsonschema.Draft202012Validator, change: Change, place: str
) -> None:
    data = right()
    change(data)
    assert place in {"/".join(map(str, error.absolute_path)) for error in validator.iter_errors(data)}


def test_it_says_what_an_editor_shows(made: dict[str, Any]) -> None:
    assert "wf.scale@3" in made["$defs"]["node"]["properties"]["node"]["enum"]
    assert made["$defs"]["node.wf.scale"]["description"].startswith("A number times a factor.")
    factor = made["$defs"]["node.wf.scale"]["else"]["properties"]["with"]["properties"]["factor"]
    assert factor == {
        "type": "number", "minimum": 0, "maximum": 10, "default": 1.0, "description": "How much. (float)"
    }  # fmt: skip
    json.dumps(made, allow_nan=False)


def test_only_the_given_nodes_are_in_it() -> None:
    from tests.graphengine.workflow_pack import scale

    names = schema({"wf.scale": scale})["$defs"]["node"]["properties"]["node"]["enum"]
    assert {name.partition("@")[0] for name in names} == {"wf.scale", "scale"}


def test_making_it_imports_no_torch() -> None:
    code = "import sys, graphengine.workflow.schema as s; s.schema(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
