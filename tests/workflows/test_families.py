"""The shipped workflows serve every family by its model's folder alone, each with its own defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphengine_nodes as std
import PIL.Image
import pytest
import torch
from graphengine_nodes.families.lookup import family
from graphengine_nodes.testing.flux import flux_controlnet, flux_model

from graphengine import NodeError, load
from tests.graphengine_nodes.families.flow.cases import cases, make_areas_small
from tests.graphengine_nodes.families.flow.conftest import family_models

WORKFLOWS = {
    "": "text_to_image",
    "image": "image_to_image",
    "inpaint": "inpainting",
    "controlnet": "controlnet",
    "references": "edit",
}
"""Workflows by the task that they ask of a model."""

VIDEOS = ("wan",)
"""Models that make videos, which have workflows of their own."""

MODELS = tuple(dict.fromkeys(["flux", *(c["model"] for c in cases() if not c["model"].startswith(VIDEOS))]))
CASES = [pytest.param(model, task, id=f"{model} {flow}") for model in MODELS for task, flow in WORKFLOWS.items()]


@pytest.fixture(autouse=True)
def small_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures to edit are small."""
    make_areas_small(monkeypatch.setattr)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small models of every family, with their ControlNets as `{model}-net`."""
    folder = tmp_path_factory.mktemp("families")
    family_models(folder)
    flux_model(folder / "flux")
    flux_controlnet(folder / "flux-net")
    return folder


def picture(folders: Path, model: str, workflow: str, **inputs: Any) -> std.Image:
    """What a workflow makes with a model and else its own defaults."""
    if workflow == "controlnet":
        inputs["controlnet"] = str(folders / f"{model}-net")
    found: std.Image = load(workflow).run(inputs={"model": str(folders / model), **inputs})["image"]
    return found


REFUSED = r"takes no |sees no reference |needs (a |reference )|no pipeline for"
"""The sentences on what a model does not take."""


def takes(model: std.Model, task: str) -> bool:
    """Whether a model takes what a workflow asks of it."""
    kind: Any = family(model.family)
    held = kind.record.variants[model.setting("variant", "")].tasks
    if task == "references" and model.family == "flux":  # no tensor tells Kontext from dev
        return bool(model.setting("kontext", False))
    return task in held and not held[task].seen  # whose prompt must see the picture, as the workflow's does not


@pytest.mark.parametrize(("name", "task"), CASES)
def test_a_workflow_serves_a_family_with_its_own_defaults_or_is_refused(name: str, task: str, folders: Path) -> None:
    model = std.load_model(folders / name)
    if task == "controlnet" and not (folders / f"{name}-net").exists():
        assert not takes(model, task) or name == "kontext"
        return
    if not takes(model, task):
        with pytest.raises(NodeError, match=REFUSED):
            picture(folders, name, WORKFLOWS[task])
        return
    found = picture(folders, name, WORKFLOWS[task])
    assert found.pixels.std() > 0.01
    if task == "":
        assert found.size == (model.setting("width"), model.setting("height"))
    elif task != "references":
        assert found.size == (128, 128)  # that of the picture that the workflow is given


def test_an_edit_keeps_the_alpha_that_a_model_sees(folders: Path, tmp_path: Path) -> None:
    clear = PIL.Image.new("RGBA", (64, 64), (200, 60, 40, 255))
    clear.paste((200, 60, 40, 0), (16, 16, 48, 48))
    clear.save(tmp_path / "clear.png")
    white = PIL.Image.new("RGBA", (64, 64), (255, 255, 255, 255))
    white.alpha_composite(clear)
    white.save(tmp_path / "white.png")

    def edited(model: str, name: str) -> torch.Tensor:
        return picture(folders, model, "edit", images=[str(tmp_path / name)], steps=2).pixels

    assert not torch.equal(edited("qwen_image_21", "clear.png"), edited("qwen_image_21", "white.png"))
    assert torch.equal(edited("kontext", "clear.png"), edited("kontext", "white.png"))


def test_an_edit_without_a_picture_is_refused(folders: Path) -> None:
    with pytest.raises(NodeError, match="references is an empty list; give the picture to edit"):
        picture(folders, "kontext", "edit", images=[])


def test_an_edit_of_a_model_for_none_is_refused() -> None:
    with pytest.raises(NodeError, match="tiny, stable_diffusion, takes no reference pictures"):
        load("edit").run(inputs={"model": "tiny"})
