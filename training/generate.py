"""Pictures from the model by diffusers' own pipelines, in batches, each picture with a seed of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionPipeline
from diffusers.utils.logging import disable_progress_bar
from PIL import Image

from training.errors import reading
from training.export import DEFAULTS
from training.lora import FILE
from training.pictures import Picture

BATCH = 8
disable_progress_bar()


@dataclass(frozen=True)
class Model:
    """An exported folder: model/, and where they are there controlnet/ and lora/."""

    folder: Path

    def plain(self) -> Any:
        with reading(self.folder / "model"):
            return StableDiffusionPipeline.from_pretrained(self.folder / "model")

    def styled(self) -> Any | None:
        folder = self.folder / "lora"
        if not folder.is_dir():
            return None
        pipeline = self.plain()
        with reading(folder):
            pipeline.load_lora_weights(folder, weight_name=FILE)
        return pipeline

    def controlled(self) -> Any | None:
        folder = self.folder / "controlnet"
        if not folder.is_dir():
            return None
        with reading(folder):
            controlnet = ControlNetModel.from_pretrained(folder)
        parts = self.plain().components
        return StableDiffusionControlNetPipeline(**parts, controlnet=controlnet, requires_safety_checker=False)


def generate(
    pipeline: Any, prompts: Sequence[str], seed: int, controls: Sequence[Picture] | None = None
) -> list[Picture]:
    """One picture for each prompt, the i-th from seed + i, with the model's default settings."""
    pipeline.set_progress_bar_config(disable=True)
    made: list[Picture] = []
    for at in range(0, len(prompts), BATCH):
        some = list(prompts[at : at + BATCH])
        images = {"image": [Image.fromarray(c).convert("RGB") for c in controls[at : at + BATCH]]} if controls else {}
        result = pipeline(
            some,
            num_inference_steps=DEFAULTS["steps"],
            guidance_scale=DEFAULTS["guidance_scale"],
            width=DEFAULTS["width"],
            height=DEFAULTS["height"],
            generator=[torch.Generator().manual_seed(seed + at + i) for i in range(len(some))],
            **images,
        )
        made += [np.asarray(image) for image in result.images]
    return made
