"""The shift of a model's schedule is what diffusers' schedulers do with it, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from diffusers import DiffusionPipeline
from graphengine_nodes.testing.flux import flux_model
from graphengine_nodes.testing.z_image import z_image_model

from graphengine import ModelError

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shifted")
    z_image_model(folder / "z_image")
    flux_model(folder / "flux")
    return folder


@pytest.mark.parametrize(
    ("name", "given", "config"),
    [
        ("z_image", {"shift": 6.0}, {"shift": 6.0}),
        ("flux", {"shift": 6.0}, {"shift": 6.0, "use_dynamic_shifting": False}),
        ("flux", {"base_shift": 1.0, "max_shift": 4.0}, {"base_shift": 1.0, "max_shift": 4.0}),
        ("z_image", {"base_shift": 1.0, "max_shift": 4.0}, {"base_shift": 1.0, "max_shift": 4.0,
                                                            "use_dynamic_shifting": True}),
    ],
)  # fmt: skip
def test_a_shift_is_that_of_the_schedulers_configuration(
    name: str, given: dict[str, float], config: dict[str, Any], folders: Path
) -> None:
    model = std.load_model(folders / name)
    text = std.encode_prompt(model, PROMPT)
    plain = std.sample(model, text, seed=1, steps=3).samples
    latent = std.sample(std.shift(model, **given), text, seed=1, steps=3)
    pipeline = DiffusionPipeline.from_pretrained(folders / name)
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **config)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(1)
    expected = pipeline(
        PROMPT, num_inference_steps=3, width=64, height=64, generator=generator, output_type="np",
        guidance_scale=model.setting("guidance_scale"),
    ).images  # fmt: skip
    assert (std.decode_latent(model, latent).pixels.numpy() == expected).all()
    assert not torch.equal(latent.samples, plain)


def test_a_shift_leaves_prompts_and_pictures_as_they_are(folders: Path) -> None:
    model = std.load_model(folders / "z_image")
    shifted = std.shift(model, 6.0)
    assert std.shift(std.shift(model, base_shift=1, max_shift=2), 6.0) == shifted
    assert [shifted.digest(part) == model.digest(part) for part in ("text_encoder", "vae", "denoiser")] == [
        True, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize("given", [{}, {"shift": 3.0, "max_shift": 1.0}, {"base_shift": 1.0}])
def test_a_shift_is_one_number_or_two(given: dict[str, float], folders: Path) -> None:
    with pytest.raises(ModelError, match="give shift alone, or base_shift and max_shift"):
        std.shift(std.load_model(folders / "flux"), **given)


def test_what_matches_no_flows_is_not_shifted() -> None:
    with pytest.raises(ModelError, match="tiny, stable_diffusion, matches no flows"):
        std.shift(std.load_model("tiny"), 3.0)
