"""Sockets, the inputs of nodes: type, default and limits, and the `Annotated` metadata that declares them."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphengine.errors import shorten
from graphengine.values.literals import coerce, plain_number, value_fits
from graphengine.values.socket_types import strip, type_name, union_members


@dataclass(frozen=True, slots=True)
class Range:
    """The inclusive limits of a number; `step` is a hint for editors and no limit."""

    min: float | None = None
    max: float | None = None
    step: float | None = None


@dataclass(frozen=True, slots=True, init=False)
class Choices:
    """The values that a socket accepts: given one by one, or by a function that is called when they are needed."""

    of: tuple[Any, ...] | Callable[[], Iterable[Any]]

    def __init__(self, *of: Any) -> None:
        object.__setattr__(self, "of", of[0] if len(of) == 1 and callable(of[0]) else of)

    def values(self) -> tuple[Any, ...]:
        """The accepted values."""
        return tuple(self.of()) if callable(self.of) else self.of


@dataclass(frozen=True, slots=True, eq=False)
class Unknown:
    """A value that a link will bring when the graph runs.

    Attributes:
        node: The full name of the node that makes it, such as `std.apply_controlnet`; empty where that is not known.
        inputs: What is known of that node's inputs by name, `UNKNOWN` in place of the rest.
    """

    node: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown()
"""What a validator registered with `.foresee` gets in place of a value of which nothing is known yet."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A number, such as a seed, that is drawn when -1 or null is given for it, or in a list of such numbers.

    It is drawn when a run's or a job's inputs and literals are bound, before keys are made: the node gets the number,
    and keys, records and jobs hold it.
    """


@dataclass(frozen=True, slots=True)
class Multiline:
    """A text that editors show in a field of several lines."""


@dataclass(frozen=True, slots=True)
class Doc:
    """The help text of a socket."""

    text: str


@dataclass(frozen=True, slots=True)
class Lazy:
    """An input of an expanding node that arrives as a reference; it is computed only if the node uses it."""


@dataclass(frozen=True, slots=True)
class Uses:
    """The part of a reference to weights that a node uses; only this part's digest enters the node's key."""

    part: str


@dataclass(frozen=True, slots=True)
class Added:
    """An input that a node got later: at its default it is no part of the key, so that older values are still found.

    It must have a default, at which the node computes what it computed before.
    """


@dataclass(frozen=True, slots=True)
class File:
    """A path, which the engine resolves and checks before the node gets it.

    Args:
        kind: What the file holds, for editors (`image`, `weights`, ...).
        write: The node writes to the path: the file need not exist, and its content is no part of the key.
        names: A text that is no existing path is a name (a hub id, `tiny`) and is passed on as it is. The content is
            no part of the key; this is meant for nodes that make references to weights, whose digests hold it.
        known: Texts that are names even if such a path exists.
        missing: The path need not exist; then the path itself enters the key. This is the rule for inputs annotated
            with `Path` but without `File`.
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
    added: bool = False
    drawn: bool = False

    def complaint(self, value: Any) -> tuple[str, str, str] | None:
        """Check a literal: returns (kind of problem, what is expected, what was given), or None if it is right."""
        if self.drawn and is_undrawn(value):
            value = _filled(value, 0 if self.range is None or self.range.min is None else int(self.range.min))
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
        """The values that files may write for this socket, if only certain values are accepted; else empty."""
        known = enum_choices(self.type) if self.choices is None else map(written, self.choices.values())
        return [str(choice) for choice in known]


def is_undrawn(value: Any) -> bool:
    """Whether a value asks for a number to be drawn (see `Drawn`): -1, null, or a list with one of these."""
    if type(value) is list:
        return any(map(is_undrawn, value))
    return value is None or (type(value) is int and value == -1)


def _filled(value: Any, number: int) -> Any:
    """A value with a number in the place of each that is to be drawn."""
    return [_filled(item, number) for item in value] if type(value) is list else number if is_undrawn(value) else value


def enum_choices(annotation: Any) -> list[Any]:
    """The values that files may write for an enum; empty for any other type."""
    members = [strip(m) for m in union_members(strip(annotation)) if m is not type(None)]
    enums = [m for m in members if isinstance(m, type) and issubclass(m, enum.Enum)]
    return [written(member) for cls in enums for member in cls] if len(enums) == len(members) else []


def written(choice: Any) -> Any:
    """A choice as files write it: an enum member by its value, or by its name if the value is no plain value."""
    if not isinstance(choice, enum.Enum):
        return choice
    return choice.value if isinstance(choice.value, str | int | float | bool) else choice.name


def _bound(limit: float | None, none: str) -> str:
    return none if limit is None else f"{limit:g}" if abs(limit) < 1e6 else str(limit)
