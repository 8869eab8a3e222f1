"""What graphs are made of: links, nodes, declared inputs, and the references that stand for outputs while building."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphengine.definition import NodeDef
from graphengine.sockets import Choices, Range, Socket
from graphengine.types import is_named_tuple, type_name

if TYPE_CHECKING:
    from graphengine.graph import Graph


@dataclass(frozen=True, slots=True)
class Link:
    """Where a value comes from: a node's output, `inputs.NAME` or `values.NAME`.

    An empty port is the node's only output, or the whole tuple of several.
    """

    node: str
    port: str = ""

    def __str__(self) -> str:
        return f"{self.node}.{self.port}" if self.port else self.node


INPUTS, VALUES = "inputs", "values"


class Node:
    """One node of a graph: what it calls, with which arguments. Never changed; a change makes a new one.

    Attributes:
        kind: The node's definition, a whole graph that is used as a node, or the name of a node that is not known.
        args: By socket: a `Link`, a list with links in it, or a literal.
        each: The sockets over whose lists the node is mapped.
        version: The version of the definition that a file was written for.
        workflow: The path, as written, of the workflow file that `kind` was read from.
        ui: Positions and notes of editors; no part of any key.
        keep_going: For a mapped node: the error of an item stands in the item's place.
        links, lists, literals: The arguments by what they are.
        before: The ids of the nodes it takes something from.
        bound: The links to declared inputs and values.
    """

    __slots__ = (
        "args", "before", "bound", "each", "keep_going", "kind", "links", "lists", "literals", "ui", "version",
        "workflow",
    )  # fmt: skip

    def __init__(
        self,
        kind: NodeDef[..., Any] | Graph | str,
        args: Mapping[str, Any],
        each: Sequence[str] = (),
        version: int | None = None,
        workflow: str | None = None,
        ui: Mapping[str, Any] | None = None,
        keep_going: bool = False,
    ) -> None:
        self.kind, self.args, self.each, self.keep_going = kind, dict(args), tuple(each), keep_going
        self.version, self.workflow, self.ui = version, workflow, dict(ui or {})
        self.links: list[tuple[str, Link]] = []
        self.lists: list[tuple[str, list[Any]]] = []
        self.literals: dict[str, Any] = {}
        self.before: list[str] = []
        self.bound: list[tuple[str, Link]] = []
        for name, value in self.args.items():
            if type(value) is Link:
                if value.node == INPUTS or value.node == VALUES:
                    self.bound.append((name, value))
                else:
                    self.before.append(value.node)
                self.links.append((name, value))
            elif type(value) is list and has_links(value):
                self.lists.append((name, value))
                self.before += [link.node for link in links_in(value) if link.node not in (INPUTS, VALUES)]
            else:
                self.literals[name] = value

    @property
    def type(self) -> str:
        """The full name of what it calls."""
        if isinstance(self.kind, str):
            return self.kind
        if isinstance(self.kind, NodeDef):
            return self.kind.full_name
        return self.workflow or self.kind.title or "workflow"

    @property
    def sockets(self) -> Mapping[str, Socket]:
        """Its inputs; none for an unknown node."""
        return {} if isinstance(self.kind, str) else self.kind.sockets

    def sources(self) -> Iterator[tuple[str, Link]]:
        """All links that come in, those inside lists too."""
        yield from self.links
        for name, values in self.lists:
            for link in links_in(values):
                yield name, link

    def __repr__(self) -> str:
        return f"<{self.type} {self.args}>"


def has_links(values: list[Any]) -> bool:
    return any(type(v) is Link or (type(v) is list and has_links(v)) for v in values)


def links_in(values: list[Any]) -> Iterator[Link]:
    for value in values:
        if type(value) is Link:
            yield value
        elif type(value) is list:
            yield from links_in(value)


@dataclass(frozen=True, slots=True)
class Input:
    """A declared input of a graph, which makes it callable as a function."""

    name: str
    type: Any
    required: bool = True
    default: Any = None
    help: str = ""
    range: Range | None = None
    choices: Choices | None = None

    def socket(self) -> Socket:
        # A null stands for the default of whatever it is linked to.
        kind = self.type if self.required else self.type | None if self.type is not Any else Any
        return Socket(self.name, kind, self.required, self.default, self.help, self.range, self.choices, lazy=True)


class Ref:
    """The promise of a node's output, given instead of a value while a graph is being built."""

    __slots__ = ("_graph", "_link", "_type")

    def __init__(self, graph: Graph, link: Link, type: Any) -> None:
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
    """Why a text cannot be a node's id, or ''."""
    if id in (INPUTS, VALUES):
        return f"{id} is a reserved name"
    if not isinstance(id, str) or not id or re.search(r"[.\s/\\\x00-\x1f]", id):
        return "an id is a text without dots, slashes and spaces"
    return ""


def map_links(value: Any, change: Callable[[Link], Any]) -> Any:
    """An argument with each of its links changed."""
    if type(value) is Link:
        return change(value)
    if type(value) is list:
        return [map_links(v, change) for v in value]
    return value
