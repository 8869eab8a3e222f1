"""Cfgen ends where it should, and draws from the picture's seed alone."""

from __future__ import annotations

import random
from itertools import islice
from typing import Any

import pytest

from multigen import Cfgen, hints

TEMPLATE: Any = ["a house", ["red", "blue", "green"], {"w": "snow", "p": 0.5}, ["+", "by", ["night", "day"]]]


def prompts(config: Cfgen) -> list[str]:
    return [inputs["prompt"] for inputs in config]


def test_strings_are_themselves() -> None:
    config = Cfgen("a {red|blue} house, (old:1.2)", "blur", seeds=[7], width=64)
    expected = {"prompt": "a {red|blue} house, (old:1.2)", "generator": 7, "negative_prompt": "blur", "width": 64}
    assert list(config) == [expected]


def test_without_a_limit_and_seeds_there_is_nothing() -> None:
    assert list(Cfgen("a house")) == []


def test_it_ends_at_max_count() -> None:
    config = Cfgen("a house", max_count=3)
    seeds = [inputs["generator"] for inputs in config]
    assert len(set(seeds)) == 3
    assert all(1 <= seed < 2**32 for seed in seeds)
    config.max_count += 2
    assert len(list(config)) == 2


def test_it_ends_after_the_rounds_of_seeds() -> None:
    assert [inputs["generator"] for inputs in Cfgen("a house", seeds=range(3))] == [0, 1, 2]
    twice = Cfgen("a house", seeds=[5, 6], max_seed_rounds=2)
    assert [inputs["generator"] for inputs in twice] == [5, 6, 5, 6]
    assert [inputs["generator"] for inputs in Cfgen("a house", max_count=2, seeds=[1, 2, 3])] == [1, 2]
    assert [inputs["generator"] for inputs in Cfgen("a house", max_count=5, seeds=[1, 2])] == [1, 2]
    assert list(Cfgen("a house", seeds=[])) == []


def by_hand(seed: int) -> tuple[str, str]:
    """The draws of TEMPLATE and a negative prompt after it, written out."""
    rng = random.Random(seed)
    parts = ["a house", ["red", "blue", "green"][rng.randint(0, 2)]]
    if rng.random() < 0.5:
        parts.append("snow")
    parts.append("by " + ["night", "day"][rng.randint(0, 1)])
    return ", ".join(parts), ["blur", "noise", "dust"][rng.randint(0, 2)]


def test_prompt_and_negative_prompt_are_drawn_from_one_seed() -> None:
    config = Cfgen(TEMPLATE, [["blur", "noise", "dust"]], seeds=range(200))
    assert [(i["prompt"], i["negative_prompt"]) for i in config] == [by_hand(seed) for seed in range(200)]


def test_the_choice_depends_on_the_pictures_seed_alone() -> None:
    forward = dict(zip(range(50), prompts(Cfgen(TEMPLATE, seeds=range(50))), strict=True))
    seeds = list(range(50))
    random.Random(1).shuffle(seeds)
    shuffled = dict(zip(seeds, prompts(Cfgen(TEMPLATE, seeds=seeds)), strict=True))
    assert shuffled == forward


def test_bad_templates_are_told() -> None:
    with pytest.raises(ValueError, match=r"negative_prompt\[1\] is 3"):
        next(Cfgen("a house", ["blur", 3], max_count=1))


def test_hints_make_prompts() -> None:
    names = {"style", "quality", "shooting", "effects", "style_modifiers", "vibe", "colors", "author_style"}
    assert set(hints) == names
    template: list[Any] = ["a boat", *(hints[name] for name in sorted(names))]
    found = prompts(Cfgen(template, max_count=40))
    assert len(set(found)) > 30
    assert all(prompt.count(", ") == 8 for prompt in found)
    assert len(list(islice(Cfgen(hints["effects"], max_count=1), 2))) == 1
