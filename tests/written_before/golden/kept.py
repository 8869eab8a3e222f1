"""A folder of nodes whose values, jobs and workflows were written before: a class of its own of every form that
values are written in, and nodes that declare classes of graphengine and of the standard pack."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from graphengine_nodes import Image
from graphengine_nodes.images import Size
from graphengine_nodes.prompts import Prompts
from graphengine_nodes.templates import Texts

from graphengine import GraphEngineError, Kind, Reuse, SocketType, Where, node, register_type
from graphengine.checksum import Content
from graphengine.errors import Problem, shorten
from graphengine.service.deaths import End, Fault
from graphengine.service.jobs import Attempt, Change, Job, NewJob, State
from graphengine.sockets import Range

T = TypeVar("T")


class Colour(enum.Enum):
    """An enum."""

    RED = "red"
    BLUE = ("blue", 2)


class Sides(enum.Flag):
    """Flags, which may be combined."""

    LEFT = 1
    RIGHT = 2


class Pair(NamedTuple):
    """A named tuple."""

    first: int
    second: str


@dataclass(frozen=True)
class Card:
    """A dataclass that holds others."""

    pair: Pair
    colour: Colour
    notes: dict[str, Any]


@dataclass(frozen=True)
class Drawing:
    """A class with a codec of its own."""

    lines: bytes


register_type(SocketType(Drawing, "Drawing", lambda it: b"DRAWN" + it.lines, lambda data: Drawing(data[5:])))


class Unlucky(GraphEngineError):
    """An error of the pack's own."""


@node(version=1)
def card(first: int, second: str = "two", colour: Colour = Colour.RED) -> Card:
    """A card."""
    return Card(Pair(first, second), colour, {"sum": first + 1})


@node(version=1)
def pair(first: int, second: str = "two") -> Pair:
    """Two outputs."""
    return Pair(first, second)


@node(version=1)
def drawing(lines: int) -> Drawing:
    """A drawing."""
    return Drawing(bytes(range(lines)))


@node(version=1)
def sides(left: bool) -> Sides:
    """One side, or both."""
    return Sides.LEFT if left else Sides.LEFT | Sides.RIGHT


@node(version=1)
def twice(x: int) -> int:
    """A number, doubled."""
    return 2 * x


@node(version=1)
def even(x: int) -> bool:
    """Whether a number is even."""
    return x % 2 == 0


@node(version=1)
def plus(a: int, b: int = 1) -> int:
    """A sum."""
    return a + b


@node(version=1)
def total(xs: list[int]) -> int:
    """The sum of a list."""
    return sum(xs)


@node(version=1)
def takes(x: Any) -> str:
    """Take whatever is given."""
    return type(x).__name__


@node(version=1)
def kind(x: Kind) -> str:
    """The text of a member."""
    return str(x)


@node(version=1)
def listed(x: Any) -> list[Any]:
    """What is given, which is a list."""
    return list(x)


@node(version=1)
def same(x: T) -> T:
    """What is given."""
    return x


@node(version=1)
def inverted(image: Image) -> Image:
    """A picture in its opposite colours."""
    return Image(1 - image.pixels)


@node(version=1)
def fails(x: int) -> int:
    """Raise what Python has."""
    raise ValueError(f"{x} is not lucky")


@node(version=1)
def unlucky(x: int) -> int:
    """Raise what the pack has."""
    raise Unlucky(f"{x} is unlucky")


def spelled(write: Callable[[Any], str], x: int) -> str:
    """Write a number."""
    return write(x)


spelled_out = node(version=1)(functools.partial(spelled, shorten))


@node(version=1)
def told(
    kind: Kind,
    reuse: Reuse,
    where: Where,
    problem: Problem,
    state: State,
    job: Job,
    new: NewJob,
    attempt: Attempt,
    change: Change,
    content: Content,
    fault: Fault,
    end: End,
    range: Range,
    size: Size,
    texts: Texts,
    prompts: Prompts,
) -> list[Any]:
    """Declare classes of graphengine and of the standard pack: values of what a node declares can be written."""
    return [kind, where]


@node(version=1)
def where(at: Where) -> str:
    """The text of a place."""
    return at.node or ""


@node(version=1)
def place(name: str) -> Where:
    """A value of a class of graphengine."""
    return Where(node=name, socket="x")
