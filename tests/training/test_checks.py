"""The evaluation's checks, on real pictures of the world: what they must get right, and that they see what is wrong."""

from __future__ import annotations

import random
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from training import checks
from training.checks import Box, Mask
from training.painting import render
from training.pictures import Picture, blueprint, canny
from training.world import COLOURS, Scene, Thing, sample

PICTURES = 180


@cache
def real() -> list[tuple[Scene, Picture, Mask]]:
    """Real pictures, half of them of held-out combinations, and where their things are told to be."""
    scenes = [sample(random.Random(number), unseen=number % 2 == 0) for number in range(PICTURES)]
    pictures = [np.asarray(render(scene)) for scene in scenes]
    return [(scene, picture, checks.things(picture)) for scene, picture in zip(scenes, pictures, strict=True)]


def picture_of(background: str, *things: Thing) -> Picture:
    return np.asarray(render(Scene(background, things)))


def thing(kind: str, colour: str, x: float = 0.5, y: float = 0.5, scale: float = 0.28) -> Thing:
    return Thing(kind, colour, "small", "center", x, y, scale)


def test_backgrounds_are_told_on_99_percent() -> None:
    assert np.mean([checks.background(picture) == scene.background for scene, picture, _ in real()]) >= 0.99


def test_places_are_told_on_98_percent() -> None:
    alone = [(scene.things[0], mask) for scene, _, mask in real() if scene.count == 1]
    assert np.mean([checks.cell(mask) == thing.cell for thing, mask in alone]) >= 0.98


def test_colours_are_told_on_98_percent() -> None:
    right = []
    for scene, picture, mask in real():
        for thing, part in zip(scene.things, checks.strips(mask, scene.count), strict=True):
            right.append(checks.colour(picture, part, thing.kind) == thing.colour)
    assert np.mean(right) >= 0.98


def test_counts_are_told_on_95_percent() -> None:
    right = []
    for scene, _, mask in real():
        if scene.alike or scene.count == 1:
            right.append(checks.count(mask) == scene.count)
    assert np.mean(right) >= 0.95


def test_an_empty_picture_holds_nothing() -> None:
    for background in ("blue", "night", "snow", "sea"):
        mask = checks.things(np.asarray(render(Scene(background, (), seed=8))))
        assert not mask.any()
        assert checks.box(mask) is None
        assert checks.cell(mask) is None
    picture = picture_of("blue")
    assert checks.colour(picture, checks.things(picture), "cat") is None
    assert checks.count(checks.things(picture)) == 0


def test_the_colour_is_the_body_s_and_not_the_sail_s_or_the_stalk_s() -> None:
    for kind in ("boat", "mushroom", "tree", "flower", "cat"):
        picture = picture_of("black", thing(kind, "pink", scale=0.6))
        assert checks.colour(picture, checks.things(picture), kind) == "pink"


def test_the_colour_is_the_body_s_even_where_other_parts_are_larger() -> None:
    picture = picture_of("black", thing("boat", "pink", scale=0.6)).copy()
    picture[28:76, 30:98] = COLOURS["white"]  # sails as wide as the hull and twice as high
    assert checks.colour(picture, checks.things(picture), "boat") == "pink"


def test_specks_are_no_things() -> None:
    picture = picture_of("blue", thing("circle", "red", 0.27, 0.27)).copy()
    picture[110:115, 110:115] = COLOURS["white"]
    assert checks.cell(checks.things(picture)) == "top left"


def test_things_that_touch_are_counted_apart_and_parts_of_one_together() -> None:
    for kind, gap in (("triangle", 0.26), ("circle", 0.27), ("boat", 0.3), ("house", 0.3), ("flower", 0.3)):
        for number in (1, 2, 3):
            row = [thing(kind, "red", 0.5 + gap * (i - (number - 1) / 2)) for i in range(number)]
            assert checks.count(checks.things(picture_of("white", *row))) == number, (kind, number)


@pytest.mark.parametrize("count", [2, 3])
def test_strips_keep_each_thing_apart(count: int) -> None:
    xs = {2: (0.28, 0.72), 3: (0.19, 0.5, 0.81)}[count]
    colours = ("red", "blue", "green")[:count]
    picture = picture_of("white", *(thing("circle", c, x) for c, x in zip(colours, xs, strict=True)))
    parts = checks.strips(checks.things(picture), count)
    assert tuple(checks.colour(picture, part, "circle") for part in parts) == colours
    assert sum(part.sum() for part in parts) == checks.things(picture).sum()


def test_a_box_is_what_a_mask_covers() -> None:
    mask = np.zeros((128, 128), np.bool_)
    mask[10:20, 64:128] = True
    assert checks.box(mask) == Box(64, 10, 128, 20)
    assert Box(64, 10, 128, 20).middle == (0.75, 30 / 256)


def test_style_distance_is_small_between_blueprints_and_large_to_pictures() -> None:
    pictures = [picture for _, picture, _ in real()[:40]]
    drawn = [blueprint(picture) for picture in pictures]
    assert checks.style_distance(drawn[:20], drawn[20:]) < 0.03
    assert checks.style_distance(drawn, pictures) > 0.2
    assert checks.style_distance(drawn, drawn) == 0


def test_edges_agree_with_their_own_picture_and_hardly_with_another() -> None:
    pictures = [picture for scene, picture, _ in real()[:60] if scene.count == 1 and canny(picture).sum() > 255 * 100]
    own = [checks.edge_agreement(canny(picture), picture) for picture in pictures]
    other = [checks.edge_agreement(canny(a), b) for a, b in pairwise(pictures)]
    assert min(own) == 1
    assert np.mean(other) < 0.35
