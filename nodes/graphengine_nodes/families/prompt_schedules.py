"""Prompts that change while a picture is sampled, `a [red:green:0.5] circle`, as the WebUI documents them.

`[from:to:when]`, `[to:when]` and `[from::when]` switch a text at a step: a number up to 1 with a point is a fraction of
the steps, any other one counts steps. `[a|b]` takes turns, step by step. `AND` joins prompts, each with a weight at
its end (`a cat :1.2 AND a dog`), whose differences from the negative prompt are added up. Here texts only: a prompt is
taken apart into all the texts that it takes, with the steps of each; a family encodes them all.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from graphengine_nodes.families.family import Words
from graphengine_nodes.values.types import Conditioning, Turn

DEEPEST = 50
"""Most brackets inside one another; a prompt with more is one text, in which they are weights."""
MOST_TEXTS = 256
"""Most texts that one prompt takes: each goes through the text encoder."""


@dataclass(frozen=True)
class _Switch:
    """`[before:after:when]`."""

    before: _Text
    after: _Text
    when: float
    fraction: bool


@dataclass(frozen=True)
class _Cycle:
    """`[one|other|...]`."""

    options: tuple[_Text, ...]


_Text = tuple["str | _Switch | _Cycle", ...]
"""A text with what changes in it."""


class _Slot(NamedTuple):
    """Texts with the steps that have them; see `Turn`."""

    words: Words
    until: float | None = None
    until_step: int | None = None
    cycle: tuple[int, int] = (0, 1)


_AND = re.compile(r"\bAND\b")
_ENDS_IN_WEIGHT = re.compile(r"(?<!\s)\s*:\s*([-+]?(?:\d+(?:\.\d*)?|\.\d+))\s*\Z")
_NUMBER = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*\Z")
_SIGNS = re.compile(r"\\.|[\[\]():|]|[^\\\[\]():|]+|\\\Z", re.DOTALL)


def joined(prompt: str) -> list[tuple[float, str]]:
    """Split a prompt at each `AND` into prompts with weights; a prompt without any is one, as it is."""
    parts = _AND.split(prompt)
    if len(parts) == 1:
        return [(1.0, prompt)]
    found = []
    for part in parts:
        weight = _ENDS_IN_WEIGHT.search(part)
        text = part[: weight.start()] if weight else part
        found.append((float(weight[1]) if weight else 1.0, text.strip()))
    return found


def changes(prompt: str) -> bool:
    """Whether a prompt holds a text that changes."""
    return any(not isinstance(one, str) for one in _read(prompt))


def colons(prompt: str) -> Iterator[str]:
    """Yield brackets with colons that are no schedule, such as `[red:green:late]`: they are weights of all inside."""
    signs = _SIGNS.findall(prompt)
    if _depth(signs) > DEEPEST:
        return
    for start, end in sorted(_closing(signs).items()):
        inside = signs[start + 1 : end]
        fields = _split(inside, ":")
        if len(fields) > 1 and len(_split(inside, "|")) == 1 and _switch(fields) is None:
            yield "".join(signs[start : end + 1])


def encode(
    encode_all: Callable[[Sequence[Words]], Sequence[Conditioning]], prompts: Sequence[Words]
) -> list[Conditioning]:
    """Encode prompts with schedules and `AND`: every text that they take, once, all of the same length.

    Args:
        encode_all: Encodes texts as they are, to one length.

    Raises:
        ValueError: A prompt takes too many texts.
    """
    plans = [[(weight, _slots(words)) for weight, words in _parts(prompt)] for prompt in prompts]
    texts = list(dict.fromkeys(slot.words for plan in plans for _, slots in plan for slot in slots))
    found = dict(zip(texts, encode_all(texts), strict=True))

    def scheduled(slots: Sequence[_Slot]) -> Conditioning:
        first = found[slots[0].words]
        if len(slots) == 1:
            return first
        turns = [(found[slot.words], slot) for slot in slots]
        return replace(first, schedule=tuple(Turn(one.embeds, one.pooled, *slot[1:]) for one, slot in turns))

    made = [[(weight, scheduled(slots)) for weight, slots in plan] for plan in plans]
    return [plan[0][1] if len(plan) == 1 else replace(plan[0][1], joined=tuple(plan)) for plan in made]


def _parts(words: Words) -> list[tuple[float, Words]]:
    """The prompts that `AND` joins; a negative prompt is one, as the WebUI reads it."""
    if words.text is None or words.negative:
        return [(1.0, words)]
    return [(weight, words._replace(text=text)) for weight, text in joined(words.text)]


def _slots(words: Words) -> list[_Slot]:
    """All texts that a prompt takes, so ordered that the first that fits a step is its text.

    Raises:
        ValueError: There are too many.
    """
    trees = [None if text is None else _read(text) for text in (words.text, words.second)]
    parts = [part for tree in trees if tree is not None for part in _parts_of(tree)]
    switches = [part for part in parts if isinstance(part, _Switch)]
    fractions, steps = (sorted({part.when for part in switches if part.fraction is kind}) for kind in (True, False))
    period = math.lcm(*(len(part.options) for part in parts if isinstance(part, _Cycle)))
    if (len(fractions) + 1) * (len(steps) + 1) * period > MOST_TEXTS:
        raise ValueError(f"a prompt takes more than {MOST_TEXTS} texts; let less of it change")
    found = []
    for until, until_step, turn in itertools.product([*fractions, None], [*steps, None], range(period)):
        chosen = [None if tree is None else _at(tree, until, until_step, turn) for tree in trees]
        step = None if until_step is None else int(until_step)
        found.append(_Slot(words._replace(text=chosen[0], second=chosen[1]), until, step, (turn, period)))
    return found


def _at(text: _Text, until: float | None, until_step: float | None, turn: int) -> str:
    """The text at the steps before the two limits (None is the end) that have a turn."""

    def chosen(part: str | _Switch | _Cycle) -> str:
        if isinstance(part, str):
            return part
        if isinstance(part, _Cycle):
            return _at(part.options[turn % len(part.options)], until, until_step, turn)
        limit = until if part.fraction else until_step
        waiting = limit is not None and limit <= part.when
        return _at(part.before if waiting else part.after, until, until_step, turn)

    return "".join(map(chosen, text))


def _parts_of(text: _Text) -> Iterator[_Switch | _Cycle]:
    for part in text:
        if isinstance(part, str):
            continue
        yield part
        inner = part.options if isinstance(part, _Cycle) else (part.before, part.after)
        yield from itertools.chain.from_iterable(map(_parts_of, inner))


# --- the grammar ------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def _read(prompt: str) -> _Text:
    """Take a prompt apart; brackets that are no schedule stay in its texts, as weights."""
    signs = _SIGNS.findall(prompt)
    return (prompt,) if _depth(signs) > DEEPEST else _merged(_sequence(signs))


def _depth(signs: Sequence[str]) -> int:
    """How many brackets stand inside one another."""
    return max(itertools.accumulate((sign == "[") - (sign == "]") for sign in signs), default=0)


def _sequence(signs: Sequence[str]) -> Iterator[str | _Switch | _Cycle]:
    closing = _closing(signs)
    at = 0
    while at < len(signs):
        end = closing.get(at)
        if end is None:
            yield signs[at]
            at += 1
        else:
            yield from _bracket(signs[at + 1 : end])
            at = end + 1


def _closing(signs: Sequence[str]) -> dict[int, int]:
    """For the place of each opening bracket that of its partner, where it has one."""
    found: dict[int, int] = {}
    opened: list[int] = []
    for at, sign in enumerate(signs):
        if sign == "[":
            opened.append(at)
        elif sign == "]" and opened:
            found[opened.pop()] = at
    return found


def _bracket(inside: Sequence[str]) -> Iterator[str | _Switch | _Cycle]:
    """What a bracket stands for: turns, a switch, or a weight that is left as it is."""
    options = _split(inside, "|")
    if len(options) > 1:
        yield _Cycle(tuple(_merged(_sequence(option)) for option in options))
        return
    switch = _switch(_split(inside, ":"))
    if switch is not None:
        yield switch
        return
    yield "["
    yield from _sequence(inside)
    yield "]"


def _switch(fields: Sequence[Sequence[str]]) -> _Switch | None:
    """The switch that the fields of a bracket say; None where they say none."""
    when = _NUMBER.match("".join(fields[-1]))
    if len(fields) not in (2, 3) or not when:
        return None
    before, after = ([], fields[0]) if len(fields) == 2 else fields[:2]
    number = float(when[1])
    fraction = "." in when[1] and number <= 1
    return _Switch(_merged(_sequence(before)), _merged(_sequence(after)), number, fraction)


def _split(signs: Sequence[str], by: str) -> list[Sequence[str]]:
    """Split at a sign that stands in no brackets."""
    found: list[list[str]] = [[]]
    depth = 0
    for sign in signs:
        depth += (sign in "[(") - (sign in "])") if len(sign) == 1 else 0
        if sign == by and depth == 0:
            found.append([])
        else:
            found[-1].append(sign)
    return list(found)


def _merged(parts: Iterator[str | _Switch | _Cycle]) -> _Text:
    """Join neighbouring texts."""
    found: list[str | _Switch | _Cycle] = []
    for part in parts:
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        else:
            found.append(part)
    return tuple(found)
