"""Control preprocessors without a network equal OpenCV's results, also on awkward pictures; inpainting's picture."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import graphengine_nodes as std
import numpy as np
import PIL.Image
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.nodes.annotator_kinds import KINDS
from graphengine_nodes.nodes.preprocessors import BY_TYPE

from tests.graphengine_nodes import cases
from tests.graphengine_nodes.cases import awkward

WITHOUT = ("canny", "soft-sobel", "ip2p", "inpaint", "qr")
BEHIND = {"soft": "hed"}
"""The kind of annotator behind a kind of ControlNet, where it is called otherwise."""


def other() -> PIL.Image.Image:
    return awkward().transpose(PIL.Image.Transpose.ROTATE_180)


# --- what they find ---------------------------------------------------------------------------------------------------


def test_sobel_finds_edges_that_rise_and_that_fall() -> None:
    edges = std.sobel(images.from_pil(cases.picture())).pixels[0]
    assert torch.equal(edges[..., 0], edges[..., 2])
    edges = edges[..., 0]
    assert edges.max() == 1
    assert edges[75, 28:33].max() > 0.3  # the left side of the yellow square: brighter to the right
    assert edges[75, 88:93].max() > 0.3  # the right side: darker
    assert edges[108:113, 50].max() > 0.3  # and the lower one
    assert edges[70:80, 45:65].max() < 0.01  # inside it
    assert edges[120, 5] < 0.01  # far from everything
    assert edges[75, 25:36].argmax() in (4, 5)  # in the middle, not at one side


def test_sobel_takes_half_of_each_direction() -> None:
    corner = torch.zeros(1, 32, 32, 3)
    corner[:, 16:, 16:] = 1
    edges = std.sobel(std.Image(corner)).pixels[0, ..., 0]
    assert torch.allclose(edges, edges.T, atol=1e-6)
    assert edges.max() > edges[30, 16] > 0.4 * edges.max()  # where both directions meet it is brightest
    assert std.sobel(std.Image(torch.full((2, 16, 16, 3), 0.5))).pixels.max() == 0


def test_each_picture_of_a_batch_is_taken_alone() -> None:
    pale = PIL.Image.blend(awkward(), PIL.Image.new("RGB", awkward().size), 0.7)
    for preprocess in (std.sobel, std.canny):
        both = preprocess(images.from_pil(awkward(), pale))
        for index, picture in enumerate((awkward(), pale)):
            assert torch.equal(both.pixels[index], preprocess(images.from_pil(picture)).pixels[0])


# --- every documented kind --------------------------------------------------------------------------------------------


def test_every_documented_kind_has_its_node() -> None:
    documented = "canny soft soft-sobel pidinet lineart scribble depth pose normal ip2p inpaint qr"
    assert sorted(BY_TYPE) == sorted(documented.split())
    assert {*WITHOUT, *(k for k in BY_TYPE if BEHIND.get(k, k) in KINDS)} == set(BY_TYPE)


@pytest.mark.parametrize("ctype", WITHOUT)
def test_kinds_without_a_network(ctype: str) -> None:
    pictures = images.from_pil(awkward(), other())
    found = BY_TYPE[ctype](pictures)
    assert found.pixels.shape == (2, 45, 67, 3)
    assert 0 <= found.pixels.min() <= found.pixels.max() <= 1
    assert torch.equal(found.pixels, BY_TYPE[ctype](pictures).pixels)


# --- what ControlNets for inpainting follow ---------------------------------------------------------------------------


def test_inpaint_control_is_minus_one_where_the_mask_is() -> None:
    picture = images.from_pil(awkward())
    mask = torch.zeros(1, 45, 67)
    mask[0, 10:20, 30:40] = 1.0
    mask[0, 0, :4] = torch.tensor([0.5, 0.51, 0.4, 0.0])
    found = std.inpaint_control(picture, std.Mask(mask))
    inside = mask[0] > 0.5
    assert (found.pixels[0][inside] == -1).all()
    assert torch.equal(found.pixels[0][~inside], picture.pixels[0][~inside])
    assert int(inside.sum()) == 101
    assert picture.pixels.min() >= 0, "the picture itself is as it was"


def test_inpaint_control_of_several() -> None:
    pictures = images.from_pil(awkward(), other())
    one = std.mask_rectangle(67, 45, 0.0, 0.0, 0.5, 1.0)
    found = std.inpaint_control(pictures, one).pixels
    assert (found[:, :, :30] == -1).all()
    assert torch.equal(found[:, :, 40:], pictures.pixels[:, :, 40:])
    two = std.Mask(torch.stack([one.values[0], 1 - one.values[0]]))
    found = std.inpaint_control(pictures, two).pixels
    assert (found[1, :, 40:] == -1).all()
    assert torch.equal(found[1, :, :30], pictures.pixels[1, :, :30])


def test_inpaint_control_without_a_mask_warns(caplog: pytest.LogCaptureFixture) -> None:
    picture = images.from_pil(awkward())
    with caplog.at_level(logging.WARNING):
        assert torch.equal(std.inpaint_control(picture).pixels, picture.pixels)
    assert "CInpaintingPipe" in caplog.text


def test_inpaint_control_refuses_what_does_not_fit() -> None:
    picture = images.from_pil(awkward())
    with pytest.raises(ValueError, match=r"2 masks of \(67, 45\); give one mask, or one for each picture"):
        std.inpaint_control(picture, std.Mask(torch.zeros(2, 45, 67)))
    with pytest.raises(ValueError, match=r"sizes differ: 1 pictures of \(67, 45\), 1 masks of \(45, 67\)"):
        std.inpaint_control(picture, std.Mask(torch.zeros(1, 67, 45)))


@pytest.mark.parametrize("kind", ["ControlNet", "ControlNetInpaint"])
@pytest.mark.parametrize("size", [(128, 128), (96, 64)])
def test_inpaint_control_equals_diffusers_recipe(models: Path, kind: str, size: tuple[int, int]) -> None:
    """The -1 reaches the network as it is, also where the control picture has another size."""
    import diffusers

    drawn, hole = cases.picture().resize(size), cases.mask().resize(size, PIL.Image.Resampling.NEAREST)
    condition = np.asarray(drawn).astype(np.float32) / 255.0
    condition[np.asarray(hole) / 255.0 > 0.5] = -1.0
    net = diffusers.ControlNetModel.from_pretrained(models / "noise-controlnet")
    pipe = getattr(diffusers, f"StableDiffusion{kind}Pipeline").from_pretrained(models / "tiny", controlnet=net)
    pipe.set_progress_bar_config(disable=True)
    control = torch.from_numpy(condition[None].transpose(0, 3, 1, 2))
    call = {"num_inference_steps": 3, "guidance_scale": 3.5, "output_type": "np", "width": 128, "height": 128}
    call["controlnet_conditioning_scale"] = 1.0
    if kind == "ControlNet":
        call["image"] = control
    else:
        call |= {"image": cases.picture(), "mask_image": cases.mask(), "control_image": control}
    expected = pipe(cases.PROMPT, generator=torch.Generator().manual_seed(5), **call).images

    model = std.load_model(models / "tiny")
    steering = std.inpaint_control(images.from_pil(drawn), std.mask_from_image(images.from_pil(hole)))

    def make(control: std.Image) -> np.ndarray[Any, Any]:
        applied = std.apply_controlnet(std.load_controlnet(models / "noise-controlnet"), control)
        positive = std.encode_prompt(model, cases.PROMPT)
        rest: dict[str, Any] = {"control": applied, "seed": 5, "steps": 3, "guidance_scale": 3.5}
        if kind == "ControlNet":
            latent = std.sample(model, positive, width=128, height=128, **rest)
        else:
            picture, mask = images.from_pil(cases.picture()), std.mask_from_image(images.from_pil(cases.mask()))
            latent = std.inpaint(model, positive, picture, mask, **rest)
        return std.decode_latent(model, latent).pixels.numpy()

    assert np.array_equal(make(steering), expected)
    assert not np.array_equal(make(std.Image(steering.pixels.clamp(0, 1))), expected), "the -1 changes nothing"
