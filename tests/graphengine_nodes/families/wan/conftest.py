"""Fixtures: small Wan models of every kind, and the frames that diffusers alone makes with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.graphengine_nodes.conftest import reference

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each kind by its name, and the LoRA `lora` for the transformers of those from text."""
    from graphengine_nodes.testing import small, wan

    folder = tmp_path_factory.mktemp("wan")
    for variant in wan.VARIANTS:
        wan.wan_model(folder / variant, variant=variant)
    small.lora_for(folder / "2.1", folder / "lora.safetensors")
    return folder


@pytest.fixture(scope="session")
def references(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The float frames that diffusers alone makes of every case, in another process."""
    return reference(HERE, models, tmp_path_factory.mktemp("reference") / "frames.npz")
