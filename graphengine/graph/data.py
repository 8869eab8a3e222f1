"""`GraphData` and `Node`: a graph as data, its nodes, links, declared inputs and outputs.

`graph.build.GraphBuilder` extends it by checked building; `graphengine.Graph`, which users import, by running, saving
and drawing.

The module is long because of the overloads of `input`; what is done with graphs stands in modules of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import EllipsisType, UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, overload

from graphengine.declare.definition import NodeDef
from graphengine.declare.sockets import Choices, Range, Socket, is_undrawn
from graphengine.errors import Problem, Where, WorkflowError
from graphengine.graph.elements import INPUTS, VALUES, Input, Link, Ref, has_links, links_in
from graphengine.graph.validated import Validated

if TYPE_CHECKING:
    from typing import _SpecialForm

    import networkx



class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


T = TypeVar("T")
K = TypeVar("K")
# Types of defaults, with bounds: without these, a type checker would accept a wrong default by inferring `object`.
B = TypeVar("B", bool, int, float, str, Path)
D = TypeVar("D", bound=Enum | _Dataclass | tuple[Any, ...])

class Node:
    """One node of a graph: what it calls, and with which arguments. It is never changed, but replaced by a new one.

    Attributes:
        kind: What the node calls: a node definition, a graph used as a node, or the name of an unknown node.
        args: The arguments by input: a `Link`, a list that contains links, or a literal.
        each: The inputs over whose lists the node is mapped.
        version: The version of the definition that a file was written for.
        workflow: The path, as written, of the workflow file from which `kind` was read.
        ui: Positions and notes of editors; no part of any key.
        keep_going: For a mapped node: the error of a failed item takes the item's place in the result.
        links, lists, literals: The arguments, separated into links, lists that contain links, and literals.
        before: The ids of the nodes whose outputs it takes.
        bound: Its links to declared inputs and values, by input.
    """

    __slots__ = (
        "args", "before", "bound", "each", "keep_going", "kind", "links", "lists", "literals", "ui", "version",
        "workflow",
    )  # fmt: skip

    def __init__(
        self,
        kind: NodeDef[..., Any] | GraphData | str,
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
        """The full name of the node definition, or the path or title of the workflow, that it calls."""
        if isinstance(self.kind, str):
            return self.kind
        if isinstance(self.kind, NodeDef):
            return self.kind.full_name
        return self.workflow or self.kind.title or "workflow"

    @property
    def sockets(self) -> Mapping[str, Socket]:
        """The inputs of what it calls; empty for an unknown node."""
        return {} if isinstance(self.kind, str) else self.kind.sockets

    def sources(self) -> Iterator[tuple[str, Link]]:
        """All incoming links with the input's name, including those inside lists."""
        yield from self.links
        for name, values in self.lists:
            for link in links_in(values):
                yield name, link

    def __repr__(self) -> str:
        return f"<{self.type} {self.args}>"


class GraphData:
    """Nodes and links, with declared inputs and outputs; a workflow file holds one graph.

    Attributes:
        nodes: The nodes by id.
        inputs, outputs: The declared inputs and outputs, with which a graph can be called: `graph(prompt="...")`.
        values: Literals that JSON cannot hold, linked as `values.NAME`.
        title, description: Texts for people.
        ui: Positions and notes of editors.
        file: The workflow file that it was read from; relative paths start in its folder.
        base: The folder at which relative paths start if it was not read from a file.
        lines: The line numbers in the file by path (`("nodes", "model", "with", "source")`).
        problems_at_load: Mistakes in the file that did not prevent reading it.
        types: The inferred types of outputs, by node; see `graph.type_inference`.
        outer: While it is built inside another graph: that graph.
        captured: Links of the outer graph that were used inside, with the inputs that were made for them.
        changes: The ids of changed nodes, in order; plans compare it with what they have seen.
        validated: What of it was validated and found right, and what has changed since.
        parts: The graphs used as nodes, by id.
        idle_plans: Plans of earlier runs that can be used again; only `planning.plan` touches the list.
    """

    def __init__(self, title: str = "", description: str = "") -> None:
        self.title, self.description = title, description
        self.nodes: dict[str, Node] = {}
        self.inputs: dict[str, Input] = {}
        self.outputs: dict[str, Link] = {}
        self.values: dict[str, Any] = {}
        self.ui: dict[str, Any] = {}
        self.file: Path | None = None
        self.base: Path | None = None
        self.lines: Mapping[tuple[Any, ...], int] = {}
        self.problems_at_load: list[Problem] = []
        self._counts: dict[str, int] = {}
        self.types: dict[str, dict[str, Any]] = {}
        self.outer: GraphData | None = None
        self.captured: dict[Link, str] = {}
        self._held: dict[int, tuple[Any, str]] = {}
        self.changes: list[str] = []
        self._bound: tuple[int, list[tuple[str, str, Link]]] | None = None
        self._undrawn: tuple[int, list[tuple[str, str, Any]]] | None = None
        self.validated = Validated()
        self.parts: dict[str, GraphData] = {}
        self.idle_plans: list[Any] = []

    @overload
    def input(
        self, name: str, type: type[B], default: B | EllipsisType | None = ..., help: str = "",
        range: Range | None = None, choices: Choices | None = None,
    ) -> B: ...

    @overload
    def input(
        self, name: str, type: type[list[T]], default: list[T] | EllipsisType | None = ..., help: str = "",
        range: Range | None = None, choices: Choices | None = None,
    ) -> list[T]: ...

    @overload
    def input(
        self, name: str, type: type[dict[K, T]], default: dict[K, T] | EllipsisType | None = ..., help: str = "",
        range: Range | None = None, choices: Choices | None = None,
    ) -> dict[K, T]: ...

    @overload
    def input(
        self, name: str, type: type[D], default: D | EllipsisType | None = ..., help: str = "",
        range: Range | None = None, choices: Choices | None = None,
    ) -> D: ...

    @overload
    def input(
        self, name: str, type: type[T], default: EllipsisType | None = ..., help: str = "",
        range: Range | None = None, choices: Choices | None = None,
    ) -> T: ...

    @overload  # unions, which are no classes for type checkers
    def input(
        self, name: str, type: UnionType | _SpecialForm, default: Any = ..., help: str = "",
        range: Range | None = None, choices: Choices | None = None,
    ) -> Any: ...

    def input(
        self,
        name: str,
        type: Any,
        default: Any = ...,
        help: str = "",
        range: Range | None = None,
        choices: Choices | None = None,
    ) -> Any:
        """Declare an input and return a reference to it.

        Args:
            name: The input's name.
            type: Its type.
            default: Its default; without one, the input must be given in each run.
            help: A help text.
            range: The limits of a number.
            choices: The values that it accepts.
        """
        required = default is ...
        if name in self.inputs:
            self.types.clear()  # what generic nodes after it make may change
        self.inputs[name] = Input(name, type, required, None if required else default, help, range, choices)
        self.changes.append(INPUTS)
        return Ref(self, Link(INPUTS, name), self.input_type(name))

    def output(self, name: str, value: Any) -> None:
        """Declare an output; a second declaration of a name replaces the first, with a warning."""
        link = self.argument(value)
        if type(link) is not Link:
            raise WorkflowError(f"the output {name} must be a node's output, not {value!r:.60}")
        before = self.outputs.get(name)
        if before is not None and before != link:
            what = f"the output {name} was {before} and is {link} from now on; give one of them another name"
            warnings.warn(what, UserWarning, stacklevel=2)
        self.outputs[name] = link

    def argument(self, value: Any) -> Any:
        """Convert an argument of a call to the form in which nodes hold it: references become links.

        A reference to a node of an outer graph becomes an input of this graph (it is captured).
        """
        if type(value) is Ref:
            return value._link if value._graph is self else self._capture(value)
        if type(value) in (list, tuple):
            items = [self.argument(v) for v in value]
            return tuple(items) if type(value) is tuple and not has_links(items) else items
        if type(value) is dict:
            items_by_key = {key: self.argument(v) for key, v in value.items()}
            if has_links(list(items_by_key.values())):
                raise WorkflowError("a node's output stands inside a dictionary; link it to an input of its own")
            return items_by_key
        held = self._held.get(id(value))
        if held is not None and held[0] is value:
            return Link(INPUTS, held[1])
        return value

    def _capture(self, ref: Ref) -> Link:
        if self.outer is None:
            raise WorkflowError(
                f"{ref._link} belongs to another graph; declare an input of this graph, or use `merge`"
            )
        outer = self.outer.argument(ref)
        name = self.captured.get(outer)
        if name is None:
            name = self.free_name(str(outer).replace(".", "_"), self.inputs)
            self.captured[outer] = name
            self.inputs[name] = Input(name, ref._type)
        return Link(INPUTS, name)

    def hold(self, name: str, value: Any) -> Ref:
        """Register the value of an input: used as an argument, it becomes a link to the input (for expansions)."""
        self._held[id(value)] = (value, name)
        return Ref(self, Link(INPUTS, name), self.inputs[name].type)

    def connect(self, id: str, socket: str, source: Ref | Link | str) -> None:
        """Link an input of a node to an output (`"model"`, `"split.left"`, `"inputs.prompt"`)."""
        if isinstance(source, str):
            source = Link(*source.split(".", 1)) if "." in source else Link(source)
        self.set(id, socket, source)

    def set(self, id: str, socket: str, value: Any) -> None:
        """Set an input of a node to a literal or a link."""
        node = self.node(id)
        args = {**node.args, socket: self.argument(value)}
        self.put(id, Node(node.kind, args, node.each, node.version, node.workflow, node.ui, node.keep_going))

    def remove(self, id: str) -> None:
        """Remove a node; links to it stay, and are reported by `problems()`."""
        self.node(id)
        del self.nodes[id]
        self.parts.pop(id, None)
        self.types.clear()
        self.changes.append(id)
        self.validated.pending.pop(id, None)
        self.validated.made_other[id] = None

    def node(self, id: str) -> Node:
        """A node by its id; raises a `WorkflowError` if there is none."""
        if id not in self.nodes:
            from graphengine.errors import nearest

            raise WorkflowError(
                Problem("unknown node", f"the graph has no node {id}", Where(node=id), nearest=nearest(id, self.nodes))
            )
        return self.nodes[id]

    def put(self, id: str, node: Node) -> None:
        """Add a node under an id, or replace the node that has it."""
        old, known = self.nodes.get(id), self.validated
        if old is not None:
            self.types.clear()  # the types of generic nodes after it may change
            same = old.kind is node.kind and isinstance(old.kind, NodeDef) and not old.kind.is_generic
            if not same or old.each != node.each:
                known.made_other[id] = None
            if (old.links, old.lists) != (node.links, node.lists):
                known.may_cycle = True
        else:
            for source in node.before:
                if source not in self.nodes:  # a link to a node that is added later may close a cycle
                    known.may_cycle = True
        self.nodes[id] = node
        if isinstance(node.kind, GraphData):
            self.parts[id] = node.kind
            known.parts.setdefault(hash(node.kind), (node.kind, node.kind.edition))
        else:
            self.parts.pop(id, None)
        self.changes.append(id)
        known.pending[id] = None

    def free_name(self, name: str, taken: Mapping[str, Any]) -> str:
        """The name itself, or with a number if it is taken."""
        if name not in taken and name not in (INPUTS, VALUES):
            return name
        count = self._counts.get(name, 1)
        while True:
            count += 1
            if f"{name}_{count}" not in taken:
                self._counts[name] = count
                return f"{name}_{count}"

    # --- reading --------------------------------------------------------------------------------------------------

    def __contains__(self, id: object) -> bool:
        return id in self.nodes

    def input_type(self, name: str) -> Any:
        """The type of a link to a declared input: with null if the input's default is null."""
        declared = self.inputs[name]
        return declared.type if declared.required or declared.default is not None else declared.type | None \
            if declared.type is not Any else Any

    def consumers(self) -> dict[str, list[str]]:
        """For each node, the ids of the nodes that take its outputs."""
        consumers: dict[str, list[str]] = {id: [] for id in self.nodes}
        for id, node in self.nodes.items():
            for source in dict.fromkeys(link.node for _, link in node.sources()):
                consumers.setdefault(source, []).append(id)
        return consumers

    def bound_sockets(self) -> list[tuple[str, str, Link]]:
        """Every link to a declared input, as (node id, input of the node, link)."""
        if self._bound is None or self._bound[0] != len(self.changes):
            bound = [(id, *pair) for id, node in self.nodes.items() for pair in node.bound if pair[1].node == INPUTS]
            self._bound = len(self.changes), bound
        return self._bound[1]

    def undrawn(self) -> list[tuple[str, str, Any]]:
        """Every argument that asks for a number to be drawn, if its input draws numbers: (node id, input, argument)."""
        if self._undrawn is None or self._undrawn[0] != len(self.changes):
            found = [
                (id, name, value) for id, node in self.nodes.items() for name, value in node.args.items()
                if is_undrawn(value)
            ]  # fmt: skip
            self._undrawn = len(self.changes), found
        return self._undrawn[1]

    def with_parts(self) -> list[GraphData]:
        """This graph and all graphs that are used as nodes in it, at any depth, each once (a graph may use itself)."""
        graphs, stack = {id(self): self}, [self]
        while stack:
            for part in stack.pop().parts.values():
                if id(part) not in graphs:
                    graphs[id(part)] = part
                    stack.append(part)
        return list(graphs.values())

    def leaves(self) -> list[str]:
        """The ids of the nodes whose outputs no other node takes."""
        used = {link.node for node in self.nodes.values() for _, link in node.sources()}
        return [id for id in self.nodes if id not in used]

    def networkx(self) -> networkx.MultiDiGraph[str]:
        """Convert to a networkx graph: nodes have the attribute `node`, edges `source` (a port) and `socket`."""
        import networkx

        view: networkx.MultiDiGraph[str] = networkx.MultiDiGraph()
        for id, node in self.nodes.items():
            view.add_node(id, node=node)
        for id, node in self.nodes.items():
            for socket, link in node.sources():
                if link.node in self.nodes:
                    view.add_edge(link.node, id, source=link.port, socket=socket)
        return view

    @property
    def edition(self) -> tuple[int, int]:
        """What differs if it was changed since this was asked for before."""
        return self.validated.edition(self.inputs, self.outputs, self.values), len(self.changes)

    # --- as a node, and as a function -----------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The title, or `workflow`."""
        return self.title or "workflow"

    @property
    def folder(self) -> Path | None:
        """The folder at which relative paths start; None: the current folder, or that of the graph around it."""
        return self.file.absolute().parent if self.file is not None else self.base

    @property
    def sockets(self) -> dict[str, Socket]:
        """The declared inputs as sockets, as a node definition has them."""
        return {name: declared.socket() for name, declared in self.inputs.items()}

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Bind the arguments of a call to input names; raises TypeError for too many or repeated arguments."""
        if len(args) > len(self.inputs):
            raise TypeError(f"{self.name} takes {len(self.inputs)} inputs, {len(args)} were given")
        given = dict(zip(self.inputs, args, strict=False))
        if twice := given.keys() & kwargs.keys():
            raise TypeError(f"{self.name} got multiple values for {', '.join(sorted(twice))}")
        return given | dict(kwargs)

    def __repr__(self) -> str:
        return f"<Graph {self.title or ''} of {len(self.nodes)} nodes>".replace("  ", " ")


def folder_of(graph: GraphData) -> Path:
    """The folder at which relative paths in a graph start."""
    return graph.folder or Path.cwd()
