"""Stable Diffusion 3: text encoders, draws of its ControlNets, files, and what it refuses."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import graphengine_nodes as std
import numpy as np
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.testing import blocks, sd3
from graphengine_nodes.testing.flux import original_vae
from safetensors.torch import load_file, save_file

from graphengine import ModelError
from tests.graphengine_nodes.families.flow import cases
from tests.graphengine_nodes.layouts import originals, test_stable_diffusion_3

SMALL = {"width": 64, "height": 64}
WITHOUT_T5 = ("text_encoder_3", "tokenizer_3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("sd3")
    sd3.sd3_model(found / "model")
    sd3.sd3_controlnet(found / "net")
    sd3.sd3_controlnet(found / "inpaint-net", inpaint=True)
    return found


@pytest.fixture(scope="module")
def model(folder: Path) -> std.Model:
    return std.load_model(folder / "model")


def one_call(name: str, folder: Path, seed: int = 1, parts: Any = None, **given: Any) -> torch.Tensor:
    """The latents of diffusers' one call."""
    pipeline = getattr(diffusers, name).from_pretrained(folder, **(parts or {}))
    pipeline.set_progress_bar_config(disable=True)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    call = {"num_inference_steps": 2, "output_type": "latent", **SMALL, **given}
    found: torch.Tensor = pipeline(cases.PROMPT, generator=generator, **call).images
    return found


def latents(model: std.Model, text: std.Conditioning | None = None, **given: Any) -> torch.Tensor:
    given = {"seed": 1, "steps": 2, **({} if "latent" in given else SMALL), **given}
    return std.sample(model, text or std.encode_prompt(model, cases.PROMPT), **given).samples


# --- text encoders ----------------------------------------------------------------------------------------------------


def test_a_model_without_t5_loads_encodes_and_samples(tmp_path: Path) -> None:
    folder = sd3.sd3_model(tmp_path / "small", t5=False)
    model = std.load_model(folder)
    assert not dict(model.components).keys() & set(WITHOUT_T5)
    expected = one_call("StableDiffusion3Pipeline", folder, parts=dict.fromkeys(WITHOUT_T5))
    assert torch.equal(latents(model), expected)
    texts = std.load_text_encoder(folder)
    joined = std.join_model(std.load_denoiser(folder), texts, std.load_vae(folder))
    assert torch.equal(latents(joined), expected)


def test_clips_skip_layers_and_prompt_2_is_for_the_other_text_encoders(folder: Path, model: std.Model) -> None:
    expected = one_call("StableDiffusion3Pipeline", folder / "model", clip_skip=1, prompt_2="a tree", prompt_3="a tree")
    assert torch.equal(latents(model, std.encode_prompt(model, cases.PROMPT, 1, prompt_2="a tree")), expected)
    assert not torch.equal(latents(model, std.encode_prompt(model, cases.PROMPT, prompt_2="a tree")), expected)
    with pytest.raises(ValueError, match="clip_skip 2 leaves none of the text encoder's 3 layers"):
        std.encode_prompt(model, cases.PROMPT, clip_skip=2)


def test_layers_are_skipped_in_guidance(folder: Path, model: std.Model) -> None:
    skips: dict[str, Any] = {"skip_guidance_layers": [0], "skip_layer_guidance_stop": 0.9}
    expected = one_call("StableDiffusion3Pipeline", folder / "model", num_inference_steps=3, **skips)
    found = latents(model, steps=3, arguments=skips)
    assert torch.equal(found, expected)
    assert not torch.equal(found, latents(model, steps=3))


def test_sampling_needs_no_text_encoder(folder: Path, tmp_path: Path) -> None:
    own = shutil.copytree(folder / "model", tmp_path / "own")
    model = std.load_model(own)
    text = std.encode_prompt(model, cases.PROMPT)
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        shutil.rmtree(own / name)
    assert torch.isfinite(latents(model, text)).all()


# --- ControlNets ------------------------------------------------------------------------------------------------------


def test_draws_of_a_control_picture_are_decided_by_the_seed(folder: Path, model: std.Model) -> None:
    net = diffusers.SD3ControlNetModel.from_pretrained(folder / "net")
    given = {"control_image": cases.edges(), "controlnet_conditioning_scale": 0.75}
    name, parts = "StableDiffusion3ControlNetPipeline", {"controlnet": net}
    expected = {seed: one_call(name, folder / "model", seed, parts, **given) for seed in (1, 2**63 + 5)}
    control = std.apply_controlnet(std.load_controlnet(folder / "net"), images.from_pil(cases.edges()), 0.75)
    text = std.encode_prompt(model, cases.PROMPT)
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda seed: latents(model, text, seed=seed, control=control), [1, 2**63 + 5, 1, 1]))
    assert torch.equal(torch.random.get_rng_state(), before)
    for seed, one in zip([1, 2**63 + 5, 1, 1], found, strict=True):
        assert torch.equal(one, expected[seed])
    pictures = std.Image(torch.cat([images.from_pil(cases.edges()).pixels] * 2))
    control = std.apply_controlnet(std.load_controlnet(folder / "net"), pictures, 0.75)
    both = latents(model, text, seed=[1, 2**63 + 5], control=control)
    assert torch.equal(both, torch.cat(list(expected.values())))


def test_a_controlnet_for_inpainting_sees_the_picture_under_the_mask(folder: Path, model: std.Model) -> None:
    net = diffusers.SD3ControlNetModel.from_pretrained(folder / "inpaint-net")
    expected = one_call(
        "StableDiffusion3ControlNetInpaintingPipeline", folder / "model", parts={"controlnet": net},
        control_image=cases.picture(), control_mask=cases.mask(), controlnet_conditioning_scale=0.75,
    )  # fmt: skip
    picture, mask = images.from_pil(cases.picture()), std.mask_from_image(images.from_pil(cases.mask()))
    text, loaded = std.encode_prompt(model, cases.PROMPT), std.load_controlnet(folder / "inpaint-net")
    control = std.apply_controlnet(loaded, picture, 0.75)
    found = std.inpaint(model, text, picture, mask, control=control, seed=1, steps=2).samples
    assert torch.equal(found, expected)
    soft = replace(mask, values=mask.values * 0.6 + (1 - mask.values) * 0.3)
    clear = replace(picture, alpha=mask.values)
    over = std.apply_controlnet(loaded, clear, 0.75)
    assert torch.equal(std.inpaint(model, text, picture, soft, control=control, seed=1, steps=2).samples, expected)
    one, other = (
        std.inpaint(model, text, image, mask, control=over, seed=1, steps=2).samples
        for image in (clear, clear.opaque())
    )
    assert torch.equal(one, other)
    assert not torch.equal(one, expected)
    wrong = std.apply_controlnet(loaded, images.from_pil(cases.edges()), 0.75)
    with pytest.raises(ValueError, match="give apply_controlnet the picture that inpaint gets"):
        std.inpaint(model, text, picture, mask, control=wrong, seed=1, steps=2)
    with pytest.raises(ValueError, match="is a ControlNet for inpainting: use inpaint"):
        latents(model, text, control=control)
    plain = std.apply_controlnet(std.load_controlnet(folder / "net"), picture, 0.75)
    with pytest.raises(ValueError, match="is no ControlNet for inpainting"):
        std.inpaint(model, text, picture, mask, control=plain, seed=1, steps=2)


def test_several_controlnets_steer_each_for_its_part_of_the_steps(folder: Path, model: std.Model) -> None:
    sd3.sd3_controlnet(folder / "other-net", seed=4)
    nets = [diffusers.SD3ControlNetModel.from_pretrained(folder / name) for name in ("net", "other-net")]
    expected = one_call(
        "StableDiffusion3ControlNetPipeline", folder / "model", parts={"controlnet": nets},
        control_image=[cases.edges(), cases.picture()], controlnet_conditioning_scale=[0.75, 0.5],
        control_guidance_start=[0.0, 0.5], control_guidance_end=[0.5, 1.0],
    )  # fmt: skip
    edges, picture = images.from_pil(cases.edges()), images.from_pil(cases.picture())
    first = std.apply_controlnet(std.load_controlnet(folder / "net"), edges, 0.75, end=0.5)
    second = std.apply_controlnet(std.load_controlnet(folder / "other-net"), picture, 0.5, start=0.5)
    assert torch.equal(latents(model, control=[first, second]), expected)


def test_a_checkpoint_for_inpainting_sees_the_mask(tmp_path: Path) -> None:
    folder = sd3.sd3_model(tmp_path / "own")
    config = diffusers.SD3Transformer2DModel.load_config(folder / "transformer")
    torch.manual_seed(0)
    wide = diffusers.SD3Transformer2DModel.from_config({**config, "in_channels": 33, "out_channels": 16})
    wide.save_pretrained(folder / "transformer")
    given: dict[str, Any] = {"image": cases.picture(), "mask_image": cases.mask(), "strength": 1.0}
    expected = one_call("StableDiffusion3InpaintPipeline", folder, **given)
    model, picture = std.load_model(folder), images.from_pil(cases.picture())
    text, mask = std.encode_prompt(model, cases.PROMPT), std.mask_from_image(images.from_pil(cases.mask()))
    assert torch.equal(std.inpaint(model, text, picture, mask, strength=1.0, seed=1, steps=2).samples, expected)
    with pytest.raises(ValueError, match="this model needs a picture with a mask"):
        latents(model, text)


# --- files ------------------------------------------------------------------------------------------------------------


def whole(folder: Path, t5: bool) -> dict[str, torch.Tensor]:
    """The tensors of a file with everything, by the original code's names."""
    weights = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    found = originals.prefixed("model.diffusion_model.", test_stable_diffusion_3.sd3(weights, 2))
    found |= originals.prefixed("first_stage_model.", original_vae(folder / "vae"))
    names = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"} | ({"t5xxl": "text_encoder_3"} if t5 else {})
    for name, part in names.items():
        found |= originals.prefixed(
            f"text_encoders.{name}.transformer.", load_file(folder / part / "model.safetensors")
        )
    return found


@pytest.mark.parametrize("t5", [True, False])
def test_a_file_with_all_text_encoders_is_the_folder(t5: bool, folder: Path, tmp_path: Path) -> None:
    own = folder / "model" if t5 else sd3.sd3_model(tmp_path / "own", t5=False)
    save_file(whole(own, t5), tmp_path / "sd3.safetensors")
    model, expected = std.load_model(tmp_path / "sd3.safetensors", config=own), std.load_model(own)
    assert (model.family, model.setting("variant", "")) == ("stable_diffusion_3", "")
    found = std.decode_latent(model, std.sample(model, std.encode_prompt(model, "a cat"), seed=1, steps=2, **SMALL))
    other = std.sample(expected, std.encode_prompt(expected, "a cat"), seed=1, steps=2, **SMALL)
    assert np.allclose(found.pixels, std.decode_latent(expected, other).pixels, atol=1e-5)


def test_three_files_of_text_encoders_and_a_transformer_in_blocks(folder: Path, tmp_path: Path) -> None:
    own = folder / "model"
    parts = [own / name / "model.safetensors" for name in ("text_encoder_2", "text_encoder_3", "text_encoder")]
    files = [shutil.copyfile(part, tmp_path / f"{part.parent.name}.safetensors") for part in parts]
    texts = std.load_text_encoder(files[0], config=own, source_2=files[1], source_3=files[2])
    weights = load_file(own / "transformer" / "diffusion_pytorch_model.safetensors")
    rounded = blocks.gguf_file(tmp_path / "sd3.gguf", test_stable_diffusion_3.sd3(weights, 2), "sd3")
    save_file(rounded, tmp_path / "rounded.safetensors")
    denoisers = [std.load_denoiser(tmp_path / one, config=own) for one in ("sd3.gguf", "rounded.safetensors")]
    vae = std.load_vae(own)
    one, other = (latents(std.join_model(denoiser, texts, vae)) for denoiser in denoisers)
    assert torch.allclose(one, other, atol=1e-5)
    model = std.load_model(own)
    assert torch.equal(std.encode_prompt(texts, "a cat").embeds, std.encode_prompt(model, "a cat").embeds)
    clips = std.load_text_encoder(files[0], source_2=files[2], config=own, family="stable_diffusion_3")
    assert clips.families == ("stable_diffusion_3",)
    first = {n: t for n, t in load_file(files[2]).items() if n != "text_projection.weight"}  # as it is published alone
    save_file(first, tmp_path / "clip_l.safetensors")
    texts = std.load_text_encoder(files[0], config=own, source_2=files[1], source_3=tmp_path / "clip_l.safetensors")
    found, expected = std.encode_prompt(texts, "a cat"), std.encode_prompt(model, "a cat")
    assert torch.equal(found.embeds, expected.embeds)
    assert found.pooled is not None
    assert expected.pooled is not None
    assert torch.equal(found.pooled[:, 16:], expected.pooled[:, 16:])
    assert not torch.equal(found.pooled[:, :16], expected.pooled[:, :16])


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"references": images.from_pil(cases.picture())}, "this model takes no reference pictures; leave them out"),
        ({"control": std.follow_picture(images.from_pil(cases.edges()))}, "takes no control picture without a Control"),
        ({"scheduler": "EulerDiscreteScheduler"}, "is of the wrong kind for stable_diffusion_3"),
        (
            {"scheduler": "DPMSolverMultistepScheduler", "scheduler_options": {"algorithm_type": "sde-dpmsolver++"}},
            "draws noise that no seed decides",
        ),
        ({"arguments": {"prompt_3": "a tree"}}, "prompt_3 is no further argument: positive says it"),
        ({"guidance_rescale": 0.5}, "StableDiffusion3Pipeline takes no guidance_rescale"),
    ],
)
def test_what_stable_diffusion_3_does_not_take_is_refused(
    given: dict[str, Any], message: str, model: std.Model
) -> None:
    with pytest.raises(ValueError, match=message):
        latents(model, **given)


def test_a_sampler_of_noise_cannot_begin_at_a_picture(folder: Path, model: std.Model) -> None:
    start = std.encode_image(model, images.from_pil(cases.picture()))
    with pytest.raises(
        ValueError, match="cannot begin at a picture in a stable_diffusion_3 model; take FlowMatchEuler"
    ):
        latents(model, latent=start, strength=0.5, scheduler="UniPCMultistepScheduler")
    further = {"image": cases.picture(), "strength": 0.5, "num_inference_steps": 4}
    pipeline = diffusers.StableDiffusion3Img2ImgPipeline.from_pretrained(folder / "model")
    pipeline.scheduler = diffusers.FlowMatchHeunDiscreteScheduler.from_config(pipeline.scheduler.config)
    expected = pipeline(
        cases.PROMPT, generator=torch.Generator().manual_seed(1), output_type="latent", **further
    ).images
    found = latents(model, latent=start, strength=0.5, steps=4, scheduler="FlowMatchHeunDiscreteScheduler")
    assert torch.equal(found, expected)


def test_a_latent_of_stable_diffusion_3_goes_through_its_own_vae(model: std.Model) -> None:
    latent = std.Latent(torch.zeros(1, 16, 8, 8), "flux")
    with pytest.raises(ValueError, match="a latent of flux cannot be decoded"):
        std.decode_latent(model, latent)


def test_inputs_of_other_widths_are_no_stable_diffusion_3(folder: Path, tmp_path: Path) -> None:
    own = shutil.copytree(folder / "model", tmp_path / "own")
    config = own / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"in_channels": 16', '"in_channels": 20'))
    with pytest.raises(ModelError, match="takes 20 channels; those of Stable Diffusion 3 take 16 or"):
        std.load_model(own)
