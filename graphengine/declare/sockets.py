"""Inputs of nodes: their types, defaults and limits, and the `Annotated` metadata that declares them."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from graphengine.errors import shorten
from graphengine.values.literals import coerce, plain_number, value_fits
from graphengine.values.types import strip, type_name, union_members


@dataclass(frozen=True, slots=True)
class Range:
    """Limits of a number, both inclusive; `step` is a hint for editors, not a limit."""

    min: float | None = None
    max: float | None = None
    step: float | None = None


@dataclass(frozen=True, slots=True, init=False)
class Choices:
    """The values that a socket takes: given one by one, or by a function that is asked when they are needed."""

    of: tuple[Any, ...] | Callable[[], Iterable[Any]]

    def __init__(self, *of: Any) -> None:
        object.__setattr__(self, "of", of[0] if len(of) == 1 and callable(of[0]) else of)

    def values(self) -> tuple[Any, ...]:
        return tuple(self.of()) if callable(self.of) else self.of


@dataclass(frozen=True, slots=True)
class Multiline:
    """A text that editors show in several lines."""


@dataclass(frozen=True, slots=True)
class Doc:
    """Help for one socket."""

    text: str


@dataclass(frozen=True, slots=True)
class Lazy:
    """An input of an expanding node that arrives as a reference to pass on: it is computed only if it is used."""


@dataclass(frozen=True, slots=True)
class Uses:
    """The part of a reference that a node uses: only this part's digest enters the node's key."""

    part: str


@dataclass(frozen=True, slots=True)
class File:
    """A path, resolved and checked by the engine before the node sees it.

    Args:
        kind: What the file holds, for editors (`image`, `weights`, ...).
        write: The node writes there: the file need not exist and its content is no part of the key.
        names: What is no existing path may also be a name (a hub id, `tiny`) and is handed on as it is. The content
            is no part of the key: meant for nodes that make references, whose digests hold it.
        known: Texts that are names whether or not such a path exists.
        missing: It need not exist: the path alone is then the key. Inputs whose annotation holds a `Path` and no
            `File` are taken so.
    """

    kind: str = "file"
    write: bool = False
    names: bool = False
    known: tuple[str, ...] = ()
    missing: bool = False


@dataclass(frozen=True, slots=True)
class Socket:
    """One input of a node."""

    name: str
    type: Any
    required: bool = True
    default: Any = None
    doc: str = ""
    range: Range | None = None
    choices: Choices | None = None
    multiline: bool = False
    lazy: bool = False
    uses: str | None = None
    file: File | None = None

    def complaint(self, value: Any) -> tuple[str, str, str] | None:
        """What is wrong with a literal: (kind of problem, expected, found), or None."""
        if not value_fits(value, self.type):
            if choices := enum_choices(self.type):
                return "not a choice", f"one of {', '.join(map(str, choices))}", repr(value)[:80]
            return "wrong type", type_name(self.type), f"{value!r:.80} ({type_name(type(value))})"
        for item in value if isinstance(value, list | tuple) else (value,):
            number = plain_number(item)
            if isinstance(number, float) and not math.isfinite(number):
                return "not a number", "a finite number", repr(number)
            if self.range is not None and isinstance(number, int | float) and not isinstance(number, bool):
                low, high = self.range.min, self.range.max
                if (low is not None and number < low) or (high is not None and number > high):
                    return "out of range", f"{_bound(low, '-∞')}..{_bound(high, '∞')}", shorten(number)
        if self.choices is not None and value is not None:
            known = self.choices.values()
            if coerce(value, self.type) not in [coerce(choice, self.type) for choice in known]:
                return "not a choice", f"one of {', '.join(str(written(choice)) for choice in known)}", shorten(value)
        return None

    def known_choices(self) -> list[str]:
        """What may be written here, where only some values may."""
        known = enum_choices(self.type) if self.choices is None else map(written, self.choices.values())
        return [str(choice) for choice in known]


def enum_choices(annotation: Any) -> list[Any]:
    """What may be written for an enum: the values of its members; none for another type."""
    members = [strip(m) for m in union_members(strip(annotation)) if m is not type(None)]
    enums = [m for m in members if isinstance(m, type) and issubclass(m, enum.Enum)]
    return [written(member) for cls in enums for member in cls] if len(enums) == len(members) else []


def written(choice: Any) -> Any:
    """A choice as files write it: a member of an enum by its value, or by its name where that is no plain value."""
    if not isinstance(choice, enum.Enum):
        return choice
    return choice.value if isinstance(choice.value, str | int | float | bool) else choice.name


def _bound(limit: float | None, none: str) -> str:
    return none if limit is None else f"{limit:g}" if abs(limit) < 1e6 else str(limit)
