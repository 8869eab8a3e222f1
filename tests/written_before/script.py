"""Nodes of a script, without a version: what their code uses is part of their keys, and much of it is graphengine's.

Imports stand at the top, where their paths are no part of any key. The functions themselves may not change.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from graphengine_nodes.nodes.images import Size
from graphengine_nodes.nodes.masks import invert_mask
from graphengine_nodes.nodes.prompts import Prompts
from graphengine_nodes.values.types import Image, Latent

import graphengine
from graphengine import (
    Context,
    FileError,
    Graph,
    GraphEngineError,
    Kind,
    NodeError,
    Range,
    Reuse,
    SocketType,
    Where,
    each,
    errors,
    node,
    when,
)
from graphengine.cache import DiskStore, Store
from graphengine.declare.sockets import Doc, File
from graphengine.errors import Problem, shorten, text_of
from graphengine.execution.run import shared_store
from graphengine.graph.data import Node
from graphengine.graph.elements import Link
from graphengine.keys import files
from graphengine.keys.files import confining, fingerprint
from graphengine.pack import Pack
from graphengine.planning.inputs import bind_inputs
from graphengine.service.jobs.job import State
from graphengine.values import socket_types as types
from graphengine.values.arrays import encode
from graphengine.values.canonical import NotData, canonical, digest, token
from graphengine.values.checksum import checksum
from graphengine.values.literals import coerce
from graphengine.values.socket_types import fits, socket_type, type_name


class Mode(enum.Enum):
    """An enum of a script."""

    ONE = 1
    TWO = "two"


class Point(NamedTuple):
    """A named tuple of a script."""

    x: int
    y: int = 0


@dataclass(frozen=True)
class Spot:
    """A dataclass of a script, with a field of a class of graphengine."""

    at: Point
    mode: Mode = Mode.ONE
    where: Where = field(default_factory=Where)


class Mine(FileError):
    """An error that is one of graphengine's."""

    code = 3


@dataclass(frozen=True, slots=True)
class Narrow(Range):
    """A dataclass whose base is one of graphengine's."""

    def width(self) -> float:
        """Between its ends."""
        return (self.max or 0) - (self.min or 0)


# --- data that the nodes read -----------------------------------------------------------------------------------------

KIND, STATE, REUSE = Kind.PROGRESS, State.DONE, Reuse.DISK
PLACE = Where(node="a", line=3)
TROUBLE = Problem("kind", "what", PLACE, nearest=("b", "c"))
LINK = Link("a", "b")
LIMITS = [Range(0, 1), Narrow(1, 2), Doc("text"), File("image")]
PACK = Pack("some", libraries=("x",))
SIZES = {"small": Size(1, 2), "prompts": Prompts(None, None)}  # type: ignore[arg-type]
BY_NAME: dict[str, Any] = {"fits": fits, "coerce": coerce, "Graph": Graph, "Image": Image}
MINE = {"mode": Mode.TWO, "point": Point(1), "spot": Spot(Point(2, 3))}


@node
def plain(x: int, by: int = 2) -> int:
    return x * by


with Graph("inner") as INNER:
    INNER.output("y", plain(INNER.input("x", int, 1)))


# --- nodes ------------------------------------------------------------------------------------------------------------


@node
def uses_functions(x: int) -> str:
    return type_name(int) + text_of(ValueError(str(x))) + str(fits(int, float)) + str(coerce(x, float))


@node
def uses_canonical(x: int) -> str:
    try:
        return digest(canonical([x])).hex() if x >= 0 else str(token(x))
    except NotData:
        return ""


@node
def uses_what_has_moved_before(x: int) -> bool:
    return Node is not None and bind_inputs is not None and Graph is not None and x > 0


@node
def uses_classes(x: int) -> str:
    return SocketType.__name__ + Graph.__name__ + Store.__name__ + DiskStore.__name__ + str(x)


@node
def uses_errors(x: int) -> int:
    try:
        if x < 0:
            raise FileError("negative")
        return x
    except (GraphEngineError, NodeError):
        return 0


@node
def uses_error_of_its_own(x: int) -> int:
    if x < 0:
        raise Mine("negative")
    return x + Mine.code


@node
def uses_module_of_errors(x: int) -> str:
    return errors.FileError.__name__ + errors.shorten("a long text", 4) + str(x)


@node
def uses_modules(x: int) -> str:
    return files.cache_folder.__name__ + types.type_name(int) + str(x)


@node
def uses_the_package(x: int) -> str:
    return graphengine.Reuse.DISK.value + graphengine.Graph.__name__ + str(x)


@node
def imports_within(x: int) -> str:
    from graphengine.errors import shorten  # this path is part of the key, and stays: scripts have it too

    return shorten(str(x), 4)


@node
def uses_files(x: int) -> str:
    with confining():
        return fingerprint.__name__ + str(x)


@node
def uses_what_is_remembered(x: int) -> bool:
    return shared_store is not None and x > 0


@node
def uses_members(x: int) -> str:
    return f"{KIND}{STATE}{REUSE}{x}"


@node
def uses_places(x: int) -> str:
    return f"{PLACE}{TROUBLE}{x}"


@node
def uses_links(x: int) -> str:
    return f"{LINK}{x}"


@node
def uses_limits(x: int) -> int:
    return len(LIMITS) + x


@node
def uses_a_pack(x: int) -> str:
    return PACK.name + str(x)


@node
def uses_subclass(x: int) -> float:
    return Narrow(0, x).width()


@node
def uses_sizes(x: int) -> int:
    return len(SIZES) + x


@node
def uses_own_data(x: int) -> int:
    return len(MINE) + x


@node
def uses_functions_in_data(x: int) -> int:
    return len(BY_NAME) + x


@node
def uses_standard_types(x: int) -> str:
    return Image.__name__ + Latent.__name__ + str(x)


@node
def uses_standard_node(x: int) -> str:
    return invert_mask.name + str(x)


@node
def uses_graph(x: int) -> int:
    return len(INNER.nodes) + x


@node
def uses_arrays(x: int) -> str:
    return encode.__name__ + str(checksum(x)) + str(socket_type(int))


@node
def default_of_graphengine(x: int, kind: Kind = Kind.PROGRESS, where: Where = PLACE) -> str:
    return f"{x}{kind}{where}"


@node
def default_of_its_own(x: int, mode: Mode = Mode.TWO, spot: Spot = Spot(Point(1))) -> str:  # noqa: B008
    return f"{x}{mode}{spot}"


@node
def in_context(x: Annotated[int, Range(0, 9), Doc("A number.")], ctx: Context = graphengine.INERT) -> str:
    return f"{x}{ctx.device}"


@node(expand=True)
def builds(x: int) -> int:
    return when(x > 1, sum_of(each([x, 2], plain)), plain(x))


@node
def sum_of(xs: list[int]) -> int:
    return sum(xs)


@node(version=4)
def of_a_version(x: int) -> str:
    return shorten(str(x), 4)


@node
def takes_mode(x: Mode) -> str:
    return str(x)


@node
def takes_spot(x: Spot) -> str:
    return str(x)


def closed(function: Callable[..., Any], name: str = "inside") -> Any:
    """A node that has something in its closure."""

    def inside(x: int) -> str:
        return f"{function}"[:1] + str(x)

    inside.__name__ = name
    return node(inside)


closed_function = closed(canonical)
closed_class = closed(Where)
closed_node = closed(invert_mask)


class Writer:
    """An object whose method is a node."""

    def __init__(self, write: Callable[..., str]) -> None:
        self.write = write

    @node
    def written(self, x: int) -> str:
        """Write a number."""
        return self.write(x)


WRITER = Writer(shorten)
