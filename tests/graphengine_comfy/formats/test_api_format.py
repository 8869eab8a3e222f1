from __future__ import annotations

import copy
import json
import time
from typing import Any

import pytest

import graphengine as g
from graphengine import Link, WorkflowError, loads
from graphengine.workflow.formats import original_ids, original_titles

PROMPT: dict[str, Any] = {
    "1": {"class_type": "std.load_model", "inputs": {"source": "tiny"}},
    "2": {"class_type": "std.encode_prompts", "inputs": {"model": ["1", 0], "prompt": "a red circle"}},
    "57:3": {
        "class_type": "std.sample",
        "inputs": {
            "model": ["1", 0], "positive": ["2", 0], "negative": ["2", 1], "seed": 5.0, "steps": "2",
            "guidance_scale": {"__value__": 3},
        },
        "_meta": {"title": "The sampler"},
    },
    "4": {"class_type": "std.decode_latent", "inputs": {"model": ["1", 0], "latent": ["57:3", 0]}},
    "5": {"class_type": "std.save_image", "inputs": {"image": ["4", 0], "path": "x.png"}},
}  # fmt: skip


def prompt(**changes: Any) -> dict[str, Any]:
    """The prompt with other inputs: `prompt(n2={"model": ["9", 0]})`."""
    changed = copy.deepcopy(PROMPT)
    for id, inputs in changes.items():
        changed[id[1:]]["inputs"] |= inputs
    return changed


def read(data: Any) -> g.Graph:
    return loads(json.dumps(data), "prompt.json")


def problems(data: Any) -> list[g.Problem]:
    with pytest.raises(WorkflowError) as caught:
        read(data).check()
    return caught.value.problems


@pytest.mark.parametrize("wrapped", [PROMPT, {"prompt": PROMPT, "client_id": "me"}, {"output": PROMPT, "workflow": {}}])
def test_a_prompt_is_a_graph(wrapped: Any) -> None:
    graph = read(wrapped)
    assert graph.problems() == []
    assert list(graph.nodes) == ["n1", "n2", "n57_3", "n4", "n5"]
    sample = graph.nodes["n57_3"]
    assert sample.type == "std.sample"
    assert sample.args == {
        "model": Link("n1"), "positive": Link("n2", "positive"), "negative": Link("n2", "negative"),
        "seed": 5, "steps": 2, "guidance_scale": 3,
    }  # fmt: skip
    assert type(sample.args["seed"]) is int
    assert graph.outputs == {"n5": Link("n5")}
    assert original_ids(graph) == {"n1": "1", "n2": "2", "n57_3": "57:3", "n4": "4", "n5": "5"}
    assert original_titles(graph) == {"n57_3": "The sampler"}


def test_unknown_classes_are_one_error_that_lists_all() -> None:
    data = prompt()
    data |= {str(n): {"class_type": "Foo", "inputs": {}} for n in (10, 11)}
    data["12"] = {"class_type": "std.sampl", "inputs": {}}
    (problem,) = problems(data)
    assert (problem.kind, problem.where.node, problem.found) == ("unknown classes", "10", "Foo, std.sampl")
    assert "2 classes are not known here: Foo (nodes 10, 11), std.sampl (node 12; did you mean" in problem.what


def test_a_bare_name_of_another_pack_is_no_class() -> None:
    data = prompt()
    data["4"]["class_type"] = "decode_latent"
    (problem,) = problems(data)
    assert problem.kind == "unknown classes"


def test_a_prompt_without_outputs_computes_nothing() -> None:
    (problem,) = problems({"1": PROMPT["1"]})
    assert problem.kind == "no outputs"


def test_what_no_output_needs_is_left_out() -> None:
    data = prompt()
    data["9"] = {"class_type": "std.decode_latent", "inputs": {}}  # its inputs are missing
    assert "n9" not in read(data).nodes


@pytest.mark.parametrize(
    ("changes", "kind", "node", "socket"),
    [
        ({"n2": {"model": ["77", 0]}}, "dangling link", "n2", "model"),
        ({"n4": {"latent": ["2", 5]}}, "dangling link", "n4", "latent"),
        ({"n2": {"model": ["5", 0]}}, "cycle", "n2", None),
        ({"n57:3": {"seed": "many"}}, "wrong type", "n57_3", "seed"),
        ({"n57:3": {"steps": 2.5}}, "wrong type", "n57_3", "steps"),
        ({"n57:3": {"nothing": 2}}, "unknown socket", "n57_3", "nothing"),
    ],
)
def test_problems_say_the_node_and_the_input(
    changes: dict[str, Any], kind: str, node: str, socket: str | None
) -> None:
    assert (kind, node, socket) in [(p.kind, p.where.node, p.where.socket) for p in problems(prompt(**changes))]


def test_a_missing_input_is_a_problem_of_its_node() -> None:
    data = prompt()
    del data["2"]["inputs"]["model"]
    assert ("n2", "model") in [(p.where.node, p.where.socket) for p in problems(data)]


@pytest.mark.parametrize("wrong", [3, None, [], "x", {}, {"class_type": 3}, {"class_type": "std.sample", "inputs": []}])
def test_a_node_of_a_wrong_form_is_one_problem(wrong: Any) -> None:
    data = prompt()
    data["8"] = wrong
    (problem,) = problems(data)
    assert problem.where.node == "8"


def test_buttons_of_older_editors_are_no_inputs() -> None:
    assert read(prompt(n1={"upload": "image", "control_after_generate": "randomize"})).problems() == []


def test_many_nodes_are_read_in_linear_time() -> None:
    def seconds(count: int) -> float:
        data = prompt()
        for n in range(100, 100 + count):
            data[str(n)] = {"class_type": f"Unknown{n}", "inputs": {"x": [str(n - 1), 0]}}
        began = time.process_time()
        problems(data)
        return time.process_time() - began

    seconds(100)
    assert seconds(16_000) < 16 * max(seconds(2_000), 0.05)


def test_a_picture_of_the_mask_editor_is_looked_for_in_the_input_folder() -> None:
    """ComfyUI's mask editor writes the folder's name behind that of the file."""
    found = {}
    for name in ("clipspace/drawn.png [input]", "clipspace/drawn.png"):
        data = {"1": {"class_type": "LoadImage", "inputs": {"image": name}},
                "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x [input]"}}}
        graph = read(data)
        found[name] = graph.nodes["n1"].args["image"]
        assert graph.nodes["n2"].args["filename_prefix"] == "x [input]"
    assert set(map(str, found.values())) == {"clipspace/drawn.png"}
