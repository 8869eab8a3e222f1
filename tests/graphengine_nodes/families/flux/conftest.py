"""Fixtures of FLUX's tests: small models, and the pictures that diffusers alone makes with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.graphengine_nodes.conftest import reference

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FLUX's small models in one folder, as the reference process wants them."""
    folder = tmp_path_factory.mktemp("flux")
    flux_models(folder)
    return folder


def flux_models(folder: Path) -> None:
    """`dev`, `schnell`, ControlNets and LoRAs."""
    from graphengine_nodes.testing.flux import flux_controlnet, flux_lora, flux_model

    flux_model(folder / "dev")
    flux_model(folder / "schnell", guidance=False)
    flux_controlnet(folder / "one")
    flux_controlnet(folder / "other", seed=1)
    flux_controlnet(folder / "union", modes=3)
    both = ("transformer", "text_encoder")
    flux_lora(folder / "wide.safetensors", seed=1)
    flux_lora(folder / "words.safetensors", seed=2, parts=both)
    flux_lora(folder / "kohya.safetensors", seed=3, parts=both, kohya=True)


@pytest.fixture(scope="session")
def references(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The float pictures that diffusers alone makes of every case, in another process."""
    return reference(HERE, models, tmp_path_factory.mktemp("reference") / "pictures.npz")
