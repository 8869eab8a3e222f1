"""Z-Image's files, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.testing import blocks
from graphengine_nodes.testing.z_image import z_image_controlnet, z_image_model
from safetensors.torch import load_file, save_file

from tests.graphengine_nodes.families.flow import cases
from tests.graphengine_nodes.layouts.test_z_image import z_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return z_image_model(tmp_path_factory.mktemp("z_image") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> std.Model:
    return std.load_model(folder)


def latents(model: std.Model, text: std.Conditioning, **given: Any) -> torch.Tensor:
    return std.sample(model, text, seed=1, steps=2, width=64, height=64, **given).samples


def transformer(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_transformer_with_the_original_names_is_that_of_the_folder(
    prefix: str, folder: Path, model: std.Model, tmp_path: Path
) -> None:
    file = tmp_path / "z_image.safetensors"
    save_file({f"{prefix}{name}": tensor for name, tensor in z_image(transformer(folder)).items()}, file)
    whole = std.load_model(file, config=folder)
    text = std.encode_prompt(model, cases.PROMPT)
    expected = latents(model, text)
    assert torch.allclose(latents(whole, text), expected, atol=1e-5)
    joined = std.join_model(std.load_denoiser(file, config=folder), model, model)
    assert torch.equal(latents(joined, text), latents(whole, text))


def test_weights_in_blocks_of_8_bits_are_those_of_the_file(folder: Path, model: std.Model, tmp_path: Path) -> None:
    file = tmp_path / "z_image.gguf"
    rounded = blocks.gguf_file(file, z_image(transformer(folder)), "lumina2")
    plain = tmp_path / "rounded.safetensors"
    save_file(rounded, plain)
    text = std.encode_prompt(model, cases.PROMPT)
    found, expected = (latents(std.load_model(one, config=folder), text) for one in (file, plain))
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, latents(model, text), atol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"references": images.from_pil(cases.picture())}, "this model takes no reference pictures; leave them out"),
        ({"control": std.follow_picture(images.from_pil(cases.edges()))}, "takes no control picture without a Control"),
        ({"scheduler": "EulerDiscreteScheduler"}, "EulerDiscreteScheduler is of the wrong kind for z_image"),
        ({"scheduler": "FlowMatchHeunDiscreteScheduler"}, "is of the wrong kind for z_image"),
        ({"guidance_rescale": 0.5}, "ZImagePipeline takes no guidance_rescale"),
    ],
)
def test_what_z_image_does_not_take_is_refused(given: dict[str, Any], message: str, model: std.Model) -> None:
    with pytest.raises(ValueError, match=message):
        latents(model, std.encode_prompt(model, cases.PROMPT), **given)


def test_a_mask_needs_a_controlnet_for_inpainting(model: std.Model, tmp_path: Path) -> None:
    net = std.load_controlnet(z_image_controlnet(tmp_path / "plain"))
    picture, mask = images.from_pil(cases.picture()), std.mask_from_image(images.from_pil(cases.mask()))
    control = std.apply_controlnet(net, images.from_pil(cases.edges()))
    with pytest.raises(ValueError, match="plain is no ControlNet for inpainting"):
        std.inpaint(model, std.encode_prompt(model, cases.PROMPT), picture, mask, control=control, steps=2)


def test_sides_are_multiples_of_sixteen(model: std.Model) -> None:
    with pytest.raises(ValueError, match=r"width is 72, but must be a multiple of 16 \(64 or 80\)"):
        std.sample(model, std.encode_prompt(model, cases.PROMPT), width=72, height=64)


def test_a_text_encoder_has_all_its_layers(model: std.Model) -> None:
    for given, message in (
        ({"clip_skip": 1}, "needs all layers"),
        ({"prompt_2": "a tree"}, "has one text encoder; leave prompt_2 out"),
    ):
        with pytest.raises(ValueError, match=message):
            std.encode_prompt(model, cases.PROMPT, **given)


def test_a_models_own_sampler_of_noise_cannot_begin_at_a_picture_either(
    folder: Path, model: std.Model, tmp_path: Path
) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    config = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True}
    (other / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    changed, text = std.load_model(other), std.encode_prompt(model, cases.PROMPT)
    start = std.encode_image(model, images.from_pil(cases.picture()))
    given = {"latent": start, "seed": 1, "steps": 4, "strength": 0.5}
    with pytest.raises(ValueError, match="other's scheduler, UniPCMultistepScheduler, cannot begin at a picture"):
        std.sample(changed, text, **given)
    std.sample(changed, text, scheduler="FlowMatchEulerDiscreteScheduler", **given)
