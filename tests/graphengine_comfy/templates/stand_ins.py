"""Small random files that stand in for the models and pictures that a workflow names, under its names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from graphengine_nodes.testing import chroma, flux, flux2, qwen_image, sd, sd3, sdxl, small, z_image
from graphengine_nodes.weights.files import TINY
from safetensors.torch import load_file, save_file

TOKENIZERS = {"flux": "flux", "qwen_image": "qwen_image_edit", "z_image": "z_image", "chroma": "chroma"}
"""By family, the model whose tokenizers lie in `tokenizers`."""
ENCODED = {"qwen_image": "qwen_image_edit", "lumina2": "z_image", "chroma": "chroma"}
"""By ComfyUI's type of text encoders, the model that has such."""
WEIGHTS = "diffusion_pytorch_model.safetensors"


class StandIns:
    """Makes files in ComfyUI's folders of models.

    Args:
        root: The folder of the models.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: dict[str, Path] = {}
        self.given: dict[Path, str] = {}
        (root / "tokenizers").mkdir(parents=True)
        (root / "embeddings").mkdir()
        save_file({"emb_params": torch.ones(2, 128)}, root / "embeddings" / "SDA768.safetensors")
        for family, kind in TOKENIZERS.items():
            (root / "tokenizers" / family).symlink_to(self.model(kind))

    def give(self, folder: str, name: str, type: str = "") -> None:
        """Put a file of a name into one of the folders, of the model that the name means.

        Args:
            type: Of a text encoder, what it is loaded for: one name may be in use for several families.
        """
        place = self.root / folder / name
        if self.given.get(place) == type:
            return
        place.unlink(missing_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        if folder == "text_encoders":
            self.text_encoder(name.lower(), place, type)
        else:
            MAKERS[folder](self, name.lower(), place)
        self.given[place] = type

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
            kinds = {"refiner": "refiner", "xl": "xl", "inpaint": "inpainting", "interiordesign": "levels"}
            kind = next((kind for word, kind in kinds.items() if word in name), "tiny")
            sd.single_file(place, self.model(kind))
        place.with_suffix("").symlink_to(self.model(kind))  # its tokenizers are smaller than the published ones

    def denoiser(self, name: str, place: Path) -> None:
        if (kind := _kind(name)) is None:
            flux.flux_single_file(place, self.model(_flux(name)))
        else:
            place.symlink_to(self.model(kind))

    def text_encoder(self, name: str, place: Path, type: str) -> None:
        if type == "flux2":
            place.symlink_to(self.model("flux2_dev" if "mistral" in name else "flux2"))
        elif "qwen3vl" in name:
            place.symlink_to(self.model("qwen_image_21"))
        elif type in ENCODED:
            part_file(self.model(ENCODED[type]) / "text_encoder", place)
        else:
            part = "text_encoder" if name.startswith("clip_l") else "text_encoder_2"
            part_file(self.model("flux") / part, place)

    def vae(self, name: str, place: Path) -> None:
        kinds = {"ae.": "flux", "qwen_image_2.1": "qwen_image_21", "qwen_image": "qwen_image_edit"}
        kinds |= {"flux2": "flux2", "full_encoder": "flux2"}
        kind = next((kind for word, kind in kinds.items() if name.startswith(word)), "tiny")
        part_file(self.model(kind) / "vae", place)

    def lora(self, name: str, place: Path) -> None:
        kinds = {"qwen": "qwen_image", "z_image": "z_image", "flux_2": "flux2_dev", "flux2": "flux2_dev"}
        kinds |= dict.fromkeys(("firered", "illustration", "gummycandy"), "qwen_image")
        kind = next((kind for word, kind in kinds.items() if word in name), None)
        if kind is not None:
            small.lora_for(self.model(kind), place)
        elif "flux" in name or "removal" in name:
            flux.flux_lora(place)
        else:
            shutil.copyfile(TINY / "lora" / "blueprint.safetensors", place)

    def controlnet(self, name: str, place: Path) -> None:
        if "t2iadapter" in name:
            sd.t2i_adapter(place)
        elif name.startswith("sd3"):
            place.symlink_to(sd3.sd3_controlnet(self.root / ".sources" / "sd3-net"))
        else:
            shutil.copytree(TINY / "controlnet", place)

    def image_encoder(self, name: str, place: Path) -> None:
        place.symlink_to(self.model("redux") / "image_encoder")

    def style_model(self, name: str, place: Path) -> None:
        place.symlink_to(self.model("redux") / "image_embedder")

    def upscaler(self, name: str, place: Path) -> None:
        from spandrel.architectures.ESRGAN import ESRGAN

        state = ESRGAN(num_filters=8, num_blocks=1, scale=4).state_dict()
        save_file(state, place) if place.suffix == ".safetensors" else torch.save(state, place)


MAKERS: Mapping[str, Callable[[StandIns, str, Path], None]] = {
    "checkpoints": StandIns.checkpoint,
    "diffusion_models": StandIns.denoiser,
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
    "levels": sd.levels_model,
    "xl": sdxl.xl_model,
    "refiner": sdxl.xl_refiner,
    "sd3": sd3.sd3_model,
    "flux": flux.flux_model,
    "flux_schnell": lambda folder: flux.flux_model(folder, guidance=False),
    "flux_kontext": lambda folder: flux.flux_model(folder, variant="kontext"),
    "flux_fill": lambda folder: flux.flux_model(folder, variant="fill"),
    "flux_control": lambda folder: flux.flux_model(folder, variant="control"),
    "redux": flux.flux_redux,
    "flux2": flux2.flux2_model,
    "flux2_dev": lambda folder: flux2.flux2_model(folder, klein=False),
    "z_image": z_image.z_image_model,
    "chroma": chroma.chroma_model,
    "qwen_image": qwen_image.qwen_image_model,
    "qwen_image_21": qwen_image.qwen_image_21_model,
    "qwen_image_edit": qwen_image.qwen_image_edit_model,
    "qwen_image_edit_plus": lambda folder: qwen_image.qwen_image_edit_model(folder, plus=True),
}


def _kind(name: str) -> str | None:
    """The model that a denoiser's file means; None for those of FLUX.1."""
    kinds = {
        "z_image": "z_image",
        "flux2_dev": "flux2_dev",
        "flux-2-klein": "flux2",
        "chroma": "chroma",
        "qwen_image_2.1": "qwen_image_21",
        "qwen_image_edit_25": "qwen_image_edit_plus",
        "firered": "qwen_image_edit_plus",
        "qwen_image_edit": "qwen_image_edit",
        "qwen_image": "qwen_image",
    }
    return next((kind for word, kind in kinds.items() if word in name), None)


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
