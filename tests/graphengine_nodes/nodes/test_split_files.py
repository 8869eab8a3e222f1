"""Models in three files or more and no folder, as people have them for ComfyUI: denoiser, text encoders, VAE."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.layouts import contents
from graphengine_nodes.nodes import part_files
from graphengine_nodes.testing import chroma, flux, flux2, qwen_image, sd3, tokenizers, wan, z_image
from graphengine_nodes.weights.headers import read_headers
from safetensors.torch import load_file, save_file

from graphengine import ModelError

from ..layouts import originals, test_chroma, test_stable_diffusion_3, test_z_image
from ..layouts.originals import Tensors
from ..layouts.test_language_models import QWEN3_4B, QWEN3_8B, model, stored
from ..weights.test_inner_tokenizers import sentence_pieces

SIZE: dict[str, Any] = {"width": 64, "height": 64}


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


FAMILIES = {
    "chroma": Split(chroma.chroma_model, test_chroma.chroma, ("text_encoder", "vae")),
    "z_image": Split(z_image.z_image_model, test_z_image.z_image, ("text_encoder", "vae")),
    "qwen_image": Split(qwen_image.qwen_image_model, named=("vae",)),
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
    found = std.sample(model, positive, seed=3, negative=negative, steps=2, guidance_scale=3.0, **SIZE)
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


def test_a_video_is_made_of_three_files_and_the_tokenizer_is_inside(tmp_path: Path) -> None:
    folder = wan.wan_model(tmp_path / "folder")
    words = alone(folder, "text_encoder", tmp_path / "umt5.safetensors")
    with pytest.raises(ModelError, match=r"umt5.safetensors needs a tokenizer, which no package here holds: give"):
        std.load_text_encoder(words)
    pieces = torch.frombuffer(bytearray(sentence_pieces(tokenizers.letters(512))), dtype=torch.uint8)
    save_file({**load_file(words), "spiece_model": pieces}, words)
    parts = [
        std.load_denoiser(alone(folder, "transformer", tmp_path / "denoiser.safetensors")),
        std.load_text_encoder(words),
        std.load_vae(alone(folder, "vae", tmp_path / "wan_2.1_vae.safetensors")),
    ]
    joined, whole = std.join_model(*parts), std.load_model(folder)
    texts = [std.encode_prompt(one, "a red circle") for one in (joined, whole)]
    assert torch.equal(texts[0].embeds, texts[1].embeds)
    found, expected = (
        std.sample_video(one, texts[0], seed=3, steps=2, frames=5, **SIZE).samples for one in (joined, whole)
    )
    assert float((found - expected).abs().max()) < 1e-3  # of values up to 7: a weight's place in a file moves last bits


def test_the_third_text_encoder_may_be_missing(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders("stable_diffusion_3"), tmp_path / "folder")
    for name in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(folder / name)
    index = folder / "model_index.json"
    without = {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    index.write_text(json.dumps(json.loads(index.read_text()) | without))
    joined = std.join_model(
        std.load_denoiser(alone(folder, "transformer", tmp_path / "denoiser.safetensors")),
        encoders(folder, tmp_path, family="stable_diffusion_3"),
        std.load_vae(alone(folder, "vae", tmp_path / "vae.safetensors"), family="stable_diffusion_3"),
    )
    assert torch.equal(picture(joined), picture(std.load_model(folder)))


def test_the_command_line_joins_files(folders: Callable[[str], Path], tmp_path: Path) -> None:
    def command(*words: str) -> subprocess.CompletedProcess[str]:
        # A process of its own: the command ends its process at once where threads are left.
        words = (sys.executable, "-c", "import sys; from graphengine.cli import main; sys.exit(main())", *words)
        return subprocess.run(words, capture_output=True, text=True, check=False)

    folder, family = folders("z_image"), {"family": "z_image"}
    sources: dict[str, dict[str, Any]] = {
        "denoiser": {"source": str(alone(folder, "transformer", tmp_path / "z_image_turbo.safetensors"))},
        "text_encoder": {
            "source": str(alone(folder, "text_encoder", tmp_path / "qwen_3_4b.safetensors")),
            "tokenizer": str(folder / "tokenizer"),
            **family,
        },
        "vae": {"source": str(alone(folder, "vae", tmp_path / "ae.safetensors")), **family},
    }
    nodes = {name: {"node": f"std.load_{name}@1", "with": given} for name, given in sources.items()}
    wide = alone(qwen(tmp_path), "text_encoder", tmp_path / "wide.safetensors")
    nodes |= {
        "model": {"node": "std.join_model@1", "from": {name: name for name in sources}},
        "text": {"node": "std.encode_prompt@1", "with": {"prompt": "a red circle"}, "from": {"model": "model"}},
        "sample": {
            "node": "std.sample@1",
            "with": {"seed": 3, "steps": 2, **SIZE},
            "from": {"model": "model", "positive": "text"},
        },
        "image": {"node": "std.decode_latent@1", "from": {"model": "model", "latent": "sample"}},
    }
    workflow = tmp_path / "split.yaml"
    workflow.write_text(json.dumps({"version": 1, "nodes": nodes, "outputs": {"image": "image"}}))
    done = command("run", str(workflow), "--backend", "inline", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    whole = std.load_model(folder)
    expected = std.sample(whole, std.encode_prompt(whole, "a red circle"), seed=3, steps=2, **SIZE)
    made = std.load_image(next((tmp_path / "out").rglob("*.png"))).pixels
    assert float((made - std.decode_latent(whole, expected).pixels).abs().max()) <= 0.51 / 255
    nodes["text_encoder"]["with"]["source"] = str(wide)
    workflow.write_text(json.dumps({"version": 1, "nodes": nodes, "outputs": {"image": "image"}}))
    done = command("validate", str(workflow))
    assert done.returncode != 0
    assert "gives prompts of width 64; the denoiser of" in " ".join(done.stderr.split())


def qwen(folder: Path) -> Path:
    """A wider Qwen3."""
    words = tokenizers.qwen_words()
    z_image.small_qwen3(words, 64, 1).save_pretrained(folder / "wide" / "text_encoder")
    return folder / "wide"


def test_parts_that_are_another_models_are_refused(folders: Callable[[str], Path], tmp_path: Path) -> None:
    files = {
        "qwen3": alone(folders("z_image"), "text_encoder", tmp_path / "qwen3.safetensors"),
        "vl": alone(folders("qwen_image"), "text_encoder", tmp_path / "vl.safetensors"),
        "flux2-vae": alone(folders("flux2"), "vae", tmp_path / "flux2-vae.safetensors"),
        "denoiser": alone(folders("z_image"), "transformer", tmp_path / "denoiser.safetensors"),
    }
    words = {"tokenizer": folders("z_image") / "tokenizer"}
    denoiser = std.load_denoiser(files["denoiser"])
    with pytest.raises(ModelError, match=r"holds a Qwen2.5-VL, for which a z_image model has no place"):
        std.load_text_encoder(files["vl"], family="z_image", **words)
    vl, qwen3 = (
        std.load_text_encoder(files["vl"], **words),
        std.load_text_encoder(files["qwen3"], family="z_image", **words),
    )
    with pytest.raises(ModelError, match=r"the text encoder of .* is for qwen_image models; it does not fit a z_image"):
        std.join_model(denoiser, vl, std.load_vae(folders("z_image")))
    with pytest.raises(ModelError, match=r"unknown.safetensors may be of qwen_image or wan, which have the same"):
        std.load_vae(alone(folders("qwen_image"), "vae", tmp_path / "unknown.safetensors"))
    with pytest.raises(ModelError, match=r"the vae of .* is for flux2 models; it does not fit a z_image model"):
        std.join_model(denoiser, qwen3, std.load_vae(files["flux2-vae"]))


def test_mistrals_tokenizer_must_be_given(tmp_path: Path) -> None:
    shapes = {"layers.0.self_attn.q_proj": (16, 16), "embed_tokens": (20, 16), "norm": (16,)}
    tensors = {f"model.{name}.weight": torch.zeros(shape) for name, shape in shapes.items()}
    tensors["tekken_model"] = torch.zeros(9, dtype=torch.uint8)
    file = tmp_path / "mistral_3_small_flux2.safetensors"
    save_file(tensors, file, {"config": json.dumps({"Mistral": {"rope_theta": 1e9}})})
    with pytest.raises(ModelError, match=r"mistral_3_small_flux2.safetensors needs a tokenizer, which no package here"):
        std.load_text_encoder(file)


@pytest.mark.parametrize(
    ("config", "families"),
    [(QWEN3_4B, ["flux2", "z_image"]), (QWEN3_8B, ["flux2"]), (QWEN3_4B | {"hidden_size": 1024}, ["flux2", "z_image"])],
    ids=["4B", "8B", "of no known width"],
)
def test_the_width_of_a_qwen3_tells_whose_it_is(config: dict[str, Any], families: list[str]) -> None:
    tensors = stored(model("Qwen3ForCausalLM", config | {"num_hidden_layers": 1}))
    (part,) = originals.read(tensors).components.values()
    if len(families) == 1:
        assert part_files.family_of_encoders([part], [Path("qwen.safetensors")]).name == families[0]
        return
    with pytest.raises(ModelError, match=f"qwen.safetensors may be of {' or '.join(families)}: give family, or config"):
        part_files.family_of_encoders([part], [Path("qwen.safetensors")])


def test_which_family_a_text_encoder_is_of(folders: Callable[[str], Path], tmp_path: Path) -> None:
    qwen3 = alone(folders("z_image"), "text_encoder", tmp_path / "qwen_3.safetensors")
    with pytest.raises(ModelError, match=r"qwen_3.safetensors may be of flux2 or z_image: give family, or config"):
        std.load_text_encoder(qwen3)
