"""A graph as data: nodes, links between them, declared inputs and outputs.

`build.GraphBuilder` adds what needs types and checks, `api.Graph` what runs, reads and shows: users have that one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import EllipsisType, UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, overload

from graphengine.declare.definition import NodeDef
from graphengine.declare.sockets import Choices, Range, Socket
from graphengine.errors import Problem, Where, WorkflowError
from graphengine.graph.elements import INPUTS, VALUES, Input, Link, Ref, has_links, links_in

if TYPE_CHECKING:
    from typing import _SpecialForm

    import networkx



class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


T = TypeVar("T")
K = TypeVar("K")
# Of defaults: so bounded that no type checker takes `object` for what a type and a wrong default have in common.
B = TypeVar("B", bool, int, float, str, Path)
D = TypeVar("D", bound=Enum | _Dataclass | tuple[Any, ...])

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


class GraphData:
    """Nodes and links, with declared inputs and outputs; a workflow file is one of these.

    Attributes:
        nodes: By id.
        inputs, outputs: What makes it callable: `graph(prompt="...")`.
        values: Literals that JSON cannot hold, linked as `values.NAME`.
        title, description: For people.
        file: The workflow file it was read from; relative paths start in its folder.
        base: Where they start if it was read from no file.
        lines: Line numbers in that file by path (`("nodes", "model", "with", "source")`).
        problems_at_load: What was wrong with the file but does not keep it from being a graph.
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
        self.unchecked: dict[str, None] = {}
        self.parts: dict[str, GraphData] = {}
        self.checked = True
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

    @overload  # which no type checker can take for a class
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
        """Declare an input and return a reference to it; without a default it must be given."""
        required = default is ...
        self.inputs[name] = Input(name, type, required, None if required else default, help, range, choices)
        self.changes.append(INPUTS)
        self.unchecked[INPUTS] = None
        self.checked = False
        return Ref(self, Link(INPUTS, name), self.input_type(name))

    def output(self, name: str, value: Any) -> None:
        """Declare an output; a second one of that name takes the first one's place, with a warning."""
        link = self.argument(value)
        if type(link) is not Link:
            raise WorkflowError(f"the output {name} must be a node's output, not {value!r:.60}")
        before = self.outputs.get(name)
        if before is not None and before != link:
            what = f"the output {name} was {before} and is {link} from now on; give one of them another name"
            warnings.warn(what, UserWarning, stacklevel=2)
        self.outputs[name] = link
        if link.node not in self.nodes:
            self.unchecked[INPUTS] = None
            self.checked = False

    def argument(self, value: Any) -> Any:
        """A call's argument as nodes hold it: references become links, those of outer graphs are captured."""
        if type(value) is Ref:
            return value._link if value._graph is self else self._capture(value)
        if type(value) in (list, tuple):
            items = [self.argument(v) for v in value]
            return tuple(items) if type(value) is tuple and not has_links(items) else items
        if type(value) is dict:
            found = {key: self.argument(v) for key, v in value.items()}
            if has_links(list(found.values())):
                raise WorkflowError("a node's output stands inside a dictionary; link it to an input of its own")
            return found
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
        """Take a value in under an input's name: used as an argument, it keeps where it came from (expansions)."""
        self._held[id(value)] = (value, name)
        return Ref(self, Link(INPUTS, name), self.inputs[name].type)

    def connect(self, id: str, socket: str, source: Ref | Link | str) -> None:
        """Link a socket of a node to an output (`"model"`, `"split.left"`, `"inputs.prompt"`)."""
        if isinstance(source, str):
            source = Link(*source.split(".", 1)) if "." in source else Link(source)
        self.set(id, socket, source)

    def set(self, id: str, socket: str, value: Any) -> None:
        """Give a socket of a node a literal (or a link)."""
        node = self.node(id)
        args = {**node.args, socket: self.argument(value)}
        self.put(id, Node(node.kind, args, node.each, node.version, node.workflow, node.ui, node.keep_going))

    def remove(self, id: str) -> None:
        """Take a node out; links to it are left dangling and reported by `problems()`."""
        self.node(id)
        del self.nodes[id]
        self.parts.pop(id, None)
        self.types.clear()
        self.changes.append(id)
        self.checked = False
        self.unchecked[id] = None

    def node(self, id: str) -> Node:
        """A node by its id; raises a `WorkflowError` if there is none."""
        if id not in self.nodes:
            from graphengine.errors import nearest

            raise WorkflowError(
                Problem("unknown node", f"the graph has no node {id}", Where(node=id), nearest=nearest(id, self.nodes))
            )
        return self.nodes[id]

    def put(self, id: str, node: Node) -> None:
        """Set a node, new or in another's place."""
        old = self.nodes.get(id)
        if old is not None:
            self.types.clear()  # what generic nodes after it make may change
            # What others take from it may have changed, or a new link may close a cycle: then all is checked again.
            same = old.kind is node.kind and isinstance(old.kind, NodeDef) and not old.kind.is_generic
            if not same or (old.each, old.links, old.lists) != (node.each, node.links, node.lists):
                self.checked = False
        elif isinstance(node.kind, GraphData) or any(
            link.node not in self.nodes for _, link in node.sources() if link.node not in (INPUTS, VALUES)
        ):
            self.checked = False  # a graph in it may be wrong; what is linked to and still to come may close a cycle
        self.nodes[id] = node
        if isinstance(node.kind, GraphData):
            self.parts[id] = node.kind
        else:
            self.parts.pop(id, None)
        self.changes.append(id)
        self.unchecked[id] = None

    def free_name(self, name: str, taken: Mapping[str, Any]) -> str:
        """The name, or with a number where it is taken."""
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
        """The type that a link to a declared input has: what may be null is so."""
        declared = self.inputs[name]
        return declared.type if declared.required or declared.default is not None else declared.type | None \
            if declared.type is not Any else Any

    def consumers(self) -> dict[str, list[str]]:
        """For each node the ids of those that take something from it."""
        found: dict[str, list[str]] = {id: [] for id in self.nodes}
        for id, node in self.nodes.items():
            for source in dict.fromkeys(link.node for _, link in node.sources()):
                found.setdefault(source, []).append(id)
        return found

    def bound_sockets(self) -> list[tuple[str, str, Link]]:
        """Node, socket and link of every link to a declared input."""
        if self._bound is None or self._bound[0] != len(self.changes):
            found = [(id, *pair) for id, node in self.nodes.items() for pair in node.bound if pair[1].node == INPUTS]
            self._bound = len(self.changes), found
        return self._bound[1]

    def with_parts(self) -> list[GraphData]:
        """This graph and all that are used as nodes in it, at any depth, each once: one may use itself."""
        found, stack = {id(self): self}, [self]
        while stack:
            for part in stack.pop().parts.values():
                if id(part) not in found:
                    found[id(part)] = part
                    stack.append(part)
        return list(found.values())

    def leaves(self) -> list[str]:
        """Nodes that nobody takes anything from."""
        used = {link.node for node in self.nodes.values() for _, link in node.sources()}
        return [id for id in self.nodes if id not in used]

    def networkx(self) -> networkx.MultiDiGraph[str]:
        """The graph for networkx: nodes carry `node`, edges `source` (a port) and `socket`."""
        import networkx

        view: networkx.MultiDiGraph[str] = networkx.MultiDiGraph()
        for id, node in self.nodes.items():
            view.add_node(id, node=node)
        for id, node in self.nodes.items():
            for socket, link in node.sources():
                if link.node in self.nodes:
                    view.add_edge(link.node, id, source=link.port, socket=socket)
        return view

    # --- as a node, and as a function -----------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.title or "workflow"

    @property
    def folder(self) -> Path | None:
        """Where relative paths in it start; None for the current folder, or that of the graph that it is part of."""
        return self.file.absolute().parent if self.file is not None else self.base

    @property
    def sockets(self) -> dict[str, Socket]:
        """Its declared inputs, as a node's."""
        return {name: declared.socket() for name, declared in self.inputs.items()}

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by input name, as a call gives them."""
        if len(args) > len(self.inputs):
            raise TypeError(f"{self.name} takes {len(self.inputs)} inputs, {len(args)} were given")
        given = dict(zip(self.inputs, args, strict=False))
        if twice := given.keys() & kwargs.keys():
            raise TypeError(f"{self.name} got multiple values for {', '.join(sorted(twice))}")
        return given | dict(kwargs)

    def __repr__(self) -> str:
        return f"<Graph {self.title or ''} of {len(self.nodes)} nodes>".replace("  ", " ")


def folder_of(graph: GraphData) -> Path:
    """Where relative paths in a graph start."""
    return graph.folder or Path.cwd()
