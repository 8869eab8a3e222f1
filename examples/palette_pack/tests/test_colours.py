"""Tests of the pack, as its author runs them: `pytest` in the pack's folder."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from graphengine_nodes import Image

from graphengine import Reuse, Store, load, load_pack, run
from graphengine.testing import Recorder

PACK = Path(__file__).parents[1] / "palette"
nodes = load_pack(PACK)
palette_of, recolour = nodes["palette_of"], nodes["recolour"]
colours = sys.modules[palette_of.__module__]


def test_the_most_frequent_colour_comes_first() -> None:
    pixels = torch.zeros(1, 2, 2, 3)
    pixels[0, 0, 0] = torch.tensor([1.0, 0.0, 0.0])
    assert palette_of(Image(pixels), count=2).colours == ((0, 0, 0), (255, 0, 0))


def test_a_palette_is_read_back_from_its_bytes() -> None:
    palette = palette_of(Image(torch.rand(1, 8, 8, 3)), count=3)
    assert colours.decode(colours.encode(palette)) == palette


def test_a_recoloured_picture_has_no_other_colours() -> None:
    palette = colours.Palette(((255, 0, 0), (0, 0, 255)))
    made = recolour(Image(torch.rand(1, 8, 8, 3)), palette)
    assert set(palette_of(made, count=16, levels=256).colours) <= set(palette.colours)


def test_fewer_colours_sample_nothing_again() -> None:
    graph, store, recorder = load(PACK / "workflows" / "colours.yaml"), Store(), Recorder()
    run(graph, inputs={"steps": 2}, store=store)
    run(graph, inputs={"steps": 2, "count": 2}, store=store, listeners=[recorder])
    assert recorder.why["palette"] is Reuse.COMPUTED
    assert recorder.computed["palette.recolour"] == 1
    assert recorder.computed["std.sample"] == 0
