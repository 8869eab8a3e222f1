"""Scripts written against the original multigen run: its names, attributes and keys, on local models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import PIL.Image
import pytest
import torch
from graphengine_nodes.testing import sd as testing
from graphengine_nodes.weights.files import TINY

from multigen import (
    Cfgen,
    CIm2ImPipe,
    Cond2ImPipe,
    GenSession,
    Im2ImPipe,
    Loader,
    MaskedIm2ImPipe,
    ModelType,
    Prompt2ImPipe,
)
from multigen.pipes import InpaintingPipe, add_scheduler, canny_processor, get_diffusion_scheduler_names
from multigen.util import plain

PROMPT, LORA = "a red circle on a blue background", str(TINY / "lora" / "blueprint.safetensors")
SMALL: dict[str, Any] = {"width": 48, "height": 40, "steps": 2}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints as a user has them: a folder, a single file with its configurations beside it, ControlNets."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "sd").symlink_to(TINY / "model")
    testing.single_file(folder / "sd.safetensors")
    testing.controlnet(folder / "models-cn" / "sd-controlnet-canny", seed=1)
    testing.controlnet(folder / "elsewhere" / "my-net", seed=2)
    testing.hypernetwork(folder / "hyper.pt")
    return folder


@pytest.fixture
def _folder(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)


pytestmark = pytest.mark.usefixtures("_folder")


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(pipe: Any, seed: int = 1, **inputs: Any) -> np.ndarray[Any, Any]:
    return np.asarray(pipe.gen({"prompt": PROMPT, "generator": generator(seed), **inputs}))


def prompt_pipe(*args: Any, **named: Any) -> Prompt2ImPipe:
    pipe = Prompt2ImPipe(*(args or ("sd",)), **named)
    pipe.setup(**SMALL)
    return pipe


@pytest.fixture(scope="module")
def photo() -> PIL.Image.Image:
    coarse = np.random.default_rng(0).integers(0, 255, (4, 5, 3), np.uint8)
    return PIL.Image.fromarray(coarse).resize((52, 36), PIL.Image.Resampling.BICUBIC)


# --- pipes ------------------------------------------------------------------------------------------------------------


def test_parameters_have_the_names_of_diffusers() -> None:
    pipe = Prompt2ImPipe("sd", model_type=ModelType.SD)
    pipe.setup(width=48, height=40, steps=5, guidance_scale=6, clip_skip=1)
    expected = {"num_inference_steps": 5, "guidance_scale": 6, "width": 48, "height": 40, "clip_skip": 1}
    assert expected.items() <= pipe.pipe_params.items()
    assert (pipe.model_id, pipe.model_type, pipe.lpw, pipe.hypernets) == ("sd", ModelType.SD, False, [])
    assert (pipe.offload_gpu_id, pipe.pad, pipe._loras) == (None, 8, [])
    assert [kind.value for kind in (ModelType.SD, ModelType.SDXL, ModelType.FLUX)] == [1, 2, 3]
    assert made(pipe).shape == (40, 48, 3)
    assert made(pipe, width=56).shape == (40, 56, 3)  # inputs go before parameters


def test_pipe_is_a_pipeline_of_diffusers() -> None:
    pipe = prompt_pipe()
    assert isinstance(pipe.pipe, Prompt2ImPipe._class)
    assert pipe.pipe.device == torch.device("cpu") or torch.cuda.is_available()
    assert {"unet", "vae", "scheduler", "text_encoder"} <= pipe.pipe.components.keys()
    assert pipe.pipe.vae.config.latent_channels == 4
    assert Im2ImPipe._classxl is diffusers.StableDiffusionXLImg2ImgPipeline
    assert Prompt2ImPipe._classflux is diffusers.FluxPipeline
    assert Prompt2ImPipe._autopipeline is diffusers.AutoPipelineForText2Image


def test_configuration_keys() -> None:
    pipe = prompt_pipe()
    pipe.load_lora(LORA, 0.5)
    pipe.add_hypernet("hyper.pt", 0.7)
    config = pipe.get_config()
    assert {"hypernetworks", "model_id", "scheduler", "loras", "dtype", *pipe.pipe_params} <= config.keys()
    assert config["scheduler"]["class_name"] == "DDIMScheduler"
    assert [tuple(one) for one in config["loras"]] == [(LORA, 0.5)]
    assert [tuple(one) for one in config["hypernetworks"]] == [("hyper.pt", 0.7)]
    assert json.loads(json.dumps(plain(config)))["num_inference_steps"] == 2
    pipe.clear_hypernets()
    assert pipe.get_config()["hypernetworks"] == []


def test_lists_of_prompts_and_generators() -> None:
    pipe, bare = prompt_pipe(), diffusers.StableDiffusionPipeline.from_pretrained("sd")
    bare.set_progress_bar_config(disable=True)
    prompts = [PROMPT, "a blue house", "a green tree"]
    found = pipe.gen({"prompt": prompts, "generator": [generator(i) for i in range(3)], "negative_prompt": ["a"] * 3})
    expected = bare(
        prompts, negative_prompt=["a"] * 3, generator=[generator(i) for i in range(3)], width=48, height=40,
        num_inference_steps=2, guidance_scale=7.5,
    ).images  # fmt: skip
    assert isinstance(found, list)
    assert len(found) == 3
    assert all(isinstance(one, PIL.Image.Image) for one in found)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    with pytest.raises(ValueError, match="2 generators for 3 pictures"):
        pipe.gen({"prompt": prompts, "generator": [generator(), generator()]})


def test_with_session(tmp_path: Path) -> None:
    pipe = prompt_pipe()
    pipe.load_lora(LORA, 0.8)
    seeds = [2**32 + 5, 7, 2**47]
    GenSession(tmp_path / "batch", pipe, Cfgen(PROMPT, "blur", seeds=seeds)).gen_sess(batch_size=2)
    assert len(list((tmp_path / "batch").iterdir())) == 6
    session = GenSession(tmp_path / "alone", pipe, Cfgen(PROMPT, "blur", seeds=seeds))
    pictures = session.gen_sess(force_collect=True)
    assert pictures is not None
    for number, seed in enumerate(seeds):
        config = json.loads((tmp_path / "alone" / f"0000{number}.txt").read_text())
        assert config["generator"] == seed
        assert config["scheduler"]["class_name"] == "DDIMScheduler"
        again = made(pipe, seed, negative_prompt="blur")
        assert np.array_equal(again, PIL.Image.open(tmp_path / "alone" / f"0000{number}.png"))
        assert np.array_equal(again, pictures[number])
        together = np.asarray(PIL.Image.open(tmp_path / "batch" / f"0000{number}.png")).astype(int)
        assert np.abs(again - together).max() <= 2  # several at once differ in the last bits


def test_a_session_of_a_masked_pipe_writes_json(tmp_path: Path, photo: PIL.Image.Image) -> None:
    mask = np.zeros((36, 52), np.uint8)
    mask[8:20, 8:30] = 255
    pipe = MaskedIm2ImPipe("sd")
    pipe.setup(image=photo, mask=mask, steps=2)
    GenSession(tmp_path, pipe, Cfgen(PROMPT, seeds=[1], mask_image=mask)).gen_sess(save_metadata=True)
    config = json.loads((tmp_path / "00000.txt").read_text())
    assert config["strength"] == 0.75
    assert config["mask_image"] == "ndarray 36 x 52 uint8"


# --- LoRAs, prompts, hypernetworks ------------------------------------------------------------------------------------


def test_loras_change_only_their_pipe() -> None:
    plain_, styled = prompt_pipe(), prompt_pipe()
    expected = made(plain_)
    styled.load_lora(LORA)
    first = made(styled)
    assert not np.array_equal(first, expected)
    assert np.array_equal(made(plain_), expected)
    assert np.array_equal(made(styled, cross_attention_kwargs={"scale": 0.0}), expected)
    listed = Prompt2ImPipe("sd")
    listed.setup(loras=[LORA], **SMALL)
    assert np.array_equal(made(listed), first)
    listed.setup(**SMALL)
    assert np.array_equal(made(listed), expected)


def test_hypernetworks_are_added_and_cleared() -> None:
    pipe = prompt_pipe()
    expected = made(pipe)
    pipe.add_hypernet("hyper.pt")
    assert not np.array_equal(made(pipe), expected)
    pipe.clear_hypernets()
    assert np.array_equal(made(pipe), expected)


def test_the_tail_of_a_long_prompt_counts_with_lpw_alone() -> None:
    long = "a red circle " * 40
    tails = [long + "on a blue background", long + "on a green background"]
    for lpw in (False, True):
        pipe = prompt_pipe("sd", lpw=lpw)
        assert pipe.lpw is lpw
        one, other = (np.asarray(pipe.gen({"prompt": tail, "generator": generator()})) for tail in tails)
        assert np.array_equal(one, other) is not lpw
    assert len(prompt_pipe("sd", lpw=True).get_prompt_embeds(tails[0], "blur", 1)) == 2


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_image_to_image(photo: PIL.Image.Image, tmp_path: Path) -> None:
    photo.save(tmp_path / "a.png")
    pipe = Im2ImPipe("sd")
    pipe.setup(str(tmp_path / "a.png"), strength=0.6, steps=3, guidance_scale=3.3)
    assert pipe.get_config()["source_image"] == str(tmp_path / "a.png")
    assert pipe.pipe_params["strength"] == 0.6
    by_path = made(pipe)
    assert by_path.shape == (36, 52, 3)
    pipe.setup(None, image=photo, strength=0.6, steps=3, guidance_scale=3.3)
    assert np.array_equal(made(pipe), by_path)
    with pytest.raises(ValueError, match="setup needs a picture"):
        pipe.setup(None)


def test_masked(photo: PIL.Image.Image) -> None:
    painted = np.array(photo)
    painted[10:20, 10:30] = 10, 20, 200
    pipe = InpaintingPipe("sd")
    assert isinstance(pipe, MaskedIm2ImPipe)
    pipe.setup(
        image=photo, image_painted=painted, strength=0.9, steps=4, blur=2, blur_compose=1,
        scheduler="EulerAncestralDiscreteScheduler",
    )  # fmt: skip
    difference = np.abs(made(pipe).astype(int) - np.asarray(photo)).max(axis=-1)
    assert difference[12:18, 12:28].mean() > 5
    assert difference[:, 40:].max() == 0


def test_control(photo: PIL.Image.Image) -> None:
    pipe = CIm2ImPipe("sd", model_type=ModelType.SD, ctypes=["canny"])
    pipe.setup(None, image=photo, cscales=[1.0], steps=2, guidance_scale=4)
    steered = made(pipe)
    assert steered.shape == (36, 52, 3)
    assert "strength" not in pipe.pipe_params
    edges = canny_processor(photo)
    given = Cond2ImPipe("sd", ctypes=["canny"])
    given.setup(None, image=edges, cscales=[1.0], steps=2, guidance_scale=4)
    assert np.array_equal(made(given), steered)
    config = given.get_config()
    assert config["control_type"] == ["canny"]
    assert "source_image" in config


def test_which_controlnet(photo: PIL.Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Cond2ImPipe.cpath, Cond2ImPipe.cpathxl, Cond2ImPipe.cpathflux) == (
        "./models-cn/", "./models-cn-xl/", "./models-cn-flux/",
    )  # fmt: skip
    assert Cond2ImPipe.cmodels["canny"] == "sd-controlnet-canny"
    assert Cond2ImPipe.cmodelsxl["canny"] == "controlnet-canny-sdxl"
    assert (Cond2ImPipe.cond_scales_defaults["soft"], Cond2ImPipe.cond_scales_defaults_xl["qr"]) == (0.95, 0.5)

    def steered(**named: Any) -> np.ndarray[Any, Any]:
        pipe = Cond2ImPipe("sd", **named)
        pipe.setup(None, image=photo, steps=2)
        return made(pipe)

    by_table, by_path = steered(ctypes="canny"), steered(ctypes="canny", cnet_ids=["elsewhere/my-net"])
    assert not np.array_equal(by_table, by_path)
    loaded = diffusers.ControlNetModel.from_pretrained("elsewhere/my-net")
    assert np.array_equal(steered(ctypes="canny", cnets=[loaded]), by_path)
    monkeypatch.setattr(Cond2ImPipe, "cpath", "./elsewhere/")
    monkeypatch.setattr(Cond2ImPipe, "cmodels", {"canny": "my-net"})
    assert np.array_equal(steered(ctypes="canny"), by_path)


# --- schedulers -------------------------------------------------------------------------------------------------------


def test_schedulers() -> None:
    pipe = prompt_pipe()
    own = made(pipe)
    pipe.setup(scheduler="EulerAncestralDiscreteScheduler", **SMALL)
    assert pipe.get_config()["scheduler"]["class_name"] == "EulerAncestralDiscreteScheduler"
    assert type(pipe.pipe.scheduler) is diffusers.EulerAncestralDiscreteScheduler
    named = made(pipe)
    assert not np.array_equal(named, own)
    inputs = {"prompt": PROMPT, "generator": generator(), "scheduler": "EulerAncestralDiscreteScheduler"}
    other = prompt_pipe()
    assert np.array_equal(other.gen(inputs), named)
    assert inputs["scheduler"] == "EulerAncestralDiscreteScheduler"  # the caller's dictionary is the caller's
    assert "DPMSolverMultistepScheduler" in get_diffusion_scheduler_names()
    with pytest.raises(ValueError, match="did you mean DDIMScheduler"):
        pipe.setup(scheduler="DDIMSheduler", **SMALL)


def test_a_scheduler_set_on_the_pipeline_is_used() -> None:
    named = Prompt2ImPipe("sd")
    named.setup(scheduler="DPMSolverMultistepScheduler", **SMALL)
    by_hand, added, tried = prompt_pipe(), prompt_pipe(), prompt_pipe()
    own = made(by_hand)
    by_hand.pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(by_hand.pipe.scheduler.config)
    add_scheduler(added.pipe, None)
    tried.try_set_scheduler({"scheduler": "DPMSolverMultistepScheduler"})
    expected = made(named)
    assert not np.array_equal(expected, own)
    for pipe in (by_hand, added, tried):
        assert np.array_equal(made(pipe), expected)
    assert by_hand.get_config()["scheduler"]["class_name"] == "DPMSolverMultistepScheduler"


# --- weights ----------------------------------------------------------------------------------------------------------


def test_single_files() -> None:
    expected = made(prompt_pipe())
    single = Prompt2ImPipe("sd.safetensors", model_type=ModelType.SD)
    single.setup(**SMALL)
    assert np.array_equal(made(single), expected)
    with pytest.raises(RuntimeError, match="type SD, not SDXL"):
        Prompt2ImPipe("sd.safetensors", model_type=ModelType.SDXL)


def test_pipes_share_weights_with_each_other_and_the_loader() -> None:
    one, other = prompt_pipe(), Im2ImPipe("sd")
    loaded = Loader().load_pipeline(diffusers.StableDiffusionPipeline, "sd", torch_dtype=torch.float32, device="cpu")
    for name in ("unet", "vae", "text_encoder"):
        parts = [getattr(pipe, name) for pipe in (one.pipe, other.pipe, loaded)]
        assert len({next(part.parameters()).data_ptr() for part in parts}) == 1
        assert len({id(part) for part in parts}) == 3


def test_a_loaded_pipeline_is_used() -> None:
    loaded = Loader().load_pipeline(diffusers.StableDiffusionPipeline, "sd", torch_dtype=torch.float32, device="cpu")
    pipe = prompt_pipe("a label", pipe=loaded)
    assert pipe.pipe is loaded
    assert pipe.model_id == "a label"
    assert np.array_equal(made(pipe), made(prompt_pipe()))
    made_elsewhere = diffusers.StableDiffusionPipeline.from_pretrained("sd")
    assert np.array_equal(made(prompt_pipe("another", pipe=made_elsewhere)), made(prompt_pipe()))


def test_what_is_done_to_the_pipeline_counts() -> None:
    expected, styled = made(prompt_pipe()), prompt_pipe()
    styled.load_lora(LORA)
    pipe = prompt_pipe()
    pipe.pipe.load_lora_weights(LORA)
    assert np.array_equal(made(pipe), made(styled))
    pipe.pipe.unload_lora_weights()
    assert np.array_equal(made(pipe), expected)
    with torch.no_grad():
        pipe.pipe.unet = diffusers.UNet2DConditionModel.from_pretrained("sd/unet")
        pipe.pipe.unet.conv_out.weight *= 0.5
    assert not np.array_equal(made(pipe), expected)
    assert np.array_equal(made(prompt_pipe()), expected)


def test_arguments_of_from_pretrained() -> None:
    vae = diffusers.AutoencoderKL.from_pretrained("sd/vae")
    pipe = prompt_pipe("sd", torch_dtype=torch.bfloat16, safety_checker=None, variant=None, vae=vae)
    assert pipe.get_config()["dtype"] == "torch.bfloat16"
    assert pipe.pipe.vae is vae
    assert made(prompt_pipe("sd", torch_dtype=torch.bfloat16)).shape == (40, 48, 3)


def test_seeds_and_generators_go_on() -> None:
    pipe, ours, theirs = prompt_pipe(), generator(), generator()
    first, second = (np.asarray(pipe.gen({"prompt": PROMPT, "generator": ours})) for _ in range(2))
    assert not np.array_equal(first, second)
    again = [np.asarray(pipe.gen({"prompt": PROMPT, "generator": theirs})) for _ in range(2)]  # from memory
    assert np.array_equal(again, [first, second])
    assert np.array_equal(pipe.gen({"prompt": PROMPT, "seed": 1}), first)
    assert not np.array_equal(pipe.gen({"prompt": PROMPT}), pipe.gen({"prompt": PROMPT}))
