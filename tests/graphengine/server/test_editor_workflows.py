"""Workflow files of ours over the editor's routes: listed, opened, saved and moved as files of the editor."""

from __future__ import annotations

import importlib.util
import io
import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.PngImagePlugin
import pytest

from graphengine import load
from graphengine.workflow.files import to_document
from tests.graphengine.sample import until

from .conftest import PIXEL, Server

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("comfyui_frontend_package") is None, reason="pip install 'graphengine[editor]'"
)

GREET = """\
# Greets.
version: 1
inputs:
  text: {type: str, help: What it says.}
  ending: {type: str, default: html, choices: [html, png, txt]}  # of the file
nodes:
  sheet: {node: door.sheet@1, from: {text: inputs.text, ending: inputs.ending}}
outputs: {sheet: sheet}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("editor"), "--editor")
    yield made
    assert made.stop() == 0
    assert "Traceback" not in made.log.read_text()


def path_of(name: str) -> str:
    return f"/editor/api/userdata/{urllib.parse.quote(f'workflows/{name}', safe='')}"


def opened(server: Server, name: str) -> dict[str, Any]:
    answer = server.ask("GET", path_of(name))
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.data
    return found


def widget(workflow: dict[str, Any], title: str, number: int, value: Any) -> None:
    """Set a widget of the node with a title."""
    next(node for node in workflow["nodes"] if node["title"] == title)["widgets_values"][number] = value


def test_a_yaml_file_is_listed_opened_changed_and_saved(server: Server) -> None:
    file = server.folder / "flows" / "hello.yaml"
    file.write_text(GREET)
    listed = server.ask("GET", "/editor/api/userdata?dir=workflows&recurse=true&full_info=true").data
    assert "hello.yaml.json" in [one["path"] for one in listed]
    workflow = opened(server, "hello.yaml.json")
    assert [node["type"] for node in workflow["nodes"]] == ["InputString", "InputString", "door.sheet", "Output"]
    before = load(file).key
    answer = server.ask("POST", path_of("hello.yaml.json") + "?overwrite=true&full_info=true", workflow)
    assert (answer.status, answer.data["path"]) == (200, "workflows/hello.yaml.json")
    assert load(file).key == before
    assert file.read_text().startswith(GREET)  # with where the nodes lie behind it
    widget(workflow, "ending", 2, "txt")
    assert server.ask("POST", path_of("hello.yaml.json"), workflow).status == 200
    assert "default: txt, choices: [html, png, txt]}  # of the file\n" in file.read_text()
    assert server.run("hello", {"text": "Hi"})["state"] == "done"


def test_a_new_name_that_ends_in_yaml_makes_a_document_of_ours(server: Server) -> None:
    (server.folder / "flows" / "from.yaml").write_text(GREET)
    workflow = opened(server, "from.yaml.json")
    assert server.ask("POST", path_of("new/own.yml.json") + "?overwrite=false", workflow).status == 200
    made = server.folder / "flows" / "new" / "own.yml"
    assert load(made).key == load(server.folder / "flows" / "from.yaml").key
    assert server.ask("POST", path_of("new/own.yml.json") + "?overwrite=false", workflow).status == 409
    moved = server.ask("POST", path_of("new/own.yml.json") + "/move/" + path_of("own.json").rpartition("/")[2])
    assert moved.status == 200
    assert not made.exists()
    of_editor = json.loads((server.folder / "flows" / "own.json").read_text())
    assert isinstance(of_editor["nodes"], list)
    back = server.ask("POST", path_of("own.json") + "/move/" + path_of("own.yaml.json").rpartition("/")[2])
    assert back.status == 200
    assert load(server.folder / "flows" / "own.yaml").key == load(server.folder / "flows" / "from.yaml").key
    assert server.ask("DELETE", path_of("own.yaml.json")).status == 204
    assert not (server.folder / "flows" / "own.yaml").exists()


def test_a_document_of_ours_in_json_stays_so(server: Server) -> None:
    file = server.folder / "flows" / "ours.json"
    file.write_text(json.dumps({
        "version": 1, "inputs": {"text": {"type": "str", "default": "a"}},
        "nodes": {"sheet": {"node": "door.sheet", "from": {"text": "inputs.text"}}}, "outputs": {"sheet": "sheet"},
    }))  # fmt: skip
    workflow = opened(server, "ours.json")
    widget(workflow, "text", 2, "b")
    assert server.ask("POST", path_of("ours.json"), workflow).status == 200
    assert json.loads(file.read_text())["inputs"]["text"]["default"] == "b"


def test_a_file_that_is_dropped_opens_without_being_kept(server: Server, tmp_path: Path) -> None:
    answer = server.ask("POST", "/editor/api/graphengine/open/dropped.yaml", GREET.encode())
    assert [node["title"] for node in answer.data["nodes"]] == ["text", "ending", "sheet", "sheet"]
    assert not (server.folder / "flows" / "dropped.yaml").exists()
    (tmp_path / "greet.yaml").write_text(GREET)
    record = {"format": 1, "workflow": to_document(load(tmp_path / "greet.yaml")), "output": "sheet", "files": [],
              "inputs": {"text": "Hi", "ending": "png"}}  # fmt: skip

    def with_record(record: dict[str, Any]) -> bytes:
        (texts := PIL.PngImagePlugin.PngInfo()).add_text("graphengine", json.dumps(record))
        PIL.Image.new("RGB", (1, 1)).save(made := io.BytesIO(), "PNG", pnginfo=texts)
        return made.getvalue()

    picture = with_record(record)
    answer = server.ask("POST", "/editor/api/graphengine/open/x.png", picture)
    values = {node["title"]: node["widgets_values"] for node in answer.data["nodes"]}
    assert values["text"] == ["text", "value", "Hi"]
    assert values["ending"] == ["ending", "value", "png"]
    odd = with_record(record | {"workflow": {"version": 1, "inputs": [3], "nodes": {}}})
    pictures = [odd, with_record({"format": 1}), PIXEL, picture[:60]]
    wrong = [*(("x.png", content) for content in pictures), ("x.yaml", b"\xff"), ("x.json", b"[1"), ("x.yaml", b"")]
    for name, content in wrong:
        answer = server.ask("POST", f"/editor/api/graphengine/open/{name}", content)
        assert answer.status == 400, content
        assert answer.data["error"]["message"]


def test_an_input_that_must_be_given_is_an_error_of_its_node(server: Server) -> None:
    def entry(class_type: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": class_type, "inputs": inputs}

    prompt = {
        "3": entry("InputString", name="text", default="required", value="unseen"),
        "5": entry("door.sheet", text=["3", 0], ending="txt"),
        "6": entry("Output", name="made", value=["5", 0]),
    }
    answer = server.ask("POST", "/editor/api/prompt", {"prompt": prompt})
    assert answer.status == 400
    (error,) = answer.data["node_errors"]["3"]["errors"]
    assert (error["type"], error["extra_info"]["input_name"]) == ("required_input_missing", "value")
    prompt["3"]["inputs"]["default"] = "value"
    id = server.ask("POST", "/editor/api/prompt", {"prompt": prompt}).data["prompt_id"]
    until(lambda: id in server.ask("GET", f"/history/{id}").data)
    outputs = server.ask("GET", f"/history/{id}").data[id]["outputs"]
    assert list(outputs) == ["6"], "the output is shown by the node that stands for it"


def test_what_cannot_be_opened_or_saved_says_why_and_changes_nothing(server: Server) -> None:
    file = server.folder / "flows" / "nested.yaml"
    file.write_text("version: 1\nnodes: {a: {workflow: {nodes: {}}}}\n")
    answer = server.ask("GET", path_of("nested.yaml.json"))
    assert answer.status == 400
    assert "a workflow used as a node" in answer.data["error"]["message"]
    file.write_text("version: 1\nnodes: {a: {node: door.sheet, width: 3}}\n")
    answer = server.ask("GET", path_of("nested.yaml.json"))
    assert "nested.yaml:2: a: a node has no key" in answer.data["error"]["message"]
    file.write_text(GREET)
    workflow = opened(server, "nested.yaml.json")
    workflow["nodes"][2]["mode"] = 4
    answer = server.ask("POST", path_of("nested.yaml.json"), workflow)
    assert answer.status == 400
    assert "is bypassed" in answer.data["error"]["message"]
    assert file.read_text() == GREET
    assert server.ask("POST", path_of("nested.yaml.json"), b"[1]").status == 400
    assert server.ask("POST", path_of("nested.yaml.json"), {"nodes": 3}).status == 400
    assert file.read_text() == GREET
