"""Marks in prompts that are not read are told of; none is read as text without a word."""

from __future__ import annotations

import graphengine_nodes as std
import pytest
from graphengine_nodes.families.prompt_marks import marked
from graphengine_nodes.families.prompt_weights import parse


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a (red:1.3) circle", "(red:1.3) (encode_weighted reads it)"),
        ("a ((red)) circle", "((red)) (encode_weighted reads it)"),
        ("a [red:green:0.5] circle", "[red:green:0.5] (encode_weighted reads it)"),
        ("a [red|green] circle", "[red|green] (encode_weighted reads it)"),
        ("a cat AND a dog", "AND (encode_weighted reads it)"),
        ("a cat BREAK a dog", "BREAK (encode_weighted reads it)"),
        ("a cat <lora:style:0.7>", "<lora:style:0.7> (apply_lora or"),
        ("(masterpiece), (best)", "(masterpiece) (encode_weighted reads it); (best) (encode_weighted reads it)"),
        ("a [red] circle", "[red] (encode_weighted reads it)"),
    ],
)
def test_encode_prompt_tells_of_them_once(prompt: str, told: str, caplog: pytest.LogCaptureFixture) -> None:
    std.encode_prompt(std.load_model("tiny"), prompt)
    (message,) = caplog.messages
    assert message.startswith("the prompt holds marks that are read as plain text: ")
    assert told in message


def test_encode_weighted_reads_all_but_those_of_models(caplog: pytest.LogCaptureFixture) -> None:
    model = std.load_model("tiny")
    std.encode_weighted(model, "a (red:1.3) [a|b] cat AND ((a)) [dog:2] BREAK", "[blurry]")
    assert caplog.messages == []
    std.encode_weighted(model, "a cat <lora:style:0.7>", "<hypernet:x:1>")
    (message,) = caplog.messages
    assert all(mark in message for mark in ("<lora:style:0.7>", "<hypernet:x:1>"))


@pytest.mark.parametrize(
    ("prompt", "negative", "told"),
    [
        ("a cat", "a dog AND a cow", "AND (it joins prompts in the first positive prompt alone"),
        ("a [cat:dog:-3]", None, "[cat:dog:-3] (what changes is [from:to:when]"),
        ("a cat", "[cat:dog:when]", "[cat:dog:when] (what changes is"),
        ("a (b [a:b:c:0.5])", None, "[a:b:c:0.5] (what changes is"),
        ("a (b:x) c", None, "(b:x) (a weight is a number)"),
        ("a (b:1.2.3) c", None, "(b:1.2.3) (a weight is a number)"),
    ],
)
def test_encode_weighted_tells_of_what_it_misreads(
    prompt: str, negative: str | None, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    std.encode_weighted(std.load_model("tiny"), prompt, negative)
    (message,) = caplog.messages
    assert message.startswith("the prompt holds marks that are read as plain text: ")
    assert told in message


def test_what_is_well_written_is_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    prompt = r"a (b:1.2) [c (d:.5):e:3] [f] ((g)) (:h:-1) [i|j:k] \(l:m\) (smile :) 5:3"
    std.encode_weighted(std.load_model("tiny"), prompt, "[a:0.5] (b)")
    assert caplog.messages == []


def test_plain_texts_hold_none(caplog: pytest.LogCaptureFixture) -> None:
    for prompt in (r"a red circle \(and a house\), 5:3, sand and BREAKFAST", "1) a house]", "", None):
        std.encode_prompt(std.load_model("tiny"), prompt)
    assert caplog.messages == []


def test_which_prompts_need_encode_weighted() -> None:
    assert not any(map(marked, (None, "", "a red circle", "5:3, a|b", "1) sand and a house]:1.3)")))
    with_marks = ("(red)", "[red]", "(red:1.3)", "[a:b:3]", "[a|b]", "a AND b", "a BREAK b", r"\(red\)", r"red\)")
    assert all(map(marked, with_marks))
    assert parse("1) sand and a house]:1.3)") == [[("1) sand and a house]:1.3)", 1.0)]]
