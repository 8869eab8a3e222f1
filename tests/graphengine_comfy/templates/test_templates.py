"""The templates of ComfyUI for Stable Diffusion, SDXL and FLUX.1 run, but for those whose reason stands in a table.

The packages (the old one's metadata is GPL) are installed into a folder of their own, from the package registry.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import graphengine as g
from graphengine.workflow.files import from_document
from tests.graphengine_comfy.templates.stand_ins import StandIns

pytestmark = pytest.mark.slow

NEW, OLD = "comfyui-workflow-templates-json==0.1.123", "comfyui-workflow-templates==0.1.1"

RUN = {
    NEW: (
        "flux1_krea_dev", "flux_canny_model_example", "flux_dev_checkpoint_example", "flux_dev_full_text_to_image",
        "flux_fill_inpaint_example", "flux_fill_outpaint_example", "flux_kontext_dev_basic",
        "flux_redux_model_example", "flux_schnell", "flux_schnell_full_text_to_image",
        "image_flux.1_fill_dev_OneReward", "image_sdxl_simple", "sdxl_refiner_prompt_example", "sdxl_simple_example",
        "sdxlturbo_example",
    ),
    OLD: (
        "2_pass_pose_worship", "controlnet_example", "default", "depth_controlnet", "embedding_example",
        "esrgan_example", "flux_canny_model_example", "flux_depth_lora_example", "flux_dev_checkpoint_example",
        "flux_dev_example", "flux_fill_inpaint_example", "flux_fill_outpaint_example", "flux_redux_model_example",
        "flux_schnell", "hiresfix_esrgan_workflow", "hiresfix_latent_workflow", "image2image",
        "inpain_model_outpainting", "inpaint_example", "latent_upscale_different_prompt_model", "lora",
        "lora_multiple", "mixing_controlnets", "sd3.5_simple_example", "sdxl_refiner_prompt_example",
        "sdxl_simple_example", "sdxlturbo_example",
    ),
}  # fmt: skip
"""The templates that run."""

LACKS = {
    NEW: {
        "flux1_dev_uso_reference_image_gen": "ModelPatchLoader",
        "flux_depth_lora_example": "LotusConditioning",
        "image_lotus_depth_v1_1": "LotusConditioning",
        "sdxl_revision_text_prompts": "unCLIPConditioning",
    },
    OLD: {
        "area_composition": "ConditioningSetArea",
        "area_composition_reversed": "ConditioningSetArea",
        "area_composition_square_area_for_subject": "ConditioningSetArea",
        "gligen_textbox_example": "GLIGENLoader",
        "sd3.5_large_blur": "ControlNetApplySD3",
        "sd3.5_large_canny_controlnet_example": "read latents",
        "sd3.5_large_depth": "ControlNetApplySD3",
        "sdxl_revision_text_prompts": "unCLIPConditioning",
        "sdxl_revision_zero_positive": "unCLIPConditioning",
    },
}
"""The templates that do not run, and what their error names. Not among them is `depth_t2i_adapter`: there are no
T2I-Adapters here, and a ControlNet in its place would show nothing."""

FOLDERS = {
    "CheckpointLoaderSimple": "checkpoints", "UNETLoader": "diffusion_models", "CLIPLoader": "text_encoders",
    "DualCLIPLoader": "text_encoders", "TripleCLIPLoader": "text_encoders", "VAELoader": "vae", "LoraLoader": "loras",
    "LoraLoaderModelOnly": "loras", "ControlNetLoader": "controlnet", "CLIPVisionLoader": "clip_vision",
    "StyleModelLoader": "style_models", "UpscaleModelLoader": "upscale_models",
}  # fmt: skip
"""Where the files lie that loaders name."""

LARGEST = 128
"""The most pixels a side, so that a template takes a second."""


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """The files of the templates of each package, by name; GRAPHENGINE_TEST_TEMPLATES names a folder with both."""
    found = {}
    for package in (NEW, OLD):
        name = package.partition("==")[0].replace("-", "_")
        folder = Path(os.environ.get("GRAPHENGINE_TEST_TEMPLATES", "")) / name
        if not folder.is_dir():
            folder = tmp_path_factory.mktemp(name)
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), package]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"{package} cannot be installed: {done.stderr[-200:]}")
        found[package] = {file.stem: file for file in folder.rglob("*.json")}
    return found


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> StandIns:
    return StandIns(tmp_path_factory.mktemp("stand-ins") / "models")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture with transparency."""
    values = np.random.default_rng(0).integers(0, 255, (64, 96, 4), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def run(file: Path, stand_ins: StandIns, picture: Path) -> Any:
    """Run a template in two steps at a small size, with files that stand in for those that it names."""
    graph = from_document(json.loads(file.read_text()), name=file.stem)
    for id, node in list(graph.nodes.items()):
        name = node.kind.name
        for input, value in node.literals.items():
            if name in FOLDERS and isinstance(value, str):
                stand_ins.give(FOLDERS[name], value)
            if name in ("LoadImage", "LoadImageMask") and input == "image":
                graph.set(id, input, str(picture))
            if input in ("width", "height") and isinstance(value, int) and value > LARGEST:
                graph.set(id, input, LARGEST)
            if input == "steps":
                graph.set(id, input, 2)
            if input == "text" and "sd3" in file.stem:
                graph.set(id, input, value[:40])  # the words of the small T5 are letters
    return g.run(graph)


@pytest.mark.parametrize(("package", "name"), [(package, name) for package in RUN for name in RUN[package]])
def test_a_template_runs(
    package: str, name: str, templates: Any, stand_ins: StandIns, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHENGINE_MODELS", str(stand_ins.root))
    result = run(templates[package][name], stand_ins, picture)
    for output in result.outputs:
        pixels = result[output].pixels
        assert pixels.isfinite().all()
        assert pixels.std() > 0.001


@pytest.mark.parametrize(("package", "name"), [(package, name) for package in LACKS for name in LACKS[package]])
def test_a_template_says_what_is_lacking(
    package: str, name: str, templates: Any, stand_ins: StandIns, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHENGINE_MODELS", str(stand_ins.root))
    with pytest.raises(g.GraphEngineError, match=LACKS[package][name]):
        run(templates[package][name], stand_ins, picture)
