"""Prompts are encoded correctly from many threads at once; the marks in them decide which encoder reads them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.testing import flux as testing_flux
from graphengine_nodes.testing import sdxl as testing_xl


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


# --- both prompts, with or without marks ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, std.Model]:
    folder = tmp_path_factory.mktemp("families")
    return {
        "tiny": std.load_model("tiny"),
        "xl": std.load_model(testing_xl.xl_model(folder / "xl")),
        "flux": std.load_model(testing_flux.flux_model(folder / "flux")),
    }


def same(one: std.Conditioning, other: std.Conditioning) -> bool:
    pooled = one.pooled is other.pooled or torch.equal(one.pooled, other.pooled)
    return torch.equal(one.embeds, other.embeds) and pooled and one.absent == other.absent


@pytest.mark.parametrize("name", ["tiny", "xl", "flux"])
def test_without_marks_both_are_those_of_encode_prompt(families: dict[str, std.Model], name: str) -> None:
    model, long = families[name], "a red circle on a blue background, " * 20
    for texts in ((long, "blurry"), ("a red circle", None), ("", "")):
        found = std.encode_prompts(model, *texts)
        assert all(same(one, std.encode_prompt(model, text)) for one, text in zip(found, texts, strict=True))


@pytest.mark.parametrize("name", ["tiny", "xl"])
def test_with_marks_in_either_both_are_those_of_encode_weighted(families: dict[str, std.Model], name: str) -> None:
    model = families[name]
    for texts in (("a (red:1.3) circle", None), ("a circle", "[blurry]"), ("a [red:green:0.5] circle", "dark")):
        found, wanted = std.encode_prompts(model, *texts), std.encode_weighted(model, *texts)
        assert all(same(one, other) for one, other in zip(found, wanted, strict=True))
        assert [len(one.schedule) for one in found] == [len(one.schedule) for one in wanted]


def test_a_family_without_marks_gets_the_text(families: dict[str, std.Model], caplog: pytest.LogCaptureFixture) -> None:
    found = std.encode_prompts(families["flux"], "a (red:1.3) circle")
    assert "(red:1.3) (flux models read none)" in caplog.text
    assert same(found.positive, std.encode_prompt(families["flux"], "a (red:1.3) circle"))
