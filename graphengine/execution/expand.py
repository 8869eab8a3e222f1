"""Expansion: nodes whose body builds a graph, workflows used as nodes, and nodes mapped over lists.

What an expanding task's outputs became is written into it; whoever is linked to it follows. No level of an expansion
holds a thread or a stack frame.

The module is long because the three kinds of expansion wait for keys and values, and name what they make, in one way.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakValueDictionary

from graphengine.declare.definition import NodeDef
from graphengine.declare.sockets import Socket
from graphengine.errors import NodeError, Problem, Spoiled, Where, WorkflowError, as_exception
from graphengine.execution.guard import Guard, guard_of
from graphengine.graph.build import GraphBuilder
from graphengine.graph.data import GraphData, Node
from graphengine.graph.elements import INPUTS, VALUES, Input, Link, Ref
from graphengine.graph.order import acts
from graphengine.graph.type_inference import item_type
from graphengine.graph.validate import too_many
from graphengine.keys.call_key import identity
from graphengine.planning.arguments import default_paths, is_default, source_of, token_of, value_of
from graphengine.planning.plan import Plan
from graphengine.planning.task import (
    Const,
    Many,
    Port,
    Source,
    Stage,
    Task,
    constant,
    follow,
    is_volatile,
    output,
    tasks_of,
)
from graphengine.values.canonical import digest
from graphengine.values.checksum import sum_of
from graphengine.values.literals import coerce
from graphengine.values.socket_types import is_named_tuple, socket_type

_serials = itertools.count(1)
DEEPEST = 10_000
"""Levels of expansions inside one another in which workflows may be used; a `when` between them is one too."""
_DEPTH = re.compile(r"#(\d{1,9})")
"""Stands in the ids of tasks in expansions of expansions."""


class Waits(Protocol):
    """What an expansion asks of the evaluation: to be called again when a key or a value has come."""

    plan: Plan
    acting: bool
    alone: bool

    def act(self, task: Task) -> None: ...

    def need_key(self, task: Task, waiter: Task) -> None: ...

    def need_value(self, task: Task, waiter: Task) -> None: ...


class Expander:
    """Expands tasks of one run; at most `limit` of them, so that an endless recursion ends with an error."""

    def __init__(self, evaluation: Waits, limit: int) -> None:
        self.evaluation, self.limit = evaluation, limit
        self.count = 0
        self.more = 0  # tasks that stand in the place of others, beyond these
        self._acts: dict[int, bool] = {}
        self._same: WeakValueDictionary[bytes, Task] = WeakValueDictionary()
        self._bases: WeakKeyDictionary[Task, Path] = WeakKeyDictionary()  # where paths start in workflows used as nodes

    # --- wiring: a node's arguments as sources ----------------------------------------------------------------------

    def source(self, plan: Plan, tasks: dict[str, Task], link: Link) -> Source:
        """What a link of the run's own graph brings."""
        if link.node == INPUTS or link.node == VALUES:
            return plan.const(link)
        return output(tasks[link.node], link.port)

    def wire(self, plan: Plan, tasks: dict[str, Task], task: Task) -> None:
        """Give a task of the run's own graph its sources, where its key is not known before the run."""
        assert task.node is not None
        self._wire(task, {link: self.source(plan, tasks, link) for _, link in task.node.sources()})

    def listed(self, plan: Plan, tasks: dict[str, Task], items: list[Any]) -> Source:
        """What a list with links in it brings, in the run's own graph."""
        return source_of(items, lambda link: self.source(plan, tasks, link))

    def _wire(self, task: Task, scope: Mapping[Link, Source], base: Path | None = None) -> None:
        """Give any task its sources; literals become values of plain nodes and sources of expanding ones."""
        node = task.node
        assert node is not None
        kind = None if isinstance(node.kind, GraphData | str) or node.kind.expand or node.each else node.kind
        sources = {name: source_of(value, scope.__getitem__, base) for name, value in node.args.items()}
        paths = default_paths(kind, node.args) if kind is not None and kind.files else {}
        for name, source in (sources | {name: constant(path, base) for name, path in paths.items()}).items():
            if type(source) is Const and name in node.sockets:
                if is_default(node.sockets[name], source.value):
                    continue
                if kind is not None and source.key is None:
                    try:
                        task.values[name], token, sum = self.evaluation.plan.resolver.given(kind, name, source)
                    except BaseException as error:
                        given = {name: source.value for name, source in sources.items() if type(source) is Const}
                        raise NodeError(task.id, node.type, given, as_exception(error)) from error
                    task.tokens = {**(task.tokens or {}), name: token}
                    if sum is not None:
                        task.sums = {**(task.sums or {}), name: sum}
                    continue
            task.links.append((name, source))

    # --- expanding --------------------------------------------------------------------------------------------------

    def expand(self, task: Task) -> bool:
        """Expand a task; False if it must wait first."""
        node = task.node
        assert node is not None
        task.links = [(name, follow(source)) for name, source in task.links]
        if node.each:
            return self._map(task, node)
        if isinstance(node.kind, GraphData):
            self._counted(task)
            self._limited(task, node.kind)
            self._inline(task, node.kind)
            return True
        assert isinstance(node.kind, NodeDef)
        return self._call(task, node.kind)

    def _counted(self, task: Task) -> None:
        self.count += 1
        if self.count > self.limit:
            raise WorkflowError(
                Problem(
                    "endless expansion", f"more than {self.limit:,} expansions", Where(node=task.id),
                    hint="a recursion that never ends? else raise the run's limit",
                )
            )

    def _limited(self, task: Task, graph: GraphData) -> None:
        mark = _DEPTH.search(task.id)
        if mark is not None and int(mark[1]) > DEEPEST:
            what = f"the workflow {graph.name} uses itself more than {DEEPEST:,} levels deep"
            hint = "its condition is never met? what it gives itself must come nearer to the end each time"
            raise WorkflowError(Problem("endless recursion", what, Where(node=task.id), hint=hint))

    def _ready(self, task: Task, names: Sequence[str] | None) -> bool:
        """Wait for the values of these inputs (None: only for what they are)."""
        for n, (name, source) in enumerate(task.links):
            task.links[n] = (name, source := follow(source))
            if names is not None and name not in names:
                continue
            for before in tasks_of(source):
                if before.stage == Stage.KEY:
                    self.evaluation.need_key(before, task)
                elif before.stage != Stage.DONE:
                    self.evaluation.need_value(before, task)
        return not task.pending and task.stage != Stage.FAILED

    # a workflow used as a node

    def _inline(self, task: Task, graph: GraphData) -> None:
        scope: dict[Link, Source] = {}
        given = dict(task.links)
        base = graph.folder or self._bases.get(task)
        for name, declared in graph.inputs.items():
            source = given.get(name)
            if source is None or (type(source) is Const and source.value is None and declared.default is not None):
                source = constant(declared.default, base)
            scope[Link(INPUTS, name)] = source
        for name, value in graph.values.items():
            scope[Link(VALUES, name)] = constant(value, base)
        links = list(graph.outputs.values())
        self._instantiate(graph, scope, links, task, base)
        task.became = {name: scope[link] for name, link in graph.outputs.items()} or {"": constant(None)}
        task.links = []

    def _instantiate(
        self, graph: GraphData, scope: dict[Link, Source], links: list[Link], outer: Task, base: Path | None
    ) -> None:
        """Make tasks for what the links need, and add to `scope` what each link of the graph brings."""
        mark = _DEPTH.search(outer.id)
        root, depth = (outer.id.replace(mark[0], ""), int(mark[1])) if mark else (outer.id, 0)
        inside = outer.outer is not None
        prefix = root.rpartition("/")[0] if inside and isinstance(outer.node and outer.node.kind, NodeDef) else root
        suffix = f"#{depth + 1}" if inside else ""
        tasks: dict[str, Task] = {}
        acting = [id for id, node in graph.nodes.items() if self.evaluation.acting and acts(node.kind, self._acts)]
        stack = [*(link.node for link in links), *acting]
        while stack:
            id = stack.pop()
            if id in tasks or id not in graph.nodes:
                continue
            made = tasks[id] = Task(f"{prefix}/{id}{suffix}", graph.nodes[id], [], {})
            made.outer = outer
            if isinstance(kind := made.node and made.node.kind, NodeDef) and (kind.cache == "never" or kind.output):
                _mark_impure(outer)
            stack.extend(link.node for _, link in graph.nodes[id].sources())
        self.more += len(tasks) - 1
        for id, made in tasks.items():
            for _, link in graph.nodes[id].sources():
                if link not in scope:
                    scope[link] = output(tasks[link.node], link.port)
            if base is not None:
                self._bases[made] = base
            self._wire(made, scope, base)
        for link in links:
            if link not in scope:
                scope[link] = output(tasks[link.node], link.port)
        for id in acting:
            self.evaluation.act(Task("", None, [("", tasks[id])], {}))

    # a node whose body builds a graph

    def _call(self, task: Task, kind: NodeDef[..., Any]) -> bool:
        eager = [name for name, source in task.links if not _is_lazy(kind.sockets[name], source)]
        if not self._ready(task, eager):
            return False
        self._counted(task)
        if self._is_known(task, kind):
            return True
        task.links = [
            (name, source) for name, source in task.links
            if not (type(source) is Const and is_default(kind.sockets[name], source.value))
        ]  # fmt: skip
        part = GraphBuilder(kind.name)
        scope: dict[Link, Source] = {}
        guard, arguments = self._guarded(task, kind)
        for name, source in task.links:
            socket = kind.sockets[name]
            scope[Link(INPUTS, name)] = source
            part.inputs[name] = Input(name, socket.type)
            if type(source) is Many and socket.lazy and _is_list(socket):
                arguments[name] = _refs(part, scope, name, source, item_type(socket.type))
            elif _is_lazy(socket, source):
                arguments[name] = Ref(part, Link(INPUTS, name), socket.type)
            else:
                value = arguments[name]
                if type(value) not in _SHARED:
                    part.hold(name, value)
        try:
            with part:
                result = kind.compute(**arguments)
            found = {name: part.argument(r) for name, r in _results(result).items()}
            if guard is not None:
                guard.leave()
        except Spoiled:
            raise
        except WorkflowError as error:
            raise WorkflowError([p.at(node=f"{task.id}/{p.where.node or ''}".rstrip("/")) for p in error.problems]) \
                from error
        except BaseException as error:
            known = {name: value for name, value in arguments.items() if not _is_promised(value)}
            raise NodeError(task.id, kind.full_name, known, as_exception(error)) from error
        links = [link for value in found.values() for link in _links(value)]
        base = self._bases.get(task)
        self._instantiate(part, scope, links, task, base)
        task.became = {name: source_of(value, scope.__getitem__, base) for name, value in found.items()}
        if "" not in found:
            task.became[""] = Many(list(task.became.values()), kind.result)
        task.links = []
        return True

    def _guarded(self, task: Task, kind: NodeDef[..., Any]) -> tuple[Guard | None, dict[str, Any]]:
        """What guards the inputs that a body takes as values, and these."""
        links = [(name, source) for name, source in task.links if not _is_lazy(kind.sockets[name], source)]
        arguments = {name: value_of(source) for name, source in links}
        for name, source in links:
            if type(source) is Const:  # as its annotation says: a member of an enum, not its value's text
                arguments[name] = coerce(arguments[name], kind.sockets[name].type)
        guard = guard_of(links, self.evaluation.alone)
        if guard is not None:
            guard.enter(arguments)
        return guard, arguments

    def _is_known(self, task: Task, kind: NodeDef[..., Any]) -> bool:
        """Whether an expansion of the same inputs exists in this run; its outputs are then this one's too."""
        tokens = []
        for name, source in task.links:
            if is_volatile(source):
                return False
            token = _lazy_token(source) if kind.sockets[name].lazy else token_of(source)
            base = source.base if type(source) is Const else None  # the same relative path elsewhere is another file
            tokens.append((name, token, None if base is None else str(base)))
        key = digest((identity(kind), tokens))
        other = self._same.get(key)
        if other is None or other.became is None:
            self._same[key] = task
            return False
        impure = other.impure  # what acts or is never remembered is done for each; yet nobody may need itself
        outer = task.outer
        while outer is not None:
            if outer is other:
                raise WorkflowError(
                    Problem("needs itself", f"{kind.full_name} needs its own result", Where(node=other.id),
                            hint="a recursion must change its inputs")
                )
            outer = outer.outer
        if impure:
            return False
        self.more -= 1
        task.became = {name: follow(source) for name, source in other.became.items()}
        task.links = []
        return True

    # a node mapped over lists

    def _map(self, task: Task, node: Node) -> bool:
        if not self._ready_lists(task, node):
            return False
        self._counted(task)
        given = dict(task.links)
        lists = {name: _items(given[name], node, name) for name in node.each}
        lengths = {name: len(items) for name, items in lists.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise WorkflowError(
                Problem("unequal lengths", f"lists that are mapped in step must be equally long: {told}",
                        Where(node=task.id))
            )
        if (problem := too_many(next(iter(lengths.values()), 0), Where(node=task.id))) is not None:
            raise WorkflowError(problem)
        single = Node(node.kind, node.args)
        children = []
        for n in range(next(iter(lengths.values()), 0)):
            child = Task(f"{task.id}[{n}]", single, [], {})
            child.outer, child.tolerant = task, node.keep_going
            scope = {name: lists[name][n] if name in lists else source for name, source in given.items()}
            self._wire_sources(child, scope)
            if (base := self._bases.get(task)) is not None:
                self._bases[child] = base
            children.append(child)
        self.more += len(children) - 1
        task.children, task.links = children, []
        return True

    def _ready_lists(self, task: Task, node: Node) -> bool:
        for n, (name, source) in enumerate(task.links):
            task.links[n] = (name, source := follow(source))
            if name in node.each and type(source) in (Task, Port):
                for before in tasks_of(source):
                    if before.stage == Stage.KEY:
                        self.evaluation.need_key(before, task)
                    elif before.stage != Stage.DONE:
                        self.evaluation.need_value(before, task)
        return not task.pending and task.stage != Stage.FAILED

    def _wire_sources(self, task: Task, scope: dict[str, Source]) -> None:
        links = {name: Link(INPUTS, name) for name in scope}
        node = task.node
        assert node is not None
        task.node = Node(node.kind, links)
        self._wire(task, {links[name]: source for name, source in scope.items()})


def _is_list(socket: Socket) -> bool:
    return item_type(socket.type) not in (None, Any)


def _is_promised(value: Any) -> bool:
    """Whether an argument is a reference, or holds some: its value is not known."""
    return isinstance(value, Ref) or (isinstance(value, list | tuple) and any(map(_is_promised, value)))


def _is_lazy(socket: Socket, source: Source) -> bool:
    """Whether an input arrives as a reference, or as a list of them; a list that one node makes is a value."""
    return socket.lazy and (not _is_list(socket) or type(follow(source)) is Many)


def _refs(part: GraphData, scope: dict[Link, Source], name: str, source: Many, annotation: Any) -> list[Ref]:
    """References to the items of a lazy list, each an input of its own."""
    found = []
    for n, item in enumerate(source.items):
        link = Link(INPUTS, f"{name}[{n}]")
        part.inputs[link.port] = Input(link.port, annotation)
        scope[link] = item
        found.append(Ref(part, link, annotation))
    return found


def _mark_impure(task: Task | None) -> None:
    while task is not None and not task.impure:
        task.impure = True
        task = task.outer


_SHARED = frozenset({int, bool, float, str, type(None), bytes})
"""Values that are keyed by their content wherever they come from."""


def _links(value: Any) -> list[Link]:
    if type(value) is Link:
        return [value]
    return [link for v in value for link in _links(v)] if type(value) is list else []


def _results(result: Any) -> dict[str, Any]:
    """What a body returned, by port."""
    return dict(result._asdict()) if is_named_tuple(type(result)) else {"": result}


def _lazy_token(source: Source) -> Any:
    """A lazy input is told by where it comes from: its key must not be asked for, it could need another expansion."""
    if type(source) is Task or type(source) is Port:
        task, port = (source, "") if type(source) is Task else (source.task, source.port)
        if not task.serial:
            task.serial = next(_serials)
        return ("task", task.serial, port)
    if type(source) is Many:
        return ("list", *[_lazy_token(follow(item)) for item in source.items])
    return source.token(None)


def _items(source: Source, node: Node, name: str) -> list[Source]:
    """The items of a mapped list, each with its own key where it has one."""
    if type(source) is Many:
        return source.items
    values = value_of(source)
    if (guard := guard_of([(name, source)], False)) is not None:
        guard.check()
    if not isinstance(values, list | tuple):
        sentence = f"{name} is mapped over, so it must be a list, not {values!r:.60}"
        raise WorkflowError(Problem("type mismatch", sentence))
    if type(source) is Const and source.key is None:
        return [constant(v, source.base, is_copy=True) for v in values]
    whole, volatile = token_of(source), is_volatile(source)
    items: list[Source] = []
    for n, value in enumerate(values):
        kind = socket_type(type(value))
        if kind is not None and kind.digest is not None:
            items.append(constant(value))
        else:
            items.append(Const(value, ("item", whole, n), volatile=volatile, sum=sum_of(value)))
    return items

