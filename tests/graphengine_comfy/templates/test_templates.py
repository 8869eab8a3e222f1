"""The templates of ComfyUI for families that are here run, but for those whose reason stands in a table.

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
from graphengine_comfy.nodes import edit_prompts, image_sizes
from PIL import Image

import graphengine as g
from graphengine.workflow.files import from_document
from tests.graphengine_comfy.templates.stand_ins import StandIns

pytestmark = pytest.mark.slow

NEW, OLD = "comfyui-workflow-templates-json==0.1.123", "comfyui-workflow-templates==0.1.1"

RUN = {
    NEW: (
        "basic_datatype_conversion", "basic_mask_operations_and_compositing", "basic_switch_node", "flux1_krea_dev",
        "flux_canny_model_example", "flux_dev_checkpoint_example", "flux_dev_full_text_to_image",
        "flux_fill_inpaint_example", "flux_fill_outpaint_example", "flux_kontext_dev_basic",
        "flux_redux_model_example", "flux_schnell", "flux_schnell_full_text_to_image",
        "image-qwen_image_edit_2511_lora_inflation", "image_chroma_text_to_image", "image_firered_image_edit1_1",
        "image_flux.1_fill_dev_OneReward", "image_flux2", "image_flux2_fp8", "image_flux2_klein_image_edit_4b_base",
        "image_flux2_klein_image_edit_4b_distilled", "image_flux2_klein_image_edit_9b_base",
        "image_flux2_klein_image_edit_9b_distilled", "image_flux2_klein_text_to_image", "image_flux2_text_to_image",
        "image_flux2_text_to_image_9b", "image_qwen_Image_2512", "image_qwen_image",
        "image_qwen_image_2512_with_2steps_lora", "image_qwen_image_2_1_background_removal", "image_qwen_image_edit",
        "image_qwen_image_edit_2509", "image_qwen_image_edit_2509_relight", "image_qwen_image_edit_2511",
        "image_qwen_image_edit_2511_int8", "image_qwen_image_union_control_lora", "image_sdxl_simple",
        "image_z_image", "image_z_image_int8", "image_z_image_turbo", "image_z_image_turbo_int8", "sd3.5_large_blur",
        "sd3.5_large_canny_controlnet_example", "sd3.5_simple_example", "sdxl_refiner_prompt_example",
        "sdxl_simple_example", "sdxlturbo_example", "template_qwen_Image_2512_360_lora",
        "template_qwen_image_edit_2511_systms_action", "template_qwen_image_illustration_lora",
        "template_sugar_coated_gummy_style_qwen", "templates-1_click_multiple_character_angles-v1.0",
        "templates-1_click_multiple_scene_angles-v1.0", "templates-image_to_real",
        "templates-portrait_light_migration", "templates_rob_portrait_light_migration.app", "utility_image_stitch",
        "utility_interpolation_image_upscale", "utility_z_image_turbo_2k_upscaler.app",
    ),
    OLD: (
        "2_pass_pose_worship", "controlnet_example", "default", "depth_controlnet", "depth_t2i_adapter",
        "embedding_example", "esrgan_example", "flux_canny_model_example", "flux_depth_lora_example",
        "flux_dev_checkpoint_example", "flux_dev_example", "flux_fill_inpaint_example", "flux_fill_outpaint_example",
        "flux_redux_model_example", "flux_schnell", "hiresfix_esrgan_workflow", "hiresfix_latent_workflow",
        "image2image", "inpain_model_outpainting", "inpaint_example", "latent_upscale_different_prompt_model", "lora",
        "lora_multiple", "mixing_controlnets", "sd3.5_large_blur", "sd3.5_large_canny_controlnet_example",
        "sd3.5_simple_example", "sdxl_refiner_prompt_example", "sdxl_simple_example", "sdxlturbo_example",
    ),
}  # fmt: skip
"""The templates that run."""

LACKS = {
    NEW: {
        "flux1_dev_uso_reference_image_gen": "ModelPatchLoader",
        "flux_depth_lora_example": "LotusConditioning",
        "image_boogu_image_0_1_turbo_t2i": "'boogu' is not one of",
        "image_kandinsky5_t2i": "'kandinsky5_image' is not one of",
        "image_longcat_image_edit": "'longcat_image' is not one of",
        "image_longcat_text_to_image": "'longcat_image' is not one of",
        "image_lotus_depth_v1_1": "LotusConditioning",
        "image_newbieimage_exp0_1-t2i": "'newbie' is not one of",
        "image_ovis_text_to_image": "'ovis' are of no family",
        "image_qwen_image_instantx_controlnet": "LotusConditioning",
        "sdxl_revision_text_prompts": "unCLIPConditioning",
    },
    OLD: {
        "area_composition": "ConditioningSetArea",
        "area_composition_reversed": "ConditioningSetArea",
        "area_composition_square_area_for_subject": "ConditioningSetArea",
        "gligen_textbox_example": "GLIGENLoader",
        "sd3.5_large_depth": "DepthAnythingPreprocessor",
        "sdxl_revision_text_prompts": "unCLIPConditioning",
        "sdxl_revision_zero_positive": "unCLIPConditioning",
    },
}
"""The templates that do not run, and what their error names. Not among them are those of Anima, Lumina 2, Krea 2, ERNIE
and a ControlNet of VideoX-Fun in the new package, and those of Qwen-Image 2.1 that load a language model to write the
prompt anew: there is no model of these families to stand in for theirs."""

FOLDERS = {
    "CheckpointLoaderSimple": "checkpoints", "UNETLoader": "diffusion_models", "CLIPLoader": "text_encoders",
    "DualCLIPLoader": "text_encoders", "TripleCLIPLoader": "text_encoders", "VAELoader": "vae", "LoraLoader": "loras",
    "LoraLoaderModelOnly": "loras", "ControlNetLoader": "controlnet", "CLIPVisionLoader": "clip_vision",
    "StyleModelLoader": "style_models", "UpscaleModelLoader": "upscale_models",
}  # fmt: skip
"""Where the files lie that loaders name."""

LARGEST, MEGAPIXELS = 128, 192 * 128 / 1024**2
"""The most pixels a side, and the area, so that a template takes a second."""


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


def prepared(file: Path, stand_ins: StandIns, picture: Path) -> Any:
    """A template in two steps at a small size, with files that stand in for those that it names."""
    graph = from_document(json.loads(file.read_text()), name=file.stem)
    for id, node in list(graph.nodes.items()):
        name = node.kind.name
        for input, value in node.literals.items():
            if name in FOLDERS and isinstance(value, str) and input not in ("type", "device", "weight_dtype"):
                stand_ins.give(FOLDERS[name], value, node.literals.get("type", "") if "CLIP" in name else "")
            if input == "megapixels":
                graph.set(id, input, 0.1 if name == "ResolutionSelector" else MEGAPIXELS)
            if name in ("LoadImage", "LoadImageMask") and input == "image":
                graph.set(id, input, str(picture))
            if input in ("width", "height") and isinstance(value, int) and value > LARGEST:
                graph.set(id, input, LARGEST)
            if input == "resolution":
                graph.set(id, input, 64)
            if input == "steps":
                graph.set(id, input, 2)
            if input == "text" and "sd3" in file.stem:
                graph.set(id, input, value[:40])  # the words of the small T5 are letters
    return graph


@pytest.mark.parametrize(("package", "name"), [(package, name) for package in RUN for name in RUN[package]])
def test_a_template_runs(
    package: str, name: str, templates: Any, stand_ins: StandIns, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHENGINE_MODELS", str(stand_ins.root))
    monkeypatch.setattr(edit_prompts, "EDITED", LARGEST * LARGEST)
    monkeypatch.setattr(image_sizes, "KONTEXT_SIZES", ((96, 160), (128, 128), (160, 96)))
    graph = prepared(templates[package][name], stand_ins, picture)
    result = g.run(graph)
    assert result.outputs
    pictures = [result[output] for output in result.outputs if not isinstance(result[output], str)]
    assert all(picture.pixels.isfinite().all() for picture in pictures)
    samplers = any("Sampler" in node.kind.name for node in graph.nodes.values())
    deviations = [float(picture.pixels.std()) for picture in pictures]
    assert all(one > 0.001 for one in deviations) if samplers else any(deviations) or not pictures


@pytest.mark.parametrize(("package", "name"), [(package, name) for package in LACKS for name in LACKS[package]])
def test_a_template_says_what_is_lacking(
    package: str, name: str, templates: Any, stand_ins: StandIns, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHENGINE_MODELS", str(stand_ins.root))
    with pytest.raises(g.GraphEngineError, match=LACKS[package][name]):
        g.run(prepared(templates[package][name], stand_ins, picture))
