"""History of runs: a record of each workflow's last run, and `why`, which predicts from it what a run would compute."""

from __future__ import annotations

import contextlib
import enum
import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, get_args

from graphengine.cache import Store
from graphengine.cache.store import WORTH_WRITING
from graphengine.declare.definition import NodeDef
from graphengine.errors import GraphEngineError, shorten
from graphengine.execution.run import Result
from graphengine.graph.data import GraphData, Node
from graphengine.graph.elements import INPUTS, VALUES, Link
from graphengine.graph.order import topological
from graphengine.graph.revalidate import check_changes
from graphengine.graph.selection import wanted_links
from graphengine.keys.call_key import identified, identity
from graphengine.planning.inputs import bound_inputs
from graphengine.planning.plan import Plan, give_back, take_plan
from graphengine.system.opening import read_file
from graphengine.system.private import make_private, write_private
from graphengine.values.canonical import NotData, canonical, digest
from graphengine.values.socket_types import is_named_tuple, socket_type, strip, type_name, union_members

FORMAT = 1

State = Literal["runs", "memory", "disk", "always", "reference", "later", "not needed"]

ITSELF = "*node"
"""The name, among a node's inputs, of its own version and its pack's version stamp."""


@dataclass(frozen=True, slots=True)
class Reason:
    """A prediction of what a run would do with a node, and why.

    Attributes:
        node, type: The node's id and full name.
        state: It `runs`; its value comes from `memory` or `disk`; it is computed `always` (an output node, or one that
            is never remembered); it is a `reference` to weights, made in every run; it is decided `later`, when the run
            reaches it (mapped and expanding nodes, workflows used as nodes); or it is `not needed`, because the nodes
            that take its outputs are remembered.
        differs: If it runs: the differences from the last run of this workflow.
    """

    node: str
    type: str
    state: State
    differs: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The prediction as data for JSON."""
        return {"node": self.node, "type": self.type, "state": self.state, "differs": list(self.differs)}


def record_file(graph: GraphData, folder: Path) -> Path:
    """The path of the record of a workflow's last run: one file for each workflow file."""
    name = str(graph.file.resolve()) if graph.file is not None else graph.name
    return folder / "runs" / f"{hashlib.blake2b(name.encode(), digest_size=12).hexdigest()}.json"


def record(
    graph: GraphData, inputs: Mapping[str, Any], result: Result, folder: Path, roots: Iterable[str | Path] | None = None
) -> None:
    """Write the record of a run; a folder that cannot be written does not fail the run.

    Args:
        graph, inputs, roots: What was run.
        result: The run's result.
        folder: The cache folder.
    """
    bound = bound_inputs(graph, inputs)
    graph = bound.graph
    _, links, extra = wanted_links(graph, None)
    plan = take_plan(graph, bound, None if roots is None else list(roots))
    plan.assign(link.node for link in (*links, *extra) if link.node in graph.nodes)
    nodes: dict[str, Any] = {}
    for id in plan.keys:
        nodes[id] = {"inputs": _inputs(plan, id)}
        if id in result.reuse:
            nodes[id] |= {"reuse": str(result.reuse[id]), "seconds": result.seconds.get(id)}
    give_back(plan)
    text = json.dumps({"format": FORMAT, "time": time.time(), "nodes": nodes}, default=str)
    file = record_file(graph, folder)
    with contextlib.suppress(OSError):
        make_private(file.parent, folder)  # the record holds prompts
        write_private(file, text.encode())


def last_run(graph: GraphData, folder: Path) -> dict[str, Any] | None:
    """Read the record of a workflow's last run, by node; None if there is none that can be read."""
    try:
        data = json.loads(read_file(record_file(graph, folder)))
        nodes = data["nodes"] if data["format"] == FORMAT else None
        return nodes if isinstance(nodes, dict) and all(isinstance(n["inputs"], dict) for n in nodes.values()) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def why(
    graph: GraphData,
    inputs: Mapping[str, Any],
    store: Store,
    folder: Path,
    roots: Iterable[str | Path] | None = None,
) -> list[Reason]:
    """Predict what a run of the whole graph would do with each node, sources first, and why.

    Args:
        graph: The graph.
        inputs: The inputs of the run.
        store: The store that the run would use.
        folder: The cache folder with the records of runs.
        roots: Folders that must contain every file; None allows all.

    Raises:
        WorkflowError: The graph or an input is wrong.
        NodeError: A node that makes a reference failed (a model is missing).
    """
    bound = bound_inputs(graph, inputs)
    check_changes(graph)
    graph = bound.graph
    _, links, extra = wanted_links(graph, None)
    wanted = [link.node for link in (*links, *extra) if link.node in graph.nodes]
    plan = take_plan(graph, bound, None if roots is None else list(roots))
    plan.assign(wanted)
    states: dict[str, State] = {}
    stack = list(wanted)
    while stack:
        id = stack.pop()
        if id not in states:
            states[id] = _state(plan, id, store)
            if states[id] not in ("memory", "disk", "reference"):
                stack += [link.node for _, link in graph.nodes[id].sources() if link.node in graph.nodes]
    last = last_run(graph, folder)
    reasons = []
    for id in topological(graph):
        state = states.get(id, "not needed")
        differs = _differs(plan, id, states, last) if state in ("runs", "later") else ()
        reasons.append(Reason(id, graph.nodes[id].type, state, differs))
    give_back(plan)
    return reasons


def _state(plan: Plan, id: str, store: Store) -> State:
    node, key = plan.graph.nodes[id], plan.keys[id]
    if id in plan.references:
        return "reference"
    if key is not None:
        if store.memory.get(key) is not None:
            return "memory"
        return "disk" if store.disk is not None and key in store.disk else "runs"
    if _is_volatile(node):
        return "always"
    if not isinstance(node.kind, NodeDef) or node.kind.expand or node.each:
        return "later"
    before = [link.node for _, link in node.sources() if link.node in plan.graph.nodes]
    return "always" if any(_comes_from_volatile(plan, source) for source in before) else "later"


def _is_volatile(node: Node) -> bool:
    return isinstance(node.kind, NodeDef) and (node.kind.cache == "never" or node.kind.output)


def _comes_from_volatile(plan: Plan, start: str) -> bool:
    """Whether a node, or one that it needs, is never remembered."""
    stack, seen = [start], {start}
    while stack:
        id = stack.pop()
        if plan.keys.get(id) is not None:
            continue
        node = plan.graph.nodes[id]
        if _is_volatile(node):
            return True
        new = {link.node for _, link in node.sources() if link.node in plan.graph.nodes} - seen
        seen |= new
        stack += new
    return False


def _inputs(plan: Plan, id: str) -> dict[str, list[str | None]]:
    """By input, the digest that it adds to the node's key (None if it is known later), and a text for people."""
    node = plan.graph.nodes[id]
    definition = node.kind
    recorded: dict[str, list[str | None]] = {}
    if not isinstance(definition, NodeDef):
        values, tokens = dict(node.literals), {name: repr(value) for name, value in node.literals.items()}
    else:
        recorded[ITSELF] = [identity(definition).hex(), None]
        try:
            values, tokens, _ = plan.literals(node)
        except (GraphEngineError, NotData):
            values, tokens = dict(node.literals), {}
    for name, value in values.items():
        recorded[name] = [_hex(tokens.get(name)), shorten(str(value) if isinstance(value, Path) else value, 60)]
    for name, link in node.links:
        if name not in recorded:
            recorded[name] = [_token(plan, node, name, link), None]
    for name, items in node.lists:
        digests = [_token(plan, node, name, item) if type(item) is Link else _hex(repr(item)) for item in items]
        recorded[name] = [None if None in digests else _hex(digests), None]
    return recorded


def _token(plan: Plan, node: Node, socket: str, link: Link) -> str | None:
    if link.node in (INPUTS, VALUES):
        try:
            return _hex(plan.const(link).token(None))
        except NotData:
            return None
    part = node.sockets[socket].uses if socket in node.sockets else None
    if link.node in plan.references:
        return _hex(plan.source(link).token(part))
    key = plan.keys.get(link.node)
    return None if key is None else _hex((key, link.port))


def _hex(token: Any) -> str | None:
    return None if token is None else digest(token).hex()


def _differs(
    plan: Plan, id: str, states: Mapping[str, State], last: Mapping[str, Any] | None
) -> tuple[str, ...]:
    if last is None:
        return ("there is no record of a run of this workflow",)
    if id not in last:
        return ("it is new: the last run did not have it",)
    if states.get(id) == "later":
        return _values_of_this_process(plan, plan.graph.nodes[id]) or ("what it becomes is known when it runs",)
    old, new = last[id]["inputs"], _inputs(plan, id)
    links: dict[str, list[str]] = {}
    for name, link in plan.graph.nodes[id].sources():
        if link.node in plan.graph.nodes:
            links.setdefault(name, []).append(link.node)
    found = []
    for name in dict.fromkeys([*old, *new]):
        was, now = old.get(name), new.get(name)
        sources = " and ".join(links.get(name, ()))
        if was is None or now is None:
            found.append(f"{name} is {'given now' if was is None else 'not given any more'}")
        elif (now[0] is None or was[0] != now[0]) and any(
            states.get(source) in ("runs", "always") for source in links.get(name, ())
        ):
            found.append(f"{name} comes from {sources}, which runs")
        elif any(states.get(source) == "later" for source in links.get(name, ())):
            found.append(f"{name} comes from {sources}, which is known when it runs")
        elif was[0] != now[0]:
            if name == ITSELF:
                found.append("the node itself or its pack has changed")
            elif sources:
                causes = [cause for source in links[name] for cause in _causes(plan, source, last)]
                because = f": {'; '.join(dict.fromkeys(causes))}" if causes else ", which is not as it was"
                found.append(f"{name} comes from {sources}{because}")
            elif was[1] == now[1]:
                found.append(f"{name} is {now[1]} as before, with another content")
            else:
                found.append(f"{name} was {was[1]}, is {now[1]}")
    return tuple(found) or (_why_not_kept(last[id], plan.graph.nodes[id].kind),)


def _causes(plan: Plan, id: str, last: Mapping[str, Any]) -> list[str]:
    """The changed inputs of the nodes that made a reference which differs from that of the last run."""
    found: list[str] = []
    stack, seen = [id], {id}
    while stack:
        current = stack.pop()
        if current not in plan.references or current not in last:
            continue
        old, new = last[current]["inputs"], _inputs(plan, current)
        linked = {name for name, link in plan.graph.nodes[current].sources() if link.node in plan.graph.nodes}
        for name in dict.fromkeys([*old, *new]):
            was, now = old.get(name), new.get(name)
            if name in linked or (was is not None and now is not None and was[0] == now[0]):
                continue
            if name == ITSELF:
                found.append(f"{current} itself or its pack has changed")
            elif was is None or now is None:
                given = "given now" if was is None else "not given any more"
                shown = (now or was or [None, None])[1]
                found.append(f"{current}.{name} is {given}" + (f" ({shown})" if shown is not None else ""))
            else:
                found.append(f"{current}.{name} was {was[1]}, is {now[1]}")
        before = [link.node for _, link in plan.graph.nodes[current].sources() if link.node not in seen]
        seen.update(before)
        stack += before
    if not found and id in plan.references:
        return [f"what {id} refers to has another content"]
    return found


def _values_of_this_process(plan: Plan, node: Node) -> tuple[str, ...]:
    """Sentences about the inputs of a node that no key can hold."""
    if not isinstance(node.kind, NodeDef) or node.kind.expand or node.each:
        return ()
    values = node.literals | {name: plan.const(link).value for name, link in node.bound}
    found = []
    for name, value in values.items():
        try:
            canonical(value)
        except NotData:
            found.append(f"{name} is a {type_name(type(value))}, which has no codec: it is computed in each run")
    return tuple(found)


def _without_codec(annotation: Any) -> str | None:
    """The name of the first type in an annotation whose values cannot be written to disk; None if there is none."""
    for member in union_members(strip(annotation)):
        inner = [arg for arg in get_args(member) if arg is not ...]
        if inner:
            return next((name for each in inner if (name := _without_codec(each)) is not None), None)
        if not isinstance(member, type) or member in (object, list, tuple, dict):
            continue
        known = socket_type(member)
        if issubclass(member, int | str | float | bytes | PurePath | enum.Enum) or member is type(None):
            continue
        if not is_named_tuple(member) and (known is None or (known.encode is None and known.digest is None)):
            return type_name(member)
    return None


def _why_not_kept(node: Mapping[str, Any], kind: Any) -> str:
    seconds = node.get("seconds")
    if isinstance(kind, NodeDef):
        if kind.cache == "memory":
            return "all is as it was; its node says that its values are kept in memory only"
        if unfollowed := identified(kind).unfollowed:
            read = ", ".join(f"{name} ({why})" for name, why in unfollowed.items())
            return f"its value was kept in its process only: it reads what its key cannot follow, {read}"
        if (name := next(filter(None, map(_without_codec, kind.outputs.values())), None)) is not None:
            return f"all is as it was; its value was not kept: {name} has no codec, so it stays in its process"
    if isinstance(seconds, int | float) and seconds < WORTH_WRITING:
        return f"all is as it was; its value was not kept, as it took {seconds * 1000:.1f} ms only"
    return "all is as it was; its value was not kept (no codec, evicted, or the run was without the store)"
