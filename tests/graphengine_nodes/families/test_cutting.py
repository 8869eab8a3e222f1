"""Runs that are cut: the parts together are the whole to the bit; base and refiner are diffusers' two calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.families.cutting import CAN_BE_CUT
from graphengine_nodes.testing import flux as testing_flux
from graphengine_nodes.testing import sdxl as testing_xl
from graphengine_nodes.weights.files import TINY

from graphengine import INERT, Graph, GraphEngineError, ModelError, socket_type

PROMPT = "a red circle on a blue background"
SIZE: dict[str, Any] = {"width": 64, "height": 64}


@pytest.fixture(scope="module")
def model() -> std.Model:
    return std.load_model("tiny")


@pytest.fixture(scope="module")
def text(model: std.Model) -> std.Conditioning:
    return std.encode_prompt(model, PROMPT)


def in_parts(model: std.Model, text: Any, *cuts: float, first: dict[str, Any] = SIZE, **options: Any) -> std.Latent:
    """A run in parts: the first with its own inputs, the others from the latent before."""
    given, start = dict(first), None
    for end in (*cuts, None):
        latent = std.sample(model, text, start=start, end=end, **given, **options)
        given, start = {"latent": latent}, end
    return latent


@pytest.mark.parametrize("scheduler", [name for name in CAN_BE_CUT if "Flow" not in name])
def test_the_parts_are_the_whole(model: std.Model, text: std.Conditioning, scheduler: str) -> None:
    options: dict[str, Any] = {"scheduler": scheduler, "steps": 6, "seed": [7, 2**64 - 1]}
    whole = std.sample(model, text, **SIZE, **options)
    found = in_parts(model, text, 0.3, 0.75, **options)
    assert torch.equal(found.samples, whole.samples)
    assert (found.done, whole.done) == (1.0, 1.0)


def test_of_draws_in_each_step_with_eta(model: std.Model, text: std.Conditioning) -> None:
    options: dict[str, Any] = {"scheduler": "DDIMScheduler", "steps": 5, "arguments": {"eta": 0.7}, "seed": 3}
    whole = std.sample(model, text, **SIZE, **options)
    assert torch.equal(in_parts(model, text, 0.5, **options).samples, whole.samples)


@pytest.mark.parametrize("scheduler", ["EulerAncestralDiscreteScheduler", "DDIMScheduler"])
def test_a_run_from_a_picture(model: std.Model, text: std.Conditioning, scheduler: str) -> None:
    """The draws before the first step are two here: from the posterior, and of noise."""
    posterior = std.encode_image(model, std.Image(torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))))
    options: dict[str, Any] = {"scheduler": scheduler, "steps": 8, "seed": 3}
    start: dict[str, Any] = {"latent": posterior, "strength": 0.8}
    whole = std.sample(model, text, **start, **options)
    assert torch.equal(in_parts(model, text, 0.6, first=start, **options).samples, whole.samples)
    with pytest.raises(ValueError, match="start and end leave no step of 8"):
        std.sample(model, text, end=0.1, **start, **options)


def test_callers_generators_go_on(model: std.Model, text: std.Conditioning) -> None:
    options: dict[str, Any] = {"scheduler": "EulerAncestralDiscreteScheduler", "steps": 4}
    generator = torch.Generator().manual_seed(5)
    state = std.RandomState.of(generator)
    whole = std.sample(model, text, seed=state, **SIZE, **options)
    part = std.sample(model, text, seed=state, end=0.5, **SIZE, **options)
    found = std.sample(model, text, seed=list(part.random), latent=part, start=0.5, **options)
    assert torch.equal(found.samples, whole.samples)
    assert found.random == whole.random


OTHER: list[tuple[dict[str, Any], str]] = [
    ({"scheduler": "DDIM"}, "begun with EulerDiscreteScheduler and cannot go on with DDIMScheduler; give Euler"),
    ({"steps": 9}, "goes on at timestep 499 with noise of .*, but this run would at 443 .*; give the same steps"),
    ({"scheduler": "Euler Karras"}, "give the same steps and options of EulerDiscreteScheduler to both"),
    ({"scheduler_options": {"rescale_betas_zero_snr": False}}, "goes on at timestep 499 .* would at 499 with"),
]


@pytest.mark.parametrize(("changed", "sentence"), OTHER)
def test_a_latent_goes_on_only_at_the_noise_that_it_has(
    model: std.Model, text: std.Conditioning, changed: dict[str, Any], sentence: str
) -> None:
    options: dict[str, Any] = {"scheduler": "Euler", "steps": 6, "seed": 3}
    part = std.sample(model, text, end=0.5, **SIZE, **options)
    with pytest.raises(ValueError, match=sentence):
        std.sample(model, text, latent=part, start=0.5, **{**options, **changed})
    before = replace(part, reached=None)  # as stores have it that were written before
    assert std.sample(model, text, latent=before, start=0.5, **{**options, **changed}).done == 1


def test_several_in_a_batch(model: std.Model, text: std.Conditioning) -> None:
    many = std.sample.many_fn
    assert many is not None
    options: dict[str, Any] = {"scheduler": "EulerAncestralDiscreteScheduler", "steps": 4, "end": 0.5, **SIZE}
    found = many(model, [text, text], seed=[1, 2], ctx=[INERT, INERT], **options)
    alone = std.sample(model, text, seed=[1, 2], **options)
    assert [(one.done, one.drawn) for one in found] == [(0.5, alone.drawn)] * 2


def test_a_control_steers_both_parts(model: std.Model, text: std.Conditioning) -> None:
    edges = std.Image(torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1)))
    control = std.apply_controlnet(std.load_controlnet("tiny-canny"), edges)
    options: dict[str, Any] = {"scheduler": "EulerDiscreteScheduler", "steps": 4, "control": control}
    whole = std.sample(model, text, **options)
    assert torch.equal(in_parts(model, text, 0.5, **options).samples, whole.samples)


def test_a_prompt_that_changes_counts_the_steps_of_the_whole(model: std.Model) -> None:
    text = std.encode_weighted(model, "a [red:green:0.75] [circle|house]").positive
    options: dict[str, Any] = {"scheduler": "DDIMScheduler", "steps": 6, "seed": 1}
    whole = std.sample(model, text, **SIZE, **options)
    assert torch.equal(in_parts(model, text, 0.5, **options).samples, whole.samples)


def test_flow_matching(tmp_path: Path) -> None:
    model = std.load_model(testing_flux.flux_model(tmp_path / "flux"))
    text = std.encode_prompt(model, PROMPT)
    options: dict[str, Any] = {"steps": 5, "seed": 3}
    whole = std.sample(model, text, **SIZE, **options)
    assert torch.equal(in_parts(model, text, 0.4, **options).samples, whole.samples)


def test_an_unfinished_latent_says_so(model: std.Model, text: std.Conditioning) -> None:
    latent = std.sample(model, text, end=0.5, steps=4, seed=1, scheduler="Euler a", **SIZE)
    assert "unfinished: done to 0.5" in repr(latent)
    assert (latent.done, latent.drawn) == (0.5, 3)
    assert std.decode_latent(model, latent).size == (64, 64)
    kind = socket_type(std.Latent)
    assert kind.encode is not None
    assert kind.decode is not None
    read = kind.decode(kind.encode(latent))
    assert (read.done, read.drawn) == (0.5, 3)
    assert read.reached == latent.reached == ("EulerAncestralDiscreteScheduler", 499.0, latent.reached[2])
    finished = std.Latent(latent.samples, latent.family)
    written = kind.encode(finished)
    assert b"drawn" not in written, "files of finished ones are as before"
    assert b"reached" not in written


# --- the refiner ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("xl")
    return testing_xl.xl_model(folder / "base"), testing_xl.xl_refiner(folder / "refiner")


def test_base_and_refiner_are_diffusers_two_calls(xl: tuple[Path, Path]) -> None:
    prompts: dict[str, Any] = {"prompt": PROMPT, "negative_prompt": "blurry"}
    common: dict[str, Any] = {"num_inference_steps": 10, "guidance_scale": 4.0, "output_type": "latent", **prompts}
    first = diffusers.StableDiffusionXLPipeline.from_pretrained(xl[0], add_watermarker=False)
    second = diffusers.StableDiffusionXLImg2ImgPipeline.from_pretrained(xl[1], add_watermarker=False)
    for pipe in (first, second):
        pipe.set_progress_bar_config(disable=True)
    begun = first(**common, **SIZE, denoising_end=0.8, generator=[torch.Generator().manual_seed(5)]).images
    wanted = second(**common, image=begun, denoising_start=0.8, generator=[torch.Generator().manual_seed(5)]).images

    base, refiner = map(std.load_model, xl)
    options: dict[str, Any] = {"steps": 10, "guidance_scale": 4.0, "seed": 5}

    def texts(model: std.Model) -> dict[str, Any]:
        return {
            "positive": std.encode_prompt(model, PROMPT),
            "negative": std.encode_prompt(model, "blurry"),
        }

    latent = std.sample(base, **texts(base), end=0.8, **options, **SIZE)
    assert torch.equal(latent.samples, begun)
    found = std.sample(refiner, **texts(refiner), latent=latent, start=0.8, **options)
    assert torch.equal(found.samples, wanted)
    assert std.decode_latent(refiner, found).size == std.decode_latent(base, found).size == (64, 64)


def test_a_refiner_repaints_a_finished_latent_too(xl: tuple[Path, Path]) -> None:
    base, refiner = map(std.load_model, xl)
    latent = std.sample(base, std.encode_prompt(base, PROMPT), steps=3, seed=5, **SIZE)
    text = std.encode_weighted(refiner, "a (red:1.3) circle").positive
    found = std.sample(refiner, text, latent=latent, strength=0.5, steps=6, seed=5)
    assert found.family == latent.family == "stable_diffusion_xl"
    assert not torch.equal(found.samples, latent.samples)


def test_a_refiner_cannot_begin(xl: tuple[Path, Path]) -> None:
    refiner = std.load_model(xl[1])
    text = std.encode_prompt(refiner, PROMPT)
    with pytest.raises(ModelError, match="is SDXL's refiner, which cannot begin: give it a latent"):
        std.sample(refiner, text)
    with pytest.raises(ValueError, match="has one text encoder; leave prompt_2 out"):
        std.encode_prompt(refiner, PROMPT, prompt_2="a house")
    base = std.load_model(xl[0])
    with pytest.raises(ValueError, match="a Conditioning of stable_diffusion_xl_refiner does not fit"):
        std.sample(base, text)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (
            {"end": 0.5, "scheduler": "DPM++ 2M Karras"},
            "DPMSolverMultistepScheduler cannot be cut by start and end; ",
        ),
        ({"start": 0.5, "scheduler": "HeunDiscreteScheduler"}, "HeunDiscreteScheduler cannot be cut by start and end"),
        ({"start": 0.5, "end": 0.5}, "start is 0.5, but must be below end, 0.5"),
        ({"start": 0.5, "strength": 0.5}, "strength says how much of a picture is replaced, start how far"),
    ],
)
def test_it_is_known_before_a_run(inputs: dict[str, Any], sentence: str) -> None:
    with Graph() as graph:
        model = std.load_model("tiny")
        std.sample(model, std.encode_prompt(model, PROMPT))
    sampler = next(id for id, node in graph.nodes.items() if node.kind.name == "sample")
    graph.nodes[sampler].literals.update(inputs)
    with pytest.raises(GraphEngineError, match=sentence):
        graph.check()


def test_latents_that_are_not_so_far(model: std.Model, text: std.Conditioning) -> None:
    latent = std.sample(model, text, end=0.5, steps=4, scheduler="DDIM", **SIZE)
    with pytest.raises(ValueError, match=r"this latent is done to 0.5 of its schedule; give start=0.5"):
        std.sample(model, text, latent=latent, start=0.8, scheduler="DDIM")
    with pytest.raises(ValueError, match=r"this latent is unfinished; go on with start=0.5, or leave end out before"):
        std.sample(model, text, latent=latent, strength=0.5)
    with pytest.raises(ValueError, match=r"start is for a latent that sample\(end=...\) left unfinished"):
        std.sample(model, text, start=0.5)
    with pytest.raises(ValueError, match="start and end leave no step of 2"):
        std.sample(model, text, end=0.01, steps=2, scheduler="DDIM", scheduler_options={"timestep_spacing": "leading"})


def test_the_models_own_scheduler_is_asked_too(tmp_path: Path, text: std.Conditioning) -> None:
    folder = tmp_path / "model"
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(TINY / "model", safety_checker=None)
    pipe.scheduler = diffusers.UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.save_pretrained(folder)
    with pytest.raises(ValueError, match="UniPCMultistepScheduler cannot be cut"):
        std.sample(std.load_model(folder), text, end=0.5, steps=2)
