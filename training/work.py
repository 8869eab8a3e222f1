"""The work folder: the trained parts in diffusers' layout, each step's checkpoint, and the encoded pictures."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from numpy.typing import NDArray
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils.logging import disable_progress_bar

from training.errors import TrainingError, reading

disable_progress_bar()  # a bar for each part that is read would bury the training's own lines

# Where each part lies in an exported (and in the shipped) folder, and the step that makes it.
EXPORTED = {
    "tokenizer": "model/tokenizer",
    "vae": "model/vae",
    "text_encoder": "model/text_encoder",
    "unet": "model/unet",
    "controlnet": "controlnet",
    "lora": "lora",
}
STEP = {"tokenizer": "text_encoder", "latents.npy": "encode", "pictures.npy": "vae", "blueprint.npy": "lora"}


@dataclass(frozen=True)
class Work:
    """One work folder; reading a part that is missing or damaged raises a `TrainingError`."""

    folder: Path

    def make(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise TrainingError(f"{self.folder} cannot be a work folder: {problem.strerror}") from problem

    def path(self, part: str) -> Path:
        return self.folder / part

    def checkpoint(self, part: str) -> Path:
        return self.folder / f"{part}.pt"

    def need(self, part: str) -> Path:
        path = self.path(part)
        if not path.exists():
            step = STEP.get(part, part)
            raise TrainingError(f"{path} is missing: make it with `python -m training.{step}`, or use --from-weights")
        return path

    def take(self, source: Path, part: str) -> None:
        """Copy `part` from an exported folder, and the other parts where this folder lacks them."""
        if not (source / EXPORTED[part]).is_dir():
            raise TrainingError(f"{source / EXPORTED[part]} is missing: --from-weights wants an exported folder")
        for name, place in EXPORTED.items():
            target = self.path(name)
            if (source / place).is_dir() and (name == part or not target.exists()):
                shutil.copytree(source / place, target, dirs_exist_ok=True)

    def vae(self) -> AutoencoderKL:
        return self._load("vae", AutoencoderKL.from_pretrained)

    def tokenizer(self) -> CLIPTokenizer:
        return self._load("tokenizer", CLIPTokenizer.from_pretrained)

    def text_encoder(self) -> CLIPTextModel:
        return self._load("text_encoder", CLIPTextModel.from_pretrained)

    def unet(self) -> UNet2DConditionModel:
        return self._load("unet", UNet2DConditionModel.from_pretrained)

    def controlnet(self) -> ControlNetModel:
        return self._load("controlnet", ControlNetModel.from_pretrained)

    def array(self, name: str) -> NDArray[Any]:
        """An array that stays on the disk; rows are read when they are used."""
        return np.asanyarray(self._load(name, lambda path: np.load(path, mmap_mode="r")))

    def _load(self, part: str, read: Callable[[Path], Any]) -> Any:
        path = self.need(part)
        with reading(path):
            return read(path)
