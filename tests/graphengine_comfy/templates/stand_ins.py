"""Small random files that stand in for the models and pictures that a workflow names, under its names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from graphengine_nodes.testing import flux, sd, sd3, sdxl
from graphengine_nodes.weights.files import TINY
from safetensors.torch import load_file, save_file

WEIGHTS = "diffusion_pytorch_model.safetensors"


class StandIns:
    """Makes files in ComfyUI's folders of models.

    Args:
        root: The folder of the models.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: dict[str, Path] = {}
        (root / "tokenizers").mkdir(parents=True)
        (root / "embeddings").mkdir()
        save_file({"emb_params": torch.ones(2, 128)}, root / "embeddings" / "SDA768.safetensors")
        (root / "tokenizers" / "flux").symlink_to(self.model("flux"))

    def give(self, folder: str, name: str) -> None:
        """Put a file of a name into one of the folders, of the model that the name means."""
        place = self.root / folder / name
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            MAKERS[folder](self, name.lower(), place)

    def model(self, kind: str) -> Path:
        """A small model in diffusers layout."""
        if kind not in self.made:
            (self.root / ".sources").mkdir(exist_ok=True)
            self.made[kind] = MODELS[kind](self.root / ".sources" / kind)
        return self.made[kind]

    # --- by folder ----------------------------------------------------------------------------------------------------

    def checkpoint(self, name: str, place: Path) -> None:
        if name.startswith("sd3"):
            place.symlink_to(self.model("sd3"))
            return
        if name.startswith("flux"):
            kind = _flux(name)
            flux.flux_single_file(place, self.model(kind), whole=True)
        else:
            kinds = {"refiner": "refiner", "xl": "xl", "inpaint": "inpainting"}
            kind = next((kind for word, kind in kinds.items() if word in name), "tiny")
            sd.single_file(place, self.model(kind))
        place.with_suffix("").symlink_to(self.model(kind))  # its tokenizers are smaller than the published ones

    def denoiser(self, name: str, place: Path) -> None:
        flux.flux_single_file(place, self.model(_flux(name)))

    def text_encoder(self, name: str, place: Path) -> None:
        part = "text_encoder" if name.startswith("clip_l") else "text_encoder_2"
        part_file(self.model("flux") / part, place)

    def vae(self, name: str, place: Path) -> None:
        part_file(self.model("flux" if name == "ae.safetensors" else "tiny") / "vae", place)

    def lora(self, name: str, place: Path) -> None:
        if "flux" in name or "removal" in name:
            flux.flux_lora(place)
        else:
            shutil.copyfile(TINY / "lora" / "blueprint.safetensors", place)

    def controlnet(self, name: str, place: Path) -> None:
        if name.startswith("sd3"):
            place.symlink_to(sd3.sd3_controlnet(self.root / ".sources" / "sd3-net"))
        else:
            shutil.copytree(TINY / "controlnet", place)

    def image_encoder(self, name: str, place: Path) -> None:
        place.symlink_to(self.model("redux") / "image_encoder")

    def style_model(self, name: str, place: Path) -> None:
        place.symlink_to(self.model("redux") / "image_embedder")

    def upscaler(self, name: str, place: Path) -> None:
        from spandrel.architectures.ESRGAN import ESRGAN

        torch.save(ESRGAN(num_filters=8, num_blocks=1, scale=4).state_dict(), place)


MAKERS: Mapping[str, Callable[[StandIns, str, Path], None]] = {
    "checkpoints": StandIns.checkpoint,
    "diffusion_models": StandIns.denoiser,
    "text_encoders": StandIns.text_encoder,
    "vae": StandIns.vae,
    "loras": StandIns.lora,
    "controlnet": StandIns.controlnet,
    "clip_vision": StandIns.image_encoder,
    "style_models": StandIns.style_model,
    "upscale_models": StandIns.upscaler,
}

MODELS: Mapping[str, Callable[[Path], Path]] = {
    "tiny": lambda folder: Path(shutil.copytree(TINY / "model", folder)),
    "inpainting": sd.inpainting_model,
    "xl": sdxl.xl_model,
    "refiner": sdxl.xl_refiner,
    "sd3": sd3.sd3_model,
    "flux": flux.flux_model,
    "flux_schnell": lambda folder: flux.flux_model(folder, guidance=False),
    "flux_kontext": lambda folder: flux.flux_model(folder, variant="kontext"),
    "flux_fill": lambda folder: flux.flux_model(folder, variant="fill"),
    "flux_control": lambda folder: flux.flux_model(folder, variant="control"),
    "redux": flux.flux_redux,
}


def _flux(name: str) -> str:
    """The variant of FLUX.1 that a file's name means."""
    names = {"schnell": "schnell", "kontext": "kontext", "fill": "fill", "canny": "control", "depth": "control"}
    return next((f"flux_{kind}" for word, kind in names.items() if word in name), "flux")


def part_file(component: Path, place: Path) -> None:
    """Write a component of a model as one file, with its configuration, which shapes of small models do not tell."""
    weights = component / WEIGHTS
    weights = weights if weights.is_file() else component / "model.safetensors"
    said: dict[str, Any] = {component.name: json.loads((component / "config.json").read_text())}
    save_file(load_file(weights), place, {"config": json.dumps(said)})
