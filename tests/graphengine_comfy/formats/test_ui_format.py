from __future__ import annotations

import contextlib
import copy
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from graphengine_comfy.formats.class_facts import classes_in
from graphengine_comfy.formats.ui_format import api_of, recognise

from graphengine import WorkflowError, loads
from tests.graphengine_comfy.formats.workflows import OBJECT_INFO, ONE, TWO, WORKFLOWS, Sheet, chain, renumbered

RECORDED = json.loads(Path(__file__).with_name("recorded.json").read_text())
"""The prompts that the editor (comfyui-frontend-package 1.58.1) makes of the workflows; see `test_against_editor`."""


def converted(data: Any) -> dict[str, Any]:
    """The prompt of a workflow, without titles."""
    assert recognise(data)
    prompt = api_of(data, classes_in(OBJECT_INFO))
    return {id: {"class_type": node["class_type"], "inputs": node["inputs"]} for id, node in prompt.items()}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_becomes_the_prompt_that_the_editor_makes(name: str) -> None:
    data = WORKFLOWS[name]()
    before = copy.deepcopy(data)
    assert converted(data) == renumbered(name, RECORDED[name])
    assert data == before


def refused(data: Any) -> str:
    with pytest.raises(WorkflowError) as caught:
        api_of(data, classes_in(OBJECT_INFO))
    (problem,) = caught.value.problems
    return str(problem)


def test_values_may_be_a_mapping() -> None:
    data = WORKFLOWS["plain"]()
    data["nodes"][2]["widgets_values"] = {"height": 64, "width": 32}
    assert converted(data)["3"]["inputs"] == {"width": 32, "height": 64, "batch": 512}


def test_lists_in_widgets_are_told_from_links() -> None:
    data = WORKFLOWS["plain"]()
    data["nodes"][1]["widgets_values"] = [["4", 0]]
    assert converted(data)["2"]["inputs"]["text"] == {"__value__": ["4", 0]}


def test_unknown_classes_are_one_error_that_lists_all() -> None:
    data = WORKFLOWS["promoted widget"]()
    data["nodes"][0]["type"] = "Loder"
    data["definitions"]["subgraphs"][0]["nodes"][0]["type"] = "Sharpn"
    assert "2 classes are not known here: Loder (node 1), Sharpn (nodes 17:31, 7:31)" in refused(data)


def test_unknown_classes_that_do_not_run_are_no_error() -> None:
    data = WORKFLOWS["bypassed"]()
    next(node for node in data["nodes"] if node["id"] == 6)["type"] = "Sharpn"
    assert converted(data) == RECORDED["bypassed"]


def test_parts_of_group_nodes_that_are_not_converted_are_refused() -> None:
    data = WORKFLOWS["group node"]()
    group = data["extra"]["groupNodes"]["sampling"]
    group["nodes"][1]["type"] = "PrimitiveNode"
    assert "holds a PrimitiveNode, which is not converted" in refused(data)
    group["links"] = [[0, 0, 99, 0, 1, "COND"]]
    assert "the definition of the group node sampling is damaged" in refused(data)
    data["extra"] = {}
    assert "workflow/sampling (node 5)" in refused(data)


def test_alternatives_in_a_text_are_refused() -> None:
    data = WORKFLOWS["plain"]()
    data["nodes"][1]["widgets_values"] = ["a {red|blue} circle"]
    assert refused(data).startswith("2.text: the text has alternatives")


def test_what_needs_itself_is_refused() -> None:
    data = WORKFLOWS["reroutes"]()
    first, last = (next(node for node in data["nodes"] if node["id"] == id) for id in (10, 12))
    first["inputs"][0]["link"] = last["outputs"][0]["links"][0]
    assert "comes from itself" in refused(data)
    data = WORKFLOWS["nested subgraphs"]()
    data["definitions"]["subgraphs"][0]["nodes"][0]["type"] = TWO
    assert "the subgraph is used inside itself" in refused(data)


def test_subgraphs_that_double_are_refused_before_memory_is_full() -> None:
    definitions = []
    ids = [f"{n:08}-0000-4000-8000-000000000000" for n in range(40)]
    for inner, id in zip(ids[1:], ids, strict=False):
        sheet = Sheet()
        for n in (1, 2):
            sheet.node(n, inner)
        definitions.append(sheet.subgraph(id))
    definitions.append(Sheet().subgraph(ids[-1]))
    sheet = chain(Sheet())
    sheet.node(9, ids[0])
    assert "more than 100,000 nodes" in refused(sheet.workflow(*definitions))


def test_long_chains_of_reroutes_take_linear_time() -> None:
    def calls(count: int) -> int:
        """How many functions a chain calls, those of the interpreter too: the same on each machine."""
        sheet = Sheet()
        for id in range(10, 10 + count):
            sheet.node(id, "Reroute", **{"": ("*", id - 1 if id > 10 else 3, 0)})
            sheet.node(10 * count + id, "Sharpen", [1.0], image=("IMAGE", id, 0))
        data, seen = chain(sheet).workflow(), itertools.count()
        sys.setprofile(lambda frame, event, value: next(seen))
        try:
            prompt = converted(data)
        finally:
            sys.setprofile(None)
        assert prompt[str(10 * count + 9 + count)]["inputs"]["image"] == ["3", 0]
        return next(seen)

    calls(100)  # what is looked up once
    assert calls(2_000) < 12 * calls(200)


WRONG = (None, 3, "x", [], {}, [[]], [{}], [None], {"a": 1}, True, [3], -1, 1e400, [[1, 2]])


def test_wrong_types_anywhere_are_one_problem_or_none() -> None:
    """Each part of a workflow with subgraphs is replaced by values of other types, which are read or refused."""
    base = WORKFLOWS["nested subgraphs"]()
    paths: list[tuple[Any, ...]] = []

    def walk(data: Any, path: tuple[Any, ...]) -> None:
        if path:
            paths.append(path)
        items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
        for key, value in items:
            if key not in ("pos", "size", "flags", "config", "state", "inputNode", "outputNode", "groups", "extra"):
                walk(value, (*path, key))

    walk(base, ())
    assert len(paths) > 300
    for number, path in enumerate(paths):
        for wrong in WRONG[number % 3 :: 3]:
            data = copy.deepcopy(base)
            place = data
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = wrong
            with contextlib.suppress(WorkflowError):
                api_of(data, classes_in(OBJECT_INFO))


def test_a_workflow_of_the_editor_is_read_as_a_graph() -> None:
    sheet = Sheet()
    sheet.node(1, "std.load_model", ["tiny"])
    sheet.node(2, "std.decode_latent", model=("Model", 1, 0), latent="Latent")
    sheet.node(3, "std.save_image", ["x.png"], image=("IMAGE", 2, 0))
    (problem,) = [p for p in loads(json.dumps(sheet.workflow()), "w.json").problems() if p.severity == "error"]
    assert (problem.kind, problem.where.node, problem.where.socket) == ("missing input", "n2", "latent")


@pytest.mark.parametrize("data", [{}, {"nodes": {}}, {"version": 1, "nodes": []}, {"nodes": 3}, {"nodes": [3]}])
def test_other_documents_are_not_taken_for_workflows_of_the_editor(data: Any) -> None:
    assert not recognise(data)


def test_a_subgraph_that_is_not_there_is_an_unknown_class() -> None:
    data = WORKFLOWS["subgraph"]()
    del data["definitions"]
    assert ONE in refused(data)
