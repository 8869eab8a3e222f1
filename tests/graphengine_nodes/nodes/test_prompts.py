"""Prompts are encoded correctly from many threads at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import graphengine_nodes as std
import pytest
import torch


def test_a_tokenizer_is_never_used_by_two_threads_at_once() -> None:
    """Its padding and truncation are state inside it: sharing it gives other prompts' lengths, without an error."""
    model = std.load_model("tiny")
    prompts = ["a red circle", "a green tree on a hill " * 9, "", "a blue boat " * 40, None]
    calls: list[tuple[str | None, int]] = [(prompt, skip) for prompt in prompts for skip in (0, 1)]
    expected = [std.encode_prompt(model, prompt, skip).embeds for prompt, skip in calls]
    order = [index for _ in range(20) for index in range(len(calls))]

    def encode(index: int) -> Any:
        return std.encode_prompt(model, *calls[index]).embeds

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(encode, order))
    wrong = [index for index, embeds in zip(order, found, strict=True) if not torch.equal(embeds, expected[index])]
    assert not wrong


def test_the_steps_of_clip_skip_are_different_layers() -> None:
    model = std.load_model("tiny")
    found = [std.encode_prompt(model, "a red circle", skip).embeds for skip in range(4)]
    for skip in (1, 2, 3):
        assert not torch.allclose(found[0], found[skip], atol=1e-2)
        assert torch.equal(std.encode_prompt(model, None, skip).embeds, std.encode_prompt(model, None).embeds)


@pytest.mark.parametrize("name", ["prompt", "prompt_2", "negative_prompt", "negative_prompt_2"])
def test_a_text_of_megabytes_is_refused_before_it_is_read(name: str) -> None:
    model, told = std.load_model("tiny"), f"{name} has 1,000,000 characters, and 100,000 are the most"
    texts = {"prompt": "a", name: "x" * 1_000_000}
    with pytest.raises(ValueError, match=told):
        std.encode_weighted(model, **texts)  # type: ignore[arg-type]
    if not name.startswith("negative"):
        with pytest.raises(ValueError, match=told):
            std.encode_prompt(model, **texts)


def test_a_long_text_is_encoded() -> None:
    assert std.encode_prompt(std.load_model("tiny"), "word " * 20_000).embeds.shape[1] == 77
