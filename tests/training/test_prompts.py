from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pytest

from training import prompts
from training.captions import NUMBER
from training.errors import TrainingError
from training.world import KINDS, clashes, held_out, sample


def test_the_stored_list_is_what_the_code_makes(tmp_path: Path) -> None:
    assert prompts.read() == prompts.make()
    prompts.write(prompts.make(), tmp_path / "again.tsv")
    assert (tmp_path / "again.tsv").read_bytes() == prompts.FILE.read_bytes()


def test_there_are_200_prompts_of_all_forms_and_kinds() -> None:
    listed = prompts.read()
    assert Counter(prompt.form for prompt in listed) == {"one": 60, "place": 60, "count": 40, "pair": 40}
    assert min(Counter(kind for prompt in listed for kind, _ in prompt.looks).values()) >= 10
    assert {kind for prompt in listed for kind, _ in prompt.looks} == set(KINDS)
    assert {prompt.place for prompt in listed} == {"", *prompts.PLACES}


def test_no_combination_of_the_list_is_ever_drawn_for_training() -> None:
    listed = {(kind, colour, prompt.background) for prompt in prompts.read() for kind, colour in prompt.looks}
    assert len(listed) > 100
    assert all(held_out(*look) for look in listed)
    rng = random.Random(1)
    scenes = [sample(rng) for _ in range(5000)]
    assert not {(thing.kind, thing.colour, scene.background) for scene in scenes for thing in scene.things} & listed


def test_each_prompt_can_be_seen_and_says_what_it_asks_for() -> None:
    for prompt in prompts.read():
        for kind, colour in prompt.looks:
            assert not clashes(colour, prompt.background)
            assert re.search(rf"\b{colour} {kind}", prompt.text), prompt
        assert (NUMBER[prompt.count] in prompt.text.split()) == (prompt.form == "count")
        if prompt.form == "pair":
            first, second = (prompt.text.index(f"{colour} {kind}") for kind, colour in prompt.looks)
            assert ("to the left of" in prompt.text) == (first < second)
            assert prompt.colour != prompt.right_colour


def test_a_file_that_is_no_list_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "other.tsv").write_text("a\tb\n1\t2\n")
    for name in ("other.tsv", "missing.tsv"):
        with pytest.raises(TrainingError, match="cannot be read"):
            prompts.read(tmp_path / name)
