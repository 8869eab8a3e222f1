"""A node pack for the tests of workflow files: versions and their migrations, a type with a codec, choices, files."""

import enum
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from graphengine import Choices, Doc, File, Pack, Range, SocketType, node, register_type
from graphengine.declare.registry import register

__pack__ = Pack("wf")

T = TypeVar("T")


@dataclass(frozen=True)
class Blob:
    """A value that JSON cannot hold."""

    data: bytes


register_type(SocketType(Blob, "Blob", lambda blob: b"BLOB" + blob.data, lambda data: Blob(_body(data))))


def _body(data: bytes) -> bytes:
    if not data.startswith(b"BLOB"):
        raise ValueError("no blob")
    return data[4:]


class Mode(enum.Enum):
    FAST = "fast"
    GOOD = "good"


class Corner(enum.Enum):
    LOW = (0, 0)
    HIGH = (1, (2, 3))


@dataclass
class Counted:
    """A class with a field that no call gives."""

    first: int = 1
    second: int = field(init=False, default=2)


class Pair(NamedTuple):
    first: int
    second: str


@node(version=3)
def scale(value: float, factor: Annotated[float, Range(0, 10), Doc("How much.")] = 1.0) -> float:
    """A number times a factor.

    More about it.
    """
    return value * factor


@scale.migration(1)
def _scale_1(inputs: dict[str, Any]) -> dict[str, Any]:
    inputs["by"] = inputs.pop("times", 1)
    return inputs


@scale.migration(2)
def _scale_2(inputs: dict[str, Any]) -> dict[str, Any]:
    inputs["factor"] = inputs.pop("by")
    return inputs


@node(version=5)
def gap(value: int) -> int:
    """Has a migration from 4 only."""
    return value


@gap.migration(4)
def _gap_4(inputs: dict[str, Any]) -> dict[str, Any]:
    raise KeyError("old")


@node
def unversioned(text: str, mode: Mode = Mode.FAST, word: Annotated[str, Choices("a", "b")] = "a") -> Pair:
    return Pair(len(text), f"{mode}{word}")


@node(version=1)
def read(path: Annotated[Path, File()], more: Annotated[list[Path] | None, File()] = None) -> str:
    return Path(path).read_text()


@node(version=1)
def join(items: list[Any], blob: Blob | None = None) -> int:
    return len(items)


@node(version=1)
def as_given(x: Any, corner: Corner | None = None, counted: Counted | None = None) -> Any:
    return x, corner


@node(version=1)
def size(blob: Blob) -> int:
    return len(blob.data)


register(sys.modules[__name__])
