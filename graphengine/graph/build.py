"""`GraphBuilder`: adds nodes to a graph by calls or by name, checks them as they are added, and combines graphs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

from graphengine.declare.building import begin_building, end_building
from graphengine.declare.definition import NodeDef
from graphengine.errors import Problem, Where, WorkflowError
from graphengine.graph import combine, validate
from graphengine.graph import type_inference as inference
from graphengine.graph.data import GraphData, Node
from graphengine.graph.elements import Link, Ref, bad_id
from graphengine.graph.graph_hash import graph_key
from graphengine.graph.invalidate import note_right
from graphengine.graph.selection import link_of


class GraphBuilder(GraphData):
    """A graph that nodes are added to, by calling them in a `with` block or by `add`."""

    def __enter__(self) -> Self:
        begin_building(self)
        return self

    def __exit__(self, *_: object) -> None:
        end_building()

    def call(
        self, kind: NodeDef[..., Any] | GraphData, args: Sequence[Any], kwargs: Mapping[str, Any], id: str | None = None
    ) -> Ref:
        """Add a call of a node; a wrong argument raises WorkflowError at once, and nothing is added."""
        return self.checked_node(self.place(kind, kind.bind(args, kwargs), id))

    def checked_node(self, ref: Ref) -> Ref:
        """Check a node that was just added, and return its reference; if it is wrong, it is removed again.

        Raises:
            WorkflowError: Holds the problems of the node.
        """
        errors = [p for p in validate.node_problems(self, ref._link.node) if p.severity == "error"]
        if errors:
            self.remove(ref._link.node)
            raise WorkflowError(errors)
        note_right(self, ref._link.node)
        return ref

    # --- building by name -----------------------------------------------------------------------------------------

    def add(
        self, kind: NodeDef[..., Any] | GraphData | str, /, id: str | None = None, *, each: Sequence[str] = (),
        **args: Any,
    ) -> Ref:
        """Add a node without checking it; `problems()` reports what is wrong.

        Args:
            kind: The node, a graph to use as a node, or the name of an installed node.
            id: The node's id; by default its name, with a number if that is taken.
            each: The inputs over whose lists the node is mapped.
            args: The arguments by input. Inputs that are called `id` or `each` are given by `set`, or by calling the
                node.
        """
        return self.place(kind, args, id, each)

    def place(
        self, kind: NodeDef[..., Any] | GraphData | str, args: Mapping[str, Any], id: str | None = None,
        each: Sequence[str] = (), keep_going: bool = False,
    ) -> Ref:
        """Add a node as `add` does, with its arguments in a mapping, so that inputs may have any name."""
        if isinstance(kind, str):
            kind = _installed(kind)
        name = kind.name if isinstance(kind, NodeDef) else kind if isinstance(kind, str) else kind.title or "workflow"
        if id is None:
            id = self.free_name(re.sub(r"\W", "_", name), self.nodes)
        elif problem := bad_id(id) or ("it is there already" if id in self.nodes else ""):
            raise WorkflowError(Problem("duplicate id" if id in self.nodes else "bad id", problem, Where(node=id)))
        self.put(id, Node(kind, {k: self.argument(v) for k, v in args.items()}, each, keep_going=keep_going))
        return self[id]

    def replace(self, id: str, kind: NodeDef[..., Any] | GraphData | str, /, **args: Any) -> None:
        """Replace a node by another one under the same id; nodes that take its outputs stay linked.

        Arguments that are not given are kept if the new node has such an input.
        """
        if isinstance(kind, str):
            kind = _installed(kind)
        old = self.node(id)
        sockets = {} if isinstance(kind, str) else kind.sockets
        kept = {name: value for name, value in old.args.items() if name in sockets}
        args = {k: self.argument(v) for k, v in args.items()}
        self.put(id, Node(kind, kept | args, old.each, ui=old.ui, keep_going=old.keep_going))

    def merge(self, other: GraphData, prefix: str = "") -> dict[str, str]:
        """Add another graph's nodes, inputs, values and outputs to this one; returns the new id of each of its nodes.

        An id that is taken gets a number. Inputs with the same name become one input; outputs whose name is taken are
        left out.

        Args:
            other: The other graph.
            prefix: Put before the ids and the names of values.
        """
        return combine.merge(self, other, prefix)

    def subgraph(self, *want: Ref | Link | str) -> Self:
        """A new graph with only the nodes that the wanted nodes or outputs need."""
        return combine.subgraph(self, [self.link(w) for w in want])

    def copy(self) -> Self:
        """An independent copy; `Node` objects, which never change, are shared."""
        return combine.copy(self)

    def __getitem__(self, id: str) -> Ref:
        self.node(id)
        return Ref(self, Link(id), self.output_type(Link(id)))

    def link(self, want: Ref | Link | str | Any) -> Link:
        """The link for a reference, a declared output's name or a node's id."""
        return link_of(self, want)

    def output_type(self, link: Link) -> Any:
        """The type of the value that a link carries; Any if it cannot be known."""
        return inference.output_type(self, link)

    @property
    def outputs_types(self) -> dict[str, Any]:
        """The types of the declared outputs, by name."""
        return inference.declared_types(self)

    def problems(self) -> list[Problem]:
        """All problems of the graph, warnings included."""
        return validate.problems(self)

    def check(self) -> None:
        """Raise a `WorkflowError` that holds all problems if one of them is an error."""
        validate.check(self)

    # --- equality by content --------------------------------------------------------------------------------------

    @property
    def key(self) -> str:
        """A hash of the graph's content: nodes, arguments, inputs and outputs, but no ids, positions or titles."""
        return graph_key(self)

    def __graphengine_key__(self) -> str:
        """What the graph adds to the key of a node whose code uses it."""
        return self.key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GraphBuilder) and (self is other or self.key == other.key)

    __hash__ = object.__hash__


def _installed(name: str) -> NodeDef[..., Any] | str:
    """The installed node of a name; the name itself if there is none."""
    from graphengine.declare.registry import find  # loads the installed packs

    return find(name) or name
