from __future__ import annotations

import random

from training.world import BACKGROUNDS, CELLS, COLOUR_NAMES, KINDS, clashes, held_out, sample

DRAWN = 4000

TRAINED_ON = [
    ("snow", [("flower", "purple", "medium", "bottom")]),
    ("orange", [("sun", "pink", "medium", "left"), ("boat", "pink", "medium", "right")]),
    ("meadow", [("heart", "black", "medium", "left"), ("tree", "pink", "medium", "right")]),
]


def looks(unseen: bool) -> set[tuple[str, str, str]]:
    rng = random.Random(11)
    scenes = [sample(rng, unseen=unseen) for _ in range(DRAWN)]
    return {(thing.kind, thing.colour, scene.background) for scene in scenes for thing in scene.things}


def test_the_same_seed_draws_the_same_scene_and_another_seed_another() -> None:
    assert sample(random.Random(5)) == sample(random.Random(5))
    assert sample(random.Random(5)) != sample(random.Random(6))


def test_the_scenes_are_those_that_the_shipped_weights_were_trained_on() -> None:
    scenes = [sample(random.Random(number)) for number in range(3)]
    told = [(s.background, [(t.kind, t.colour, t.size, t.cell) for t in s.things]) for s in scenes]
    assert told == TRAINED_ON


def test_held_out_combinations_are_never_drawn_for_training() -> None:
    drawn = looks(unseen=False)
    assert len(drawn) > 1000
    assert not [look for look in drawn if held_out(*look)]


def test_unseen_scenes_hold_held_out_combinations_alone() -> None:
    drawn = looks(unseen=True)
    assert len(drawn) > 150
    assert all(held_out(*look) for look in drawn)


def test_about_one_combination_in_ten_is_held_out() -> None:
    every = [held_out(k, c, b) for k in KINDS for c in COLOUR_NAMES for b in BACKGROUNDS]
    assert 0.08 < sum(every) / len(every) < 0.12


def test_a_thing_never_stands_before_a_background_of_its_colour() -> None:
    assert not [look for look in looks(unseen=False) if clashes(look[1], look[2])]
    assert all(clashes(*pair) for pair in (("red", "red"), ("orange", "red"), ("white", "snow")))
    assert not clashes("red", "blue")


def test_things_stand_where_their_place_says_and_within_the_picture() -> None:
    rng = random.Random(3)
    for scene in (sample(rng) for _ in range(500)):
        for thing in scene.things:
            x, y = CELLS[thing.cell]
            assert abs(thing.x - x) < (0.1 if scene.alike else 0.026)
            assert abs(thing.y - y) < 0.026
            assert abs(thing.x - 0.5) + thing.scale / 2 < 0.53
