"""Values of `--set` and `--over`, read by the type of the input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graphengine.cli.values import parse
from graphengine.graph.elements import Input

TEXTS = ["#1 fan", " #x", "---", "&a", "&a b", "--- x", "%x", "a #b", "5 #x", "true # no", "two\n\nlines", "", " "]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", [str, str | None, int | str, str | list[str], Any])
@pytest.mark.parametrize("required", [True, False])
def test_what_may_be_a_text_is_the_whole_text(text: str, kind: Any, required: bool) -> None:
    assert parse(text, Input("x", kind, required)) == text


@pytest.mark.parametrize("text", ["null", "~", " null "])
def test_only_null_is_null(text: str) -> None:
    assert parse(text, Input("x", str | None)) is None
    assert parse(text, Input("x", str, False, "a")) is None
    assert parse(text, Input("x", int, False, 1)) is None
    assert parse(text, Input("x", Any)) is None
    assert parse(text, Input("x", str)) == text


def test_what_is_no_null_and_does_not_fit_is_not_taken_for_null() -> None:
    assert parse("#4", Input("x", int, False, 1)) == "#4"
    assert parse("---", Input("x", int | None)) == "---"


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("5", int | str, 5), ("'5'", Any, "5"), ("'a #b'", Any, "a #b"), ("5", Any, 5), ("[1, 2]", Any, [1, 2]),
        ("5", str, "5"), ("[a]", str | list[str], ["a"]), ("4 # fast", int, 4),
        ("5", list[int], [5]), ("a.png", list[Path], ["a.png"]), ("[1, 2]", list[int], [1, 2]), ("x", list[int], "x"),
        ("null", list[int], None), ("5", int | list[int], 5),
    ],
)  # fmt: skip
def test_other_values_are_read_by_their_type(text: str, kind: Any, value: Any) -> None:
    found = parse(text, Input("x", kind, False, None))
    assert (found, type(found)) == (value, type(value))
