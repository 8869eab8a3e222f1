"""The format in which ComfyUI's editor saves workflows: converts them to prompts, as the editor does when it runs them.

A workflow lists nodes with the values of their widgets, and links between their sockets. A subgraph is a node whose
type is the id of a definition with nodes and links of its own. In a prompt there is none of this: its nodes get ids
such as `57:3` (node 3 of the subgraph that node 57 is), and muted and bypassed nodes, reroutes, primitives and notes
are gone.

The module is long because all of this is decided together, for each input of each node; what is known of classes, ids
and texts are modules of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from graphengine import FormatContext, Problem, Where, WorkflowError
from graphengine_comfy.formats.class_facts import Classes, ClassFacts, InputFacts
from graphengine_comfy.formats.classes import unknown_classes
from graphengine_comfy.formats.dynamic_prompts import Alternatives, settled
from graphengine_comfy.formats.group_nodes import groups_of
from graphengine_comfy.formats.workflow_parts import MARKS

MUTED, BYPASSED = 2, 4
NOTES = frozenset({"Note", "MarkdownNote"})
REROUTE, PRIMITIVE = "Reroute", "PrimitiveNode"
VIRTUAL = NOTES | {REROUTE, PRIMITIVE}
"""Types of nodes that the editor alone knows."""
INSIDE, OUTSIDE = "-10", "-20"
"""The ids that links inside a subgraph have for its inputs and for its outputs."""
MOST_INNER = 100_000
"""The most nodes inside subgraphs, counted each time that a subgraph is used."""
DEEPEST = 100
"""The most levels of subgraphs inside one another."""
ANY = ("*", "", "0")


def recognise(data: Mapping[str, Any]) -> bool:
    """Whether a file's data is a workflow as the editor saves it."""
    nodes = data.get("nodes")
    if not isinstance(nodes, list):
        return False
    parts = [node for node in nodes if isinstance(node, Mapping) and "type" in node]
    marks = {"last_node_id", "last_link_id", "links", "definitions", "state"} & data.keys()
    return bool(marks) or (bool(parts) and any("widgets_values" in node or "inputs" in node for node in parts))


class Target(NamedTuple):
    """Where the value of an input comes from: an output of a node of the prompt, or a value."""

    id: str = ""
    slot: int = 0
    value: Any = None
    is_value: bool = False


@dataclass(eq=False)
class _Node:
    """A node of the file, checked."""

    id: str
    type: str
    mode: int
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    data: Mapping[str, Any]


@dataclass(eq=False)
class _Definition:
    """The nodes and links of the workflow or of a subgraph.

    Attributes:
        links: By link id: the node and the slot that it comes from.
        inputs: Of a subgraph: its inputs. `targets` has for each the inputs inside that take it, as (node, slot).
        outputs: Of a subgraph: for each output, the node and slot that it comes from, if any.
        values: The widgets of each node by name, as the file has them.
    """

    nodes: dict[str, _Node]
    links: dict[Any, tuple[str, int]]
    inputs: list[dict[str, Any]] = field(default_factory=list)
    targets: list[list[tuple[str, int]]] = field(default_factory=list)
    outputs: list[tuple[str, int] | None] = field(default_factory=list)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(eq=False)
class _Scope:
    """A use of a definition: the workflow, or a subgraph as one of its nodes.

    Attributes:
        host: The node that it is, in the scope around it; None for the workflow.
        values: The values of inputs of the host that have widgets, by the position of the input.
        override: Values of widgets inside that the host sets, by node and name.
    """

    definition: _Definition
    prefix: str = ""
    outer: _Scope | None = None
    host: _Node | None = None
    types: tuple[str, ...] = ()
    inner: dict[str, _Scope] = field(default_factory=dict)
    values: dict[int, Any] = field(default_factory=dict)
    override: dict[tuple[str, str], Any] = field(default_factory=dict)


def api_of(workflow: Mapping[str, Any], classes: Classes, context: FormatContext | None = None) -> dict[str, Any]:
    """Convert a workflow of the editor to a prompt, as the editor's own `graphToPrompt` does.

    Args:
        workflow: The workflow, in version 0.4 (links are lists) or 1 (links are mappings).
        classes: The facts of the classes.
        context: Knows all nodes, for the names nearest to unknown ones.

    Raises:
        WorkflowError: It is damaged, or has unknown classes (one problem that lists all). Nodes are named by the ids
            that they would have in the prompt.
    """
    return _Conversion(workflow, classes, context).prompt()


def _wrong(what: str, node: str | None = None, hint: str = "") -> WorkflowError:
    return WorkflowError(Problem("damaged", what, Where(node=node), hint))


class _Conversion:
    """The conversion of one workflow."""

    def __init__(self, workflow: Mapping[str, Any], classes: Classes, context: FormatContext | None) -> None:
        self.classes, self.context = classes, context
        self.written: dict[str, Mapping[str, Any]] = {}
        for written in _list(_mapping(workflow, "definitions"), "subgraphs", "definitions"):
            if not isinstance(written, Mapping) or not isinstance(written.get("id"), str):
                raise _wrong("a subgraph has no `id`")
            self.written[written["id"]] = written
        self.renamed = _renamed(workflow, list(self.written.values()))
        self.groups = groups_of(workflow, classes)
        self.written |= {type: group.subgraph for type, group in self.groups.items()}
        self.definitions: dict[str, _Definition] = {}
        self.resolved: dict[Any, Target | None] = {}
        self.count = 0
        self.root = _Scope(self.read(workflow, "the workflow"))

    # --- reading the file -----------------------------------------------------------------------------------------

    def definition(self, type: str) -> _Definition:
        """The definition of a subgraph."""
        if type not in self.definitions:
            of = f"the subgraph {type:.60}"
            self.definitions[type] = self.read(self.written[type], of, self.renamed.get(type), subgraph=True)
        return self.definitions[type]

    def read(
        self, data: Mapping[str, Any], of: str, renamed: Mapping[str, str] | None = None, subgraph: bool = False
    ) -> _Definition:
        """Read the nodes and links of the workflow or of a subgraph, some nodes under other ids."""
        new = renamed or {}
        nodes = {}
        for number, written in enumerate(_list(data, "nodes", of)):
            node = _node(written, f"node {number} of {of}")
            node.id = new.get(node.id, node.id)
            nodes[node.id] = node
        links: dict[Any, tuple[str, int]] = {}
        inputs = [item for item in _list(data, "inputs", of) if isinstance(item, dict)] if subgraph else []
        outputs = _list(data, "outputs", of) if subgraph else []
        definition = _Definition(nodes, links, inputs, [[] for _ in inputs], [None] * len(outputs))
        for link in _list(data, "links", of):
            id, origin, slot, target, target_slot = _link(link, of)
            origin, target = new.get(origin, origin), new.get(target, target)
            links[id] = (origin, slot)
            if subgraph and target == OUTSIDE and 0 <= target_slot < len(outputs):
                definition.outputs[target_slot] = (origin, slot)
            if subgraph and origin == INSIDE and 0 <= slot < len(inputs) and target != OUTSIDE:
                definition.targets[slot].append((target, target_slot))
        self.read_values(definition)
        return definition

    def read_values(self, definition: _Definition) -> None:
        """Find the values of all widgets, and write those of primitives into the widgets that they are linked to."""
        for node in definition.nodes.values():
            if node.type in VIRTUAL or node.type in self.written:
                continue
            facts = self.classes(node.type)
            definition.values[node.id] = {} if facts is None else widget_values(facts, node.data)
        for node in definition.nodes.values():
            for slot in node.inputs:
                origin = definition.links.get(_key(slot.get("link")))
                source = None if origin is None else definition.nodes.get(origin[0])
                name = _widget_name(slot)
                if source is not None and source.type == PRIMITIVE and name in definition.values.get(node.id, {}):
                    found = first_value(source.data)
                    if found is not None:
                        definition.values[node.id][name] = found

    # --- uses of subgraphs ----------------------------------------------------------------------------------------

    def scopes(self) -> Iterator[_Scope]:
        """The workflow and every use of a subgraph in it that is not muted or bypassed."""
        pending = [self.root]
        while pending:
            scope = pending.pop()
            yield scope
            for node in scope.definition.nodes.values():
                if node.type in self.written and (scope is not self.root or node.mode not in (MUTED, BYPASSED)):
                    pending.append(self.use(scope, node))

    def use(self, outer: _Scope, host: _Node) -> _Scope:
        """Make the scope of a subgraph that a node is."""
        id = outer.prefix + host.id
        if host.type in outer.types:
            raise _wrong("the subgraph is used inside itself", id)
        if len(outer.types) >= DEEPEST:
            raise _wrong(f"subgraphs lie in one another deeper than {DEEPEST} levels", id)
        definition = self.definition(host.type)
        self.count += 1 + len(definition.nodes)
        if self.count > MOST_INNER:
            raise _wrong(f"its subgraphs have more than {MOST_INNER:,} nodes in all", id)
        scope = _Scope(definition, f"{id}:", outer, host, (*outer.types, host.type))
        outer.inner[host.id] = scope
        self.set_promoted(scope, host)
        return scope

    def set_promoted(self, scope: _Scope, host: _Node) -> None:
        """Find the values that the host of a subgraph gives to widgets inside it."""
        definition, values = scope.definition, host.data.get("widgets_values")
        if host.type in self.groups:
            position, listed = 0, values if isinstance(values, list) else []
            for id, name, extra in self.groups[host.type].widgets:
                if position < len(listed):
                    scope.override[id, name] = listed[position]
                position += 1 + extra
            values = None
        named = host.data.get("widgets_values_named")
        named = named if isinstance(named, dict) else values if isinstance(values, dict) else {}
        given = values if isinstance(values, list) else []
        proxies = _mapping(host.data, "properties").get("proxyWidgets")
        outer = scope.outer
        index = 0
        for number, declared in enumerate(definition.inputs):
            source = self.promoted(definition, number)
            if source is None:
                continue
            name = str(declared.get("name"))
            value = self.inner_value(definition, *source)
            if outer is not None and (host.id, name) in outer.override:
                value = outer.override[host.id, name]
            elif name in named:
                value = named[name]
            elif not proxies and index < len(given):
                value = given[index]
            index += 1
            scope.values[number] = value
        for number, proxy in enumerate(proxies if isinstance(proxies, list) else ()):
            if number < len(given) and isinstance(proxy, list) and len(proxy) >= 2:
                inner = str(proxy[0])
                self.set_proxy(scope, self.renamed.get(host.type, {}).get(inner, inner), str(proxy[1]), given[number])

    def set_proxy(self, scope: _Scope, inner: str, name: str, value: Any) -> None:
        """Set the value of a widget inside, which an older file names by the inner node's id and its name."""
        for number, declared in enumerate(scope.definition.inputs):
            source = self.promoted(scope.definition, number)
            if source == (inner, name) or (inner == "-1" and declared.get("name") == name):
                scope.values[number] = value
                return
        node = scope.definition.nodes.get(inner)
        if node is not None and node.type == PRIMITIVE:
            for target in scope.definition.nodes.values():
                for slot in target.inputs:
                    origin = scope.definition.links.get(_key(slot.get("link")))
                    if origin is not None and origin[0] == inner and (widget := _widget_name(slot)):
                        scope.override[target.id, widget] = value
        elif node is not None:
            scope.override[inner, name] = value

    def matched(self, host: _Node, definition: _Definition) -> list[int | None]:
        """For each input of a subgraph, the number of the host's input that it is; None if the host has none."""
        numbers: dict[str, list[int]] = {}
        for number, slot in enumerate(host.inputs):
            numbers.setdefault(str(slot.get("name")), []).append(number)
        found = [numbers.get(str(declared.get("name"))) for declared in definition.inputs]
        return [free.pop(0) if free else None for free in found]

    def promoted(self, definition: _Definition, number: int) -> tuple[str, str] | None:
        """The node and the name of the widget inside that an input of a subgraph sets; None if it sets none."""
        for id, slot in definition.targets[number]:
            node = definition.nodes.get(id)
            name = _widget_name(node.inputs[slot]) if node is not None and slot < len(node.inputs) else None
            if node is not None and name and (node.type in self.written or name in definition.values.get(id, {})):
                return id, name
        return None

    def inner_value(self, definition: _Definition, id: str, name: str) -> Any:
        """The value of a widget of a node, looked for inside if the node is a subgraph itself."""
        for _ in range(DEEPEST):
            node = definition.nodes.get(id)
            if node is None or node.type not in self.written:
                return definition.values.get(id, {}).get(name)
            named, values = node.data.get("widgets_values_named"), node.data.get("widgets_values")
            if isinstance(named, dict) and name in named:
                return named[name]
            inner, index, source = self.definition(node.type), 0, None
            for number, declared in enumerate(inner.inputs):
                found = self.promoted(inner, number)
                if found is not None and declared.get("name") == name:
                    if isinstance(values, list) and index < len(values):
                        return values[index]
                    source = found
                index += found is not None
            if source is None:
                return None
            definition, (id, name) = inner, source
        return None

    # --- the prompt -----------------------------------------------------------------------------------------------

    def prompt(self) -> dict[str, Any]:
        """The prompt."""
        prompt: dict[str, Any] = {}
        unknown: dict[str, list[str]] = {}
        scopes = list(self.scopes())
        for scope in scopes:
            for node in scope.definition.nodes.values():
                if node.type in VIRTUAL or node.type in self.written or node.mode in (MUTED, BYPASSED):
                    continue
                facts, id = self.classes(node.type), scope.prefix + node.id
                if facts is None:
                    unknown.setdefault(node.type, []).append(id)
                elif not unknown:
                    prompt[id] = self.entry(scope, node, facts)
        if unknown:
            raise unknown_classes(unknown, self.context)
        for entry in prompt.values():
            inputs = entry["inputs"]
            for name in [n for n, v in inputs.items() if isinstance(v, list) and v[0] not in prompt]:
                del inputs[name]
        return prompt

    def entry(self, scope: _Scope, node: _Node, facts: ClassFacts) -> dict[str, Any]:
        """The entry of a node in the prompt."""
        inputs: dict[str, Any] = {}
        draws = {fact.name for fact in facts if fact.draws}
        for name, value in scope.definition.values[node.id].items():
            value = scope.override.get((node.id, name), value)
            inputs[name] = _wrapped(self.text(value, scope.prefix + node.id, name) if name in draws else value)
        for number, slot in enumerate(node.inputs):
            target = self.source(scope, node, number)
            if target is not None and isinstance(slot.get("name"), str):
                inputs[slot["name"]] = _wrapped(target.value) if target.is_value else [target.id, target.slot]
        title, marks = node.data.get("title"), _mapping(node.data, "properties").get(MARKS)
        meta = {"title": title} if isinstance(title, str) and title else {}
        meta |= {MARKS: marks} if isinstance(marks, str) else {}
        return {"inputs": inputs, "class_type": node.type} | ({"_meta": meta} if meta else {})

    def text(self, value: Any, node: str, name: str) -> Any:
        """A text as the editor sends it."""
        if not isinstance(value, str):
            return value
        try:
            return settled(value)
        except Alternatives:
            what = "the text has alternatives, {a|b}, of which ComfyUI's editor draws one each time"
            hint = r"write the one that is meant; braces that are part of the text are written \{ and \}"
            raise WorkflowError(Problem("alternatives", what, Where(node=node, socket=name), hint)) from None

    def source(self, scope: _Scope, node: _Node, number: int) -> Target | None:
        """What an input of a node gets; None if nothing is connected that makes a value."""
        state: tuple[Any, ...] | Target | None = ("in", scope, node, number, "")
        passed: dict[tuple[Any, ...], None] = {}
        while isinstance(state, tuple) and not isinstance(state, Target):
            if state in self.resolved:
                state = self.resolved[state]
                break
            if state in passed:
                raise WorkflowError(Problem(
                    "cycle", "what its input gets comes from itself, through reroutes, bypassed nodes or subgraphs",
                    Where(node=scope.prefix + node.id, socket=str(node.inputs[number].get("name"))),
                ))
            passed[state] = None
            side, at, current, slot, type = state
            state = self.input(at, current, slot, type) if side == "in" else self.output(at, current, slot, type)
        for state_passed in passed:
            self.resolved[state_passed] = state
        return state

    def input(self, scope: _Scope, node: _Node, number: int, type: str) -> tuple[Any, ...] | Target | None:
        """One step back from an input: to the output or the input that its link comes from."""
        if not 0 <= number < len(node.inputs):
            return None
        slot = node.inputs[number]
        link = scope.definition.links.get(_key(slot.get("link")))
        if link is None:
            return None
        origin, from_slot = link
        if origin == INSIDE and scope.outer is not None and scope.host is not None:
            matched = self.matched(scope.host, scope.definition)
            if not 0 <= from_slot < len(matched):
                return None
            outer = matched[from_slot]
            if outer is not None and _key(scope.host.inputs[outer].get("link")) in scope.outer.definition.links:
                return ("in", scope.outer, scope.host, outer, "")
            return Target(value=scope.values[from_slot], is_value=True) if from_slot in scope.values else None
        source = scope.definition.nodes.get(origin)
        return None if source is None else ("out", scope, source, from_slot, type or _type(slot))

    def output(self, scope: _Scope, node: _Node, slot: int, type: str) -> tuple[Any, ...] | Target | None:
        """One step back from an output: none from a node that is in the prompt."""
        if node.mode == MUTED:
            return None
        if node.mode == BYPASSED:
            number = _bypass(node, slot, type)
            return None if number is None else ("in", scope, node, number, "")
        if node.type in self.written:
            inner = scope.inner.get(node.id)
            found = inner.definition.outputs[slot] if inner and 0 <= slot < len(inner.definition.outputs) else None
            if inner is None or found is None:
                return None
            if found[0] == INSIDE:
                matched = self.matched(node, inner.definition)
                outer = matched[found[1]] if 0 <= found[1] < len(matched) else None
                return None if outer is None else ("in", scope, node, outer, "")
            source = inner.definition.nodes.get(found[0])
            return None if source is None else ("out", inner, source, found[1], type)
        if node.type == REROUTE:
            return ("in", scope, node, 0, type)
        if node.type in VIRTUAL:
            return None
        return Target(scope.prefix + node.id, slot)


# --- parts of the file ------------------------------------------------------------------------------------------------


def widget_values(facts: ClassFacts, data: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a node's widgets by name, from the list in which the file has them; the rest are defaults."""
    values, named = data.get("widgets_values"), data.get("widgets_values_named")
    by_name = named if isinstance(named, Mapping) else values if isinstance(values, Mapping) else None
    listed = iter(values) if isinstance(values, list) else iter(())
    found: dict[str, Any] = {}

    def take(fact: InputFacts, prefix: str) -> None:
        name = prefix + fact.name
        if not fact.widget:
            return
        value = next(listed, fact.default)
        if by_name is not None:
            value = by_name.get(name, fact.default)
        for _ in range(fact.extra):
            next(listed, None)
        found[name] = value
        for inner in fact.options.get(value, ()) if isinstance(value, str) else ():
            take(inner, f"{name}.")

    for fact in facts:
        take(fact, "")
    return found


def first_value(data: Mapping[str, Any]) -> Any:
    """The value of a node's first widget; None if it has none."""
    values = data.get("widgets_values")
    if isinstance(values, Mapping):
        values = list(values.values())
    return values[0] if isinstance(values, list) and values else None


def _wrapped(value: Any) -> Any:
    """A value as prompts hold it: a list, which would be read as a link, in a mapping."""
    return {"__value__": value} if isinstance(value, list) else value


def _renamed(workflow: Mapping[str, Any], subgraphs: list[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """New ids, by the old ones, of nodes in subgraphs whose ids are taken: by the workflow, or a subgraph before.

    The editor gives them when it opens the file, so prompts and results have them.
    """
    used = {str(node["id"]) for node in _list(workflow, "nodes", "the workflow") if isinstance(node, Mapping)
            and "id" in node}  # fmt: skip
    numbers = [int(id) for id in used if id.isascii() and id.isdigit() and len(id) < 16]
    saved = [workflow.get("last_node_id"), _mapping(workflow, "state").get("lastNodeId")]
    last = max([0, *numbers, *(number for number in saved if isinstance(number, int))])
    renamed: dict[str, dict[str, str]] = {}
    for subgraph in subgraphs:
        new = renamed[subgraph["id"]] = {}
        for node in _list(subgraph, "nodes", f"the subgraph {subgraph['id']:.60}"):
            id = str(node.get("id")) if isinstance(node, Mapping) else ""
            if id in used:
                last += 1
                while str(last) in used:
                    last += 1
                new[id] = id = str(last)
            elif id.isascii() and id.isdigit() and len(id) < 16:
                last = max(last, int(id))
            used.add(id)
    return renamed


def _node(data: Any, of: str) -> _Node:
    id = data.get("id") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or isinstance(id, bool) or not isinstance(id, int | str):
        raise _wrong(f"{of} has no `id`")
    id = str(id)
    if not isinstance(data.get("type"), str):
        raise _wrong("it does not say its `type`", id)
    mode = data.get("mode", 0)
    inputs, outputs = _list(data, "inputs", f"node {id}"), _list(data, "outputs", f"node {id}")
    return _Node(
        id, data["type"], mode if isinstance(mode, int) else 0,
        [slot if isinstance(slot, dict) else {} for slot in inputs],
        [slot if isinstance(slot, dict) else {} for slot in outputs], data,
    )  # fmt: skip


def _link(link: Any, of: str) -> tuple[Any, str, int, str, int]:
    """A link's id, the node and slot that it comes from, and those that it goes to."""
    parts: list[Any]
    if isinstance(link, Mapping):
        parts = [link.get(key) for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot")]
    else:
        parts = list(link[:5]) if isinstance(link, list) else []
    id, origin, slot, target, target_slot = parts if len(parts) == 5 else [None] * 5
    known = all(isinstance(part, int | str) for part in (id, origin, target))
    if not known or not isinstance(slot, int) or not isinstance(target_slot, int):
        raise _wrong(f"a link of {of} is damaged: {link!r:.80}")
    return _key(id), str(origin), slot, str(target), target_slot


def _list(data: Mapping[str, Any], key: str, of: str) -> list[Any]:
    value = data.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _wrong(f"`{key}` of {of} must be a list")
    return value


def _mapping(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return value if isinstance(value, Mapping) else {}


def _key(link: Any) -> str | None:
    """A link's id; None for no link."""
    return str(link) if isinstance(link, int | str) and not isinstance(link, bool) else None


def _widget_name(slot: Mapping[str, Any]) -> str | None:
    """The name of the widget that stands for an input."""
    widget = slot.get("widget")
    name = widget.get("name") if isinstance(widget, Mapping) else None
    return name if isinstance(name, str) else None


def _type(slot: Mapping[str, Any]) -> str:
    type = slot.get("type")
    return str(type) if isinstance(type, str | int) else "*"


def _bypass(node: _Node, slot: int, type: str) -> int | None:
    """The input whose value a bypassed node passes on as an output for an input of a type; None if none fits."""
    own = _type(node.outputs[slot]) if 0 <= slot < len(node.outputs) else "*"
    types = [_type(found) for found in node.inputs]
    if type in ANY:
        return slot if slot < len(types) else 0
    if slot < len(types) and _fits(types[slot], own) and _fits(types[slot], type):
        return slot
    if type in types:
        return types.index(type)
    return next((n for n, found in enumerate(types) if _fits(found, own) and _fits(found, type)), None)


def _fits(one: str, other: str) -> bool:
    """Whether the editor would link sockets of two types; a type may list several, with commas."""
    if one in ANY or other in ANY:
        return True
    return not set(one.lower().split(",")).isdisjoint(other.lower().split(","))
