"""FLUX.2: reference pictures, sizes, split files, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.families.flux2 import FAMILY
from graphengine_nodes.testing import blocks, flux2, small
from safetensors.torch import load_file, save_file

from graphengine import ModelError

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def klein(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flux2.flux2_model(tmp_path_factory.mktemp("models") / "klein")


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flux2.flux2_model(tmp_path_factory.mktemp("models") / "dev", klein=False)


def picture(width: int = 64, height: int = 64) -> std.Image:
    return std.Image(torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(1)))


def sampled(model: std.Model, **given: Any) -> std.Latent:
    size = {} if "references" in given else {"width": 64, "height": 64}
    text = given.pop("text", None) or std.encode_prompt(model, PROMPT)
    return std.sample(model, text, seed=3, steps=2, **{**size, **given})


def test_the_first_reference_decides_the_size(klein: Path) -> None:
    model = std.load_model(klein)
    found = sampled(model, references=[picture(100, 70), picture(64, 64)])
    assert found.samples.shape == (1, 32, 8, 12)


def test_a_large_reference_is_counted_as_the_pipelines_scale_it() -> None:
    size = FAMILY.record.variants["dev"].tasks["references"].size
    assert size is not None
    assert size(2048, 1024) == (1440, 720)
    assert size(1000, 999) == (992, 992)


def test_latents_go_on_where_they_stopped(klein: Path, dev: Path) -> None:
    for folder in (klein, dev):
        model = std.load_model(folder)
        text = std.encode_prompt(model, PROMPT)
        given: dict[str, Any] = {"seed": 3, "steps": 4, "width": 64, "height": 64}
        whole = std.sample(model, text, **given)
        part = std.sample(model, text, **given, end=0.3)
        rest = std.sample(model, text, seed=3, steps=4, latent=part, start=part.done)
        assert torch.equal(rest.samples, whole.samples)


@pytest.mark.parametrize("name", ["klein", "dev"])
def test_parts_in_files_of_their_own_make_the_same_picture(name: str, tmp_path: Path, request: Any) -> None:
    folder: Path = request.getfixturevalue(name)
    expected = sampled(std.load_model(folder)).samples
    text = std.load_text_encoder(folder)
    denoiser = std.load_denoiser(folder / "transformer", config=folder)
    vae = std.load_vae(folder / "vae")
    assert torch.equal(sampled(std.join_model(denoiser, text, vae)).samples, expected)


def test_text_encoders_of_their_own_are_those_of_the_folders(klein: Path, dev: Path, tmp_path: Path) -> None:
    for folder in (klein, dev):
        expected = std.encode_prompt(std.load_model(folder), PROMPT).embeds
        alone = std.load_text_encoder(folder / "text_encoder", config=folder)
        assert torch.equal(std.encode_prompt(alone, PROMPT).embeds, expected)
    # dev's in one file is without the side that sees pictures.
    tensors = load_file(dev / "text_encoder" / "model.safetensors")
    start = "language_model."
    text = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
    said = json.loads((dev / "text_encoder" / "config.json").read_text())["text_config"]
    said |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    said["rope_theta"] = said["rope_parameters"]["rope_theta"]
    file = tmp_path / "mistral.safetensors"
    save_file(text, file, {"config": json.dumps({"Mistral": said})})
    alone = std.load_text_encoder(file, tokenizer=dev, family="flux2")
    assert torch.equal(std.encode_prompt(alone, PROMPT).embeds, expected)


def test_a_transformer_in_one_file_is_that_of_its_folder(klein: Path, tmp_path: Path) -> None:
    expected = sampled(std.load_model(klein)).samples
    file = small.single_transformer_file(klein, tmp_path / "klein-base.safetensors")
    model = std.load_model(file, config=klein)
    assert torch.equal(sampled(model).samples, expected)


def test_a_transformer_in_blocks_computes_as_its_rounded_weights(klein: Path, tmp_path: Path) -> None:
    weights = "transformer/diffusion_pytorch_model.safetensors"
    rounded = blocks.gguf_file(tmp_path / "klein-base.gguf", load_file(klein / weights), "flux2")
    shutil.copytree(klein, tmp_path / "rounded")
    save_file(rounded, tmp_path / "rounded" / weights)
    found = sampled(std.load_model(tmp_path / "klein-base.gguf", config=klein)).samples
    expected = sampled(std.load_model(tmp_path / "rounded")).samples
    assert torch.allclose(found, expected, atol=1e-3)
    assert not torch.allclose(found, sampled(std.load_model(klein)).samples, atol=1e-2)


def test_no_tensor_tells_whether_klein_is_distilled_but_its_name(klein: Path, tmp_path: Path) -> None:
    for name, steps in (("flux-2-klein-base-4b", 50), ("flux-2-klein-4b", 4)):
        tensors = load_file(small.single_transformer_file(klein, tmp_path / "plain.safetensors"))
        file = tmp_path / f"{name}.safetensors"
        save_file(tensors, file, {"config": json.dumps({"transformer": {"axes_dims_rope": [4, 4, 4, 4]}})})
        settings = dict(std.load_denoiser(file).model.settings)
        assert settings["steps"] == steps
        assert settings.get("is_distilled", False) == (steps == 4)


def test_negative_prompts_that_nothing_reads_are_told(
    dev: Path, klein: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    distilled = tmp_path / "distilled"
    shutil.copytree(klein, distilled)
    index = distilled / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"is_distilled": True}))
    for folder in (dev, distilled):
        model = std.load_model(folder)
        plain = sampled(model)
        with caplog.at_level(logging.WARNING):
            told = sampled(model, negative=std.encode_prompt(model, "a tree"))
        assert torch.equal(plain.samples, told.samples)
        assert "takes no negative prompt: it is ignored" in caplog.text
        caplog.clear()


def test_what_it_cannot_do_is_refused_in_a_sentence(klein: Path, dev: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    shutil.copytree(klein, wide)
    file = wide / "text_encoder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_size": 32}))
    small_one, other = std.load_model(klein), std.load_model(dev)
    with pytest.raises(ValueError, match=r"reference picture 2 is 640 x 64; FLUX\.2 takes sides of 64 pixels at least"):
        sampled(small_one, references=[picture(), picture(640, 64)])
    with pytest.raises(ValueError, match="takes 10 reference pictures at most, and got 11"):
        sampled(small_one, references=[picture()] * 11)
    start = std.encode_image(other, picture())
    with pytest.raises(ValueError, match="this model takes no picture to start from; give it to references"):
        std.sample(other, std.encode_prompt(other, PROMPT), latent=start, seed=1, steps=2, strength=0.5)
    mask = std.Mask(torch.ones(1, 64, 64))
    with pytest.raises(ValueError, match="takes no picture with a mask"):
        std.inpaint(other, std.encode_prompt(other, PROMPT), picture(), mask, seed=1, steps=2)
    with pytest.raises(ValueError, match="an encoded picture is no start for it"):
        std.repaint(other, std.encode_prompt(other, PROMPT), start, start, mask, seed=1, steps=2)
    with pytest.raises(ModelError, match="prompts"):
        std.join_model(std.load_denoiser(dev), std.load_text_encoder(wide), std.load_vae(dev))
    with pytest.raises(ValueError, match="one text encoder; leave prompt_2 out"):
        std.encode_prompt(other, PROMPT, prompt_2="a tree")
