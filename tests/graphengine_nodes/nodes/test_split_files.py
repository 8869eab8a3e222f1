"""Models in three files or more and no folder, as people have them for ComfyUI: denoiser, text encoders, VAE."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.layouts import contents
from graphengine_nodes.testing import flux, flux2, qwen_image, sd3, z_image
from graphengine_nodes.weights.headers import read_headers
from safetensors.torch import load_file, save_file

from graphengine import ModelError

from ..layouts import test_stable_diffusion_3, test_z_image
from ..layouts.originals import Tensors


@dataclass(frozen=True)
class Split:
    """How a family's small model is split.

    Attributes:
        make: Makes its folder.
        original: Gives the transformer's tensors the names of the original code.
        named: The family must be named for its text encoder or VAE, which other families have too.
    """

    make: Callable[[Path], Path]
    original: Callable[[Tensors], Tensors] | None = None
    named: tuple[str, ...] = ()
    call: Mapping[str, Any] = field(default_factory=dict)


FAMILIES = {
    "z_image": Split(z_image.z_image_model, test_z_image.z_image, ("text_encoder", "vae")),
    "qwen_image": Split(qwen_image.qwen_image_model),
    "stable_diffusion_3": Split(sd3.sd3_model, lambda tensors: test_stable_diffusion_3.sd3(tensors, 2), ("vae",)),
    "flux": Split(flux.flux_model, None, ("vae",)),
    "flux2": Split(flux2.flux2_model, None, ("text_encoder",)),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The small model of a family, made when it is asked for."""
    root = tmp_path_factory.mktemp("split")

    def folder(family: str) -> Path:
        found = root / family
        return found if found.is_dir() else FAMILIES[family].make(found)

    return folder


def alone(folder: Path, component: str, file: Path, tensors: Tensors | None = None) -> Path:
    """Write a component as a file of its own; what its shapes do not tell of so small a model is in its metadata."""
    stem = "model" if component.startswith("text_encoder") else "diffusion_pytorch_model"
    tensors = load_file(folder / component / f"{stem}.safetensors") if tensors is None else tensors
    save_file(tensors, file)
    part = next(iter(contents.read(*read_headers(file), file).components.values()))
    config = json.loads((folder / component / "config.json").read_text())
    config = {**config.get("rope_parameters", {}), **config}
    said = {name: config[name] for name in part.of.unseen if name in config}
    save_file(tensors, file, {"config": json.dumps({part.name or part.kind: said})})
    return file


def picture(model: std.Model) -> torch.Tensor:
    positive, negative = (std.encode_prompt(model, words) for words in ("a red circle", "a tree"))
    size = {"width": 64, "height": 64}
    found = std.sample(model, positive, seed=3, negative=negative, steps=2, guidance_scale=3.0, **size)
    return std.decode_latent(model, found).pixels


def encoders(folder: Path, files: Path, **given: Any) -> std.TextEncoder:
    """The text encoders of a model, each in a file; its tokenizers, which have small vocabularies, from a folder."""
    for words in folder.glob("tokenizer*"):
        shutil.copytree(words, files / "words" / words.name)
    paths = [alone(folder, one.name, files / f"{one.name}.safetensors") for one in sorted(folder.glob("text_encoder*"))]
    sources = {f"source_{number}": path for number, path in enumerate(paths[1:], start=2)}
    return std.load_text_encoder(paths[0], tokenizer=files / "words", **sources, **given)


@pytest.mark.parametrize("family", FAMILIES)
def test_three_files_and_no_folder_make_the_folders_picture(
    folders: Callable[[str], Path], family: str, tmp_path: Path
) -> None:
    folder, split = folders(family), FAMILIES[family]
    named = {part: {"family": family} if part in split.named else {} for part in ("text_encoder", "vae")}
    words = encoders(folder, tmp_path, **named["text_encoder"])
    vae = std.load_vae(alone(folder, "vae", tmp_path / "vae.safetensors"), **named["vae"])
    denoiser = std.load_denoiser(alone(folder, "transformer", tmp_path / "base.safetensors"))
    assert denoiser.model.family == family
    expected = picture(std.load_model(folder))
    assert torch.equal(picture(std.join_model(denoiser, words, vae)), expected)
    if split.original is not None:
        tensors = split.original(load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors"))
        tensors = {f"model.diffusion_model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
        file = alone(folder, "transformer", tmp_path / "original.safetensors", tensors)
        found = picture(std.join_model(std.load_denoiser(file), words, vae))
        assert float((found - expected).abs().max()) < 1e-5


def test_which_family_a_text_encoder_is_of(folders: Callable[[str], Path], tmp_path: Path) -> None:
    qwen3 = alone(folders("z_image"), "text_encoder", tmp_path / "qwen_3.safetensors")
    with pytest.raises(ModelError, match=r"qwen_3.safetensors may be of flux2 or z_image: give family, or config"):
        std.load_text_encoder(qwen3)
