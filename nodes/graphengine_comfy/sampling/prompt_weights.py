r"""Weights in prompts as ComfyUI reads them: `a (red:1.3) circle`; they differ from the WebUI's.

- `(text)` is 1.1 times as heavy as what is around it; `(text:1.3)` weighs 1.3 whatever is around it.
- `[text]` has no meaning and is text.
- `\(` and `\)` are the signs themselves.
- `embedding:name` is a textual inversion, wherever a word begins.
- A bracket without a partner is text. After a `)` too many nothing is a weight until a `(` has made up for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

DEEPEST = 200
"""Most brackets inside one another."""

_SIGN = re.compile(r"\\[()]|.", re.DOTALL)
"""A character of a prompt, or a bracket with the `\\` before it."""
_EMBEDDING = re.compile(r"(?:^|(?<=[ \n]))embedding:(?P<name>\S+)")


class Piece(NamedTuple):
    """A part of a prompt.

    Attributes:
        text: As the tokenizer takes it; of an embedding `embedding:name`.
        weight: 1.0 is none.
        embedding: The name of the textual inversion that stands here, None for text.
    """

    text: str
    weight: float
    embedding: str | None = None


def weighted_texts(prompt: str) -> list[Piece]:
    """Parse a prompt into texts with their weights; embeddings are still text.

    Raises:
        ValueError: A weight is not finite, or more than `DEEPEST` brackets stand inside one another.
    """
    return [Piece(_shown(signs), weight) for signs, weight in _parsed(_SIGN.findall(prompt), 1.0, 0)]


def weighted_pieces(prompt: str) -> list[Piece]:
    """Parse a prompt into texts with their weights and the embeddings between them.

    Raises:
        ValueError: As in `weighted_texts`.
    """
    return [piece for text in weighted_texts(prompt) for piece in _split_at_embeddings(text)]


def escaped(text: str) -> str:
    r"""A text as a prompt that means just it: brackets become `\(` and `\)`."""
    return text.replace("(", "\\(").replace(")", "\\)")


def _shown(signs: list[str]) -> str:
    """The text that signs mean."""
    return "".join(sign[-1] for sign in signs)


def _parsed(signs: list[str], weight: float, depth: int) -> Iterator[tuple[list[str], float]]:
    if depth > DEEPEST:
        raise ValueError(f"more than {DEEPEST} brackets stand inside one another in the prompt")
    for part in _parts(signs):
        if len(part) > 1 and part[0] == "(" and part[-1] == ")":
            yield from _parsed(*_weighed(part[1:-1], weight), depth + 1)
        else:
            yield part, weight


def _parts(signs: list[str]) -> Iterator[list[str]]:
    """What stands between brackets and each outermost bracket with what is in it, in order; none is empty."""
    start = depth = 0
    for index, sign in enumerate(signs):
        if sign == "(":
            if depth == 0 and index > start:
                yield signs[start:index]
                start = index
            depth += 1
        elif sign == ")":
            depth -= 1
            if depth == 0:
                yield signs[start : index + 1]
                start = index + 1
    if start < len(signs):
        yield signs[start:]


def _weighed(inside: list[str], around: float) -> tuple[list[str], float]:
    """What stands in a bracket, without its number, and its weight."""
    colon = max((index for index, sign in enumerate(inside) if sign == ":"), default=0)
    number = _shown(inside[colon + 1 :])
    try:
        weight = float(number) if colon else None
    except ValueError:
        weight = None
    if weight is None:
        return inside, around * 1.1
    if not math.isfinite(weight):
        raise ValueError(f"the weight {number.strip()} in a prompt is no finite number; plain brackets are \\( and \\)")
    return inside[:colon], weight


def _split_at_embeddings(piece: Piece) -> Iterator[Piece]:
    """Text and embeddings, in order; a comma behind a name belongs to the text."""
    start = 0
    for match in _EMBEDDING.finditer(piece.text):
        name = match["name"].rstrip(",")
        if not name:
            continue
        if text := piece.text[start : match.start()].removesuffix(" "):
            yield Piece(text, piece.weight)
        yield Piece(f"embedding:{name}", piece.weight, name)
        start = match.start() + len("embedding:") + len(name)
    if text := piece.text[start:]:
        yield Piece(text, piece.weight)
