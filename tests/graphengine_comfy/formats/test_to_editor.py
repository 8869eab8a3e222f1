"""Documents of ours in ComfyUI's editor, and back: nothing of their meaning changes, also in JavaScript's numbers."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from graphengine import WorkflowError, load, loads
from graphengine.declare import registry
from graphengine.server.comfy.objects import all_objects
from graphengine.workflow.files import from_document, to_document
from graphengine.workflow.formats import from_editor, to_editor
from tests import ROOT

SHIPPED = sorted(path.name for path in (ROOT / "workflows").iterdir() if path.suffix in (".yaml", ".json"))

ALL = """\
version: 1
title: All of it
description: What documents may hold.
inputs:
  seeds: {type: 'list[int]', default: [1, 2], help: Some seeds., max: 18446744073709551615}
  large: {type: int, default: 18446744073709551615}
  scale: {type: float, default: 2.0, min: 0.5, max: 4}
  needed: {type: path}
  nothing: {type: int, default: null}
  fit: {type: str, default: crop, choices: [resize, pad, crop]}
  flag: {type: bool, default: true}
  unused: {type: any, default: {a: [1.5, null]}}
nodes:
  model: {node: std.load_model@1, with: {source: tiny}}
  prompts:
    node: std.encode_prompts@1
    from: {model: model}
    with: {prompt: "a tree\\nin the {rain|sun}", negative_prompt: ""}
    ui: {title: Words, colour: red}
  sample:
    node: std.sample@1
    from: {model: model, positive: prompts.positive, negative: [prompts.negative], seed: inputs.seeds}
    with: {steps: 4, guidance_scale: 2.5, scheduler_options: {use_karras_sigmas: true}, width: 64, height: 64}
    each: [seed]
    keep_going: true
  pictures: {node: std.decode_latent@1, from: {model: model, latent: sample}, each: [latent]}
  other: {node: std.load_image@1, from: {path: inputs.needed}, with: {alpha: false}}
  grown: {node: flow.collect@1, from: {items: [other, {value: 3}, other]}}
  whole: {node: flow.collect@1, from: {items: pictures}}
  one: {node: flow.collect@1, from: {items: [other]}}
  chosen: {node: flow.when@1, from: {condition: inputs.flag, then: other, otherwise: pictures}}
  literal: {node: flow.collect@1, with: {items: [1, 2.5, x]}}
  drawn: {node: comfy.RandomNoise@1, with: {noise_seed: 18446744073709551615}}
  half:
    node: comfy.ResizeImageMaskNode@1
    from: {input: other}
    with: {resize_type: scale by multiplier, resize_type_multiplier: 0.5, scale_method: area}
  wide: {node: comfy.ResizeImageMaskNode@1, from: {input: other, resize_type_width: inputs.nothing}}
  shown: {node: comfy.PreviewImage@1, from: {images: other}}
outputs: {pictures: pictures, chosen: chosen, first: shown, again: shown}
ui: {colour: blue}
"""


@functools.cache
def classes() -> dict[str, Any]:
    """The nodes, as the editor gets them."""
    found: dict[str, Any] = json.loads(json.dumps(all_objects(registry.nodes(), lambda rule: None), default=str))
    return found


def through_javascript(data: Any) -> Any:
    """JSON data after a page has read and written it: all numbers are floats there, and whole ones are written so."""
    if isinstance(data, dict):
        return {key: through_javascript(value) for key, value in data.items()}
    if isinstance(data, list):
        return [through_javascript(item) for item in data]
    if isinstance(data, int | float) and not isinstance(data, bool):
        number = float(data)
        return int(number) if number.is_integer() else number
    return data


def there_and_back(document: dict[str, Any]) -> dict[str, Any]:
    workflow = through_javascript(json.loads(json.dumps(to_editor(document, classes()))))
    for node in workflow["nodes"]:  # in another order, as the editor sorts inputs by whether they have widgets
        order = sorted(range(len(node["inputs"])), key=lambda n: "widget" not in node["inputs"][n])
        for link in workflow["links"]:
            if link[3] == node["id"]:
                link[4] = order.index(link[4])
        node["inputs"] = [node["inputs"][n] for n in order]
    return from_editor(workflow, classes())


def without_looks(document: dict[str, Any]) -> dict[str, Any]:
    ui = {key: value for key, value in document.get("ui", {}).items() if key != "editor"}
    return {key: value for key, value in document.items() if key != "ui"} | ({"ui": ui} if ui else {})


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_workflows_come_back(name: str) -> None:
    graph = load(ROOT / "workflows" / name)
    document = to_document(graph, pin=True)
    back = there_and_back(document)
    assert without_looks(back) == document
    for part in ("inputs", "nodes", "outputs"):
        assert list(back[part]) == list(document[part])
    assert [list(node["from"]) for node in back["nodes"].values()] == [
        list(node["from"]) for node in document["nodes"].values()
    ]
    assert from_document(back).key == graph.key
    assert there_and_back(back) == back  # also where the nodes lie


def test_all_that_documents_hold_comes_back() -> None:
    graph = loads(ALL, "all.yaml")
    document = to_document(graph, pin=True)
    back = there_and_back(document)
    assert without_looks(back) == document
    assert from_document(back).key == graph.key
    assert type(back["inputs"]["scale"]["default"]) is float
    assert back["inputs"]["large"]["default"] == back["nodes"]["drawn"]["with"]["noise_seed"] == 2**64 - 1
    assert there_and_back(back) == back


def test_a_graph_of_the_editor_runs_as_the_document_does() -> None:
    document = to_document(loads(ALL, "all.yaml"), pin=True)
    workflow = through_javascript(to_editor(document, classes()))
    graph = loads(json.dumps(workflow), "graph.json")  # as a prompt, with the nodes that outputs need
    assert set(graph.outputs) == {"pictures", "chosen", "first", "again"}
    assert list(graph.nodes["sample"].each) == ["seed"]
    assert graph.nodes["sample"].keep_going
    assert graph.inputs["seeds"].default == [1, 2]
    assert graph.inputs["needed"].required


def test_changes_are_in_the_document() -> None:
    document = to_document(load("text_to_image"), pin=True)
    workflow = to_editor(document, classes())
    nodes = {node["title"]: node for node in workflow["nodes"]}
    seed, image = nodes["seed"], next(node for node in workflow["nodes"] if node["type"] == "std.decode_latent")
    seed["widgets_values"][2] = 7
    sample = json.loads(json.dumps(nodes["sample"]))  # a copy, as Ctrl-V makes it
    sample |= {"id": 90, "title": "Again", "inputs": [slot | {"link": None} for slot in sample["inputs"]]}
    size = {
        "id": 91, "type": "std.image_size", "mode": 0, "widgets_values": [], "properties": {}, "pos": [1.4, 2],
        "inputs": [{"name": "image", "type": "IMAGE", "link": 99}], "outputs": [], "size": [200, 60],
    }  # fmt: skip
    note = {"id": 92, "type": "Note", "mode": 0, "widgets_values": ["Remember."], "pos": [0, 0], "title": "Note"}
    workflow["nodes"] += [sample, size, note]
    workflow["links"].append([99, image["id"], 0, 91, 0, "IMAGE"])
    workflow["groups"] = [{"title": "Mine", "bounding": [0, 0, 10.5, 10]}]
    back = from_editor(workflow, classes())
    assert back["inputs"]["seed"] == document["inputs"]["seed"] | {"default": 7}
    assert back["nodes"]["image_size"] == {"node": "std.image_size@1", "from": {"image": "image"}}
    assert back["nodes"]["sample_2"]["ui"] == {"title": "Again"}
    assert back["ui"]["editor"]["nodes"]["image_size"] == {"pos": [1, 2], "size": [200, 60]}
    again = to_editor(back, classes())
    assert [node["widgets_values"] for node in again["nodes"] if node["type"] == "Note"] == [["Remember."]]
    assert again["groups"][0]["title"] == "Mine"
    assert from_editor(again, classes())["ui"] == back["ui"]


def test_a_copied_output_node_is_an_output_of_its_own() -> None:
    workflow = to_editor(to_document(loads(ALL, "all.yaml"), pin=True), classes())
    shown = next(node for node in workflow["nodes"] if node["type"] == "PreviewImage")
    copy = json.loads(json.dumps(shown)) | {"id": 90}
    copy["inputs"][0]["link"] = 99
    (origin,) = [link for link in workflow["links"] if link[3] == shown["id"]]
    workflow["nodes"].append(copy)
    workflow["links"].append([99, *origin[1:3], 90, 0, "IMAGE"])
    outputs = from_editor(workflow, classes())["outputs"]
    assert outputs["first"] == outputs["again"] == "shown"
    assert outputs["shown_2"] == "shown_2"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mode": 4}, "is bypassed"),
        ({"mode": 2}, "is muted"),
        ({"type": "std.nothing"}, "std.nothing"),
    ],
)
def test_what_a_document_cannot_hold_is_refused(change: dict[str, Any], sentence: str) -> None:
    workflow = to_editor(to_document(load("text_to_image"), pin=True), classes())
    workflow["nodes"][-2] |= change
    with pytest.raises(WorkflowError, match=sentence):
        from_editor(workflow, classes())


def test_a_choice_that_is_none_is_shown_as_a_value() -> None:
    text = "version: 1\nnodes:\n  a: {node: comfy.ResizeImageMaskNode, with: {resize_type: [1]}}\n"
    document = to_document(loads(text), pin=True)
    assert without_looks(there_and_back(document)) == document


def test_a_subgraph_is_refused() -> None:
    workflow = to_editor(to_document(load("text_to_image"), pin=True), classes())
    workflow["definitions"] = {"subgraphs": [{"id": "abc", "name": "Inner", "nodes": [], "links": []}]}
    workflow["nodes"].append({"id": 90, "type": "abc", "title": "Inner"})
    with pytest.raises(WorkflowError, match="Inner is a subgraph"):
        from_editor(workflow, classes())


def test_two_inputs_of_one_name_are_refused() -> None:
    workflow = to_editor(to_document(load("text_to_image"), pin=True), classes())
    width, height = (next(n for n in workflow["nodes"] if n["title"] == name) for name in ("seed", "height"))
    height["widgets_values"][0] = width["widgets_values"][0]
    with pytest.raises(WorkflowError, match="two different inputs are called seed"):
        from_editor(workflow, classes())


def test_what_the_editor_cannot_show_is_refused_all_at_once(tmp_path: Path) -> None:
    inner = tmp_path / "inner.yaml"
    inner.write_text("version: 1\nnodes: {}\n")
    graph = loads(
        "version: 1\nnodes:\n  a: {workflow: inner.yaml}\n  b: {node: nobody.knows}\n"
        "  c: {node: flow.collect, from: {items: a}}\n", base=tmp_path,
    )  # fmt: skip
    with pytest.raises(WorkflowError) as caught:
        to_editor(to_document(graph), classes())
    assert [problem.where.node for problem in caught.value.problems] == ["a", "b", "c"]
