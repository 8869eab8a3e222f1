"""Fixtures: the small models of every family, and the pictures that diffusers alone makes with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.graphengine_nodes.conftest import reference
from tests.graphengine_nodes.families.flow import cases

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small models in one folder, as the reference process wants them."""
    folder = tmp_path_factory.mktemp("families")
    family_models(folder)
    return folder


def family_models(folder: Path) -> None:
    """The model of each line, with its ControlNet as `{model}-net` and its LoRA as `{model}.safetensors`."""
    from graphengine_nodes.testing import chroma, flux, flux2, qwen_image, sd3, small, z_image

    chroma.chroma_model(folder / "chroma")
    z_image.z_image_model(folder / "z_image")
    z_image.z_image_controlnet(folder / "z_image-net")
    z_image.z_image_controlnet(folder / "z_image-painter", inpaint=True)
    sd3.sd3_model(folder / "stable_diffusion_3")
    sd3.sd3_controlnet(folder / "stable_diffusion_3-net")
    qwen_image.qwen_image_model(folder / "qwen_image")
    qwen_image.qwen_image_controlnet(folder / "qwen_image-net")
    flux2.flux2_model(folder / "klein")
    flux2.flux2_model(folder / "klein-distilled", seed=1, distilled=True)
    flux2.flux2_model(folder / "flux2-dev", klein=False)
    for variant in ("kontext", "fill", "control"):
        flux.flux_model(folder / variant, variant=variant)
    qwen_image.qwen_image_21_model(folder / "qwen_image_21")
    qwen_image.qwen_image_edit_model(folder / "qwen_image_edit")
    qwen_image.qwen_image_edit_model(folder / "qwen_image_edit_plus", plus=True)
    for model in [path.parent.name for path in folder.glob("*/model_index.json")]:
        small.lora_for(folder / model, folder / f"{model}.safetensors")


@pytest.fixture(scope="session")
def references(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The float pictures that diffusers alone makes of every case, in another process."""
    return reference(HERE, models, tmp_path_factory.mktemp("reference") / "pictures.npz")


@pytest.fixture(autouse=True)
def small_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen-Image's pipelines that edit make small pictures, as in the reference process."""
    cases.make_areas_small(monkeypatch.setattr)
