"""Writing plain data as YAML."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from graphengine.errors import Problem, WorkflowError
from graphengine.workflow.yaml12 import MAX_DEPTH

WIDTH = 100
"""Collections that fit into this many columns may stand in one line."""
INDENT = 2
# A key in one line may be no longer than 1,024 characters; longer ones are written with `? `.
LONG_KEY = 1000

# What needs no quotes: it begins like a word or a path and holds nothing that means something to YAML.
_PLAIN_FLOW = re.compile(r"(\.{0,2}/)?[^\W\d]([\w./@+()=~-]| (?=[\w(]))*\Z")
_PLAIN_BLOCK = re.compile(r"(\.{0,2}/)?[^\W\d]([\w./@+()=~,;!?'\"*&%-]| (?=[\w('\"*&%-]))*\Z")
# Words that YAML 1.1 or 1.2 reads as null or a boolean; people and other readers know both.
_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
_ESCAPED = re.compile("[\x7f-\xa0\u2028\u2029\ufeff\ufffe\uffff\U000f0000-\U0010ffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_LITERAL = re.compile("[^\n\x20-\x7e\u00a1-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U000effff]|[\u2028\u2029]")


def dump(data: Any) -> str:
    """Plain data as YAML that `yaml12.load` reads back exactly; texts that YAML 1.1 or 1.2 would misread are quoted.

    Raises:
        WorkflowError: Something in it is no JSON (NaN, a key that is no text, an object), or it is nested too deeply.
    """
    text = _inline(data, WIDTH, 0)
    if text is not None or not isinstance(data, dict | list):
        return f"{text if text is not None else _scalar(data, flow=True)}\n"
    return "\n".join(_block(data, 0)) + "\n"


def _block(data: Any, depth: int) -> list[str]:
    """The lines of a collection that is not empty, without their common indent."""
    if depth >= MAX_DEPTH:
        raise WorkflowError(Problem("too deep", f"the data is nested deeper than {MAX_DEPTH} levels"))
    lines: list[str] = []
    if isinstance(data, list):
        for item in data:
            inner = _value(item, depth + 1)
            if isinstance(inner, list):  # the first line of what is inside stands behind the dash
                lines += [f"- {inner[0]}", *(_indented(line) for line in inner[1:])]
            else:
                first, *rest = inner.split("\n")
                lines += [f"- {first}", *(_indented(line) for line in rest)]
        return lines
    for key, item in data.items():
        name = _key(key)
        start = f"{name}:" if len(name) <= LONG_KEY else f"? {name}\n:"
        inner = _value(item, depth + 1, len(name) + 2)
        if isinstance(inner, list):
            lines += [*start.split("\n"), *(_indented(line) for line in inner)]
        else:
            first, *rest = inner.split("\n")
            lines += [*f"{start} {first}".split("\n"), *(_indented(line) for line in rest)]
    return lines


def _indented(line: str) -> str:
    return " " * INDENT + line if line else line


def _value(item: Any, depth: int, used: int = 2) -> list[str] | str:
    """What stands behind a key or a dash: the lines of a block, or one text (with more lines for a literal)."""
    if isinstance(item, dict | list):
        short = _inline(item, WIDTH - used - INDENT * depth, depth)
        return short if short is not None else _block(item, depth)
    return _scalar(item, flow=False)


def _inline(item: Any, width: int, depth: int) -> str | None:
    """A collection in one line; None where it is too long, or reads better as a block."""
    if not isinstance(item, dict | list):
        return None
    if not item:
        return "{}" if isinstance(item, dict) else "[]"
    inner = list(item.values()) if isinstance(item, dict) else item
    nested = [v for v in inner if isinstance(v, dict | list) and v]
    # The document, and what stands directly in it, are blocks unless they hold nothing but values.
    if depth == 0 or (nested and (depth == 1 or len(inner) * 4 > width)) or len(inner) * 3 > width:
        return None
    text = _flow(item, 3)
    return text if text is not None and len(text) <= width else None


def _flow(item: Any, levels: int) -> str | None:
    if not isinstance(item, dict | list):
        if isinstance(item, str) and ("\n" in item or len(item) > WIDTH):
            return None
        return _scalar(item, flow=True)
    if not item:
        return "{}" if isinstance(item, dict) else "[]"
    if levels == 0 or len(item) > WIDTH:
        return None
    parts = []
    for entry in item.items() if isinstance(item, dict) else ((None, v) for v in item):
        text = _flow(entry[1], levels - 1)
        name = "" if isinstance(item, list) else _key(entry[0]) + ": "
        if text is None or len(name) + len(text) > WIDTH:
            return None
        parts.append(name + text)
    return "{" + ", ".join(parts) + "}" if isinstance(item, dict) else "[" + ", ".join(parts) + "]"


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise WorkflowError(Problem("bad key", f"the key {key!r:.60} is no text"))
    return _text(key, flow=True)


def _scalar(value: Any, flow: bool) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value, flow)
    if isinstance(value, int):
        try:
            return int.__repr__(value)
        except ValueError:
            raise WorkflowError(Problem("bad number", "a number has too many digits")) from None
    if isinstance(value, float) and math.isfinite(value):
        text = float.__repr__(value)
        # YAML 1.1 reads an exponent only behind a point.
        return text if "e" not in text or "." in text else text.replace("e", ".0e")
    raise WorkflowError(Problem("no data", f"{value!r:.60} cannot be written: it is no JSON"))


def _text(text: str, flow: bool) -> str:
    if _SURROGATE.search(text):
        raise WorkflowError(Problem("bad character", "a text has half a surrogate pair", found=ascii(text)[:60]))
    if not flow and "\n" in text.rstrip("\n") and text[0] not in " \n" and not _NO_LITERAL.search(text):
        body = text.removesuffix("\n")
        if not body.endswith("\n"):
            return "|" + ("" if body != text else "-") + "\n" + body
    plain = _PLAIN_FLOW if flow else _PLAIN_BLOCK
    if plain.match(text) and text.lower() not in _WORDS:
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return _ESCAPED.sub(_escape, quoted)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
