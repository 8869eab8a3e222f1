"""Pictures of any size are made to fit a model's latents, and put back into the pictures that they came from."""

from __future__ import annotations

import graphengine_nodes as std
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

FITS = ("resize", "pad", "crop")


def noise(width: int, height: int, count: int = 1) -> std.Image:
    return std.Image(torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(width * height)))


@pytest.fixture(scope="module")
def model() -> std.Model:
    return std.load_model("tiny")


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(8, 70), height=st.integers(8, 70), fit=st.sampled_from(FITS),
    longest=st.none() | st.integers(16, 80),
)  # fmt: skip
def test_what_fits_is_put_back(width: int, height: int, fit: str, longest: int | None) -> None:
    model = std.load_model("tiny")
    image, mask = noise(width, height), std.Mask(torch.ones(1, height, width))
    if fit == "crop" and longest is not None and min(width, height) * longest < 9 * max(width, height):
        return  # too thin to crop
    fitted = std.fit_image(image, model, fit, longest)
    assert all(side % 8 == 0 for side in fitted.image.size)
    assert longest is None or max(fitted.width, fitted.height) <= longest + 4
    followed = std.fit_mask(mask, image, model, fit, longest)
    assert followed.size == fitted.image.size
    assert followed.values[:, : fitted.height, : fitted.width].min() > 0.99
    assert followed.values.sum() <= fitted.width * fitted.height + 1e-3  # padding is not painted
    back = std.unfit_image(fitted.image, image, model, fit, longest)
    assert back.size == image.size
    if fit != "resize" and (longest is None or max(width, height) <= longest):
        assert torch.equal(back.pixels, image.pixels)


@pytest.mark.parametrize("fit", FITS)
def test_what_fits_already_stays_as_it_is(model: std.Model, fit: str) -> None:
    image, mask = noise(48, 64), std.Mask(torch.rand(1, 64, 48))
    assert std.fit_image(image, model, fit).image is image
    assert std.fit_mask(mask, image, model, fit) is mask
    painted = noise(48, 64, count=2)
    assert torch.equal(std.unfit_image(painted, image, model, fit).pixels, painted.pixels)


def test_padding_repeats_the_edge_and_cropping_keeps_the_middle(model: std.Model) -> None:
    image = noise(21, 18)
    padded = std.fit_image(image, model, "pad")
    assert (padded.image.size, padded.width, padded.height) == ((24, 24), 21, 18)
    assert torch.equal(padded.image.pixels[:, :18, 23], image.pixels[:, :, 20])
    cropped = std.fit_image(image, model, "crop")
    assert torch.equal(cropped.image.pixels, image.pixels[:, 1:17, 2:18])
    black = std.Image(torch.zeros(2, 16, 16, 3))
    back = std.unfit_image(black, image, model, "crop").pixels
    assert back.shape == (2, 18, 21, 3)
    assert (back[:, 1:17, 2:18] == 0).all()
    assert torch.equal(back[1, 0], image.pixels[0, 0])


def test_sizes_follow_the_model(model: std.Model) -> None:
    from dataclasses import replace

    wide = replace(model, settings=(*model.settings, ("multiple", 32)))
    assert std.fit_image(noise(50, 70), wide).image.size == (64, 64)
    assert std.fit_image(noise(50, 70), std.split_model(model).vae).image.size == (48, 72)


def test_what_does_not_go_together_is_refused(model: std.Model) -> None:
    with pytest.raises(ValueError, match=r"sizes differ: the mask \(8, 8\), the picture \(20, 20\); use resize_mask"):
        std.fit_mask(std.Mask(torch.ones(1, 8, 8)), noise(20, 20), model)
    with pytest.raises(ValueError, match="20 x 6 is too small to crop to multiples of 8; pad it"):
        std.fit_image(noise(20, 6), model, "crop")
    with pytest.raises(ValueError, match=r"sizes differ: the picture \(20, 20\), what was made to fit \(24, 24\)"):
        std.unfit_image(noise(20, 20), noise(20, 20), model, "pad")


def test_alpha_fits_and_is_put_back(model: std.Model) -> None:
    whole = std.Image(noise(21, 19).pixels, torch.rand(1, 19, 21))
    for fit in FITS:
        fitted = std.fit_image(whole, model, fit).image
        assert fitted.alpha is not None, fit
        assert std.unfit_image(fitted, whole, model, fit).alpha is not None, fit
    painted = noise(16, 16)  # of a model, opaque
    back = std.unfit_image(painted, whole, model, "crop")
    assert back.alpha is not None
    assert whole.alpha is not None
    assert back.alpha[:, 1:17, 2:18].min() == 1
    assert torch.equal(back.alpha[:, :, :2], whole.alpha[:, :, :2])
