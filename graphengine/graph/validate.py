"""Validation: finds all problems of a graph at once, before anything runs.

The module is long because it holds all rules, each a short function; what to validate again is decided in `invalidate`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Union

from graphengine.declare.definition import NodeDef
from graphengine.declare.sockets import Socket
from graphengine.errors import Problem, Where, WorkflowError, nearest, shorten
from graphengine.graph.data import GraphData, Node
from graphengine.graph.elements import INPUTS, VALUES, Input, Link, bad_id, links_in
from graphengine.graph.invalidate import forget_types, note_all_right
from graphengine.graph.order import acts
from graphengine.graph.type_inference import item_type, sources_of, type_of
from graphengine.values.literals import fits_written
from graphengine.values.socket_types import Solved, conversion, fits, has_variables, type_name, union_members


def problems(graph: GraphData) -> list[Problem]:
    """List all problems of a graph and of the graphs used as nodes in it, warnings included.

    The problems of a graph that is used in several places are listed for the first of them. If there is no
    error among them, all of it is noted as found right, so that a run does not validate it again.
    """
    graphs = graph.with_parts()
    forget_types(graphs)
    found: list[list[Problem]] = []
    seen: set[int] = set()
    stack: list[tuple[str, GraphData, Iterator[tuple[str, GraphData]], list[Problem]]] = []

    def enter(id: str, part: GraphData) -> None:
        seen.add(hash(part))
        found.append([])
        inside = [(name, node.kind) for name, node in part.nodes.items() if isinstance(node.kind, GraphData)]
        stack.append((id, part, iter(inside), found[-1]))

    enter("", graph)
    while stack:
        _, current, parts, told = stack[-1]
        id, part = next(parts, ("", None))
        if part is None:  # what is used in it is checked, and the types of its outputs are known
            own = [_with_original(problem, current) for problem in _own_problems(current)]
            place = "/".join([outer for outer, *_ in stack[1:]]) if own else ""
            told += [p.at(node=f"{place}/{p.where.node}" if p.where.node else place) if place else p for p in own]
            stack.pop()
        elif hash(part) not in seen:
            enter(id, part)
    all_found = [*(problem for told in found for problem in told), *endless(graph)]
    if not any(problem.severity == "error" for problem in all_found):
        for each in graphs:
            note_all_right(each)
        graph.validated.warnings = all_found
    return list(all_found)


def _with_original(problem: Problem, graph: GraphData) -> Problem:
    """A problem with the id that its node had in the file of another tool, if its document was converted from one."""
    original = in_file(graph, problem.where.node or "")
    if original is None:
        return problem
    return replace(problem, hint="; ".join(filter(None, (problem.hint, f"it is {original}"))))


def in_file(graph: GraphData, id: str) -> str | None:
    """What a node is in the file of another tool from which its document was converted: its id there, and its title;
    None for any other node.

    Args:
        id: The node's id, or that of a node inside it or of one of its items.
    """
    node = graph.nodes.get(re.split(r"[/\[]", id, maxsplit=1)[0])
    original = None if node is None else node.ui.get("id")
    if node is None or not isinstance(original, str):
        return None
    title = node.ui.get("title")
    shown = f", {title[:60]!r}" if isinstance(title, str) and title not in ("", node.type.rpartition(".")[2]) else ""
    return f"node {original:.60} of the file{shown}"


def endless(graph: GraphData) -> Iterator[Problem]:
    """Find workflows that use themselves unconditionally: without a lazy input, as of `when`, in between."""
    pending = graph.with_parts()
    if len(pending) == 1 and not graph.parts:
        return
    seen: set[int] = set()
    above: set[int] = set()
    acting: dict[int, bool] = {}
    stack: list[tuple[str, GraphData, Iterator[tuple[str, GraphData]]]] = []

    def enter(id_: str, part: GraphData) -> None:
        seen.add(id(part))
        above.add(id(part))
        stack.append((id_, part, _always_used(part, acting)))

    enter("", graph)
    while stack or pending:
        if not stack:  # what is used only behind a condition may be endless itself
            start = pending.pop()
            if id(start) not in seen:
                enter("", start)
            continue
        _, current, inside = stack[-1]
        node, part = next(inside, ("", None))
        if part is None:
            above.discard(id(current))
            stack.pop()
        elif id(part) in above:
            what = f"the workflow {part.name} is used in itself, whatever its inputs are"
            hint = "use it behind a `when` or a `switch`, and without nodes that act (such as those that save)"
            place = [outer for outer, *_ in stack[1:]] + [node]
            yield placed(current, Problem("needs itself", what, Where(node="/".join(place)), hint), ("nodes", node))
        elif id(part) not in seen:
            enter(node, part)


def _always_used(graph: GraphData, known: dict[int, bool]) -> Iterator[tuple[str, GraphData]]:
    """The workflows used as nodes in a graph that are needed whatever its conditions are."""
    needed: dict[str, None] = {}
    acting = [id for id, node in graph.nodes.items() if acts(node.kind, known)]
    stack = [*(link.node for link in graph.outputs.values()), *acting]
    stack = stack or list(graph.nodes)
    while stack:
        id = stack.pop()
        if id in needed or id not in graph.nodes:
            continue
        needed[id] = None
        node = graph.nodes[id]
        for name, link in node.sources():
            socket = node.sockets.get(name)
            if socket is None or not socket.lazy or name in node.each:
                stack.append(link.node)
    for name in needed:
        kind = graph.nodes[name].kind
        if isinstance(kind, GraphData):
            yield name, kind


def _own_problems(graph: GraphData) -> list[Problem]:
    found = list(graph.problems_at_load)
    found += _declared(graph)
    for id in graph.nodes:
        found += node_problems(graph, id)
    found += cycles(graph)
    for name, link in graph.outputs.items():
        found += [placed(graph, p, ("outputs", name)) for p in _dangling(graph, link, f"output {name}", "")]
    return found


def node_problems(graph: GraphData, id: str) -> list[Problem]:
    """List the problems of one node: its id, its inputs, its literals and its links."""
    found = list(_node_problems(graph, id))
    kind, node = graph.nodes[id].kind, graph.nodes[id]
    if isinstance(kind, NodeDef) and kind.check_fn is not None and not node.each:
        found += check_problems(kind, given_here(node), id, any(p.severity == "error" for p in found))
    return [placed(graph, p, ("nodes", id)) for p in found]


def given_here(node: Node) -> dict[str, Any]:
    """The inputs of a node that its own validator gets: its literals, and the lists of links for its lazy inputs."""
    lazy = {name for name, socket in node.sockets.items() if socket.lazy}
    return node.literals | {name: items for name, items in node.lists if name in lazy}


def check_problems(
    kind: NodeDef[..., Any], literals: Mapping[str, Any], id: str, wrong: bool = False
) -> list[Problem]:
    """Call a node's own validator and list its complaints.

    Args:
        kind: The node.
        literals: The inputs to check.
        id: The node's id.
        wrong: The literals are known to be wrong already, so that an exception of the validator is no problem.
    """
    assert kind.check_fn is not None
    try:
        return [Problem("invalid", sentence, Where(node=id)) for sentence in kind.check_fn(dict(literals)) or ()]
    except Exception as error:
        if wrong:  # literals of wrong types, which are reported already
            return []
        told = f"the validator of {kind.full_name} itself failed: {type(error).__name__}: {error}"
        hint = "it is given only those inputs that are written as literals: ask for others with .get"
        return [Problem("validator failed", told, Where(node=id), hint=hint)]


def _node_problems(graph: GraphData, id: str) -> Iterator[Problem]:
    node = graph.nodes[id]
    if reason := bad_id(id):
        yield Problem("bad id", reason, Where(node=id), found=id)
    if isinstance(node.kind, str):
        from graphengine.declare.registry import why_not

        if node.kind:  # without a name, what is wrong is told among the problems at load
            sentence, near = why_not(node.kind)
            yield Problem(
                "unknown node", sentence, Where(node=id), found=node.kind, nearest=near,
                hint="`graphengine nodes` lists them all",
            )
        for name, link in node.sources():
            yield from _dangling(graph, link, id, name)
        return
    sockets = node.sockets
    for name in node.args:
        if name not in sockets:
            near = nearest(name, sockets)
            yield Problem(
                "unknown socket", f"{node.type} has no input {name}", Where(node=id, socket=name), nearest=near,
                hint="" if near else f"it has {', '.join(sockets) or 'none'}",
            )
    for name, socket in sockets.items():
        if socket.required and name not in node.args:
            yield Problem(
                "missing input", f"{node.type} needs an input {name}", Where(node=id, socket=name),
                expected=type_name(socket.type),
            )
    yield from _mapping(node, id)
    solved: Solved = {}
    for name, value in node.args.items():
        if name in sockets:
            yield from _argument(graph, id, node, sockets[name], value, solved)


def _argument(
    graph: GraphData, id: str, node: Node, socket: Socket, value: Any, solved: Solved
) -> Iterator[Problem]:
    where = Where(node=id, socket=socket.name)
    if type(value) is Link or (type(value) is list and any(True for _ in links_in(value))):
        dangling = [p for link in _links(value) for p in _dangling(graph, link, id, socket.name)]
        if dangling:
            yield from dangling
            return
        source = type_of(graph, value)
        if socket.name in node.each:
            source = item_type(source)
            if source is None:
                yield Problem(
                    "type mismatch", "it is mapped over, so it must be a list", where, expected="list",
                    found=type_name(type_of(graph, value)),
                )
                return
        if type(value) is Link and value.node == INPUTS and not socket.required:
            source = _without_none(source)  # null means the parameter's default
        declared = type(value) is Link and value.node == INPUTS  # it brings a literal like any other
        if not fits(source, socket.type, solved) and not (declared and fits_written(source, socket.type)):
            expected, found = type_name(socket.type), type_name(source)
            origin = value if type(value) is Link else "the list"
            choices = socket.known_choices()
            yield Problem(
                "type mismatch", f"wants {expected}, gets {found} from {origin}", where, expected=expected, found=found,
                hint=f"it is one of {', '.join(choices)}" if choices else conversion(source, socket.type),
            )
        elif type(value) is list:
            numbers = (item for item in _literals_in(value) if isinstance(item, int | float))
            found_wrong = (literal_problem(replace(socket, type=Any), n, where) for n in numbers)
            yield from itertools.islice((p for p in found_wrong if p is not None), 1)
        return
    values = [value]
    if socket.name in node.each:
        if not isinstance(value, list | tuple):
            yield Problem("type mismatch", "it is mapped over, so it must be a list", where, expected="list",
                          found=type_name(type(value)))
            return
        values = list(value)
    for literal in values:
        if (problem := literal_problem(socket, literal, where)) is not None:
            yield problem
            return
        if has_variables(socket.type) and not fits(type_of(graph, literal), socket.type, solved):
            expected, found = type_name(socket.type), type_name(type(literal))
            sentence = f"{literal!r:.80} ({found}) is not {expected}"
            yield Problem("wrong type", sentence, where, expected=expected, found=found)
            return


def _literals_in(values: list[Any]) -> Iterator[Any]:
    for value in values:
        if type(value) is list:
            yield from _literals_in(value)
        elif type(value) is not Link:
            yield value


def literal_problem(socket: Socket, value: Any, where: Where) -> Problem | None:
    """The problem of a literal for a socket; None if it is right."""
    complaint = socket.complaint(value)
    if complaint is None:
        return None
    kind, expected, found = complaint
    known = socket.known_choices() if kind == "not a choice" else []
    sentence = f"{found} is outside {expected}" if kind == "out of range" else f"{found} is not {expected}"
    near = nearest(value if isinstance(value, str) else shorten(value), known)
    hint = conversion(type(value), socket.type) if kind == "wrong type" else ""
    return Problem(kind, sentence, where, expected=expected, found=found, nearest=near, hint=hint)


MOST_MAPPED = 20_000
"""The most items that a node is mapped over; each becomes a task that takes about 15 KB."""


def too_many(count: int, where: Where) -> Problem | None:
    """The problem of mapping a node over too many items; None if there are not too many."""
    if count <= MOST_MAPPED:
        return None
    hint = "split the list over several runs or jobs"
    what = f"{count:,} items are more than a node is mapped over ({MOST_MAPPED:,})"
    return Problem("too large", what, where, hint=hint)


def _mapping(node: Node, id: str) -> Iterator[Problem]:
    for name in node.each:
        if name not in node.args:
            known = nearest(name, node.args)
            yield Problem("unknown socket", f"each names {name}, which is given nothing", Where(node=id, socket=name),
                          nearest=known)
    lengths = {name: len(node.args[name]) for name in node.each if isinstance(node.args.get(name), list)}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        yield Problem("unequal lengths", f"lists that are mapped in step must be equally long: {told}", Where(node=id))
    for name, length in lengths.items():
        if (problem := too_many(length, Where(node=id, socket=name))) is not None:
            yield problem


def link_problems(graph: GraphData, link: Link) -> Iterator[Problem]:
    """The problems of a link: its node or output does not exist."""
    yield from _dangling(graph, link, link.node, link.port)


def _dangling(graph: GraphData, link: Link, id: str, socket: str) -> Iterator[Problem]:
    where = Where(node=id, socket=socket or None)
    if link.node in (INPUTS, VALUES):
        known = graph.inputs if link.node == INPUTS else graph.values
        if link.port not in known:
            yield Problem("dangling link", f"the graph has no {link}", where, found=str(link),
                          nearest=tuple(f"{link.node}.{n}" for n in nearest(link.port, known)),
                          hint=f"declare it under `{link.node}`")
    elif link.node not in graph.nodes:
        known_ids = [*graph.nodes, *(f"{INPUTS}.{n}" for n in graph.inputs)]
        yield Problem("dangling link", f"there is no node {link.node}", where, found=str(link),
                      nearest=nearest(link.node, known_ids))
    else:
        source = graph.nodes[link.node]
        if isinstance(source.kind, str):
            return
        ports = source.kind.outputs
        names = [name for name in ports if name]
        if link.port and link.port not in ports:
            hint = f"it has {', '.join(names)}" if names else f"it has one output: write {link.node}"
            yield Problem("dangling link", f"{link.node} has no output {link.port}", where, found=str(link),
                          nearest=tuple(f"{link.node}.{n}" for n in nearest(link.port, names)), hint=hint)
        elif not link.port and isinstance(source.kind, GraphData) and len(ports) > 1:
            yield Problem("dangling link", f"{link.node} has several outputs", where, found=str(link),
                          hint=f"write one of {', '.join(f'{link.node}.{n}' for n in names)}")


def _declared(graph: GraphData) -> Iterator[Problem]:
    used = {link.port for node in graph.nodes.values() for _, link in node.sources() if link.node == INPUTS}
    used |= {link.port for link in graph.outputs.values() if link.node == INPUTS}
    for name, declared in graph.inputs.items():
        if (problem := default_problem(graph, declared)) is not None:
            yield problem
        if name not in used:
            where = Where(node=INPUTS, socket=name)
            yield placed(graph, Problem("unused input", "nothing uses this input", where, severity="warning"),
                         (INPUTS, name))


def default_problem(graph: GraphData, declared: Input) -> Problem | None:
    """The problem of a declared input's default, with its line; None if it is right."""
    complaint = None if declared.required else declared.socket_for(declared.default).complaint(declared.default)
    if complaint is None:
        return None
    kind, expected, found = complaint
    where = Where(node=INPUTS, socket=declared.name)
    problem = Problem(kind, f"its default {found} is not {expected}", where, expected=expected, found=found)
    return placed(graph, problem, (INPUTS, declared.name))


def cycles(graph: GraphData) -> Iterator[Problem]:
    """List a problem for each cycle that a depth-first search meets (three-colour marking, without recursion)."""
    done: set[str] = set()
    for start in graph.nodes:
        if start in done:
            continue
        path: dict[str, None] = {}
        stack: list[tuple[str, Iterator[str]]] = [(start, sources_of(graph, start))]
        path[start] = None
        while stack:
            id, sources = stack[-1]
            source = next(sources, None)
            if source is None:
                stack.pop()
                del path[id]
                done.add(id)
            elif source in path:
                ids = list(path)
                ring = [*ids[ids.index(source) :], source]
                yield placed(
                    graph, Problem("cycle", f"nodes need each other: {' <- '.join(ring)}", Where(node=source)),
                    ("nodes", source),
                )
            elif source not in done:
                path[source] = None
                stack.append((source, sources_of(graph, source)))


def placed(graph: GraphData, problem: Problem, path: tuple[str, ...]) -> Problem:
    """Add the file and the nearest known line to a problem."""
    place: dict[str, Any] = {}
    if graph.file is not None and problem.where.file is None:
        place["file"] = str(graph.file)
    if problem.where.line is None and graph.lines:
        socket = problem.where.socket
        tries = [(*path, part, socket) for part in ("from", "with") if socket] + [path[:n] for n in (2, 1)]
        place["line"] = next((graph.lines[t] for t in tries if t in graph.lines), None)
    return problem.at(**place) if place else problem


def _without_none(annotation: Any) -> Any:
    kinds = tuple(t for t in union_members(annotation) if t is not type(None))
    return Union[kinds] if kinds else annotation  # noqa: UP007 - built at run time


def _links(value: Any) -> Iterator[Link]:
    return iter([value]) if type(value) is Link else links_in(value)


def check(graph: GraphData) -> None:
    """Raise a `WorkflowError` with all problems of a graph if one of them is an error."""
    found = problems(graph)
    if any(p.severity == "error" for p in found):
        raise WorkflowError(found)
