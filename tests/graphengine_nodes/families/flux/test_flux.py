"""FLUX: inputs that it takes and refuses, the contents of its keys, and many runs at once."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.store.store import store
from graphengine_nodes.testing import sd as testing

from graphengine import ModelError
from tests.graphengine_nodes.families.flux import cases


@pytest.fixture
def dev(models: Path) -> std.Model:
    return std.load_model(models / "dev")


def prompt(model: std.Model, text: str | None = cases.PROMPT, **options: Any) -> std.Conditioning:
    return std.encode_prompt(model, text, max_sequence_length=64, **options)


def control(models: Path, name: str = "one", **options: Any) -> std.Control:
    return std.apply_controlnet(std.load_controlnet(models / name), images.from_pil(cases.edges()), **options)


def changed(models: Path, folder: Path, part: str, **changes: Any) -> Path:
    """`dev` with another configuration of one part: a component, or its scheduler."""
    folder.mkdir()
    for one in (models / "dev").iterdir():
        (folder / one.name).symlink_to(one)
    (folder / part).unlink()
    (folder / part).mkdir()
    for file in (models / "dev" / part).iterdir():
        if file.name in ("config.json", "scheduler_config.json"):
            (folder / part / file.name).write_text(json.dumps(json.loads(file.read_text()) | changes))
        else:
            (folder / part / file.name).symlink_to(file)
    return folder


# --- what it is -------------------------------------------------------------------------------------------------------


def test_dev_and_schnell_have_their_own_defaults(models: Path, tmp_path: Path) -> None:
    def settings(name: str) -> dict[str, Any]:
        folder = tmp_path / name
        folder.mkdir()
        for one in (models / name).iterdir():
            if one.name != "defaults.json":
                (folder / one.name).symlink_to(one)
        return dict(std.load_model(folder).settings)

    common = {"width": 1024, "height": 1024, "factor": 8, "multiple": 16, "latent_channels": 16}
    assert settings("dev") == common | {"steps": 28, "guidance_scale": 3.5, "max_sequence_length": 512}
    assert settings("schnell") == common | {"steps": 4, "guidance_scale": 0.0, "max_sequence_length": 256}


def test_a_transformer_of_no_known_variant_is_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"takes 200 channels; those of FLUX\.1 take one of 64, 384, 128"):
        std.load_model(changed(models, tmp_path / "strange", "transformer", in_channels=200))


def test_its_successor_is_another_family(models: Path, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "Flux3Pipeline"}))
    with pytest.raises(ModelError, match="holds a Flux3Pipeline; known families are"):
        std.load_model(tmp_path)


def test_what_belongs_to_another_family_is_refused(models: Path, dev: std.Model, tmp_path: Path) -> None:
    lora = std.load_lora(testing.lora(tmp_path / "other.safetensors"))
    with pytest.raises(ModelError, match=r"other\.safetensors is a LoRA for stable_diffusion or stable_diffusion_xl"):
        std.apply_lora(dev, lora)
    edges = std.apply_controlnet(std.load_controlnet("tiny-canny"), images.from_pil(cases.edges()))
    with pytest.raises(ValueError, match="a ControlNet of stable_diffusion cannot steer"):
        std.sample(dev, prompt(dev), control=edges, steps=1)
    with pytest.raises(ModelError, match=r"wide\.safetensors is a LoRA for .*\bflux\b"):
        std.apply_lora(std.load_model("tiny"), std.load_lora(models / "wide.safetensors"))


def test_half_precision_leaves_the_layers_that_overflow_whole(models: Path) -> None:
    model = std.load_model(models / "dev", precision="float16")
    with store.component(model, "text_encoder_2", "cpu") as encoder:
        kinds = {name.split(".")[-2]: parameter.dtype for name, parameter in encoder.named_parameters()}
    assert kinds.pop("wo") == torch.float32
    assert set(kinds.values()) == {torch.float16}


# --- what it takes ----------------------------------------------------------------------------------------------------


def test_a_negative_prompt_is_ignored_without_true_guidance_and_told_of_once(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "told-of-once").symlink_to(models / "dev")
    model = std.load_model(tmp_path / "told-of-once")
    positive, negative = prompt(model), prompt(model, "a green tree")
    plain = std.sample(model, positive).samples
    with caplog.at_level(logging.WARNING):
        found = [std.sample(model, positive, negative=negative).samples for _ in range(2)]
    assert all(torch.equal(one, plain) for one in found)
    assert [r.message for r in caplog.records if "negative" in r.message] == [
        "told-of-once takes no negative prompt without true_cfg_scale over 1: it is ignored"
    ]
    guided = std.sample(model, positive, negative=negative, arguments={"true_cfg_scale": 2.0}).samples
    assert not torch.equal(guided, plain)
    absent = std.sample(model, positive, negative=prompt(model, None), arguments={"true_cfg_scale": 2.0}).samples
    assert torch.equal(absent, plain)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 72, "height": 64}, "width is 72, but must be a multiple of 16"),
        ({"scheduler": "DDIMScheduler"}, "DDIMScheduler is of the wrong kind for flux"),
        ({"scheduler": "FlowMatchHeunDiscreteScheduler"}, "is of the wrong kind for flux"),
        ({"scheduler": "FlowMatchEulerDiscreteSheduler"}, "did you mean FlowMatchEulerDiscreteScheduler"),
        ({"timestep_spacing": "trailing"}, "has no timestep spacing"),
        ({"guidance_rescale": 0.5}, "takes no guidance_rescale"),
        ({"arguments": {"true_cfg": 2.0}}, "takes no true_cfg; did you mean true_cfg_scale"),
    ],
)
def test_what_it_cannot_do_is_refused(dev: std.Model, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        std.sample(dev, prompt(dev), **arguments)


def test_a_scheduler_that_draws_from_no_seed_is_refused(models: Path, tmp_path: Path) -> None:
    model = std.load_model(changed(models, tmp_path / "stochastic", "scheduler", stochastic_sampling=True))
    with pytest.raises(ValueError, match="draws noise that no seed decides"):
        std.sample(model, prompt(model))


def test_prompts_that_it_cannot_read_are_refused(dev: std.Model) -> None:
    with pytest.raises(ValueError, match="leave clip_skip out"):
        prompt(dev, clip_skip=1)
    with pytest.raises(ValueError, match="reads prompts of a fixed length"):
        std.encode_prompt(std.load_model("tiny"), "a red circle", max_sequence_length=64)
    with pytest.raises(ValueError, match="needs a pooled embedding"):
        std.sample(dev, std.Conditioning(prompt(dev).embeds, "flux"))


def test_controls_that_it_does_not_have_are_refused(models: Path, dev: std.Model) -> None:
    text, start = prompt(dev), std.encode_image(dev, images.from_pil(cases.picture()))
    with pytest.raises(ValueError, match="no guess mode"):
        std.sample(dev, text, control=control(models, guess=True))
    with pytest.raises(ValueError, match="union ControlNet: give apply_controlnet the mode, 0 to 2, which says"):
        std.sample(dev, text, control=control(models, "union"))
    with pytest.raises(ValueError, match="union ControlNet: give apply_controlnet its mode, 0 to 2"):
        std.sample(dev, text, control=control(models, "union"), arguments={"control_mode": 3})
    with pytest.raises(ValueError, match="is no union ControlNet"):
        std.sample(dev, text, control=control(models), arguments={"control_mode": 1})
    with pytest.raises(ValueError, match="2 kinds for 1 ControlNets"):
        std.sample(dev, text, control=control(models, "union"), arguments={"control_mode": [1, 2]})
    with pytest.raises(ValueError, match="FLUX takes no true_cfg_scale"):
        std.sample(dev, text, latent=start, control=control(models), arguments={"true_cfg_scale": 2.0})
    two = [control(models, "union"), control(models, "union")]
    with pytest.raises(ValueError, match="one picture at a time"):
        std.sample(dev, text, latent=start, control=two, arguments={"control_mode": [1, 2]}, seed=[1, 2])


def test_a_union_controlnet_steers_several_pictures_at_once(models: Path, dev: std.Model) -> None:
    start = std.encode_image(dev, images.from_pil(cases.picture()))
    common: dict[str, Any] = {"control": control(models, "union"), "arguments": {"control_mode": 1}, "latent": start}
    both = std.sample(dev, prompt(dev), seed=[3, 4], **common).samples
    for index, seed in enumerate((3, 4)):
        assert torch.allclose(both[index], std.sample(dev, prompt(dev), seed=seed, **common).samples[0], atol=1e-5)


# --- latents ----------------------------------------------------------------------------------------------------------


def test_latents_are_unpacked_between_nodes(dev: std.Model) -> None:
    latent = std.sample(dev, prompt(dev), width=96, height=48)
    assert latent.samples.shape == (1, 16, 6, 12)
    shown: list[tuple[int, ...]] = []

    def step(pipe: Any, index: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        shown.append(tuple(tensors["latents"].shape))
        return {}

    same = std.sample(dev, prompt(dev), width=96, height=48, arguments={"callback_on_step_end": step})
    assert torch.equal(same.samples, latent.samples)
    assert shown == [(1, 18, 64)] * 2  # as the pipeline has them
    again = std.sample(dev, prompt(dev), latent=latent, strength=0.5, steps=2)
    assert again.samples.shape == latent.samples.shape
    assert not torch.equal(again.samples, latent.samples)
    assert std.decode_latent(dev, latent).size == (96, 48)


# --- keys -------------------------------------------------------------------------------------------------------------


def test_what_a_part_depends_on_is_in_its_digest(models: Path, tmp_path: Path, dev: std.Model) -> None:
    other = std.replace_vae(dev, changed(models, tmp_path / "vae", "vae", scaling_factor=0.5) / "vae")
    assert other.digest("text_encoder") == dev.digest("text_encoder")
    assert other.digest("vae") != dev.digest("vae")
    assert other.digest("denoiser") != dev.digest("denoiser")  # which encodes control pictures
    assert dev.with_options(tiling=True).digest("denoiser") != dev.digest("denoiser")
    lora = std.apply_lora(dev, std.load_lora(models / "wide.safetensors"))
    assert lora.digest("vae") == dev.digest("vae")
    assert lora.digest("text_encoder") == dev.digest("text_encoder")


def test_the_length_of_prompts_is_in_the_text_encoders_digest(models: Path, tmp_path: Path) -> None:
    digests = []
    for length in (64, 48):
        folder = tmp_path / str(length)
        folder.mkdir()
        for one in (models / "dev").iterdir():
            if one.name != "defaults.json":
                (folder / one.name).symlink_to(one)
        (folder / "defaults.json").write_text(json.dumps({"max_sequence_length": length, "width": 64}))
        model = std.load_model(folder)
        assert std.encode_prompt(model, "a red circle").embeds.shape[1] == length
        digests.append(model.digest("text_encoder"))
    assert digests[0] != digests[1]


# --- many at once -----------------------------------------------------------------------------------------------------


def test_runs_at_the_same_time_do_not_disturb_each_other(models: Path, dev: std.Model) -> None:
    def run(text: str, lora: bool) -> torch.Tensor:
        model = std.apply_lora(dev, std.load_lora(models / "words.safetensors"), 0.7) if lora else dev
        return std.sample(model, prompt(model, text), steps=1, seed=3).samples

    calls = [(text, lora) for text in ("a red circle", "a tree", f"{cases.PROMPT}, longer") for lora in (False, True)]
    expected = {call: run(*call) for call in calls}
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda call: run(*call), calls * 4))
    assert all(torch.equal(one, expected[call]) for one, call in zip(found, calls * 4, strict=True))
