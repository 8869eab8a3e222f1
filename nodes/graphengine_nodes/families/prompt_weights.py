"""Weights in prompts, `a (red:1.3) house`, and prompts longer than a text encoder reads: all that needs no model.

A prompt is taken apart into texts with weights, these into tokens with weights, and the tokens into chunks of the
length that the encoder reads. A family applies weights to embeddings by `scaled` or by `moved`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

ROUND, SQUARE = 1.1, 1 / 1.1

DEEPEST = 4000
"""Most brackets inside one another: each is gone through again for all texts in it."""

_SIGNS = re.compile(
    r"""
      \\(?P<escaped>[()\[\]\\])
    | (?P<open>[(\[])
    | :\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)
    | (?P<close>[)\]])
    | \bBREAK\b
    | (?:(?!\bBREAK\b)[^\\()\[\]:])+
    | .
    """,
    re.VERBOSE | re.DOTALL,
)


class Piece(NamedTuple):
    """A text with its weight; 1.0 is none."""

    text: str
    weight: float


def parse(prompt: str) -> list[list[Piece]]:
    r"""Parse a prompt into texts with weights, in parts that each begin a new chunk: a part more for each `BREAK`.

    `(text)` is 1.1 times, `[text]` 1/1.1 times and `(text:1.3)` 1.3 times as heavy, and so on inside one another;
    `\(`, `\)`, `\[`, `\]` and `\\` are these signs themselves. A bracket that is not closed reaches to the end; a
    closing bracket without a partner is plain text.

    Raises:
        ValueError: More than `DEEPEST` brackets stand inside one another.
    """
    texts: list[str | None] = []  # None is a BREAK
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(bracket: str, weight: float) -> None:
        for index in range(opened[bracket].pop(), len(texts)):
            weights[index] *= weight

    for sign in _SIGNS.finditer(prompt):
        if bracket := sign["open"]:
            opened[bracket].append(len(texts))
            if len(opened[bracket]) > DEEPEST:
                raise ValueError(f"the prompt has more than {DEEPEST:,} brackets inside one another; make it simpler")
        elif sign["weight"] and opened["("]:
            close("(", float(sign["weight"]))
        elif sign["close"] == ")" and opened["("]:
            close("(", ROUND)
        elif sign["close"] == "]" and opened["["]:
            close("[", SQUARE)
        else:
            texts.append(None if sign[0] == "BREAK" else sign["escaped"] or sign[0])
            weights.append(1.0)
    for bracket, weight in (("(", ROUND), ("[", SQUARE)):
        while opened[bracket]:
            close(bracket, weight)

    parts: list[list[Piece]] = [[]]
    for text, weight in zip(texts, weights, strict=True):
        if text is None:
            parts.append([])
        elif parts[-1] and parts[-1][-1].weight == weight:
            # As one text: a word that only its brackets divide is read as a whole.
            parts[-1][-1] = Piece(parts[-1][-1].text + text, weight)
        else:
            parts[-1].append(Piece(text, weight))
    return parts


class Chunk(NamedTuple):
    """The tokens that a text encoder reads at once: begin, tokens, end, and padding to its full length.

    Attributes:
        ids: Of all tokens.
        weights: Of all tokens; begin, end and padding have none, which is 1.0.
        mask: 1 for each token, 0 for padding.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    mask: tuple[int, ...]


def chunks(prompts: Sequence[str], tokenizer: Any, pad: int | None = None, least: int = 1) -> list[list[Chunk]]:
    """Split prompts into chunks; shorter prompts are filled with empty chunks up to the number of the longest.

    Args:
        tokenizer: Of the text encoder; whoever shares it must hold its lock.
        pad: The padding token, where it is not the tokenizer's own.
        least: The fewest chunks of each prompt.
    """
    pad = tokenizer.pad_token_id if pad is None else pad
    rows = [[chunk for part in parse(prompt) for chunk in _chunks_of(part, tokenizer, pad)] for prompt in prompts]
    longest = max(least, *(len(row) for row in rows))
    return [row + [_chunk([], tokenizer, pad)] * (longest - len(row)) for row in rows]


def _chunks_of(part: Sequence[Piece], tokenizer: Any, pad: int) -> list[Chunk]:
    tokens: list[tuple[int, float]] = []
    for text, weight in part:
        ids = tokenizer(text, truncation=False, add_special_tokens=False, verbose=False)["input_ids"]
        tokens += [(token, weight) for token in ids]
    room = tokenizer.model_max_length - 2
    return [_chunk(tokens[start : start + room], tokenizer, pad) for start in range(0, len(tokens) or 1, room)]


def _chunk(tokens: Sequence[tuple[int, float]], tokenizer: Any, pad: int) -> Chunk:
    ids = (tokenizer.bos_token_id, *(token for token, _ in tokens), tokenizer.eos_token_id)
    weights = (1.0, *(weight for _, weight in tokens), 1.0)
    rest = tokenizer.model_max_length - len(ids)
    return Chunk(ids + (pad,) * rest, weights + (1.0,) * rest, (1,) * len(ids) + (0,) * rest)


# --- what weights do to embeddings [1, tokens, width] -----------------------------------------------------------------


def scaled(embeds: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Multiply each token's embedding by its weight, then restore the mean of them all."""
    factors = _factors(embeds, weights)
    if factors is None:
        return embeds
    changed = embeds * factors
    before, after = (tensor.float().mean(dim=(-2, -1), keepdim=True) for tensor in (embeds, changed))
    return _finite(changed * (before / after).to(embeds.dtype))


def moved(embeds: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Multiply the distance of each token's embedding from the last token's by its weight."""
    factors = _factors(embeds, weights)
    if factors is None:
        return embeds
    last = embeds[:, -1:]
    return _finite((last + (embeds - last) * factors).where(factors != 1.0, embeds))


def _finite(embeds: torch.Tensor) -> torch.Tensor:
    """Check that embeddings are finite, and return them.

    Raises:
        ValueError: They overflow.
    """
    if not bool(embeds.isfinite().all()):
        raise ValueError("the weights in the prompt make its embeddings too large; give smaller ones")
    return embeds


def _factors(embeds: torch.Tensor, weights: Sequence[float]) -> torch.Tensor | None:
    """The weights as [1, tokens, 1]; None where there are none, so that plain prompts stay as they are to the bit."""
    if all(weight == 1.0 for weight in weights):
        return None
    return embeds.new_tensor(weights)[None, :, None]
