"""The shipped workflows serve every family by its model's folder alone, each with its own defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
from graphengine_nodes.testing.flux import flux_controlnet, flux_model

from graphengine import NodeError, load
from tests.graphengine_nodes.families.flow.cases import cases
from tests.graphengine_nodes.families.flow.conftest import family_models

WORKFLOWS = {
    "": "text_to_image",
    "image": "image_to_image",
    "inpaint": "inpainting",
    "controlnet": "controlnet",
    "references": "edit",
}
"""Workflows by the task that they ask of a model."""

FLUX = {"flux": {"", "image", "inpaint", "controlnet"}, "flux-kontext": {"", "image", "inpaint", "references"}}
"""Tasks of the models of FLUX.1, whose matrix is its own."""

VIDEOS = ("wan",)
"""Models that make videos, which have workflows of their own."""


SEEN = {("qwen_image_edit", "inpaint")}
"""What no shipped workflow asks: the text encoder sees what is painted over."""


def tasks() -> dict[str, set[str]]:
    """The tasks of every model by its name."""
    found: dict[str, set[str]] = {name: set(held) for name, held in FLUX.items()}
    for case in cases():
        if not case["model"].startswith(VIDEOS):
            found.setdefault(case["model"], set()).add(case["task"])
    return found


TASKS = tasks()


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small models of every family, with their ControlNets as `{model}-net`."""
    folder = tmp_path_factory.mktemp("families")
    family_models(folder)
    flux_model(folder / "flux")
    flux_controlnet(folder / "flux-net")
    flux_model(folder / "flux-kontext", variant="kontext")
    return folder


def picture(folders: Path, model: str, workflow: str, **inputs: Any) -> std.Image:
    """What a workflow makes with a model and else its own defaults."""
    if workflow == "controlnet":
        inputs["controlnet"] = str(folders / f"{model}-net")
    found: std.Image = load(workflow).run(inputs={"model": str(folders / model), **inputs})["image"]
    return found


CASES = [(model, task) for model, held in TASKS.items() for task in WORKFLOWS if task in held]
CASES = [case for case in CASES if case not in SEEN]


@pytest.mark.parametrize(("model", "task"), CASES, ids=[f"{model} {WORKFLOWS[task]}" for model, task in CASES])
def test_a_workflow_serves_a_family_with_its_own_defaults(model: str, task: str, folders: Path) -> None:
    found = picture(folders, model, WORKFLOWS[task])
    assert found.pixels.std() > 0.01
    if task in ("image", "inpaint", "controlnet"):
        assert found.size == (128, 128)  # that of the picture that the workflow is given
    elif task == "":
        of = std.load_model(folders / model)
        assert found.size == (of.setting("width"), of.setting("height"))


REFUSED = [(model, "") for model, held in TASKS.items() if "" not in held and "references" in held]
REFUSED += [(model, "references") for model, held in TASKS.items() if "references" not in held]


@pytest.mark.parametrize(("model", "task"), REFUSED, ids=[f"{model} {WORKFLOWS[task]}" for model, task in REFUSED])
def test_references_are_refused_or_asked_for_in_a_sentence(model: str, task: str, folders: Path) -> None:
    with pytest.raises(NodeError, match=r"no reference pictures|needs reference pictures"):
        picture(folders, model, WORKFLOWS[task])


def test_an_edit_without_a_picture_is_refused(folders: Path) -> None:
    with pytest.raises(NodeError, match="references is an empty list; give the picture to edit"):
        picture(folders, "flux-kontext", "edit", images=[])


def test_an_edit_of_a_model_for_none_is_refused() -> None:
    with pytest.raises(NodeError, match="tiny, stable_diffusion, takes no reference pictures"):
        load("edit").run(inputs={"model": "tiny"})
