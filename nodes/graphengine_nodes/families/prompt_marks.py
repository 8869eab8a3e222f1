"""Marks in prompts that mean something to other tools: which of them a text holds, and warnings of those not read."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator

from graphengine_nodes.families import prompt_schedules

log = logging.getLogger(__name__)

_FOREIGN = (
    (re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>"), "apply_lora or apply_hypernetwork applies it to the model"),
)
_NUMBERED = re.compile(
    r"""
      \( [^()\[\]]* : \s* [-+]? (?: \d+ (?:\.\d*)? | \.\d+ ) \s* \)
    | (?<! \() \({2,}+ [^()]*+ \){2,}
    | (?<! \[) \[{2,}+ [^\[\]]*+ \]{2,}
    """,
    re.VERBOSE,
)
_BARE = re.compile(r"(?<!\\)\([^()\[\]\0]*(?<!\\)\)|(?<!\\)\[[^()\[\]\0]*(?<!\\)\]")
_ROUND = re.compile(r"(?<!\\)\(([^()\[\]]*)(?<!\\)\)")
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)")
_WORDS = re.compile(r"\b(?:AND|BREAK)\b")
_READ = re.compile(r"[(\[]|\\[)\]\\]")
"""Brackets that open, and signs that are escaped: closing brackets alone are text."""


def marked(prompt: str | None) -> bool:
    """Whether a prompt holds marks that `encode_weighted` reads: without any both encoders read the same text."""
    return prompt is not None and (_WORDS.search(prompt) or _READ.search(prompt)) is not None


def warn(*prompts: str | None, unread: str, bare: bool) -> None:
    """Warn once of all marks in the prompts of an encoder that reads none.

    Args:
        unread: The advice for weights, schedules, AND and BREAK.
        bare: Whether brackets around a text are meant as weights: not in families that read sentences.
    """
    texts = [prompt for prompt in prompts if prompt]
    marks = [mark for text in texts for mark in (*_foreign(text), *_unread(text, unread))]
    if bare:
        others = [_NUMBERED.sub("\0", text) for text in texts]
        marks += [(found[0], unread) for text in others for found in _BARE.finditer(text)]
    _tell(marks)


def warn_misread(prompt: str | None, *others: str | None) -> None:
    """Warn once of all marks in the prompts of `encode_weighted` that it reads as text, or as a weight only.

    Args:
        prompt: The one that `AND` may join.
        others: The negative prompt, and those for a second text encoder.
    """
    texts = [text for text in (prompt, *others) if text]
    marks = [mark for text in texts for mark in (*_foreign(text), *_misread(text))]
    if any(len(prompt_schedules.joined(text)) > 1 for text in others if text):
        marks.append(("AND", "it joins prompts in the first positive prompt alone; write a comma"))
    _tell(marks)


def _tell(found: Iterable[tuple[str, str]]) -> None:
    marks = dict.fromkeys(found)
    if marks:
        said = "; ".join(f"{mark:.60} ({advice})" for mark, advice in marks)
        log.warning("the prompt holds marks that are read as plain text: %s", said)


def _foreign(prompt: str) -> Iterator[tuple[str, str]]:
    for pattern, advice in _FOREIGN:
        yield from ((found[0], advice) for found in pattern.finditer(prompt))


def _misread(prompt: str) -> Iterator[tuple[str, str]]:
    for bracket in prompt_schedules.colons(prompt):
        yield bracket, "what changes is [from:to:when] or [to:when], when a number of at least 0"
    for found in _ROUND.finditer(prompt):
        _, colon, weight = found[1].rpartition(":")
        if colon and weight.strip() and not _NUMBER.fullmatch(weight.strip()):
            yield found[0], "a weight is a number"


def _unread(prompt: str, otherwise: str) -> Iterator[tuple[str, str]]:
    """The marks with the advice for each."""
    for pattern in (_NUMBERED, _WORDS):
        yield from ((found[0], otherwise) for found in pattern.finditer(prompt))
    if prompt_schedules.changes(prompt):
        changing = re.search(r"\[[^\[\]]*[:|][^\[\]]*\]", prompt)
        yield (changing[0] if changing else prompt), otherwise
