"""Fixtures of the standard nodes' tests: one thread, small models, and pictures made by diffusers alone."""

from __future__ import annotations

import json
import os
import shutil
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
    from graphengine_nodes.weights.files import TINY

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
    """The small models of Stable Diffusion and SDXL in one folder, as the reference process wants them."""
    folder = tmp_path_factory.mktemp("models")
    sd_models(folder)
    xl_models(folder)
    return folder


def sd_models(folder: Path) -> None:
    """`tiny`, `nine`, `controlnet` and LoRAs.

    `euler`, `zero` and `old` are `tiny` with the schedulers of other models: one that says nothing of `clip_sample`,
    one whose `steps_offset` is outdated, and one that does not say it.
    """
    from graphengine_nodes.testing import sd as testing
    from graphengine_nodes.weights.files import TINY

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
    testing.lora(folder / "told.safetensors", seed=4, parts=("unet", "text_encoder"), alpha=1.0)


def xl_models(folder: Path) -> None:
    """`xl`, its variants, a ControlNet and LoRAs.

    `xl-nine` takes 9 channels, `xl-read` reads an absent negative prompt as the empty one, `xl-score` takes a
    score as well, and the VAE of `xl-moments` says mean and deviation of its latents.
    """
    from graphengine_nodes.testing import sd as testing
    from graphengine_nodes.testing import sdxl as testing_xl

    model = testing_xl.xl_model(folder / "xl")
    testing_xl.xl_model(folder / "xl-nine", channels=9)
    testing_xl.xl_model(folder / "xl-read", zeros=False)
    testing_xl.xl_model(folder / "xl-score", aesthetics=True)
    shutil.copytree(model, folder / "xl-moments")
    config = folder / "xl-moments" / "vae" / "config.json"
    moments = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.5, 0.8, 1.1, 2.0]}
    config.write_text(json.dumps(json.loads(config.read_text()) | moments))
    testing_xl.xl_controlnet(folder / "xl-controlnet")
    words = ("unet", "text_encoder", "text_encoder_2")
    testing.lora(folder / "xl-noise.safetensors", seed=1, model=model)
    testing.lora(folder / "xl-words.safetensors", seed=2, parts=words, model=model)
    testing.lora(folder / "xl-kohya.safetensors", seed=3, parts=words, kohya=True, model=model)


@pytest.fixture(scope="session")
def references(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """By family, the float pictures that diffusers alone makes of every case, in another process."""
    folder = tmp_path_factory.mktemp("reference")
    modules = {"stable_diffusion": "cases", "stable_diffusion_xl": "cases_xl"}
    return {family: reference(HERE, models, folder / f"{family}.npz", module) for family, module in modules.items()}


def reference(script: Path, models: Path, out: Path, *module: str) -> dict[str, np.ndarray]:
    """What diffusers alone makes of the cases that lie beside a folder's `reference.py`."""
    found = subprocess.run(
        [sys.executable, str(script / "reference.py"), str(models), str(out), *module],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(script)},
    )
    assert found.returncode == 0, found.stderr[-4000:]
    return dict(np.load(out))
