from __future__ import annotations

import random
import re

from training.captions import NUMBER, PLACE, WHERE, caption, noisy_caption, plural
from training.world import COLOUR_NAMES, KINDS, Scene, sample


def captioned(count: int) -> list[tuple[Scene, str]]:
    rng = random.Random(21)
    scenes = [sample(rng) for _ in range(count)]
    return [(scene, caption(scene, rng)) for scene in scenes]


def test_captions_name_colours_and_kinds_of_their_scene_alone() -> None:
    for scene, text in captioned(1500):
        for phrase in (phrase for forms in WHERE.values() for phrase in forms):
            text = text.replace(phrase, "")  # "in a green field" says meadow
        words = set(re.findall("[a-z]+", text))
        true = {thing.colour for thing in scene.things} | {scene.background}
        assert words & set(COLOUR_NAMES) <= true, text
        kinds = {thing.kind for thing in scene.things}
        assert words & {*KINDS, *map(plural, KINDS)} <= kinds | set(map(plural, kinds)), text


def test_captions_count_things_that_are_alike() -> None:
    for scene, text in captioned(1500):
        said = set(text.split()) & set(NUMBER.values())
        assert said == ({NUMBER[scene.count]} if scene.alike else set()), text


def test_captions_place_a_thing_where_it_is() -> None:
    said = 0
    for scene, text in captioned(1500):
        for place, phrases in PLACE.items():
            if any(re.search(rf" {phrase}\b(?! corner| left| right)", text) for phrase in phrases):
                assert scene.things[0].cell == place, text
                said += 1
    assert said > 300


def test_left_and_right_are_not_swapped() -> None:
    said = 0
    for scene, text in captioned(3000):
        if found := re.search(r"(\w+) to the (left|right) of an? .*?(\w+)(?= on| in| at|,|\.|$| under)", text):
            first, side, _ = found.groups()
            assert scene.things[0 if side == "left" else 1].kind == first, text
            said += 1
    assert said > 100


def test_filler_words_leave_the_caption_s_own_words() -> None:
    noisy = 0
    for number in range(400):
        scene = sample(random.Random(number))
        plain, other = caption(scene, random.Random(number)), noisy_caption(scene, random.Random(number))
        assert not [word for word in plain.split() if word not in other]
        noisy += plain != other
    assert 30 < noisy < 100
