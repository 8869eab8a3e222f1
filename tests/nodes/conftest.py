"""Shared by the tests of the standard nodes: one thread, small models, the oracle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

# Before torch computes for the first time: with more threads than free cores every step waits for the slowest.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch

torch.set_num_threads(1)

HERE = Path(__file__).parent


def scheduler_model(folder: Path, **changes: object) -> None:
    """`tiny` with a scheduler's configuration that says little more than how it was trained."""
    from graphengine_nodes.checkpoints import TINY

    folder.mkdir()
    for part in (TINY / "model").iterdir():
        if part.name not in ("scheduler", "model_index.json"):
            (folder / part.name).symlink_to(part)
    own = json.loads((TINY / "model" / "scheduler" / "scheduler_config.json").read_text())
    kept = ("beta_start", "beta_end", "beta_schedule", "prediction_type")
    config = {name: own[name] for name in kept} | changes
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    index = json.loads((TINY / "model" / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", config["_class_name"]]
    (folder / "model_index.json").write_text(json.dumps(index))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny`, `nine`, `controlnet` and LoRAs in one folder, as the reference process wants them.

    `euler`, `zero` and `old` are `tiny` with the schedulers of other models: one that says nothing of `clip_sample`,
    one whose `steps_offset` is outdated, and one that does not say it.
    """
    from graphengine_nodes import testing
    from graphengine_nodes.checkpoints import TINY

    folder = tmp_path_factory.mktemp("models")
    (folder / "tiny").symlink_to(TINY / "model")
    (folder / "controlnet").symlink_to(TINY / "controlnet")
    (folder / "blueprint.safetensors").symlink_to(TINY / "lora" / "blueprint.safetensors")
    testing.inpainting_model(folder / "nine")
    scheduler_model(folder / "euler", _class_name="EulerDiscreteScheduler", steps_offset=1)
    scheduler_model(folder / "zero", _class_name="PNDMScheduler", steps_offset=0, skip_prk_steps=True)
    scheduler_model(folder / "old", _class_name="PNDMScheduler")
    testing.controlnet(folder / "noise-controlnet")
    testing.lora(folder / "noise.safetensors", seed=1)
    testing.lora(folder / "words.safetensors", seed=2, parts=("unet", "text_encoder"))
    testing.lora(folder / "kohya.safetensors", seed=3, parts=("unet", "text_encoder"), kohya=True)
    return folder


@pytest.fixture(scope="session")
def references(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The float pictures that diffusers alone makes of every case, in another process."""
    out = tmp_path_factory.mktemp("reference") / "pictures.npz"
    found = subprocess.run(
        [sys.executable, str(HERE / "reference.py"), str(models), str(out)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(HERE)},
    )
    assert found.returncode == 0, found.stderr[-4000:]
    return dict(np.load(out))
