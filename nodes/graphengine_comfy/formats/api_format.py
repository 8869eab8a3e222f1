"""ComfyUI's API format, the JSON that `POST /prompt` takes: converts prompts to our documents, and graphs to prompts.

    {"3": {"class_type": "KSampler", "inputs": {"seed": 5, "model": ["4", 0]}, "_meta": {"title": "Sampler"}}}

An input is a literal or a link, `[id, slot]`, to an output of another node by its position. What our editor's page adds
to `_meta`, and the nodes that stand for declared inputs and outputs, are explained in `workflow_parts`.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any, Union, get_args, get_origin

from graphengine import FormatContext, Problem, Where, WorkflowError
from graphengine_comfy.formats.classes import Definition, definitions_of, is_output, unknown_classes
from graphengine_comfy.formats.node_ids import our_ids
from graphengine_comfy.formats.workflow_parts import OUTPUT, SHOWN_BY, InputNode, InputNodes, flag, marks_of, names

Prompt = Mapping[str, Any]

_DOCUMENT = ("version", "title", "description", "inputs", "values", "workflows", "nodes", "outputs", "ui")
_BUTTONS = frozenset({
    "upload", "choose file to upload", "audioUI", "control_after_generate", "control_before_generate",
})
"""Entries that older editors write among a node's inputs: buttons and the like, which no class takes."""


def prompt_in(data: Mapping[str, Any]) -> Prompt | None:
    """The prompt in a file's data: all of it, or the part `prompt` (as requests have it) or `output`; None without."""
    for part in (data, data.get("prompt"), data.get("output")):
        if isinstance(part, Mapping) and any(
            isinstance(node, Mapping) and isinstance(node.get("class_type"), str)
            for id, node in part.items() if id not in _DOCUMENT
        ):
            return part
    return None


def is_link(value: Any) -> bool:
    """Whether the value of an input is a link: a list of a node's id and the position of its output."""
    return (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
        and isinstance(value[1], int | float) and not isinstance(value[1], bool)
    )  # fmt: skip


def document_of(prompt: Prompt, context: FormatContext, everything: bool = False) -> dict[str, Any]:
    """Convert a prompt to a document of graphengine.

    The output nodes become declared outputs, and nodes that none of them needs are left out, as ComfyUI does not run
    them. A link to a node that is not there, or to an output that it lacks, is kept: the graph's `problems()` tell.

    Args:
        prompt: The prompt.
        context: Knows all nodes.
        everything: Keep the nodes that no output needs, and take a prompt without outputs.

    Raises:
        WorkflowError: It is no prompt, has unknown classes (one problem that lists all) or no output nodes. The nodes
            of these problems are named by their ids in the prompt.
    """
    nodes = _checked(prompt)
    definitions: dict[str, Definition] = {}
    unknown: dict[str, list[str]] = {}
    find = definitions_of(context)
    for id, node in nodes.items():
        definition = find(node["class_type"])
        if definition is None:
            unknown.setdefault(node["class_type"], []).append(id)
        else:
            definitions[id] = definition
    if unknown:
        raise unknown_classes(unknown, context)
    outputs = [id for id, definition in definitions.items() if is_output(definition)]
    if not outputs and not everything:
        what = "none of its nodes is an output, so that there is nothing to compute"
        raise WorkflowError(Problem("no outputs", what, hint="add a SaveImage or a PreviewImage"))
    needed = set(nodes) if everything else _needed(nodes, outputs)
    return _Conversion({id: node for id, node in nodes.items() if id in needed}, nodes, definitions).document()


def _checked(prompt: Prompt) -> dict[str, dict[str, Any]]:
    """The nodes of a prompt by id, each with a `class_type` and `inputs`; raises an error with all that are wrong."""
    nodes: dict[str, dict[str, Any]] = {}
    problems: list[Problem] = []
    for key, node in prompt.items():
        id = str(key)
        where = Where(node=id[:60])
        if not isinstance(node, dict):
            problems.append(Problem("wrong type", "a node is a mapping with `class_type` and `inputs`", where))
        elif not isinstance(node.get("class_type"), str) or not node["class_type"]:
            problems.append(Problem("no class", "it does not say its class", where, "give it a `class_type`"))
        elif not isinstance(node.get("inputs", {}), dict):
            problems.append(Problem("wrong type", "`inputs` must be a mapping", where))
        else:
            nodes[id] = {**node, "inputs": node.get("inputs", {})}
    if problems:
        raise WorkflowError(problems)
    return nodes


def _needed(nodes: Mapping[str, Mapping[str, Any]], outputs: list[str]) -> set[str]:
    """The ids of the nodes that the outputs need, with those of the outputs."""
    needed: set[str] = set()
    pending = list(outputs)
    while pending:
        id = pending.pop()
        if id not in needed and id in nodes:
            needed.add(id)
            pending += [value[0] for value in nodes[id]["inputs"].values() if is_link(value)]
    return needed


class _Conversion:
    """The conversion of one prompt.

    Args:
        nodes: The nodes that are converted.
        all: All nodes of the prompt: their ids are given in its order.
        definitions: What the nodes are.
    """

    def __init__(
        self, nodes: Mapping[str, dict[str, Any]], all: Mapping[str, dict[str, Any]],
        definitions: Mapping[str, Definition],
    ) -> None:
        self.nodes, self.definitions = nodes, definitions
        self.marks = {id: marks_of(node) for id, node in all.items()}
        self.ids = our_ids(all, {id: str(mark["id"]) for id, mark in self.marks.items() if "id" in mark})
        self.inputs = InputNodes(
            InputNode.of(id, node, self.marks[id]) for id, node in nodes.items() if InputNode.is_class_of(node)
        )

    def document(self) -> dict[str, Any]:
        """The document."""
        parts: dict[str, Any] = {"version": 1}
        if self.inputs.declared:
            parts["inputs"] = self.inputs.declared
        parts["nodes"] = {
            self.ids[id]: self.entry(id) for id, node in self.nodes.items()
            if id not in self.inputs and node["class_type"] != OUTPUT
        }  # fmt: skip
        parts["outputs"], shown = self.outputs()
        shown_by = {"inputs": self.inputs.ids, "outputs": shown}
        return parts | ({"ui": {SHOWN_BY: shown_by}} if any(shown_by.values()) else {})

    def outputs(self) -> tuple[dict[str, str], dict[str, str]]:
        """The declared outputs; and of those that nodes of their own stand for, the ids of these nodes in the file."""
        found: dict[str, str] = {}
        shown: dict[str, str] = {}
        for id, node in self.nodes.items():
            definition, own = self.definitions[id], self.ids[id]
            if node["class_type"] == OUTPUT:
                name, link = str(node["inputs"].get("name") or own), node["inputs"].get("value")
                if not is_link(link):
                    raise WorkflowError(Problem("missing input", "nothing is linked to this output",
                                                Where(node=id, socket="value"), "link it, or remove it"))
                if name in found:
                    raise WorkflowError(Problem("duplicate output", f"two outputs are called {name!r:.60}",
                                                Where(node=id, socket="name"), "give one of them another name"))
                if self.inputs.constant(link) is not None:
                    raise WorkflowError(Problem("bad link", "an output is what a node makes, not a value",
                                                Where(node=id, socket="value")))
                found[name], shown[name] = self.link(link), id
            elif is_output(definition):
                output = next(iter(definition.outputs.items()), None)
                if output is not None and output[1] is not type(None):
                    free = [name for name in names(self.marks[id], "outputs") if name not in found]  # a copy has none
                    for name in free or [own]:
                        found[name] = f"{own}.{output[0]}" if output[0] else own
        return found, shown

    def entry(self, id: str) -> dict[str, Any]:
        """The entry of a node in the document."""
        node, definition, marks = self.nodes[id], self.definitions[id], self.marks[id]
        links, literals = dict[str, Any](), dict[str, Any]()
        for name, value in _inputs(node["inputs"], definition, marks):
            if is_link(value):
                constant = self.inputs.constant(value)
                if constant is None:
                    links[name] = self.link(value)
                elif constant.is_given:
                    literals[name] = constant.value
            elif isinstance(value, list) and any(map(is_link, value)):  # of a growing input
                links[name] = [self.item(item) for item in value]
            else:
                literals[name] = _literal(value, definition, name)
        meta = node.get("_meta")
        title = meta.get("title") if isinstance(meta, dict) else None
        kept = marks.get("ui")
        ui = (kept if isinstance(kept, dict) else {}) | {"id": id}
        ui |= {"title": title} if isinstance(title, str) and title else {}
        parts = {
            "from": links, "with": literals, "each": names(marks, "each"), "keep_going": flag(marks, "keep_going"),
        }  # fmt: skip
        return {"node": definition.full_name} | {key: part for key, part in parts.items() if part} | {"ui": ui}

    def item(self, value: Any) -> Any:
        """An item of a list under `from`."""
        constant = self.inputs.constant(value) if is_link(value) else None
        if constant is not None:
            return {"value": constant.value}
        return self.link(value) if is_link(value) else {"value": value}

    def link(self, value: list[Any]) -> str:
        """A link as documents write it: the id, with the output's name if the node has several."""
        source, slot = value
        if source in self.inputs:
            return self.inputs.link(source)
        if source not in self.definitions:
            return self.ids.get(source) or next(iter(our_ids([source]).values()))
        outputs = list(self.definitions[source].outputs)
        if isinstance(slot, int | float) and slot == int(slot) and 0 <= slot < len(outputs):
            name = outputs[int(slot)]
            return f"{self.ids[source]}.{name}" if name else self.ids[source]
        return f"{self.ids[source]}.{slot}"


def _inputs(inputs: Mapping[str, Any], definition: Definition, marks: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The inputs of a node by the names of our sockets.

    ComfyUI's growing inputs (`images.image0`, `images.image1`, ...) are a list (`images`) here, and an input that
    depends on a choice (`resize_type.width`) has an underscore for the dot. A single link of a growing input is the
    whole value where the type is not a list only, unless the node's marks say otherwise.
    """
    lists: dict[str, list[tuple[str, Any]]] = {}
    for name, value in inputs.items():
        before, dot, _ = name.partition(".")
        if name in _BUTTONS and name not in definition.sockets:
            continue
        if not dot or name in definition.sockets:
            yield name, value
        elif before in definition.sockets and _is_list(definition.sockets[before].type):
            lists.setdefault(before, []).append((name, value))
        else:
            flat = name.replace(".", "_")
            yield flat if flat in definition.sockets else name, value
    for name, grown in lists.items():
        items = [value for _, value in sorted(grown, key=_number_at_end)]  # files have them in any order
        several_types = any(not _is_list(member) and member is not type(None)
                            for member in members(definition.sockets[name].type))  # fmt: skip
        is_whole = name in names(marks, "whole") or (several_types and name not in names(marks, "lists"))
        yield name, items[0] if len(items) == 1 and is_whole else items


def _number_at_end(grown: tuple[str, Any]) -> int:
    found = re.search(r"[0-9]{1,9}$", grown[0])
    return int(found[0]) if found else 0


def _is_list(annotation: Any) -> bool:
    return any(get_origin(member) is list or member is list for member in members(annotation))


def members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union type, or the type alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _literal(value: Any, definition: Definition, name: str) -> Any:
    """A literal in the type that the input has, where ComfyUI converts it too; any other as it is."""
    if isinstance(value, dict) and list(value) == ["__value__"]:
        value = value["__value__"]
    socket = definition.sockets.get(name)
    if socket is not None and socket.file is not None and isinstance(value, str):
        return value.removesuffix(" [input]")  # as its mask editor writes: the folder in which files are looked for
    kinds = () if socket is None else members(socket.type)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    if bool in kinds:
        words = {"true": True, "false": False, 1: True, 0: False}
        return words.get(value.lower() if isinstance(value, str) else value, value)
    if int in kinds or float in kinds:
        if isinstance(value, str) and str not in kinds:
            value = _number(value, float in kinds)
        if isinstance(value, float) and int in kinds and float not in kinds and value.is_integer():
            return int(value)
        return value
    if str in kinds and not isinstance(value, str):
        return str(value)
    return value


def _number(text: str, fraction: bool) -> Any:
    """The number that a text holds; the text itself if it holds none."""
    if re.fullmatch(r"\s*[-+]?[0-9]{1,40}\s*", text):
        return int(text)
    if fraction:
        try:
            number = float(text)
        except ValueError:
            return text
        return number if math.isfinite(number) else text
    return text
