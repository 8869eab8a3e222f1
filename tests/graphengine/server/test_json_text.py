"""JSON that strangers send: what it holds is read as it is, and limits are kept before anything is made of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphengine.server.json_text import DEEPEST, MOST_VALUES, parse
from graphengine.server.problems import ApiError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # of a machine with other work
@given(VALUES, st.booleans())
def test_what_is_json_is_read(value: object, escaped: bool) -> None:
    assert parse(json.dumps(value, ensure_ascii=escaped).encode()) == value


def test_limits() -> None:
    assert parse(b"[" * DEEPEST + b"]" * DEEPEST)
    for text in ("[" * (DEEPEST + 1), '{"a":' * (DEEPEST + 1), "[" + "1," * MOST_VALUES + "1]"):
        with pytest.raises(ApiError, match=r"deep in each other|more than"):
            parse(text.encode())
    inside = json.dumps({"text": "[{" * 1000 + '\\"]' * 1000}).encode()  # brackets in a text are no levels
    assert len(parse(inside)["text"]) == 5000


@pytest.mark.parametrize(
    "text",
    [
        "NaN", "-Infinity", "1e999", "-1e999", "9" * 500, '"\\ud800"', '{"\\udc00": 1}', "{,}", "'a'",
        '[{"a": 1, "a": 1}]',
    ],
)
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse(text.encode())
    assert refused.value.code == "bad_request"
