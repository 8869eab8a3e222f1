"""Pipe classes over SDXL and FLUX make the pictures of diffusers' own pipelines."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import PIL.Image
import pytest
import torch
from graphengine_nodes.testing import flux as testing_flux
from graphengine_nodes.testing import sdxl as testing_xl

import multigen.pipes as pipes
from graphengine import ModelError
from multigen import CIm2ImPipe, Cond2ImPipe, Im2ImPipe, InpaintingPipe, ModelType, Prompt2ImPipe
from tests.multigen.test_pipes import NEGATIVE, PROMPT, generator, picture, same


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flux")
    testing_flux.flux_model(folder / "model")
    testing_flux.flux_controlnet(folder / "controlnet")
    return folder


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("xl")
    testing_xl.xl_model(folder / "model")
    testing_xl.xl_controlnet(folder / "controlnet")
    return folder


def bare(name: str, model: Path, **parts: Any) -> Any:
    pipe = getattr(diffusers, name).from_pretrained(model, **parts)
    pipe.set_progress_bar_config(disable=True)
    pipe.vae.enable_tiling()
    return pipe


def test_flux_text_and_image(flux: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = flux / "model"
    pipe: Any = Prompt2ImPipe(model, model_type=ModelType.FLUX)
    pipe.setup(width=64, height=48, steps=2, clip_skip=1)
    given = {"prompt": PROMPT, "negative_prompt": NEGATIVE}
    reference = bare("FluxPipeline", model)
    common: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 7.5}
    size = {"width": 64, "height": 48}
    expected = reference(PROMPT, generator=generator(), **size, **common).images
    with caplog.at_level(logging.WARNING, "multigen"):
        assert same(pipe.gen({**given, "generator": generator()}), expected)
        assert same(pipe.gen({**given, "generator": generator()}), expected)
    assert caplog.text.count("FLUX has no negative prompt") == 1
    expected = reference(
        **given, true_cfg_scale=2.0, prompt_2="a house", generator=generator(), **size, **common
    ).images
    assert same(pipe.gen({**given, "true_cfg_scale": 2.0, "prompt_2": "a house", "generator": generator()}), expected)

    pipe = Im2ImPipe(model)
    pipe.setup(picture(), strength=0.6, steps=4, scheduler="FlowMatchHeunDiscreteScheduler")
    reference = bare("FluxImg2ImgPipeline", model)
    expected = pipe.gen({"prompt": PROMPT, "generator": generator(), "scheduler": "FlowMatchEulerDiscreteScheduler"})
    common["num_inference_steps"] = 4
    assert same(
        expected,
        reference(PROMPT, image=picture(), strength=0.6, generator=generator(), width=64, height=64, **common).images,
    )
    with pytest.raises(ValueError, match="wrong kind"):
        pipe.gen({"prompt": PROMPT, "scheduler": "DDIMScheduler"})


def test_flux_control(flux: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, net = flux / "model", diffusers.FluxControlNetModel.from_pretrained(flux / "controlnet")
    control = pipes.canny_processor(picture())
    common: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 3.0, "width": 64, "height": 64}
    reference = bare("FluxControlNetImg2ImgPipeline", model, controlnet=net)
    expected = reference(
        PROMPT, image=picture(), control_image=control, strength=0.75, controlnet_conditioning_scale=0.8,
        generator=generator(), **common,
    ).images  # fmt: skip
    pipe = CIm2ImPipe(model, ctypes=["canny"], cnet_ids=[flux / "controlnet"])
    pipe.setup(picture(), steps=3, guidance_scale=3.0)
    assert pipe.pipe_params["strength"] == 0.75
    assert same(pipe.gen({"prompt": PROMPT, "generator": generator()}), expected)
    monkeypatch.setattr(Cond2ImPipe, "cpathflux", str(flux))
    ready = Cond2ImPipe(model, ctypes="canny", cnet_ids="controlnet")
    ready.setup(control, steps=3, guidance_scale=3.0, strength=0.75)
    given = {"prompt": PROMPT, "generator": generator()}
    assert same(ready.gen({**given, "image": picture(), "control_image": control}), expected)
    with pytest.raises(ModelError, match="cnet_ids"):
        CIm2ImPipe(model, ctypes=["canny"]).setup(picture())


def test_flux_masked(flux: Path) -> None:
    mask = PIL.Image.new("L", (50, 60))
    mask.paste(255, (10, 10, 30, 30))
    pipe = InpaintingPipe(flux / "model")
    pipe.setup(picture(50, 60), mask=mask, steps=3)
    found = pipe.gen({"prompt": PROMPT, "generator": torch.Generator()})
    assert found.size == (50, 60)
    assert not same(found, [picture(50, 60)])


def test_xl_text_and_image(xl: Path) -> None:
    model = xl / "model"
    pipe: Any = Prompt2ImPipe(model, model_type=ModelType.SDXL)
    pipe.setup(width=64, height=48, steps=2, clip_skip=1)
    reference = bare("StableDiffusionXLPipeline", model)
    common: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 7.5, "width": 64, "height": 48}
    further: dict[str, Any] = {"prompt_2": "a house", "original_size": (80, 90), "denoising_end": 0.9}
    for given in ({"negative_prompt": NEGATIVE, **further}, {}):
        expected = reference(PROMPT, **given, clip_skip=1, generator=generator(), **common).images
        assert same(pipe.gen({"prompt": PROMPT, **given, "generator": generator()}), expected)
    embeds = reference.encode_prompt(PROMPT, negative_prompt=NEGATIVE)
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    given = dict(zip(names, embeds, strict=True))
    expected = reference(**given, generator=generator(), **common).images
    assert same(pipe.gen({**given, "generator": generator()}), expected)

    pipe = Im2ImPipe(model)
    pipe.setup(picture(), strength=0.6, steps=4, guidance_scale=5.0)
    common = {"num_inference_steps": 4, "guidance_scale": 5.0, "strength": 0.6}
    expected = bare("StableDiffusionXLImg2ImgPipeline", model)(PROMPT, image=picture(), generator=generator(), **common)
    assert same(pipe.gen({"prompt": PROMPT, "generator": generator()}), expected.images)
    long = Prompt2ImPipe(model, lpw=True)
    long.setup(width=64, height=64, steps=1)
    assert long.gen({"prompt": "a (red:1.3) circle " * 40, "negative_prompt": NEGATIVE}).size == (64, 64)


def test_xl_control_and_masks(xl: Path) -> None:
    model, net = xl / "model", diffusers.ControlNetModel.from_pretrained(xl / "controlnet")
    control = pipes.canny_processor(picture())
    common: dict[str, Any] = {"num_inference_steps": 3, "controlnet_conditioning_scale": 0.75}
    pipe: Any = CIm2ImPipe(model, ctypes=["canny"], cnets=net)
    pipe.setup(picture(), steps=3)
    expected = bare("StableDiffusionXLControlNetPipeline", model, controlnet=net)(
        PROMPT, image=control, width=64, height=64, generator=generator(), **common
    ).images
    assert same(pipe.gen({"prompt": PROMPT, "generator": generator()}), expected)
    pipe.setup(picture(), steps=3, strength=0.7)
    expected = bare("StableDiffusionXLControlNetImg2ImgPipeline", model, controlnet=net)(
        PROMPT, image=picture(), control_image=control, strength=0.7, generator=generator(), **common
    ).images
    assert same(pipe.gen({"prompt": PROMPT, "generator": generator()}), expected)
    pipe = InpaintingPipe(model)
    pipe.setup(picture(50, 60), mask=np.eye(60, 50), steps=3, sample_mode="random")
    assert pipe.gen({"prompt": PROMPT}).size == (50, 60)
    with pytest.raises(ModelError, match="steers models of type SDXL"):
        CIm2ImPipe("tiny", ctypes=["canny"], cnet_ids=xl / "controlnet").setup(picture())
