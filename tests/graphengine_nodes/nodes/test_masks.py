"""Masks: made from pictures, files and rectangles, changed, and used to combine pictures."""

from __future__ import annotations

from pathlib import Path

import graphengine_nodes as std
import numpy as np
import PIL.Image
import PIL.ImageChops
import PIL.ImageFilter
import pytest
import torch
from graphengine_nodes.nodes import images
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graphengine_nodes import cases


def square(side: int = 21, left: int = 8, right: int = 13) -> std.Mask:
    values = torch.zeros(1, side, side)
    values[:, left:right, left:right] = 1.0
    return std.Mask(values)


def test_from_the_difference_of_two_pictures() -> None:
    plain = cases.picture()
    painted = plain.copy()
    painted.paste((40, 60, 171), (10, 20, 30, 50))  # one channel, by 1 of 255, on the blue ground
    mask = std.mask_from_difference(images.from_pil(plain), images.from_pil(painted)).values[0].numpy()
    difference = np.asarray(PIL.ImageChops.difference(plain, painted)).any(-1)
    assert difference.any()
    assert np.array_equal(mask, difference.astype(np.float32))
    none = std.mask_from_difference(images.from_pil(plain), images.from_pil(painted), threshold=0.01)
    assert none.values.max() == 0
    with pytest.raises(ValueError, match=r"sizes differ: original \(128, 128\), painted \(64, 64\); resize one"):
        std.mask_from_difference(images.from_pil(plain), images.from_pil(plain.resize((64, 64))))


def test_combined() -> None:
    first = std.Mask(torch.tensor([[[0.0, 0.25, 1.0, 1.0]]]))
    second = std.Mask(torch.tensor([[[0.0, 0.75, 0.0, 1.0]]]))
    assert std.combine_masks(first, second).values.tolist() == [[[0, 0.75, 1, 1]]]
    assert std.combine_masks(first, second, "intersection").values.tolist() == [[[0, 0.25, 0, 1]]]
    assert std.combine_masks(first, second, "subtract").values.tolist() == [[[0, 0.25, 1, 0]]]
    with pytest.raises(ValueError, match="sizes differ"):
        std.combine_masks(first, square())


def test_grown_and_shrunk_with_round_corners() -> None:
    grown = std.grow_mask(square(), 3).values[0]
    rows, columns = np.mgrid[:21, :21]
    far = np.hypot(
        np.maximum(8 - rows, 0) + np.maximum(rows - 12, 0), np.maximum(8 - columns, 0) + np.maximum(columns - 12, 0)
    )
    assert grown[far <= 3].min() == 1
    assert grown[far > 3.6].max() == 0
    assert std.grow_mask(square(), -2).values.sum() == 1
    assert std.grow_mask(square(), -3).values.sum() == 0
    assert torch.equal(std.grow_mask(square(), 0).values, square().values)
    whole = std.Mask(torch.ones(2, 9, 9))
    assert torch.equal(std.grow_mask(whole, -4).values, whole.values)


def test_feathered_inwards_only() -> None:
    mask = square(41, 10, 31)
    soft = std.feather_mask(mask, 3).values[0]
    assert soft[mask.values[0] == 0].max() == 0
    assert soft[20, 9:16].tolist() == [0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert torch.equal(std.feather_mask(mask, 0).values, mask.values)
    whole = std.Mask(torch.ones(1, 8, 8))
    assert torch.equal(std.feather_mask(whole, 3).values, whole.values)


def test_blurred_and_resized_as_pil_does_it() -> None:
    picture = cases.mask()
    mask = std.mask_from_image(images.from_pil(picture), threshold=0.5)
    blurred = std.blur_mask(mask, 4).values[0].numpy()
    assert np.array_equal(blurred, np.asarray(picture.filter(PIL.ImageFilter.GaussianBlur(4))).astype(np.float32) / 255)
    small = std.resize_mask(mask, 16, 24).values[0].numpy()
    expected = picture.resize((16, 24), PIL.Image.Resampling.LANCZOS)
    assert np.array_equal(small, np.asarray(expected).astype(np.float32) / 255)
    assert std.resize_mask(mask, 7, 5, "nearest").values.unique().tolist() == [0, 1]


def test_composed_softly() -> None:
    below, above = std.Image(torch.zeros(2, 21, 21, 3)), std.Image(torch.ones(1, 21, 21, 3))
    hard = std.composite(below, above, square())
    assert hard.pixels.shape == (2, 21, 21, 3)
    assert torch.equal(hard.pixels[1, ..., 0], square().values[0])
    soft = std.composite(below, above, square(), blur=4).pixels[0, ..., 0]
    assert soft.max() == 1  # a blurred small mask is still whole at its highest
    assert 0 < soft[10, 5] < soft[10, 8] < soft[10, 10] == 1
    assert std.composite(below, above, std.Mask(torch.zeros(1, 21, 21)), blur=4).pixels.max() == 0


@given(width=st.integers(1, 70), height=st.integers(1, 70), multiple=st.sampled_from([8, 16, 64]))
@settings(max_examples=40, deadline=None)
def test_what_is_padded_is_got_back(width: int, height: int, multiple: int) -> None:
    generator = torch.Generator().manual_seed(width * 100 + height)
    image = std.Image(torch.rand(1, height, width, 3, generator=generator))
    mask = std.Mask(torch.rand(2, height, width, generator=generator))
    padded, wide = std.pad_image(image, multiple), std.pad_mask(mask, multiple, "black")
    assert padded.size == wide.size
    assert padded.size[0] % multiple == padded.size[1] % multiple == 0
    assert padded.size[0] - width < multiple > padded.size[1] - height
    size = std.image_size(image)
    assert torch.equal(std.crop_image(padded, *size, left=0, top=0).pixels, image.pixels)
    assert torch.equal(std.crop_mask(wide, *size, left=0, top=0).values, mask.values)
    assert wide.values.sum() == mask.values.sum() or torch.isclose(wide.values.sum(), mask.values.sum())


def test_from_a_file(tmp_path: Path) -> None:
    cases.mask().save(tmp_path / "mask.png")
    values = std.load_mask(tmp_path / "mask.png").values
    assert values.shape == (1, 128, 128)
    assert torch.allclose(values[0], torch.from_numpy(np.asarray(cases.mask()) / 255).float())
    cases.mask().point(lambda value: value * 257, "I").save(tmp_path / "deep.tiff")
    assert torch.allclose(std.load_mask(tmp_path / "deep.tiff").values, values, atol=1e-4)


def test_strokes_on_a_transparent_layer_mean_what_they_show(tmp_path: Path) -> None:
    layer = np.zeros((16, 16, 4), np.uint8)
    layer[4:8, 4:8] = 255
    layer[8:12, 4:8] = (255, 255, 255, 128)
    layer[12:, 12:] = (0, 0, 0, 255)
    PIL.Image.fromarray(layer).save(tmp_path / "strokes.png")
    values = std.load_mask(tmp_path / "strokes.png").values[0].numpy()
    wanted = np.zeros((16, 16), np.float32)
    wanted[4:8, 4:8], wanted[8:12, 4:8] = 1, 128 / 255
    assert np.abs(values - wanted).max() < 1e-6
    erased = std.load_mask(tmp_path / "strokes.png", from_alpha=True).values[0].numpy()
    assert np.array_equal(erased < 0.5, layer[..., 3] > 127)


def sheet(colour: float, alpha: float | None, side: int = 4) -> std.Image:
    pixels = torch.full((1, side, side, 3), float(colour))
    return std.Image(pixels, None if alpha is None else torch.full((1, side, side), float(alpha)))


def test_masks_of_alpha() -> None:
    assert torch.allclose(std.mask_from_alpha(sheet(0.5, 0.25)).values, torch.tensor(0.75))
    assert torch.allclose(std.mask_from_image(sheet(1, 0.25)).values, torch.tensor(0.25))
    assert std.mask_from_difference(sheet(1, None), sheet(1, 0.5)).values.min() == 1
    assert std.mask_from_difference(sheet(1, None), sheet(1, 1)).values.max() == 0
    with pytest.raises(ValueError, match="this picture has no alpha; load it by load_image with alpha: true"):
        std.mask_from_alpha(sheet(1, None))


def test_overlay_is_what_pil_composes() -> None:
    draw = torch.Generator().manual_seed(1)
    below, above = (
        std.Image(array[..., :3], array[..., 3])
        for array in (torch.randint(0, 256, (1, 9, 7, 4), generator=draw) / 255.0 for _ in range(2))
    )
    found = std.overlay(below, above)
    expected = np.asarray(PIL.Image.alpha_composite(below.pil(), above.pil())).astype(int)
    told = np.asarray(found).astype(int)
    assert np.abs(told[..., 3] - expected[..., 3]).max() <= 1
    seen = expected[..., 3] > 64
    assert np.abs(told - expected)[seen].max() <= 2
    assert torch.allclose(
        std.overlay(below.opaque(), above).pixels, std.overlay(below, above).opaque().pixels, atol=1e-5
    )
    assert torch.equal(std.overlay(below, std.Image(above.pixels)).pixels, above.pixels)
    with pytest.raises(ValueError, match=r"sizes differ: below \(4, 4\), above \(5, 5\); resize one of them"):
        std.overlay(sheet(0, None), sheet(0, None, 5))


def test_composites_mix_alpha_and_count_colours_by_it() -> None:
    half = std.Mask(torch.full((1, 4, 4), 0.5))
    found = std.composite(sheet(1, None), sheet(0, 0), half)
    assert found.alpha is not None
    assert torch.allclose(found.alpha, torch.tensor(0.5))
    assert torch.allclose(found.pixels, torch.tensor(1.0))  # what is not seen gives no colour
    assert std.composite(sheet(1, None), sheet(0, None), half).alpha is None
