"""Reading JSON that strangers send: no NaN, no half characters, no name twice, not too deep, not too many values."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

from graphengine.server.problems import ApiError

DEEPEST = 64
"""The most levels of lists and objects in each other."""
MOST_VALUES = 500_000
"""The most values in a body, those inside others too."""
LONGEST_NUMBER = 400
"""The most digits of a number."""
_MARK = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{},:]', re.DOTALL)
"""A text as a whole, or a character that stands between values."""


def parse(content: bytes) -> Any:
    """Parse a body as JSON.

    Raises:
        ApiError: It is none, or goes beyond a limit; says where.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ApiError("bad_request", f"the body is no UTF-8 text: byte {error.start:,} is wrong") from None
    if not text.strip():
        raise ApiError("bad_request", "the body is empty; it must be JSON")
    _check_depth(text)
    try:
        value = json.loads(
            text, parse_constant=_refuse, parse_float=_float, parse_int=_int, object_pairs_hook=_object
        )  # fmt: skip
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ApiError("bad_request", f"the body is no JSON: {error.msg} ({place})") from None
    _check_texts(value)
    return value


def _check_depth(text: str) -> None:
    """Refuse too many levels and values before anything is made of them."""
    depth = values = 0
    for found in _MARK.finditer(text):
        mark = found[0]
        if mark in "[{":
            depth += 1
            if depth > DEEPEST:
                raise ApiError("bad_request", f"the body has lists and objects more than {DEEPEST} deep in each other")
        elif mark in "]}":
            depth -= 1
        values += mark in "[{,:"
        if values > MOST_VALUES:
            raise ApiError("too_large", f"the body holds more than {MOST_VALUES:,} values")


def _refuse(word: str) -> NoReturn:
    raise ApiError("bad_request", f"the body is no JSON: {word} is no number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ApiError("bad_request", f"{ascii(twice)[:60]} stands twice in an object, and only one of them can count")
    return found


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ApiError("bad_request", f"the number {digits[:40]} is larger than any that can be computed with")
    return value


def _int(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ApiError("bad_request", f"a number has {len(digits):,} digits, more than {LONGEST_NUMBER}")
    return int(digits)


def _check_texts(value: Any) -> None:
    stack = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, str):
            try:
                part.encode()
            except UnicodeEncodeError:
                raise ApiError("bad_request", f"{ascii(part)[:60]} holds half of a character") from None
        elif isinstance(part, dict):
            stack += part
            stack += part.values()
        elif isinstance(part, list):
            stack += part
