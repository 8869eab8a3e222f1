from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graphengine import FileFormat, FormatContext, Pack, Problem, Where, WorkflowError, load, loads
from graphengine.declare import registry
from graphengine.workflow.files import from_document
from graphengine.workflow.formats import format_called, original_ids, original_titles


def _recognise(data: Any) -> bool:
    return "recipe" in data


def _read(data: Any, context: FormatContext) -> dict[str, Any]:
    step = data["recipe"]
    if step == "wrong":
        raise WorkflowError(Problem("wrong", "there is no such step", Where(node="7")))
    if step == "broken":
        raise KeyError("oops")
    node = {"node": context.find("std.image_grid").full_name, "ui": {"id": "7", "title": "Grid"}}
    return {"version": 1, "nodes": {"n7": node}, "outputs": {"grid": "n7"}}


def _write(graph: Any, context: FormatContext) -> Any:
    return {"recipe": sorted(graph.nodes)}


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack whose module registers the format `Recipes`."""
    import types

    module = types.ModuleType("recipe_pack")
    module.__pack__ = Pack("recipes", formats=(FileFormat("Recipes", _recognise, _read, _write),))  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "recipe_pack", module)
    known = registry.modules()
    monkeypatch.setattr("graphengine.workflow.formats.modules", lambda: [*known, module])


@pytest.mark.usefixtures("recipes")
def test_a_registered_format_is_read_wherever_documents_are(tmp_path: Path) -> None:
    file = tmp_path / "dinner.json"
    file.write_text(json.dumps({"recipe": "grid"}))
    for graph in (load(file), loads("recipe: grid"), from_document({"recipe": "grid"})):
        assert graph.nodes["n7"].type == "std.image_grid"
        assert (original_ids(graph), original_titles(graph)) == ({"n7": "7"}, {"n7": "Grid"})


@pytest.mark.usefixtures("recipes")
def test_what_a_reader_refuses_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "dinner.json"
    file.write_text(json.dumps({"recipe": "wrong"}))
    with pytest.raises(WorkflowError) as caught:
        load(file)
    assert [str(problem) for problem in caught.value.problems] == [f"{file}: 7: there is no such step"]
    file.write_text(json.dumps({"recipe": "broken"}))
    with pytest.raises(WorkflowError, match="this file of Recipes cannot be read: KeyError: 'oops'"):
        load(file)


@pytest.mark.usefixtures("recipes")
def test_a_document_of_ours_is_offered_to_no_reader() -> None:
    (problem, *_) = loads("version: 1\nrecipe: wrong\nnodes: {}").problems()
    assert problem.kind == "unknown key"


@pytest.mark.usefixtures("recipes")
def test_a_format_is_found_by_its_name_for_writing() -> None:
    assert format_called("recipes").name == "Recipes"
    with pytest.raises(WorkflowError, match="did you mean Recipes"):
        format_called("Recipe")
