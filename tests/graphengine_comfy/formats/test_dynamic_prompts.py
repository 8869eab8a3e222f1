from __future__ import annotations

import pytest
from graphengine_comfy.formats.dynamic_prompts import Alternatives, settled


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("a red circle", "a red circle"),
        ("a {red} circle", "a red circle"),
        ("{a {b} c", "a b c"),
        ("a } b", "a } b"),
        (r"\{a\|b\}", "{a|b}"),
        ("a|b", "a|b"),
        ("a // b\nc", "a \nc"),
        ("a /* b\nc */ d", "a  d"),
        ("/* open", "/* open"),
        (r"C:\x \(y\)", r"C:\x \(y\)"),
    ],
)
def test_comments_and_single_braces_go(text: str, sent: str) -> None:
    assert settled(text) == sent


@pytest.mark.parametrize("text", ["{a|b}", "x {a {b|c}} y", "{a|", "{|}"])
def test_alternatives_are_refused(text: str) -> None:
    with pytest.raises(Alternatives):
        settled(text)
