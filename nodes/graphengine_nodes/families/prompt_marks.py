"""Marks in prompts that mean something to other tools: which of them a text holds, and warnings of those not read."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

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
_WORDS = re.compile(r"\b(?:AND|BREAK)\b")
_READ = re.compile(r"[(\[]|\\[)\]\\]")
"""Brackets that open, and signs that are escaped: closing brackets alone are text."""


def marked(prompt: str | None) -> bool:
    """Whether a prompt holds marks that `encode_weighted` reads: without any both encoders read the same text."""
    return prompt is not None and (_WORDS.search(prompt) or _READ.search(prompt)) is not None


def warn(*prompts: str | None, unread: str | None = None) -> None:
    """Warn once of all marks in the prompts that are read as plain text.

    Args:
        unread: The advice for weights, schedules, AND and BREAK; None where they are read.
    """
    marks = dict.fromkeys(mark for prompt in prompts if prompt for mark in _unread(prompt, unread))
    if marks:
        said = "; ".join(f"{mark:.60} ({advice})" for mark, advice in marks)
        log.warning("the prompt holds marks that are read as plain text: %s", said)


def _unread(prompt: str, otherwise: str | None) -> Iterator[tuple[str, str]]:
    """The marks with the advice for each."""
    for pattern, advice in _FOREIGN:
        yield from ((found[0], advice) for found in pattern.finditer(prompt))
    if otherwise is None:
        return
    for pattern in (_NUMBERED, _WORDS):
        yield from ((found[0], otherwise) for found in pattern.finditer(prompt))
    if prompt_schedules.changes(prompt):
        changing = re.search(r"\[[^\[\]]*[:|][^\[\]]*\]", prompt)
        yield (changing[0] if changing else prompt), otherwise
