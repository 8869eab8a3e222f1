from __future__ import annotations

import json
from typing import Any

import pytest
from graphengine_comfy.formats.export import prompt_of

from graphengine import Graph, WorkflowError, load, loads
from tests.graphengine_comfy.formats.test_api_format import PROMPT


def test_a_prompt_that_was_read_is_written_as_it_was() -> None:
    plain = json.loads(json.dumps(PROMPT))
    plain["57:3"]["inputs"] |= {"seed": 5, "steps": 2, "guidance_scale": 3}  # in the types of the inputs
    assert prompt_of(loads(json.dumps(PROMPT), "p.json")) == plain
    assert prompt_of(loads(json.dumps(plain), "p.json")) == plain


def test_a_shipped_workflow_is_written_with_its_defaults() -> None:
    graph = load("text_to_image")
    prompt = prompt_of(graph)
    classes = {id: node["class_type"] for id, node in prompt.items()}
    assert {"std.load_model", "std.sample", "SaveImage"} <= set(classes.values())
    sample = next(id for id, name in classes.items() if name == "std.sample")
    assert prompt[sample]["inputs"]["seed"] == graph.inputs["seed"].default
    loader = next(id for id, name in classes.items() if name == "std.load_model")
    assert prompt[sample]["inputs"]["model"] == [loader, 0]
    save = next(node for node in prompt.values() if node["class_type"] == "SaveImage")
    assert prompt[save["inputs"]["images"][0]]["class_type"] == "std.decode_latent"


def test_what_a_prompt_cannot_hold_is_refused_all_at_once() -> None:
    graph = loads(
        "version: 1\ninputs: {size: {type: int}}\nnodes:\n"
        "  a: {node: std.image_grid, from: {images: c}, each: [images]}\n"
        "  b: {workflow: {nodes: {}}}\n"
        "  c: {node: std.load_image, from: {path: inputs.size}}\n"
    )
    with pytest.raises(WorkflowError) as caught:
        prompt_of(graph)
    told = {problem.where.node: problem.what for problem in caught.value.problems}
    assert "mapped" in told["a"]
    assert "used as a node" in told["b"]
    assert "size has no default" in told["c"]


def test_ids_of_nodes_that_come_from_no_prompt_are_their_own() -> None:
    graph: Any = Graph()
    graph.add("std.load_model", id="model", source="tiny")
    assert list(prompt_of(graph)) == ["model"]
