"""Prompts: drawn from templates of nested lists, as `multigen.Cfgen` takes them, and from wildcards in a text."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from graphengine import Doc, Drawn, Multiline, Range, node

Seed = Annotated[int, Range(0, 2**64 - 1, 1), Drawn(), Doc("The same seed draws the same prompt.")]


class Texts(NamedTuple):
    """The prompts drawn from templates.

    Attributes:
        prompt: What the picture should show.
        negative_prompt: What it should not show.
    """

    prompt: str
    negative_prompt: str


@node(version=1)
def prompt_from_template(
    prompt: Annotated[Any, Doc('A text, or a list of parts: `["a house", ["red", "blue"], {"w": "snow", "p": 0.5}]`.')],
    negative_prompt: Annotated[Any, Doc("The same for what the picture should not show; drawn after the prompt.")] = "",
    seed: Seed = 0,
) -> Texts:
    """Draw a prompt from a template, as `multigen.Cfgen` does for the picture with that seed.

    A text is itself. The outer list joins its parts by ", ". Inside it, a list is one of its elements, each equally
    likely; `["+", a, b]` is its elements joined by a space; `{"w": x, "p": 0.3}` is x in 3 cases of 10, else nothing.

    Raises:
        ValueError: A template has a part of another kind; the message says where.
    """
    rng = random.Random(seed)
    return Texts(draw(prompt, rng), draw(negative_prompt, rng, "negative_prompt"))


def draw(template: Any, rng: random.Random, name: str = "prompt") -> str:
    """A prompt from a template; `multigen.Cfgen` draws its prompt and then its negative prompt from one generator.

    Draws are `randint(0, n - 1)` for a list of alternatives and `random()` for a dictionary, in the order of reading
    and only in what is taken, so that `random.Random(seed)` gives the prompts that multigen's users have noted.

    Args:
        name: What messages call the template.

    Raises:
        ValueError: It has a part that is no text, list or `{"w": ..., "p": ...}`.
    """
    check(template, name)
    if _is_list(template):
        return _joined(template, ", ", rng)
    return _drawn(template, rng) or ""


def check(template: Any, place: str = "prompt") -> None:
    """Look through a whole template, whatever would be drawn.

    Raises:
        ValueError: It has a part that is no text, list or `{"w": ..., "p": ...}`.
    """
    if isinstance(template, str):
        return
    if _is_list(template):
        if not template:
            raise ValueError(f"{place} is an empty list; there is nothing to draw from it")
        for index, part in enumerate(template):
            check(part, f"{place}[{index}]")
        return
    if not isinstance(template, Mapping):
        raise ValueError(
            f'{place} is {template!r:.60}; a template\'s parts are texts, lists and {{"w": part, "p": probability}}'
        )
    if "w" not in template or not _is_number(template.get("p")):
        raise ValueError(f'{place} is {template!r:.60}; it needs "w", a part, and "p", the probability that it is kept')
    check(template["w"], f"{place}.w")


def _drawn(part: Any, rng: random.Random) -> str | None:
    """A part's text, or None where its probability left it out."""
    if isinstance(part, str):
        return part
    if _is_list(part):
        if part[0] == "+":
            return _joined(part[1:], " ", rng)
        return _drawn(part[rng.randint(0, len(part) - 1)], rng)
    return _drawn(part["w"], rng) if rng.random() < part["p"] else None


def _joined(parts: Sequence[Any], by: str, rng: random.Random) -> str:
    """Parts in a row: nothing before the first one that has a text, as in the original."""
    text = ""
    for part in parts:
        drawn = _drawn(part, rng)
        if drawn is not None:
            text = f"{text}{by}{drawn}" if text else drawn
    return text


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# --- wildcards --------------------------------------------------------------------------------------------------------


@node(version=1)
def expand_wildcards(
    text: Annotated[
        str, Multiline(), Doc(r"Alternatives in braces, `a {red|blue {round|square}} house`; `\{` is a brace.")
    ],
    seed: Seed = 0,
) -> str:
    r"""Replace each `{alternatives|in|braces}` in a text by one of them, each equally likely.

    Alternatives may be empty and hold further ones. `\{`, `\|` and `\}` are these signs themselves; other backslashes
    stay as they are.

    Raises:
        ValueError: A brace has no partner.
    """
    todo, found = _row(text)[::-1], ""
    rng = random.Random(seed)
    while todo:
        part = todo.pop()
        if isinstance(part, str):
            found += part
        else:
            todo += part[rng.randint(0, len(part) - 1)][::-1]
    return found


Row = list["str | list[Row]"]
"""Texts, and groups of alternatives, which are rows themselves."""


def _row(text: str) -> Row:
    """A text taken apart at its braces."""
    row: Row = []
    opened: list[tuple[int, Row, list[Row]]] = []
    for match in re.finditer(r"\\.|[{|}]|[^\\{|}]+|\\", text, re.DOTALL):
        sign = match[0]
        if sign == "{":
            group: list[Row] = [[]]
            row.append(group)
            opened.append((match.start(), row, group))
            row = group[0]
        elif sign == "|" and opened:
            row = []
            opened[-1][2].append(row)
        elif sign == "}":
            if not opened:
                raise ValueError(
                    rf"sign {match.start() + 1}, a closing brace, opens nowhere; write \}} for itself: {text!r:.300}"
                )
            _, row, _ = opened.pop()
        else:
            row.append(sign[1] if sign in (r"\{", r"\|", r"\}") else sign)
    if opened:
        raise ValueError(
            rf"sign {opened[-1][0] + 1}, an opening brace, is never closed; write \{{ for itself: {text!r:.300}"
        )
    return row
