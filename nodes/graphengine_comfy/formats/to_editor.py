"""To the editor: converts our documents to workflows as ComfyUI's editor opens them, from which `from_editor` makes
the same documents again.

A value that no widget of its node can hold becomes a node of its own, without a name. Where the nodes lie, groups and
notes stand under `ui.editor` of the document; nodes without a place there are laid out by their links.

The module is long because a workflow's inputs, nodes, values and outputs are added to one graph, with its numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from graphengine import FormatContext, Problem, Where, WorkflowError
from graphengine_comfy.formats.classes import Definition, class_of, definitions_of, is_output
from graphengine_comfy.formats.layout import lay_out
from graphengine_comfy.formats.workflow_parts import DATA, DECLARED, MARKS, NULL, OUTPUT, REQUIRED, SHOWN_BY, VALUE

EDITOR = "editor"
"""The key under `ui` of a document that holds what the editor alone needs."""
LOOKS = ("pos", "size", "color", "bgcolor", "flags")
"""What of a node's looks is kept, by the editor's names."""
GROWING, OPENING = "COMFY_AUTOGROW_V3", "COMFY_DYNAMICCOMBO_V3"
PLAIN = ("INT", "FLOAT", "STRING", "BOOLEAN")
SAFE = 2**53 - 1
"""The largest integer that the editor's page keeps exactly."""
INPUTS = "inputs"


@dataclass(eq=False)
class Slot:
    """An input of a class, as the editor makes it.

    Attributes:
        type: Its type there; COMBO for choices.
        widget: It has a widget.
        extra: The widget of what becomes of a seed after each run stands behind it.
        prefix: Of an input that grows: the name of its items.
        opened: It is one that a choice opens (`size.width`); documents call it with an underscore (`size_width`).
    """

    name: str
    type: str
    widget: bool
    default: Any = None
    extra: int = 0
    prefix: str = ""
    opened: bool = False

    @property
    def socket(self) -> str:
        """Its name in documents."""
        return self.name.replace(".", "_") if self.opened else self.name

    def holds(self, value: Any) -> bool:
        """Whether its widget can show a value and give it back."""
        if not self.widget or isinstance(value, bool) != (self.type == "BOOLEAN"):
            return False
        match self.type:
            case "INT":
                return isinstance(value, int) and abs(value) <= SAFE
            case "FLOAT":
                return isinstance(value, int | float) and abs(value) <= SAFE
            case "STRING" | "COMBO":
                return isinstance(value, str)
        return self.type == "BOOLEAN"


def slots_of(info: Mapping[str, Any], values: Mapping[str, Any] | None = None) -> list[Slot]:
    """The inputs of a class in their order, as its entry in `/object_info` tells.

    Args:
        values: The values of a node, whose choices open further inputs.
    """
    found: list[Slot] = []
    for part in ("required", "optional"):
        for name, spec in info["input"].get(part, {}).items():
            if spec[0] != OPENING:
                found.append(_slot(name, spec))
                continue
            options = {one["key"]: one["inputs"] for one in spec[1]["options"]}
            first = next(iter(options))
            found.append(Slot(name, "COMBO", True, first))
            choice = (values or {}).get(name, first)
            inner = options[choice if isinstance(choice, str) and choice in options else first]
            found += [replace(slot, name=f"{name}.{slot.name}", opened=True) for slot in slots_of({"input": inner})]
    return found


def _slot(name: str, spec: Any) -> Slot:
    type, options = spec[0], spec[1] if len(spec) > 1 else {}
    if type == GROWING:
        template = options["template"]
        item = next(iter(template["input"]["required"].values()))[0]
        return Slot(name, item, False, prefix=template["prefix"])
    choices = type if isinstance(type, list) else None
    shown = "COMBO" if choices is not None else type
    widget = (choices is not None or type in PLAIN) and not options.get("forceInput")
    default = options.get("default", choices[0] if choices else None)
    return Slot(name, shown, widget, default, 1 if options.get("control_after_generate") else 0)


@dataclass(eq=False)
class Shown:
    """A node of the editor's workflow."""

    id: int
    type: str
    title: str
    slots: list[Slot]
    outputs: list[tuple[str, str]]
    looks: Mapping[str, Any]
    marks: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    links: dict[str, tuple[int, int]] = field(default_factory=dict)


def to_editor(
    document: Mapping[str, Any], classes: Mapping[str, Any], context: FormatContext
) -> dict[str, Any]:
    """Convert a document, with full names of nodes, to a workflow of the editor.

    Args:
        document: The document.
        classes: The classes that the editor knows: the answer to `GET /object_info`.
        context: Knows all nodes.

    Raises:
        WorkflowError: It has parts that the editor cannot show; holds all such problems.
    """
    return _Showing(document, classes, context).workflow()


class _Showing:
    """The conversion of one document."""

    def __init__(self, document: Mapping[str, Any], classes: Mapping[str, Any], context: FormatContext) -> None:
        self.document, self.classes, self.find = document, classes, definitions_of(context)
        self.problems: list[Problem] = []
        editor = document.get("ui", {}).get(EDITOR, {})
        self.editor: Mapping[str, Any] = editor if isinstance(editor, dict) else {}
        self.shown: list[Shown] = []
        self.numbers: dict[str, int] = {}
        self.definitions: dict[str, Definition] = {}

    def refuse(self, what: str, node: str, socket: str | None = None, hint: str = "") -> None:
        """Add a problem of a node."""
        self.problems.append(Problem("not in the editor", what, Where(node=node, socket=socket), hint))

    def add(self, type: str, title: str, part: str, name: str) -> Shown:
        """Add a node, with the looks that the document has for it."""
        info, of = self.classes[type], self.editor.get(part)
        looks = of.get(name) if isinstance(of, dict) else {}
        outputs = list(zip(info["output_name"], info["output"], strict=True))
        looks = looks if isinstance(looks, dict) else {}
        shown = Shown(len(self.shown) + 1, type, title, slots_of(info), outputs, looks)
        self.shown.append(shown)
        return shown

    def workflow(self) -> dict[str, Any]:
        """The workflow."""
        document = self.document
        if document.get("values"):
            self.refuse("it holds values in files, which the editor cannot show", "values")
        for name, declared in document.get("inputs", {}).items():
            self.input(name, declared)
        nodes = document.get("nodes", {})
        entries = {id: shown for id, entry in nodes.items() if (shown := self.node(id, entry)) is not None}
        for id, shown in entries.items():
            self.arguments(id, nodes[id], shown)
        for name, source in document.get("outputs", {}).items():
            self.output(name, source, entries)
        if self.problems:
            raise WorkflowError(self.problems)
        return self.written()

    def input(self, name: str, declared: Mapping[str, Any]) -> None:
        """Add the node of a declared input."""
        if "default_file" in declared:
            self.refuse("its default is a value in a file, which the editor cannot show", INPUTS, name)
            return
        state = REQUIRED if "default" not in declared else NULL if declared["default"] is None else VALUE
        value = declared.get("default")
        type = self.class_for(declared["type"].removesuffix(" | None"), value, self.takers(f"{INPUTS}.{name}"))
        shown = self.add(type, name, INPUTS, name)
        shown.marks = {"declared": {key: declared[key] for key in DECLARED if key in declared}}
        shown.values = {"name": name, "default": state}
        if state == VALUE:
            shown.values["value"] = _text(value) if type == DATA else value
        self.numbers[f"{INPUTS}.{name}"] = shown.id

    def takers(self, source: str) -> list[Any]:
        """The sockets that a link goes to."""
        found = []
        for entry in self.document.get("nodes", {}).values():
            definition = self.find(entry.get("node", "").partition("@")[0])
            sockets = {} if definition is None else definition.sockets
            taking = [name for name, link in entry.get("from", {}).items() if link == source]
            found += [sockets[name] for name in taking if name in sockets]
        return found

    def class_for(self, type: str, value: Any, sockets: list[Any]) -> str:
        """The class of input nodes that can show a value of a type."""
        multiline = any(socket.multiline for socket in sockets) or (isinstance(value, str) and "\n" in value)
        text = "InputStringMultiline" if multiline else "InputString"
        drawn = any(socket.drawn for socket in sockets)
        found = {
            "int": "InputSeed" if drawn else "InputInt", "float": "InputFloat", "bool": "InputBoolean", "str": text,
            "path": text,
        }.get(type, DATA)  # fmt: skip
        slot = next(slot for slot in slots_of(self.classes[found]) if slot.name == "value")
        return found if value is None or slot.holds(value) else DATA

    def node(self, id: str, entry: Mapping[str, Any]) -> Shown | None:
        """Add a node of the document, still without its arguments; None, with a problem, if there is no such class."""
        if "workflow" in entry:
            self.refuse("it is a workflow used as a node, which the editor cannot show", id)
            return None
        definition = self.find(entry["node"].partition("@")[0])
        if definition is None or class_of(definition) not in self.classes:
            self.refuse(f"the editor has no node {entry['node']:.80}", id, hint="is its pack installed here?")
            return None
        ui = dict(entry.get("ui", {}))
        title = ui.pop("title", None)
        shown = self.add(class_of(definition), title if isinstance(title, str) else id, "nodes", id)
        shown.slots = slots_of(self.classes[shown.type], entry.get("with", {}))
        kept = {
            "id": id, "each": entry.get("each"), "keep_going": entry.get("keep_going"), "ui": ui,
            "titled": None if title is None else True,
        }  # fmt: skip
        shown.marks = {key: value for key, value in kept.items() if value}
        self.numbers[id], self.definitions[id] = shown.id, definition
        return shown

    def arguments(self, id: str, entry: Mapping[str, Any], shown: Shown) -> None:
        """Give a node its links and values."""
        slots = {slot.socket: slot for slot in shown.slots}
        hint = "the editor shows some inputs only with the choice that opens them"
        if "from" in entry:
            shown.marks["from"] = list(entry["from"])
        for socket, source in entry.get("from", {}).items():
            slot = slots.get(socket)
            if slot is None:
                self.refuse("there is no such input", id, socket, hint)
            elif isinstance(source, list):
                self.items(id, shown, slot, source)
            else:
                self.link(id, shown, slot, f"{slot.name}.{slot.prefix}0" if slot.prefix else slot.name, source)
                if slot.prefix:
                    shown.marks.setdefault("whole", []).append(socket)
        for socket, value in entry.get("with", {}).items():
            slot = slots.get(socket)
            if slot is None:
                self.refuse("there is no such input", id, socket, hint)
                continue
            shown.marks.setdefault("with", []).append(socket)
            if slot.holds(value):
                shown.values[slot.name] = value
            else:
                name = f"{slot.name}.{slot.prefix}0" if slot.prefix else slot.name
                shown.links[name] = (self.constant(id, socket, value), 0)
                if slot.prefix:
                    shown.marks.setdefault("whole", []).append(socket)

    def items(self, id: str, shown: Shown, slot: Slot, items: list[Any]) -> None:
        """Give a node the links and values of a list."""
        if not slot.prefix or not all(isinstance(item, str | dict) for item in items):
            self.refuse("the editor cannot show this list of links", id, slot.name)
            return
        if len(items) == 1:
            shown.marks.setdefault("lists", []).append(slot.name)
        for number, item in enumerate(items):
            name = f"{slot.name}.{slot.prefix}{number}"
            if isinstance(item, str):
                self.link(id, shown, slot, name, item)
            else:
                shown.links[name] = (self.constant(id, name, item["value"]), 0)

    def constant(self, id: str, name: str, value: Any) -> int:
        """Add the node of a plain value; returns its id."""
        socket = self.definitions[id].sockets.get(name)
        types = {bool: "bool", int: "int", float: "float", str: "str"}
        type = self.class_for(types.get(value.__class__, "any"), value, [] if socket is None else [socket])
        shown = self.add(type, name, "values", f"{id}.{name}")
        shown.values = {"name": "", "default": NULL if value is None else VALUE}
        if value is not None:
            shown.values["value"] = _text(value) if type == DATA else value
        shown.marks = {"of": f"{id}.{name}"}
        return shown.id

    def link(self, id: str, shown: Shown, slot: Slot, name: str, source: str) -> None:
        """Give a node a link."""
        found = self.source(id, slot.name, source)
        if found is not None:
            shown.links[name] = found

    def source(self, id: str, name: str, source: str) -> tuple[int, int] | None:
        """The node and slot that a link of the document comes from; None, with a problem, if the editor has none."""
        if source in self.numbers and source.startswith(f"{INPUTS}."):
            return self.numbers[source], 0
        origin, _, port = source.partition(".")
        if origin not in self.definitions:
            self.refuse(f"it is linked to {source:.80}, which is not there or cannot be shown", id, name)
            return None
        definition = self.definitions[origin]
        ports = list(definition.outputs)
        if is_output(definition) or port not in ports:
            why = "shows or saves its input" if is_output(definition) else "has several outputs" if not port else \
                "has no such output"
            self.refuse(f"it is linked to {source:.80}, but the node {origin} {why}", id, name)
            return None
        return self.numbers[origin], ports.index(port)

    def output(self, name: str, source: str, entries: Mapping[str, Shown]) -> None:
        """Add the node of a declared output; one of what an output node makes is noted in the marks of that node."""
        origin = source.partition(".")[0]
        if origin in self.definitions and is_output(self.definitions[origin]):
            entries[origin].marks.setdefault("outputs", []).append(name)
            return
        shown = self.add(OUTPUT, name, "outputs", name)
        shown.values = {"name": name}
        found = self.source("outputs", name, source)
        if found is not None:
            shown.links["value"] = found

    # --- the workflow -------------------------------------------------------------------------------------------------

    def written(self) -> dict[str, Any]:
        """The workflow of all nodes that were added."""
        places = lay_out({
            shown.id: ([origin for origin, _ in shown.links.values()], self.height(shown)) for shown in self.shown
        })  # fmt: skip
        links: list[list[Any]] = []
        nodes = [self.written_node(order, shown, places[shown.id], links) for order, shown in enumerate(self.shown)]
        by_id = {node["id"]: node for node in nodes}
        for id, origin, slot, *_ in links:
            by_id[origin]["outputs"][slot]["links"].append(id)
        kept = {key: self.document[key] for key in ("title", "description") if key in self.document}
        ui = {key: value for key, value in self.document.get("ui", {}).items() if key not in (EDITOR, SHOWN_BY)}
        order = {
            "inputs": list(self.document.get("inputs", {})), "nodes": list(self.document.get("nodes", {})),
            "outputs": list(self.document.get("outputs", {})),
        }  # fmt: skip
        notes, groups = (self.editor.get(key) for key in ("notes", "groups"))
        notes = [note for note in notes if isinstance(note, dict)] if isinstance(notes, list) else []
        for note in notes:
            nodes.append(note | {"id": len(nodes) + 1, "order": len(nodes), "mode": 0, "inputs": [], "outputs": []})
        extra: dict[str, Any] = {MARKS: json.dumps(kept | {"order": order} | ({"ui": ui} if ui else {}))}
        if isinstance(view := self.editor.get("view"), dict):
            extra["ds"] = view
        return {
            "last_node_id": len(nodes), "last_link_id": len(links), "nodes": nodes, "links": links,
            "groups": groups if isinstance(groups, list) else [], "config": {}, "extra": extra, "version": 0.4,
        }  # fmt: skip

    def written_node(
        self, order: int, shown: Shown, place: tuple[float, float], links: list[list[Any]]
    ) -> dict[str, Any]:
        """A node as the file has it; its links are added to those of the workflow."""
        inputs: list[dict[str, Any]] = []
        for slot in shown.slots:
            numbered = [name for name in shown.links if slot.prefix and name.startswith(f"{slot.name}.")]
            for name in numbered or [f"{slot.name}.{slot.prefix}0" if slot.prefix else slot.name]:
                if slot.widget and name not in shown.links:
                    continue
                link = None
                if name in shown.links:
                    origin, origin_slot = shown.links[name]
                    link = len(links) + 1
                    links.append([link, origin, origin_slot, shown.id, len(inputs), self.type_of(origin, origin_slot)])
                inputs.append({"name": name, "type": slot.type, "link": link}
                              | ({"widget": {"name": name}} if slot.widget else {}))  # fmt: skip
        values: list[Any] = []
        for slot in shown.slots:
            if slot.widget:
                values += [shown.values.get(slot.name, slot.default), *["fixed"] * slot.extra]
        looks = {key: shown.looks[key] for key in LOOKS if key in shown.looks}
        node = {
            "id": shown.id, "type": shown.type, "pos": [*place], "size": [WIDTH, self.height(shown)], "flags": {},
            "order": order, "mode": 0, "inputs": inputs,
            "outputs": [{"name": name, "type": type, "links": []} for name, type in shown.outputs],
            "title": shown.title, "properties": {}, "widgets_values": values,
        }  # fmt: skip
        if shown.marks:
            node["properties"] = {MARKS: json.dumps(shown.marks)}
        return node | looks

    def type_of(self, origin: int, slot: int) -> str:
        """The type of an output."""
        return self.shown[origin - 1].outputs[slot][1]

    def height(self, shown: Shown) -> int:
        """About the height of a node, in pixels."""
        widgets = [slot for slot in shown.slots if slot.widget]
        large = shown.type in ("InputStringMultiline", DATA) or shown.type.endswith("TextEncode")
        rows = max(len(shown.slots) - len(widgets) + len(shown.links), len(shown.outputs))
        return 20 * rows + 26 * (len(widgets) + sum(slot.extra for slot in widgets)) + 20 + 60 * large \
            + (150 if shown.type == OUTPUT else 0)


WIDTH = 270
"""The width of nodes that are laid out, in pixels."""


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
