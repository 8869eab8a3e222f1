"""Masked image to image is bit-identical to a plain loop, also with empty masks and several pictures."""

from __future__ import annotations

import gc
import logging
import weakref
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.testing.sdxl import xl_model
from graphengine_nodes.weights.files import TINY

from graphengine import Cancelled, Context
from tests.graphengine_nodes import cases
from tests.graphengine_nodes.families import masked_reference

SCHEDULERS = [
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DDIMScheduler",
]


def painted() -> PIL.Image.Image:
    """The picture with a green blot on it."""
    drawn = cases.picture()
    PIL.ImageDraw.Draw(drawn).ellipse((20, 60, 80, 120), fill=(30, 160, 60))
    return drawn


def soft_mask() -> PIL.Image.Image:
    return cases.mask().filter(PIL.ImageFilter.GaussianBlur(6))


def _case(**changes: Any) -> dict[str, Any]:
    plain = {"seeds": [5], "steps": 4, "guidance": 3.5, "scheduler": None, "strength": 0.75, "sample_mode": "sample"}
    return plain | changes


CASES = [
    *(_case(scheduler=name, strength=strength) for name in SCHEDULERS for strength in (0.96, 0.5)),
    *(_case(sample_mode=mode, seeds=[1, 2]) for mode in ("sample", "argmax", "random")),
    *(_case(sample_mode="random", scheduler=name) for name in SCHEDULERS[1:4]),
    _case(strength=1.0, guidance=7.5, scheduler="HeunDiscreteScheduler"),
]


def told(case: dict[str, Any]) -> str:
    names = [case["scheduler"] or "own", f"{case['strength']:g}", case["sample_mode"], *map(str, case["seeds"])]
    return " ".join(names)


def repaint(model: std.Model, case: dict[str, Any], mask: PIL.Image.Image | None = None, **others: Any) -> std.Latent:
    pictures = (images.from_pil(picture) for picture in (cases.picture(), painted()))
    original, over = (std.encode_image(model, picture) for picture in pictures)
    return std.repaint(
        model,
        std.encode_prompt(model, cases.PROMPT),
        original,
        over,
        std.mask_from_image(images.from_pil(soft_mask() if mask is None else mask)),
        steps=case["steps"],
        guidance_scale=case["guidance"],
        scheduler=case["scheduler"],
        strength=case["strength"],
        sample_mode=case["sample_mode"],
        **{"seed": case["seeds"]} | others,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"tiny": TINY / "model", "xl": xl_model(tmp_path_factory.mktemp("xl") / "xl")}


PAIRS = [("tiny", case) for case in CASES] + [("xl", case) for case in CASES if case["strength"] != 0.96]


@pytest.mark.parametrize(("kind", "case"), PAIRS, ids=[f"{kind} {told(case)}" for kind, case in PAIRS])
def test_as_the_plain_loop(folders: dict[str, Path], kind: str, case: dict[str, Any]) -> None:
    found = repaint(std.load_model(folders[kind]), case).samples.numpy()
    expected = masked_reference.repaint(
        folders[kind], cases.picture(), painted(), soft_mask(), prompt=cases.PROMPT, **case
    )
    assert np.array_equal(found, expected), f"differs by {np.abs(found - expected).max()}"


def test_every_argument_matters() -> None:
    asked = [_case(), _case(strength=0.5), _case(sample_mode="argmax"), _case(sample_mode="random"), _case(seeds=[6])]
    found = {repaint(std.load_model("tiny"), case).samples.numpy().tobytes() for case in asked}
    assert len(found) == len(asked)


def test_what_is_outside_the_mask_is_the_original() -> None:
    model = std.load_model("tiny")
    found = repaint(model, _case(), cases.mask()).samples
    kept = model_scale(model) * std.encode_image(model, images.from_pil(cases.picture())).mean
    hard = torch.from_numpy(np.asarray(cases.mask().resize((16, 16), PIL.Image.Resampling.LANCZOS)).copy())
    assert torch.equal(found[0][:, hard == 0], kept[0][:, hard == 0])
    assert (found[0][:, hard == 255] - kept[0][:, hard == 255]).abs().mean() > 0.2


def model_scale(model: std.Model) -> float:
    picture = std.encode_image(model, images.from_pil(cases.picture()))
    return float(picture.scaling["scaling_factor"])


def test_the_colour_painted_over_decides_the_start() -> None:
    model, text = std.load_model("tiny"), std.encode_prompt(std.load_model("tiny"), cases.PROMPT)
    original = std.encode_image(model, images.from_pil(cases.picture()))
    mask = std.mask_from_image(images.from_pil(cases.mask()))
    colours = []
    for colour in ((220, 30, 30), (30, 200, 40)):
        over = cases.picture()
        over.paste(colour, (32, 32, 96, 96))
        start = std.encode_image(model, images.from_pil(over))
        latent = std.repaint(model, text, original, start, mask, seed=3, steps=8, strength=0.25, guidance_scale=1)
        colours.append(std.decode_latent(model, latent).pixels[0, 40:88, 40:88].mean((0, 1)))
    more_red, more_green, _ = colours[0] - colours[1]
    assert more_red > 0.1
    assert more_green < -0.05


def test_an_empty_mask_gives_the_original_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model = std.load_model("tiny")
    with caplog.at_level(logging.WARNING):
        found = repaint(model, _case(seeds=[1, 2]), PIL.Image.new("L", (128, 128)))
    assert "there is nothing to paint in the mask" in caplog.text
    original = std.encode_image(model, images.from_pil(cases.picture()))
    assert torch.equal(found.samples, torch.cat([model_scale(model) * original.mean] * 2))


def test_a_weak_mask_is_made_whole() -> None:
    case, weak = _case(), soft_mask().point(lambda value: value // 3)
    found = repaint(std.load_model("tiny"), case, weak).samples.numpy()
    expected = masked_reference.repaint(TINY / "model", cases.picture(), painted(), weak, prompt=cases.PROMPT, **case)
    assert np.array_equal(found, expected)


def test_several_originals_and_masks() -> None:
    model, text = std.load_model("tiny"), std.encode_prompt(std.load_model("tiny"), cases.PROMPT)
    turned = cases.picture().transpose(PIL.Image.Transpose.ROTATE_90)
    pictures = [images.from_pil(cases.picture()), images.from_pil(turned)]
    masks = [std.mask_from_image(images.from_pil(one)) for one in (cases.mask(), soft_mask())]
    over = std.encode_image(model, images.from_pil(painted()))
    options: dict[str, Any] = {"steps": 3, "strength": 0.7, "guidance_scale": 2.0}
    both = std.encode_image(model, std.Image(torch.cat([one.pixels for one in pictures])))
    mask = std.Mask(torch.cat([one.values for one in masks]))
    together = std.repaint(model, text, both, over, mask, seed=[4, 9], **options).samples
    for index, seed in enumerate((4, 9)):
        original = std.encode_image(model, pictures[index])
        alone = std.repaint(model, text, original, over, masks[index], seed=seed, **options).samples
        assert torch.allclose(together[index], alone[0], atol=1e-4)
    with pytest.raises(ValueError, match="2 originals, 1 painted ones and 3 masks; give one or as many"):
        std.repaint(model, text, both, over, std.Mask(mask.values[[0, 1, 1]]))


def test_generators_in_place_of_seeds() -> None:
    model, generator = std.load_model("tiny"), torch.Generator().manual_seed(5)
    case = _case(scheduler="DDIMScheduler")
    found = repaint(model, case, seed=std.RandomState.of(generator))
    assert torch.equal(found.samples, repaint(model, case).samples)
    for _ in range(5):  # the posterior, the start, and what is blended in before each of three steps
        torch.randn(1, 4, 16, 16, generator=generator)
    assert found.random == (std.RandomState.of(generator),)


def test_progress_cancel_and_a_callers_callback() -> None:
    told: list[tuple[int, int]] = []
    seen: list[torch.Tensor] = []

    class Watch(Context):
        def progress(self, step: int, total: int) -> None:
            told.append((step, total))
            if len(told) == 5:
                raise Cancelled("enough")

    def look(pipe: Any, index: int, time: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        seen.append(tensors["latents"])
        return {}

    model = std.load_model("tiny")
    found = repaint(model, _case(), ctx=Watch(), arguments={"callback_on_step_end": look})
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert torch.equal(seen[-1], found.samples)  # already blended
    with pytest.raises(Cancelled):
        repaint(model, _case(), ctx=Watch())
    assert len(told) == 5


def test_the_pipeline_goes_with_its_run() -> None:
    pipes: list[weakref.ref[Any]] = []

    def look(pipe: Any, index: int, time: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        pipes.append(weakref.ref(pipe))
        return {}

    gc.disable()
    try:
        repaint(std.load_model("tiny"), _case(), arguments={"callback_on_step_end": look})
        assert pipes[0]() is None  # and with it what it held of the weights
    finally:
        gc.enable()


def test_what_does_not_fit_together() -> None:
    model = std.load_model("tiny")
    with pytest.raises(ValueError, match="original 128 x 128, painted 128 x 128, mask 64 x 64; use resize_image"):
        repaint(model, _case(), PIL.Image.new("L", (64, 64), 255))
    with pytest.raises(ValueError, match=r"strength 0\.1 of 4 steps leaves no step to do"):
        repaint(model, _case(strength=0.1))
    with pytest.raises(ValueError, match="3 seeds for 2 pictures"):
        repaint(model, _case(), seed=[1, 2, 3], count=2)
    with pytest.raises(ValueError, match="there is no sample_mode 'mode'; it is sample, argmax or random"):
        repaint(model, _case(sample_mode="mode"))
    with pytest.raises(ValueError, match="takes no etta; did you mean eta"):
        repaint(model, _case(), arguments={"etta": 1.0})
