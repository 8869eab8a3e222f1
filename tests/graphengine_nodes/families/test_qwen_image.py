"""Qwen-Image's ControlNet for inpainting, its files, the pictures that its text encoders see, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import numpy as np
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.testing import blocks, qwen_image
from safetensors.torch import load_file, save_file

from graphengine import ModelError
from tests.graphengine_nodes.families.flow import cases

PICTURE = images.from_pil(cases.picture())
OTHER = images.from_pil(cases.other())
MASK = std.mask_from_image(images.from_pil(cases.mask()))


@pytest.fixture(autouse=True)
def small_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    cases.make_areas_small(monkeypatch.setattr)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen_image")
    qwen_image.qwen_image_model(folder / "plain")
    qwen_image.qwen_image_edit_model(folder / "edit")
    qwen_image.qwen_image_edit_model(folder / "plus", plus=True)
    qwen_image.qwen_image_21_model(folder / "later")
    qwen_image.qwen_image_controlnet(folder / "net")
    qwen_image.qwen_image_controlnet(folder / "painter", inpaint=True)
    return folder


@pytest.fixture(scope="module")
def plain(folders: Path) -> std.Model:
    return std.load_model(folders / "plain")


@pytest.fixture(scope="module")
def edit(folders: Path) -> std.Model:
    return std.load_model(folders / "edit")


@pytest.fixture(scope="module")
def later(folders: Path) -> std.Model:
    return std.load_model(folders / "later")


def latents(model: std.Model, text: Any, **given: Any) -> torch.Tensor:
    return std.sample(model, text, **{"seed": 1, "steps": 2, "width": 64, "height": 64, **given}).samples


def transformer(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")


# --- a ControlNet for inpainting --------------------------------------------------------------------------------------


def test_a_controlnet_for_inpainting_is_the_one_call_after_manual_seed(folders: Path, plain: std.Model) -> None:
    from diffusers import QwenImageControlNetInpaintPipeline, QwenImageControlNetModel

    net = QwenImageControlNetModel.from_pretrained(folders / "painter")
    pipeline: Any = QwenImageControlNetInpaintPipeline.from_pretrained(folders / "plain", controlnet=net)
    pipeline.set_progress_bar_config(disable=True)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = pipeline(
            cases.PROMPT,
            control_image=cases.picture(),
            control_mask=cases.mask(),
            controlnet_conditioning_scale=0.75,
            width=64,
            height=64,
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(5),
            output_type="np",
        ).images
    control = std.apply_controlnet(std.load_controlnet(folders / "painter"), PICTURE, 0.75)
    text = std.encode_prompt(plain, cases.PROMPT)
    latent = std.inpaint(plain, text, PICTURE, MASK, control=control, seed=[5, 6], steps=2)
    found = std.decode_latent(plain, replace(latent, samples=latent.samples[:1])).pixels.numpy()
    assert np.array_equal(found, expected)
    assert not torch.equal(latent.samples[0], latent.samples[1])


def test_a_controlnet_is_for_inpainting_or_not(folders: Path, plain: std.Model) -> None:
    text = std.encode_prompt(plain, cases.PROMPT)
    painter, net = (std.load_controlnet(folders / name) for name in ("painter", "net"))
    with pytest.raises(ValueError, match="painter is a ControlNet for inpainting: use inpaint"):
        latents(plain, text, control=std.apply_controlnet(painter, PICTURE))
    with pytest.raises(ValueError, match="net is no ControlNet for inpainting"):
        std.inpaint(plain, text, PICTURE, MASK, control=std.apply_controlnet(net, PICTURE))
    edges = std.apply_controlnet(painter, images.from_pil(cases.edges()))
    with pytest.raises(ValueError, match="give apply_controlnet the picture that inpaint gets"):
        std.inpaint(plain, text, PICTURE, MASK, control=edges)
    with pytest.raises(ValueError, match="takes one ControlNet; leave the others out"):
        latents(plain, text, control=[std.apply_controlnet(net, PICTURE)] * 2)


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_without_a_negative_prompt_the_scale_does_nothing(plain: std.Model) -> None:
    text, absent = (std.encode_prompt(plain, prompt) for prompt in (cases.PROMPT, None))
    expected = latents(plain, text, guidance_scale=1.0)
    assert torch.equal(latents(plain, text, guidance_scale=6.0), expected)
    assert torch.equal(latents(plain, text, negative=absent, guidance_scale=6.0), expected)
    empty = std.encode_prompt(plain, "")
    assert not torch.equal(latents(plain, text, negative=empty, guidance_scale=6.0), expected)
    with pytest.raises(ValueError, match="some of these pictures have a negative prompt and others none"):
        latents(plain, [text, text], negative=[empty, absent], guidance_scale=6.0)


def test_one_step_alone_is_refused(plain: std.Model) -> None:
    with pytest.raises(ValueError, match="one step alone cannot lead: take 2 steps"):
        latents(plain, std.encode_prompt(plain, cases.PROMPT), steps=1)


def test_a_prompt_of_another_number_of_pictures_is_refused(plain: std.Model, edit: std.Model) -> None:
    seen, blind = std.encode_prompt(edit, cases.PROMPT, references=PICTURE), std.encode_prompt(plain, cases.PROMPT)
    with pytest.raises(ValueError, match="encoded with 0 reference pictures, and the sampler gets 1"):
        latents(edit, blind, references=PICTURE)
    with pytest.raises(ValueError, match="encoded with 1 reference pictures, and the sampler gets 0"):
        latents(plain, seen)
    with pytest.raises(ValueError, match="encoded with 0 reference pictures, and the sampler gets 1"):
        std.inpaint(edit, blind, PICTURE, MASK)


def test_a_prompt_of_other_pictures_is_refused(edit: std.Model) -> None:
    seen = std.encode_prompt(edit, cases.PROMPT, references=OTHER)
    with pytest.raises(ValueError, match="encoded with other pictures than the sampler gets"):
        latents(edit, seen, references=PICTURE)
    with pytest.raises(ValueError, match="encoded with other pictures than the sampler gets"):
        std.inpaint(edit, seen, PICTURE, MASK)


def test_a_prompt_that_another_kind_of_model_encoded_is_refused(folders: Path, edit: std.Model) -> None:
    plus = std.load_model(folders / "plus")
    of_edit, of_plus = (std.encode_prompt(one, cases.PROMPT, references=PICTURE) for one in (edit, plus))
    for model, text in ((edit, of_plus), (plus, of_edit)):
        with pytest.raises(ValueError, match="encoded for another kind of model, which shows pictures"):
            latents(model, text, references=PICTURE)


def test_calls_of_other_pictures_are_not_of_one_batch(edit: std.Model) -> None:
    group: Any = std.sample.group_fn
    one, same, other = (
        std.encode_prompt(edit, prompt, references=picture)
        for prompt, picture in ((cases.PROMPT, PICTURE), (cases.PROMPT, PICTURE), (cases.PROMPT, OTHER))
    )
    assert group(positive=one, seed=1) == group(positive=same, seed=2)
    unlike = replace(one, seen=other.seen)
    assert group(positive=one, seed=1) != group(positive=unlike, seed=1)


def test_the_text_encoder_sees_the_picture_with_both_prompts(edit: std.Model) -> None:
    one, two = (std.encode_prompt(edit, cases.PROMPT, references=picture) for picture in (PICTURE, OTHER))
    assert len(one.seen) == 1
    assert one.embeds.shape != two.embeds.shape or not torch.equal(one.embeds, two.embeds)
    negative = std.encode_prompt(edit, "a tree", references=PICTURE)
    found = latents(edit, one, negative=negative, references=PICTURE)
    assert not torch.equal(found, latents(edit, one, references=PICTURE))


# --- latents of one frame in the other nodes ------------------------------------------------------------------------


def test_masked_image_to_image_keeps_what_is_outside_the_mask(plain: std.Model) -> None:
    text, posterior = std.encode_prompt(plain, cases.PROMPT), std.encode_image(plain, PICTURE)
    found = std.repaint(plain, text, posterior, posterior, MASK, seed=[1, 2], steps=4, strength=0.5)
    mean, deviation = (torch.tensor(posterior.scaling[name])[:, None, None] for name in ("latents_mean", "latents_std"))
    kept = (posterior.mean[0, :, 0] - mean) / deviation
    for one in found.samples[:, :, 0]:
        assert torch.allclose(one[:, :, 0], kept[:, :, 0], atol=1e-5)
        assert not torch.allclose(one[:, 4, 4], kept[:, 4, 4], atol=1e-2)


def test_a_run_in_two_parts_is_the_whole_run(plain: std.Model) -> None:
    text = std.encode_prompt(plain, cases.PROMPT)
    whole = latents(plain, text, steps=4)
    half = std.sample(plain, text, seed=1, steps=4, width=64, height=64, end=0.5)
    assert torch.equal(std.sample(plain, text, seed=1, steps=4, latent=half, start=0.5).samples, whole)


def test_a_latent_is_a_start_as_it_is(plain: std.Model) -> None:
    text = std.encode_prompt(plain, cases.PROMPT)
    start = std.sample(plain, text, seed=1, steps=2, width=64, height=64)
    found = std.sample(plain, text, seed=2, steps=2, latent=start, strength=0.5).samples
    assert found.shape == (1, 16, 1, 8, 8)
    assert not torch.equal(found, start.samples)
    drawn = std.encode_image(plain, std.decode_latent(plain, start))
    assert not torch.equal(std.sample(plain, text, seed=2, steps=2, latent=drawn, strength=0.5).samples, found)


# --- sizes and numbers of pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["edit", "plus", "later"])
def test_an_edit_has_the_shape_of_its_last_picture(name: str, folders: Path) -> None:
    model = std.load_model(folders / name)
    wide = std.resize_image(OTHER, 128, 64)
    references = [wide] if name == "edit" else [PICTURE, wide]
    text = std.encode_prompt(model, cases.PROMPT, references=references)
    latent = std.sample(model, text, references=references, steps=2)
    assert std.decode_latent(model, latent).size == (96, 32)


def test_several_edits_are_single_ones(edit: std.Model) -> None:
    text = std.encode_prompt(edit, cases.PROMPT, references=PICTURE)
    both = latents(edit, text, references=PICTURE, seed=[1, 2])
    single = [latents(edit, text, references=PICTURE, seed=seed) for seed in (1, 2)]
    assert torch.equal(both, torch.cat(single))


def test_a_picture_with_alpha_is_painted_over_by_several_seeds(edit: std.Model) -> None:
    clear = replace(PICTURE, alpha=MASK.values)
    text = std.encode_prompt(edit, cases.PROMPT, references=clear)
    both, one = (std.inpaint(edit, text, clear, MASK, seed=seed, steps=2).samples for seed in ([1, 2], 1))
    assert torch.equal(both[:1], one)


def test_only_a_picture_of_the_edits_own_area_is_painted_over(edit: std.Model) -> None:
    text = std.encode_prompt(edit, cases.PROMPT, references=OTHER)
    small = std.resize_image(PICTURE, 32, 32)
    mask = std.mask_from_image(std.resize_image(images.from_pil(cases.mask()), 32, 32))
    with pytest.raises(ValueError, match="bring this one and its mask to 64 x 64 by resize_image"):
        std.inpaint(edit, text, small, mask)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("plain", {"references": PICTURE}, "this model takes no reference pictures; leave them out"),
        ("plain", {"scheduler": "FlowMatchHeunDiscreteScheduler"}, "is of the wrong kind for qwen_image"),
        ("plain", {"width": 72}, r"width is 72, but must be a multiple of 16 \(64 or 80\)"),
        ("edit", {}, "this model needs reference pictures or a picture with a mask; link one"),
        ("edit", {"references": [PICTURE, OTHER]}, "takes 1 reference pictures at most, and got 2"),
        ("plus", {}, "this model needs reference pictures; link one"),
        ("plus", {"references": [PICTURE] * 9}, "takes 8 reference pictures at most, and got 9"),
        ("later", {"width": 80}, r"width is 80, but must be a multiple of 32 \(64 or 96\)"),
    ],
)
def test_what_qwen_image_does_not_take_is_refused(
    name: str, given: dict[str, Any], message: str, folders: Path
) -> None:
    model = std.load_model(folders / name)
    seen = None if name in ("plain", "later") else PICTURE
    with pytest.raises(ValueError, match=message):
        latents(model, std.encode_prompt(model, cases.PROMPT, references=seen), **given)


def test_what_its_text_encoders_do_not_take_is_refused(plain: std.Model, edit: std.Model) -> None:
    for model, given, message in (
        (plain, {"clip_skip": 1}, "needs all layers"),
        (plain, {"references": PICTURE}, "sees no reference pictures: leave references out"),
        (edit, {}, "edits, and needs reference pictures: give encode_prompt references"),
        (edit, {"references": [PICTURE, OTHER]}, "takes 1 reference pictures at most"),
    ):
        with pytest.raises(ValueError, match=message):
            std.encode_prompt(model, cases.PROMPT, **given)


# --- 2.1 --------------------------------------------------------------------------------------------------------------


def test_pictures_of_2_1_have_alpha_and_it_sees_that_of_its_references(later: std.Model) -> None:
    through = std.Image(PICTURE.pixels, torch.full(PICTURE.pixels.shape[:3], 0.5))
    one, two = (
        latents(later, std.encode_prompt(later, cases.PROMPT, references=picture), references=picture)
        for picture in (PICTURE, through)
    )
    assert not torch.equal(one, two)
    made = std.decode_latent(later, std.Latent(one, "qwen_image_21"))
    assert made.alpha is not None
    assert made.alpha.std() > 0.01
    encoded = std.encode_image(later, through)
    assert encoded.mean.shape == (1, 64, 1, 4, 4)
    text = std.encode_prompt(later, cases.PROMPT, references=PICTURE)
    with pytest.raises(ValueError, match="the text encoder has seen the pictures at 1024 pixels a side"):
        latents(later, text, references=PICTURE, arguments={"output_resolution": 64})


def test_a_schedule_of_a_model_decides_its_steps(tmp_path: Path) -> None:
    from diffusers import QwenImage21Pipeline

    folder = qwen_image.qwen_image_21_model(tmp_path / "scheduled")
    file = folder / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sample_sigmas": [1.0, 0.8, 0.3]}))
    (folder / "defaults.json").unlink()
    model = std.load_model(folder)
    assert model.setting("steps") == 3
    assert isinstance(hash(model), int)
    text = std.encode_prompt(model, cases.PROMPT)
    found = std.decode_latent(model, std.sample(model, text, seed=1, width=64, height=64))
    pipeline: Any = QwenImage21Pipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    draws = torch.Generator().manual_seed(1)
    expected = pipeline(cases.PROMPT, width=64, height=64, generator=draws, output_type="np").images
    assert np.array_equal(found.channels.numpy(), expected)
    with pytest.raises(ValueError, match="has a schedule of its own with 3 steps; leave steps out"):
        latents(model, text, steps=5)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_transformer_in_one_file_is_that_of_the_folder(
    prefix: str, folders: Path, plain: std.Model, tmp_path: Path
) -> None:
    file = tmp_path / "qwen_image.safetensors"
    save_file({f"{prefix}{name}": tensor for name, tensor in transformer(folders / "plain").items()}, file)
    text = std.encode_prompt(plain, cases.PROMPT)
    expected = latents(plain, text)
    whole = std.load_model(file, config=folders / "plain")
    assert torch.allclose(latents(whole, text), expected, atol=1e-5)
    joined = std.join_model(std.load_denoiser(file, config=folders / "plain"), plain, plain)
    assert torch.equal(latents(joined, text), latents(whole, text))


def test_parts_in_files_of_their_own_make_the_whole(folders: Path, plain: std.Model, tmp_path: Path) -> None:
    folder = folders / "plain"
    denoiser = std.load_denoiser(folder)
    encoder = std.load_text_encoder(
        folder / "text_encoder" / "model.safetensors", config=folder, tokenizer=folder / "tokenizer"
    )
    vae = std.load_vae(folder / "vae" / "diffusion_pytorch_model.safetensors")
    joined = std.join_model(denoiser, encoder, vae)
    text = std.encode_prompt(joined, cases.PROMPT)
    assert torch.equal(text.embeds, std.encode_prompt(plain, cases.PROMPT).embeds)
    latent = std.sample(joined, text, seed=1, steps=2, width=64, height=64)
    assert torch.equal(std.decode_latent(joined, latent).pixels, std.decode_latent(plain, latent).pixels)


def test_weights_of_qwen_image_in_blocks_are_those_of_the_file(folders: Path, plain: std.Model, tmp_path: Path) -> None:
    file, rounded = tmp_path / "qwen_image.gguf", tmp_path / "rounded.safetensors"
    save_file(blocks.gguf_file(file, transformer(folders / "plain"), "qwen_image"), rounded)
    text = std.encode_prompt(plain, cases.PROMPT)
    found, expected = (latents(std.load_model(one, config=folders / "plain"), text) for one in (file, rounded))
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, latents(plain, text), atol=1e-5)


def test_a_file_is_of_an_edit_model_by_its_name(folders: Path, edit: std.Model, tmp_path: Path) -> None:
    text = std.encode_prompt(edit, cases.PROMPT, references=PICTURE)
    file = tmp_path / "qwen_image_edit_2509.safetensors"
    save_file(transformer(folders / "edit"), file)
    assert std.load_model(file, config=folders / "edit").setting("variant") == "edit"
    plus = std.load_model(file, config=folders / "plus")
    assert plus.setting("variant") == "edit_plus"
    whole = std.load_model(file, config=folders / "edit")
    assert torch.allclose(latents(whole, text, references=PICTURE), latents(edit, text, references=PICTURE), atol=1e-5)


def test_a_picture_with_frames_is_previewed(plain: std.Model) -> None:
    from graphengine_nodes.nodes.previews import preview

    assert preview(torch.zeros(2, 16, 1, 8, 8), plain).pixels.shape == (2, 8, 8, 3)


@pytest.mark.parametrize("mode", ["nearest-exact", "bilinear", "bicubic", "area"])
def test_latents_with_frames_are_resized_frame_by_frame(mode: Any) -> None:
    samples = torch.randn(2, 16, 3, 8, 4, generator=torch.Generator().manual_seed(0))
    found = std.upscale_latent(std.Latent(samples, "wan"), 1.5, mode).samples
    assert found.shape == (2, 16, 3, 12, 6)
    for frame in range(3):
        expected = torch.nn.functional.interpolate(samples[:, :, frame], (12, 6), mode=mode)
        assert torch.equal(found[:, :, frame], expected)


def test_qwen_images_latents_are_upscaled_and_sampled_on(plain: std.Model) -> None:
    text = std.encode_prompt(plain, cases.PROMPT)
    small = std.sample(plain, text, seed=1, steps=2, width=64, height=64)
    large = std.sample(plain, text, latent=std.upscale_latent(small), strength=0.6, seed=1, steps=4)
    assert large.samples.shape == (1, 16, 1, 16, 16)
    assert std.decode_latent(plain, large).size == (128, 128)


def test_a_text_encoder_without_a_processor_is_no_editors(
    plain: std.Model, edit: std.Model, folders: Path, tmp_path: Path
) -> None:
    shutil.copy(folders / "edit" / "text_encoder" / "model.safetensors", tmp_path / "words.safetensors")
    for words in (plain, std.load_text_encoder(tmp_path / "words.safetensors", config=folders / "plain")):
        with pytest.raises(ModelError, match="has no processor: load it with config, the folder of a model that edits"):
            std.join_model(edit, words, edit)
    words = std.load_text_encoder(tmp_path / "words.safetensors", config=folders / "edit")
    assert std.join_model(edit, words, edit).component("processor")
    assert std.join_model(plain, words, plain).family == std.join_model(plain, plain, edit).family == "qwen_image"
