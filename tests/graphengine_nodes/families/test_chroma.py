"""The mask of Chroma's prompts, its VAE, LoRAs with kohya's names, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import numpy as np
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.testing.chroma import chroma_model
from graphengine_nodes.testing.flux import flux_model
from graphengine_nodes.testing.z_image import z_image_model
from safetensors.torch import load_file, save_file

from tests.graphengine_nodes.families.flow import cases


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chroma_model(tmp_path_factory.mktemp("chroma") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> std.Model:
    return std.load_model(folder)


@pytest.fixture(scope="module")
def text(model: std.Model) -> std.Conditioning:
    return std.encode_prompt(model, cases.PROMPT)


def test_a_prompt_of_chroma_has_a_mask_with_one_token_of_padding(text: std.Conditioning) -> None:
    mask = text.fields["attention_mask"]
    assert mask.shape == text.embeds.shape[:2]
    tokens = len(cases.PROMPT) + 2  # the small tokenizer's are letters, one before the first word and one at the end
    assert torch.equal(mask[0].nonzero().flatten(), torch.arange(tokens + 1))


def picture(model: std.Model, text: std.Conditioning, **given: Any) -> torch.Tensor:
    latent = std.sample(model, text, seed=3, steps=2, guidance_scale=4.0, width=64, height=64, **given)
    return std.decode_latent(model, latent).pixels


def test_a_vae_of_flux_serves_flux_and_chroma(
    folder: Path, model: std.Model, text: std.Conditioning, tmp_path: Path
) -> None:
    save_file(load_file(folder / "vae" / "diffusion_pytorch_model.safetensors"), tmp_path / "ae.safetensors")
    for vae in (std.load_vae(folder / "vae"), std.load_vae(tmp_path / "ae.safetensors", config=folder)):
        assert vae.families[0] == "flux"
        encoded = std.encode_image(vae, images.from_pil(cases.picture()))
        assert encoded.family == "flux"
        latent = std.sample(model, text, latent=encoded, seed=3, steps=2)
        own = std.encode_image(model, images.from_pil(cases.picture()))
        assert torch.equal(latent.samples, std.sample(model, text, latent=own, seed=3, steps=2).samples)
        assert torch.equal(std.decode_latent(vae, latent).pixels, std.decode_latent(model, latent).pixels)


def test_pictures_that_a_vae_of_flux_encoded_begin_a_run_of_flux_chroma_and_z_image(
    model: std.Model, text: std.Conditioning, tmp_path: Path
) -> None:
    flux = std.load_model(flux_model(tmp_path / "flux"))
    picture, other = images.from_pil(cases.picture()), images.from_pil(cases.other().resize((64, 64)))
    of_chroma, of_flux = std.encode_image(model, picture), std.encode_image(flux, picture)
    assert (of_chroma.family, of_flux.family) == ("flux", "flux")
    z_image = std.load_model(z_image_model(tmp_path / "z_image"))
    assert std.encode_image(z_image, picture).family == "flux"
    of_flux_prompt = std.encode_prompt(flux, cases.PROMPT)
    given: dict[str, Any] = {"seed": 3, "steps": 2}
    found = std.sample(flux, of_flux_prompt, latent=of_chroma, **given)
    assert found.family == "flux"
    assert torch.equal(
        std.sample(model, text, latent=of_flux, **given).samples,
        std.sample(
            model,
            text,
            latent=replace(of_flux, family="chroma"),
            **given,  # as results of before are labelled
        ).samples,
    )
    mask = std.mask_from_image(images.from_pil(cases.mask()))
    painted = std.encode_image(flux, other)
    assert std.repaint(model, text, of_chroma, painted, mask, **given).family == "flux"
    empty = std.Mask(torch.zeros(1, 64, 64))
    assert std.repaint(model, text, of_chroma, painted, empty, **given).family == "flux"


def test_a_lora_with_kohyas_names_and_alpha_is_that_of_diffusers(
    folder: Path, model: std.Model, text: std.Conditioning, tmp_path: Path
) -> None:
    import diffusers

    generator = torch.Generator().manual_seed(1)
    lora = {}
    # diffusers knows the parts of joined layers by the widths of published models alone.
    for layer, rows in (("double_blocks_0_img_mlp_0", 128), ("double_blocks_0_txt_attn_proj", 32)):
        lora[f"lora_unet_{layer}.lora_down.weight"] = torch.randn(4, 32, generator=generator)
        lora[f"lora_unet_{layer}.lora_up.weight"] = torch.randn(rows, 4, generator=generator)
        lora[f"lora_unet_{layer}.alpha"] = torch.tensor(0.7)
    file = tmp_path / "lora.safetensors"
    save_file(lora, file)
    pipeline = diffusers.ChromaPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(file)
    expected = pipeline(
        prompt=cases.PROMPT,
        num_inference_steps=2,
        guidance_scale=4.0,
        width=64,
        height=64,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).images
    found = picture(std.apply_lora(model, std.load_lora(file)), text).numpy()
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, picture(model, text).numpy())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"references": images.from_pil(cases.picture())}, "takes no reference pictures; leave them out"),
        ({"control": std.follow_picture(images.from_pil(cases.edges()))}, "takes no control picture without a Control"),
        ({"scheduler": "FlowMatchHeunDiscreteScheduler"}, "is of the wrong kind for chroma"),
        ({"width": 72}, r"width is 72, but must be a multiple of 16 \(64 or 80\)"),
    ],
)
def test_what_chroma_does_not_take_is_refused(
    given: dict[str, Any], message: str, model: std.Model, text: std.Conditioning
) -> None:
    with pytest.raises(ValueError, match=message):
        std.sample(model, text, **{"steps": 2, "width": 64, "height": 64} | given)


def test_chroma_repaints_and_does_not_inpaint(model: std.Model, text: std.Conditioning) -> None:
    picture, mask = images.from_pil(cases.picture()), std.mask_from_image(images.from_pil(cases.mask()))
    with pytest.raises(ValueError, match="takes no picture with a mask; use repaint"):
        std.inpaint(model, text, picture, mask, steps=2)
    encoded = std.encode_image(model, picture)
    painted = std.repaint(model, text, encoded, encoded, mask, seed=1, steps=3, strength=0.7).samples
    kept = (encoded.mean - 0.1159) * 0.3611
    assert torch.allclose(painted[..., :1, :], kept[..., :1, :], atol=1e-5)
    assert not torch.allclose(painted[..., 2:6, 2:6], kept[..., 2:6, 2:6], atol=0.1)
