from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from training import tokenizer
from training.captions import FILLER


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    return tokenizer.build(tmp_path_factory.mktemp("tokenizer"))


def test_it_is_the_shipped_tokenizer(built: CLIPTokenizer, shipped: Path) -> None:
    model = json.loads((shipped / "model" / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens, merges = tokenizer.vocabulary()
    assert model["vocab"] == {token: number for number, token in enumerate(tokens)} == built.get_vocab()
    assert [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]] == merges


@pytest.mark.parametrize(
    "text", ["a red circle on a blue background", "two little MUSHROOMS, pink!", "xylophone café 4k"]
)
def test_what_is_tokenized_is_read_back(built: CLIPTokenizer, text: str) -> None:
    read = built.decode(built(text).input_ids, skip_special_tokens=True)
    assert read.replace(" ", "") == text.lower().replace(" ", "")


def test_each_word_of_the_world_is_one_token(built: CLIPTokenizer) -> None:
    words = tokenizer.words()
    assert {"circle", "mushrooms", "background", "sunset"} <= set(words)
    assert [word for word in words if built.tokenize(word) != [word + "</w>"]] == []
    assert {word for word in FILLER if word.isalpha()} <= set(words)


def test_a_prompt_fills_77_places_between_start_and_end(built: CLIPTokenizer) -> None:
    ids = built("a red circle", padding="max_length", truncation=True).input_ids
    assert len(ids) == 77
    assert ids[0] == built.bos_token_id
    assert ids[4:] == [built.eos_token_id] * 73
    assert built("red " * 100, truncation=True).input_ids[-1] == built.eos_token_id
