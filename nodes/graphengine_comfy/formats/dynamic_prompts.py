"""Dynamic prompts: what the editor makes of comments and braces in the texts of prompts before it sends them."""

from __future__ import annotations

import re


class Alternatives(ValueError):
    """A text has alternatives, `{a|b}`, of which the editor draws one each time."""


_COMMENT = re.compile(r"/\*.*?\*/|//[^\n\r\u2028\u2029]*", re.DOTALL)


def settled(text: str) -> str:
    r"""The text that the editor sends: without comments, and without braces around what has no alternatives.

    A brace or bar behind a backslash (`\{`) stands for itself.

    Raises:
        Alternatives: It has alternatives.
    """
    if not any(mark in text for mark in ("{", "\\", "//", "/*")):
        return text
    parts: list[str] = []
    depth, escaped = 0, False
    for char in _COMMENT.sub("", text) if "*/" in text or "//" in text else text:
        if escaped:
            parts.append(char if char in "{}|" else f"\\{char}")
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == "{":
            depth += 1
        elif char == "}" and depth:
            depth -= 1
        elif char == "|" and depth:
            raise Alternatives
        else:
            parts.append(char)
    return "".join(parts) + ("\\" if escaped else "")
