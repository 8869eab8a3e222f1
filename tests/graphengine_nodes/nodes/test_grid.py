"""Grids place pictures and labels where they should be, and refuse labels of another number."""

from __future__ import annotations

import graphengine_nodes as std
import numpy as np
import pytest
import torch


def plain(red: float, width: int = 40, height: int = 30, count: int = 1) -> std.Image:
    pixels = torch.zeros(count, height, width, 3)
    pixels[..., 0] = red
    return std.Image(pixels)


def test_row_by_row() -> None:
    grid = std.image_grid([plain(0.2), plain(0.4, count=2), plain(0.8), plain(1.0)], columns=2, gap=4)
    assert grid.size == (4 + 2 * 44, 4 + 3 * 34)
    array = np.asarray(grid)
    reds = [
        array[4 + row * 34 : 34 + row * 34, 4 + column * 44 : 44 + column * 44] for row in range(3) for column in (0, 1)
    ]
    assert [int(cell[..., 0].mean()) for cell in reds] == [51, 102, 102, 204, 255, 255]
    assert [int(cell[..., 1].mean()) for cell in reds] == [0, 0, 0, 0, 0, 255]  # the last cell is empty
    assert (array[:4] == 255).all()
    assert (array[:, 44:48] == 255).all()
    assert np.asarray(std.image_grid([plain(1)] * 5, gap=0)).shape == (60, 120, 3)


def test_pictures_of_different_sizes_lie_in_the_middle() -> None:
    array = np.asarray(std.image_grid([plain(0, 40, 30), plain(0, 20, 10)], columns=2, gap=0))
    assert array.shape == (30, 80, 3)
    dark = np.argwhere(array[:, 40:, 0] == 0)
    assert dark.min(0).tolist() == [10, 10]
    assert dark.max(0).tolist() == [19, 29]


def black(array: np.ndarray) -> bool:
    return bool((array < 100).any())


def test_labels_stand_where_they_belong() -> None:
    pictures, options = plain(1, 80, 60, count=4), {"gap": 10, "font_size": 14}
    bare = std.image_grid(pictures, 2, **options)
    above = np.asarray(std.image_grid(pictures, column_labels=["one", ""], **options))
    more = above.shape[0] - bare.size[1]
    assert more > 14
    assert black(above[: 10 + more - 10, 10:90])
    assert not black(above[: 10 + more - 10, 100:])
    beside = np.asarray(std.image_grid(pictures, 2, row_labels=["", "two"], **options))
    more = beside.shape[1] - bare.size[0]
    assert more > 14
    assert black(beside[80:140, 10:more])
    assert not black(beside[:70, :more])
    below = np.asarray(std.image_grid(pictures, 2, labels=["", "", "", "four"], **options))
    assert below.shape[0] > bare.size[1] + 2 * 14
    changed = np.argwhere((below < 100).all(-1))
    assert changed[:, 0].min() >= below.shape[0] - 40
    assert changed[:, 1].min() >= 100


def test_long_labels_are_wrapped_and_never_wider_than_their_picture() -> None:
    pictures = plain(1, 80, 60, count=2)
    short = std.image_grid(pictures, 2, labels=["a", "b"])
    long = std.image_grid(pictures, 2, labels=["many words that take several lines", "b" * 500])
    assert long.size[0] == short.size[0]
    assert short.size[1] < long.size[1] < short.size[1] + 100
    assert std.image_grid(plain(1, 1, 1), labels=["tiny"]).size[0] == 1 + 2 * 8


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="a grid of no pictures"):
        std.image_grid([])
    with pytest.raises(ValueError, match="3 column labels for 2 columns; give one for each, or none"):
        std.image_grid(plain(1, count=4), 2, column_labels=["a", "b", "c"])
    with pytest.raises(ValueError, match="1 row labels for 2 rows"):
        std.image_grid(plain(1, count=4), 2, row_labels=["a"])
    with pytest.raises(ValueError, match="1 picture labels for 4 pictures"):
        std.image_grid(plain(1, count=4), labels=["a"])


def test_a_grid_of_pictures_with_alpha_is_opaque_beside_them() -> None:
    clear = std.Image(torch.zeros(1, 30, 40, 3), torch.zeros(1, 30, 40))
    array = np.asarray(std.image_grid([clear, plain(1)], columns=2, gap=4, labels=["a", "b"]))
    assert array.shape[2] == 4
    assert (array[4:34, 4:44] == 0).all()
    assert (array[4:34, 48:88] == [255, 0, 0, 255]).all()
    assert (array[:4] == 255).all()
    assert (array[34:, :, 3] == 255).all()
    assert black(array[34:, :, :3])
