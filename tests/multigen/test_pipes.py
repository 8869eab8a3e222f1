"""Pipe classes make pictures that are bit-identical to those of diffusers' own pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import PIL.Image
import pytest
import torch
from graphengine_nodes.weights.files import TINY

import multigen.pipes as pipes
from graphengine import Store, load
from graphengine.show.draw import svg
from graphengine.testing import Recorder
from multigen import CIm2ImPipe, CInpaintingPipe, Cond2ImPipe, Im2ImPipe, InpaintingPipe, MaskedIm2ImPipe, Prompt2ImPipe

PROMPT, NEGATIVE = "a red circle on a blue background", "a green tree"


def generator(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(width: int = 64, height: int = 64, seed: int = 0) -> PIL.Image.Image:
    """A smooth one, with edges in it."""
    random = np.random.default_rng(seed)
    small = PIL.Image.fromarray(random.integers(0, 255, (5, 6, 3), dtype=np.uint8))
    large = small.resize((width, height), PIL.Image.Resampling.BICUBIC)
    large.paste((200, 30, 30), (width // 4, height // 4, width // 2, height // 2))
    return large


def bare(name: str, **parts: Any) -> Any:
    """A pipeline of diffusers over `tiny`, with tiling as Pipe classes have it."""
    pipe = getattr(diffusers, name).from_pretrained(TINY / "model", **parts)
    pipe.set_progress_bar_config(disable=True)
    pipe.vae.enable_tiling()
    return pipe


@pytest.fixture(scope="module")
def canny() -> Any:
    return diffusers.ControlNetModel.from_pretrained(TINY / "controlnet")


def same(ours: Any, theirs: list[PIL.Image.Image]) -> bool:
    return len(ours) == len(theirs) and all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


# --- as diffusers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", [None, "EulerAncestralDiscreteScheduler"])
def test_text_to_image(scheduler: str | None) -> None:
    pipe = Prompt2ImPipe("tiny")
    pipe.setup(width=72, height=64, steps=3, guidance_scale=6, scheduler=scheduler)
    reference = bare("StableDiffusionPipeline")
    if scheduler:
        reference.scheduler = getattr(diffusers, scheduler).from_config(reference.scheduler.config)
    mine, theirs = generator(), generator()
    ours = pipe.gen({"prompt": PROMPT, "negative_prompt": NEGATIVE, "generator": mine})
    expected = reference(
        PROMPT, negative_prompt=NEGATIVE, width=72, height=64, num_inference_steps=3, guidance_scale=6, generator=theirs
    ).images
    assert same(ours, expected)
    assert torch.equal(mine.get_state(), theirs.get_state())
    assert ours.size == (72, 64)


def test_tiled_as_the_reference_is() -> None:
    side = 320  # larger than one tile
    reference = bare("StableDiffusionPipeline")
    pipe = Prompt2ImPipe("tiny")
    pipe.setup(width=side, height=side, steps=1)
    expected = reference(PROMPT, width=side, height=side, num_inference_steps=1, generator=generator()).images
    assert same(pipe.gen({"prompt": PROMPT, "generator": generator()}), expected)
    reference.vae.disable_tiling()
    other = reference(PROMPT, width=side, height=side, num_inference_steps=1, generator=generator()).images
    assert not same(expected, other)


def test_image_to_image() -> None:
    pipe = Im2ImPipe("tiny")
    pipe.setup(image=picture(), strength=0.6, steps=5, guidance_scale=4)
    expected = bare("StableDiffusionImg2ImgPipeline")(
        PROMPT, image=picture(), strength=0.6, num_inference_steps=5, guidance_scale=4, generator=generator()
    ).images
    assert same(pipe.gen({"prompt": PROMPT, "generator": generator()}), expected)


def test_control_and_strength(canny: Any) -> None:
    control = pipes.canny_processor(picture())
    pipe = CIm2ImPipe("tiny", ctypes=["canny"])
    pipe.setup(image=picture(), steps=3, cscales=0.7, guidance_scale=5)
    assert "strength" not in pipe.pipe_params
    common: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 5, "controlnet_conditioning_scale": 0.7}
    expected = bare("StableDiffusionControlNetPipeline", controlnet=canny)(
        PROMPT, image=control, width=64, height=64, generator=generator(), **common
    ).images
    assert same(pipe.gen({"prompt": PROMPT, "generator": generator()}), expected)

    ready = Cond2ImPipe("tiny", ctypes="canny")
    ready.setup(image=control, steps=3, cscales=[0.7], guidance_scale=5)
    assert same(ready.gen({"prompt": PROMPT, "generator": generator()}), expected)

    pipe.setup(image=picture(), steps=3, cscales=0.7, guidance_scale=5, strength=0.7)
    assert pipe.pipe_params["strength"] == 0.7
    expected = bare("StableDiffusionControlNetImg2ImgPipeline", controlnet=canny)(
        PROMPT, image=picture(), control_image=control, strength=0.7, generator=generator(), **common
    ).images
    assert same(pipe.gen({"prompt": PROMPT, "generator": generator()}), expected)


def test_control_inpainting(canny: Any) -> None:
    mask = PIL.Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    pipe = CInpaintingPipe("tiny", cnets=canny)
    pipe.setup(image=picture(), mask_image=mask, steps=3)
    assert (pipe.pipe_params["eta"], pipe.scheduler) == (0.1, "DDIMScheduler")
    reference = bare("StableDiffusionControlNetInpaintPipeline", controlnet=canny)
    reference.scheduler = diffusers.DDIMScheduler.from_config(reference.scheduler.config)
    control = np.asarray(picture()).astype(np.float32) / 255.0
    control[np.asarray(mask) > 127] = -1.0
    expected = reference(
        PROMPT, image=picture(), mask_image=mask, control_image=torch.from_numpy(control.transpose(2, 0, 1))[None],
        num_inference_steps=3, eta=0.1, generator=generator(), controlnet_conditioning_scale=1.0,
    ).images  # fmt: skip
    assert same(pipe.gen({"prompt": PROMPT, "generator": generator()}), expected)


def test_several_pictures() -> None:
    prompts, negatives = [PROMPT, "a blue house"], [NEGATIVE, ""]
    pipe, reference = Prompt2ImPipe("tiny"), bare("StableDiffusionPipeline")
    pipe.setup(width=64, height=64, steps=2)
    common: dict[str, Any] = {"width": 64, "height": 64, "num_inference_steps": 2}
    given = {"prompt": prompts, "negative_prompt": negatives}
    generators = [generator(1), generator(2)]
    expected = reference(**given, generator=[generator(1), generator(2)], **common).images
    assert same(pipe.gen({**given, "generator": generators}), expected)
    one, other = generator(3), generator(3)
    expected = reference(**given, num_images_per_prompt=2, generator=one, **common).images
    assert same(pipe.gen({**given, "num_images_per_prompt": 2, "generator": other}), expected)
    assert torch.equal(one.get_state(), other.get_state())
    assert len(pipe.gen({"prompt": PROMPT, "generator": [1, 2, 3]})) == 3  # one prompt, a picture for each seed


def test_further_arguments() -> None:
    pipe, reference = Prompt2ImPipe("tiny"), bare("StableDiffusionPipeline")
    pipe.setup(width=64, height=64, steps=2, scheduler="DDIMScheduler")
    reference.scheduler = diffusers.DDIMScheduler.from_config(reference.scheduler.config)
    latents = torch.randn(1, 4, 8, 8, generator=generator(4))
    common: dict[str, Any] = {"prompt": PROMPT, "eta": 0.5, "guidance_rescale": 0.7, "latents": latents}
    steps: list[int] = []

    def callback(pipe: Any, index: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(index)
        return {"latents": tensors["latents"] * 0.9}

    for output in ("pil", "np", "pt", "latent"):
        given = {**common, "output_type": output, "callback_on_step_end": callback}
        expected = reference(
            **given, width=64, height=64, num_inference_steps=2, generator=generator(), guidance_scale=7.5
        ).images
        ours = pipe.gen({**given, "generator": generator()})
        assert type(ours) is type(expected) or output == "pil"
        assert np.array_equal(np.asarray(ours), np.asarray(expected[0] if output == "pil" else expected))
    assert steps == [0, 1] * 8


# --- masks ------------------------------------------------------------------------------------------------------------


def test_masked() -> None:
    original = picture(70, 61)
    painted = np.asarray(original).copy()
    painted[20:40, 20:50] = (20, 200, 20)
    pipe = MaskedIm2ImPipe("tiny")
    pipe.setup(original_image=original, image_painted=painted, strength=0.9, steps=4, blur=2, blur_compose=0)
    first = pipe.gen({"prompt": PROMPT, "seed": 84958344})
    assert first.size == (70, 61)
    outside = np.ones((61, 70), bool)
    outside[20:40, 20:50] = False
    assert np.array_equal(np.asarray(first)[outside], np.asarray(original)[outside])
    assert not np.array_equal(np.asarray(first)[~outside], np.asarray(original)[~outside])
    other = InpaintingPipe("tiny")
    common: dict[str, Any] = {"strength": 0.9, "steps": 4, "blur_compose": 0}
    other.setup(original, image_painted=PIL.Image.fromarray(painted), mask=~outside, blur=2, **common)
    assert np.array_equal(other.gen({"prompt": PROMPT, "seed": 84958344}), first)
    other.setup(original, image_painted=painted, blur=0, **common)
    assert not np.array_equal(other.gen({"prompt": PROMPT, "seed": 84958344}), first)
    other.setup(original, mask=np.zeros((61, 70)), **common)
    assert np.array_equal(other.gen({"prompt": PROMPT}), original)


# --- nothing twice ----------------------------------------------------------------------------------------------------


def test_what_is_computed() -> None:
    pipe, recorder = Prompt2ImPipe("tiny"), Recorder()
    pipe.listeners.append(recorder)
    pipe.setup(width=64, height=64, steps=2)

    def computed(**inputs: Any) -> set[str]:
        recorder.clear()
        pipe.gen({"prompt": PROMPT, **inputs})
        return {name for name, count in recorder.computed.items() for _ in range(count)} - {"std.tile_vae"}

    sampled = {"std.sample", "std.decode_latent"}
    computed(seed=101)
    assert computed(seed=101) == set()
    assert computed(seed=102) == sampled
    assert computed(seed=102, prompt="two yellow boats") == {"std.encode_prompt", *sampled}
    state = generator(9).get_state()
    assert computed(generator=generator(9)) == sampled
    again = generator(9)
    assert computed(generator=again) == set()
    assert not torch.equal(again.get_state(), state)  # where the sampler left it, though it did not run
    moved = generator(9)
    pipe.gen({"prompt": PROMPT, "generator": moved})
    assert torch.equal(again.get_state(), moved.get_state())
    assert computed(generator=moved) == sampled
    assert computed() == sampled
    assert computed() == sampled
    torch.manual_seed(3)
    computed()
    torch.manual_seed(3)
    assert computed() == set()


@pytest.mark.parametrize("kind", ["text", "image", "control", "masked"])
def test_its_graph_is_a_workflow(kind: str, tmp_path: Path) -> None:
    pipe: Any
    common: dict[str, Any] = {"steps": 2, "clip_skip": 1}
    if kind == "text":
        pipe = Prompt2ImPipe("tiny", lpw=True)
        pipe.load_lora("tiny-blueprint", 0.5)
        pipe.setup(width=64, height=64, **common)
    elif kind == "image":
        pipe = Im2ImPipe("tiny")
        pipe.setup(picture(50, 40), scale=1.5, **common)
    elif kind == "control":
        pipe = CIm2ImPipe("tiny", ctypes="canny")
        pipe.setup(picture(61, 70), strength=0.8, **common)
    else:
        pipe = MaskedIm2ImPipe("tiny")
        pipe.setup(picture(61, 70), mask=np.eye(70, 61), **common)
    inputs = {"prompt": "a (red:1.3) circle", "negative_prompt": NEGATIVE, "generator": generator()}
    expected = pipe.gen(inputs if kind == "image" else {**inputs, "generator": 5})
    pipe.graph.save(tmp_path / "pipe.yaml")
    graph = load(tmp_path / "pipe.yaml")
    assert not [problem for problem in graph.problems() if problem.severity == "error"]
    assert np.array_equal(graph.run("image", store=Store()), expected)
    assert "</svg>" in svg(graph)
    assert graph.inputs["prompt"].default == "a (red:1.3) circle"
