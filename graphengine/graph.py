"""A graph as data: nodes, links between them, declared inputs and outputs.

It is built by calling nodes inside `with Graph() as g:`, or by `add`, `connect`, `set`, `replace` and `merge`.

One class, and so one module of more than 400 lines: users look for all that a graph can do in one place. What takes
more than a few lines is done elsewhere (`combine`, `validate`, `evaluate`, `workflow`, `draw`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import EllipsisType, UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, overload

from graphengine.building import begin_building, building, end_building
from graphengine.definition import NodeDef
from graphengine.elements import INPUTS, VALUES, Input, Link, Node, Ref, bad_id, has_links
from graphengine.errors import Problem, Where, WorkflowError
from graphengine.sockets import Choices, Range, Socket

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

class Graph:
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
        self._types: dict[str, dict[str, Any]] = {}
        self._parent: Graph | None = None
        self._captured: dict[Link, str] = {}
        self._held: dict[int, tuple[Any, str]] = {}
        self.changes: list[str] = []
        self._bound: tuple[int, list[tuple[str, str, Link]]] | None = None
        self.unchecked: dict[str, None] = {}
        self.parts: dict[str, Graph] = {}
        self.checked = True
        self.idle_plans: list[Any] = []

    # --- building by calling --------------------------------------------------------------------------------------

    def __enter__(self) -> Graph:
        begin_building(self)
        return self

    def __exit__(self, *_: object) -> None:
        end_building()

    def call(
        self, kind: NodeDef[..., Any] | Graph, args: Sequence[Any], kwargs: Mapping[str, Any], id: str | None = None
    ) -> Ref:
        """Add a node by a call; a wrong argument raises at once and adds nothing."""
        from graphengine.validate import node_problems

        ref = self.place(kind, kind.bind(args, kwargs), id)
        errors = [p for p in node_problems(self, ref._link.node) if p.severity == "error"]
        if errors:
            self.remove(ref._link.node)
            raise WorkflowError(errors)
        self.unchecked.pop(ref._link.node, None)
        return ref

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
        """Declare an output."""
        link = self.argument(value)
        if type(link) is not Link:
            raise WorkflowError(f"the output {name} must be a node's output, not {value!r:.60}")
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
        if self._parent is None:
            raise WorkflowError(
                f"{ref._link} belongs to another graph; declare an input of this graph, or use `merge`"
            )
        outer = self._parent.argument(ref)
        name = self._captured.get(outer)
        if name is None:
            name = self.free_name(str(outer).replace(".", "_"), self.inputs)
            self._captured[outer] = name
            self.inputs[name] = Input(name, ref._type)
        return Link(INPUTS, name)

    def hold(self, name: str, value: Any) -> Ref:
        """Take a value in under an input's name: used as an argument, it keeps where it came from (expansions)."""
        self._held[id(value)] = (value, name)
        return Ref(self, Link(INPUTS, name), self.inputs[name].type)

    # --- the same as data -----------------------------------------------------------------------------------------

    def add(
        self, kind: NodeDef[..., Any] | Graph | str, /, id: str | None = None, *, each: Sequence[str] = (), **args: Any
    ) -> Ref:
        """Add a node; `problems()` tells what is wrong with it. A string is the name of an installed node.

        Inputs that are called `id` or `each` are given by `set`, or by calling the node.
        """
        return self.place(kind, args, id, each)

    def place(
        self, kind: NodeDef[..., Any] | Graph | str, args: Mapping[str, Any], id: str | None = None,
        each: Sequence[str] = (), keep_going: bool = False,
    ) -> Ref:
        """Add a node as `add` does, with its arguments in a mapping: inputs may have any name."""
        if isinstance(kind, str):
            from graphengine.registry import find

            kind = find(kind) or kind
        name = kind.name if isinstance(kind, NodeDef) else kind if isinstance(kind, str) else kind.title or "workflow"
        if id is None:
            id = self.free_name(re.sub(r"\W", "_", name), self.nodes)
        elif problem := bad_id(id) or ("it is there already" if id in self.nodes else ""):
            raise WorkflowError(Problem("duplicate id" if id in self.nodes else "bad id", problem, Where(node=id)))
        self.put(id, Node(kind, {k: self.argument(v) for k, v in args.items()}, each, keep_going=keep_going))
        return self[id]

    def connect(self, id: str, socket: str, source: Ref | Link | str) -> None:
        """Link a socket of a node to an output (`"model"`, `"split.left"`, `"inputs.prompt"`)."""
        if isinstance(source, str):
            source = Link(*source.split(".", 1)) if "." in source else Link(source)
        self.set(id, socket, source)

    def set(self, id: str, socket: str, value: Any) -> None:
        """Give a socket of a node a literal (or a link)."""
        node = self._node(id)
        args = {**node.args, socket: self.argument(value)}
        self.put(id, Node(node.kind, args, node.each, node.version, node.workflow, node.ui, node.keep_going))

    def replace(self, id: str, kind: NodeDef[..., Any] | Graph | str, /, **args: Any) -> None:
        """Put another node in a node's place; its consumers stay linked. Arguments not given are kept where the
        new node has such a socket."""
        if isinstance(kind, str):
            from graphengine.registry import find

            kind = find(kind) or kind
        old = self._node(id)
        sockets = {} if isinstance(kind, str) else kind.sockets
        kept = {name: value for name, value in old.args.items() if name in sockets}
        args = {k: self.argument(v) for k, v in args.items()}
        self.put(id, Node(kind, kept | args, old.each, ui=old.ui, keep_going=old.keep_going))

    def remove(self, id: str) -> None:
        """Take a node out; links to it are left dangling and reported by `problems()`."""
        self._node(id)
        del self.nodes[id]
        self.parts.pop(id, None)
        self._types.clear()
        self.changes.append(id)
        self.checked = False
        self.unchecked[id] = None

    def merge(self, other: Graph, prefix: str = "") -> dict[str, str]:
        """Take in another graph's nodes, inputs, values and outputs; returns the new id of each of its nodes.

        An id that is taken already gets a number. Inputs of one name are one input; outputs of a taken name are
        left out.
        """
        from graphengine.combine import merge

        return merge(self, other, prefix)

    def subgraph(self, *want: Ref | Link | str) -> Graph:
        """A new graph with only what the wanted nodes or outputs need."""
        from graphengine.combine import subgraph

        return subgraph(self, [self.link(w) for w in want])

    def copy(self) -> Graph:
        """An independent copy; nodes, which never change, are shared."""
        from graphengine.combine import copy

        return copy(self)

    def _node(self, id: str) -> Node:
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
            self._types.clear()  # what generic nodes after it make may change
            # What others take from it may have changed, or a new link may close a cycle: then all is checked again.
            same = old.kind is node.kind and isinstance(old.kind, NodeDef) and not old.kind.is_generic
            if not same or (old.each, old.links, old.lists) != (node.each, node.links, node.lists):
                self.checked = False
        elif isinstance(node.kind, Graph) or any(
            link.node not in self.nodes for _, link in node.sources() if link.node not in (INPUTS, VALUES)
        ):
            self.checked = False  # a graph in it may be wrong; what is linked to and still to come may close a cycle
        self.nodes[id] = node
        if isinstance(node.kind, Graph):
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

    def __getitem__(self, id: str) -> Ref:
        self._node(id)
        return Ref(self, Link(id), self.output_type(Link(id)))

    def __contains__(self, id: object) -> bool:
        return id in self.nodes

    def link(self, want: Ref | Link | str | Any) -> Link:
        """The link that a reference, a link, a declared output's name or a node's id stands for."""
        if isinstance(want, Ref):
            if want._graph is not self:
                raise WorkflowError(f"{want._link} belongs to another graph")
            return want._link
        if not isinstance(want, Link):
            if want in self.outputs:
                return self.outputs[want]
            node, _, port = str(want).partition(".")
            want = Link(node, port)
        if want.node not in (INPUTS, VALUES):
            self._node(want.node)
        from graphengine.validate import link_problems

        if problems := list(link_problems(self, want)):
            raise WorkflowError(problems)
        return want

    def input_type(self, name: str) -> Any:
        """The type that a link to a declared input has: what may be null is so."""
        declared = self.inputs[name]
        return declared.type if declared.required or declared.default is not None else declared.type | None \
            if declared.type is not Any else Any

    def output_type(self, link: Link) -> Any:
        """The type of what a link brings; Any where that cannot be known."""
        from graphengine.inference import output_types

        if link.node == INPUTS:
            return self.input_type(link.port) if link.port in self.inputs else Any
        if link.node == VALUES:
            return type(self.values[link.port]) if link.port in self.values else Any
        return output_types(self, link.node).get(link.port, Any)

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

    def with_parts(self) -> list[Graph]:
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

    @property
    def outputs_types(self) -> dict[str, Any]:
        """The types of its declared outputs."""
        return {name: self.output_type(link) for name, link in self.outputs.items()}

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by input name, as a call gives them."""
        if len(args) > len(self.inputs):
            raise TypeError(f"{self.name} takes {len(self.inputs)} inputs, {len(args)} were given")
        given = dict(zip(self.inputs, args, strict=False))
        if twice := given.keys() & kwargs.keys():
            raise TypeError(f"{self.name} got multiple values for {', '.join(sorted(twice))}")
        return given | dict(kwargs)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run with these inputs and return the output (several: a dictionary); inside a graph, add it as a node."""
        graph = building()
        if graph is not None and graph is not self:
            return graph.call(self, args, kwargs)
        from graphengine.evaluate import run

        result = run(self, inputs=self.bind(args, kwargs))
        return next(iter(result.values())) if len(result) == 1 else dict(result)

    def run(self, want: Any = None, inputs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run and return the value of `want`, a list for a list, or with none the outputs by name.

        Options are those of `graphengine.run`.
        """
        from graphengine.evaluate import run

        result = run(self, want=want, inputs=inputs or {}, **options)
        if want is None:
            return dict(result)
        return list(result.values()) if isinstance(want, list | tuple) else next(iter(result.values()))

    def problems(self) -> list[Problem]:
        """Everything that is wrong with it, warnings too."""
        from graphengine.validate import problems

        return problems(self)

    def check(self) -> None:
        """Raise a `WorkflowError` with all problems if any of them is an error."""
        found = self.problems()
        if any(p.severity == "error" for p in found):
            raise WorkflowError(found)

    # --- equality by content --------------------------------------------------------------------------------------

    @property
    def key(self) -> str:
        """A hash of what the graph says: not of ids, positions, titles or paths' folders."""
        from graphengine.graph_key import graph_key

        return graph_key(self)

    def __graphengine_key__(self) -> str:
        """What stands for it in the key of a node whose code uses it."""
        return self.key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and (self is other or self.key == other.key)

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<Graph {self.title or ''} of {len(self.nodes)} nodes>".replace("  ", " ")

    def _repr_html_(self) -> str:
        from graphengine.draw import svg

        return svg(self)

    def save(self, path: str | Path) -> None:
        """Write the graph as a workflow file, YAML or JSON by the name's ending."""
        from graphengine.workflow import save

        save(self, path)
