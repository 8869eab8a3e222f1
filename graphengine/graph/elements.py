"""Parts of graphs: links, declared inputs, and the references to outputs that exist while a graph is built."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from graphengine.declare.sockets import Choices, Range, Socket
from graphengine.values.socket_types import is_named_tuple, type_name


@dataclass(frozen=True, slots=True)
class Link:
    """The source of a value: a node's output, `inputs.NAME` or `values.NAME`.

    An empty port means the node's only output, or the tuple of all its outputs.
    """

    node: str
    port: str = ""

    def __str__(self) -> str:
        return f"{self.node}.{self.port}" if self.port else self.node


INPUTS, VALUES = "inputs", "values"


def has_links(values: list[Any]) -> bool:
    """Whether a list contains links, also in lists inside it."""
    return any(type(v) is Link or (type(v) is list and has_links(v)) for v in values)


def links_in(values: list[Any]) -> Iterator[Link]:
    """The links in a list and in lists inside it."""
    for value in values:
        if type(value) is Link:
            yield value
        elif type(value) is list:
            yield from links_in(value)


@dataclass(frozen=True, slots=True)
class Input:
    """A declared input of a graph."""

    name: str
    type: Any
    required: bool = True
    default: Any = None
    help: str = ""
    range: Range | None = None
    choices: Choices | None = None

    def socket(self) -> Socket:
        """The input as a socket, as node definitions have them."""
        # A null means the default of the inputs that it is linked to.
        type = self.type if self.required else self.type | None if self.type is not Any else Any
        return Socket(self.name, type, self.required, self.default, self.help, self.range, self.choices, lazy=True)

    def socket_for(self, value: Any) -> Socket:
        """The socket against which to check a value; its type is the declared one, so that errors name that."""
        socket = self.socket()
        return socket if value is None or self.default is None else replace(socket, type=self.type)


class Ref:
    """A reference to a node's output, returned instead of a value while a graph is being built."""

    __slots__ = ("_graph", "_link", "_type")

    def __init__(self, graph: Any, link: Link, type: Any) -> None:
        self._graph, self._link, self._type = graph, link, type

    def __repr__(self) -> str:
        return f"<promise of {type_name(self._type)} from {self._link}>"

    def __getattr__(self, name: str) -> Any:
        if is_named_tuple(self._type) and name in self._type._fields and not self._link.port:
            return Ref(self._graph, Link(self._link.node, name), self._graph.output_type(Link(self._link.node, name)))
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(self._sentence(f"it has no attribute {name} yet"))

    def __iter__(self) -> Iterator[Any]:
        if not is_named_tuple(self._type) or self._link.port:
            raise TypeError(self._sentence("map over it with each(items, body)"))
        return iter([getattr(self, name) for name in self._type._fields])

    def _sentence(self, advice: str) -> str:
        return (
            f"{self._link} is a promise of {type_name(self._type)}, not a value: "
            f"{advice}; use it as the input of another node, or run the graph and take its value"
        )

    def _refuse(self, *_: Any) -> Any:
        raise TypeError(self._sentence("it cannot be computed with while the graph is being built"))

    __bool__ = __len__ = __int__ = __float__ = __index__ = __contains__ = __getitem__ = __call__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __neg__ = __abs__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = __and__ = __or__ = __xor__ = __matmul__ = _refuse
    __round__ = __invert__ = __format__ = __divmod__ = __complex__ = __reversed__ = _refuse
    __hash__ = object.__hash__


def bad_id(id: str) -> str:
    """The reason why a text cannot be a node's id; '' if it can."""
    if id in (INPUTS, VALUES):
        return f"{id} is a reserved name"
    if not isinstance(id, str) or not id or re.search(r"[.\s/\\\x00-\x1f]", id):
        return "an id is a text without dots, slashes and spaces"
    return ""


def map_links(value: Any, change: Callable[[Link], Any]) -> Any:
    """Apply a function to each link in an argument, also in lists."""
    if type(value) is Link:
        return change(value)
    if type(value) is list:
        return [map_links(v, change) for v in value]
    return value
