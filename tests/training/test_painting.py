from __future__ import annotations

import random

import numpy as np
import pytest

from training.painting import render
from training.world import BACKGROUNDS, COLOUR_NAMES, COLOURS, KINDS, SCENES, Scene, Thing, clashes, sample


def alone(kind: str, colour: str, background: str) -> Scene:
    return Scene(background, (Thing(kind, colour, "large", "center", 0.5, 0.5, 0.6),))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_painted_in_each_colour(kind: str) -> None:
    for colour in COLOUR_NAMES:
        background = next(name for name in COLOUR_NAMES if not clashes(colour, name))
        picture = np.asarray(render(alone(kind, colour, background)))
        painted = (picture == COLOURS[colour]).all(2)
        assert painted[25:103, 25:103].sum() > 600, colour
        painted[25:103, 25:103] = False
        assert not painted.any(), colour


@pytest.mark.parametrize("background", COLOUR_NAMES)
def test_a_plain_background_is_near_its_colour(background: str) -> None:
    for shade in (-1.0, 0.0, 1.0):
        picture = np.asarray(render(Scene(background, (), shade)), np.float32)
        assert np.abs(picture - COLOURS[background]).max() <= 0.12 * 255 + 1
    assert (picture[0] != picture[-1]).any() or background == "white"  # a gradient


def test_all_kinds_and_backgrounds_look_different() -> None:
    kinds = {render(alone(kind, "red", "white")).tobytes() for kind in KINDS}
    backgrounds = {render(Scene(name, ())).tobytes() for name in BACKGROUNDS}
    assert (len(kinds), len(backgrounds)) == (len(KINDS), len(BACKGROUNDS))


@pytest.mark.parametrize("name", SCENES)
def test_pictures_are_deterministic_and_vary_with_shade_and_seed(name: str) -> None:
    picture = np.asarray(render(Scene(name, (), 0.5, seed=1)))
    assert picture.shape == (128, 128, 3)
    assert (picture == np.asarray(render(Scene(name, (), 0.5, seed=1)))).all()
    others = [np.asarray(render(Scene(name, (), shade, seed))) for shade, seed in ((-0.5, 1), (0.5, 2))]
    changed = [bool((picture != other).any()) for other in others]
    assert changed == [name not in ("snow", "night"), name in ("snow", "night")]


def test_the_sizes_differ_by_what_they_say() -> None:
    def area(scale: float) -> int:
        thing = Thing("square", "red", "small", "center", 0.5, 0.5, scale)
        return int((np.asarray(render(Scene("white", (thing,)))) == COLOURS["red"]).all(2).sum())

    assert 3.5 < area(0.6) / area(0.3) < 4.5


def test_sampled_scenes_can_be_painted() -> None:
    rng = random.Random(4)
    assert len({render(sample(rng)).tobytes() for _ in range(50)}) == 50
