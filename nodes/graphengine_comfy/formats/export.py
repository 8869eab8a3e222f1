"""Export: writes a graph as a prompt, ComfyUI's API format, which its server and ours run."""

from __future__ import annotations

import enum
import math
import pathlib
from typing import Any

from graphengine import Graph, Link, Node, NodeDef, Problem, Where, WorkflowError
from graphengine_comfy.formats.class_facts import widget_type
from graphengine_comfy.formats.classes import PACK, Definition, class_of, is_output
from graphengine_comfy.formats.dynamic_inputs import DYNAMIC_COMBOS

INPUTS, VALUES = "inputs", "values"


class NotPlain(ValueError):
    """JSON cannot hold a value."""


def prompt_of(graph: Graph) -> dict[str, Any]:
    """Write a graph as a prompt.

    Declared inputs become their defaults. Nodes that were read from a prompt keep their ids; a declared output that
    is no output node of its own gets a SaveImage, or a PreviewAny for what is no picture.

    Raises:
        WorkflowError: It has parts that a prompt cannot hold: workflows used as nodes, mapped nodes, inputs without a
            default, values that are no plain data; holds all such problems.
    """
    problems: list[Problem] = []
    ids = _ids(graph)
    prompt = {
        ids[id]: entry for id, node in graph.nodes.items()
        if (entry := _entry(graph, id, node, ids, problems)) is not None
    }  # fmt: skip
    for name, link in graph.outputs.items():
        node = graph.nodes.get(link.node)
        if node is None or not isinstance(node.kind, NodeDef) or is_output(node.kind):
            continue
        target = _target(link, node.kind, ids)
        if target is None:
            problems.append(Problem("no output", f"the output {name} is all outputs of {link.node} at once",
                                    Where(node=link.node)))
            continue
        is_image = getattr(list(node.kind.outputs.values())[target[1]], "__name__", "") == "Image"
        shown = {"images": target, "filename_prefix": name} if is_image else {"source": target}
        prompt[_free(name, prompt)] = {"inputs": shown, "class_type": "SaveImage" if is_image else "PreviewAny"}
    if problems:
        raise WorkflowError(problems)
    return prompt


def _ids(graph: Graph) -> dict[str, str]:
    """The ids of the nodes in the prompt: those of the file that they were read from, else their own."""
    ids: dict[str, str] = {}
    taken: set[str] = set()
    for id, node in graph.nodes.items():
        original = node.ui.get("id")
        ids[id] = original if isinstance(original, str) and original not in taken else _free(id, taken)
        taken.add(ids[id])
    return ids


def _free(name: str, taken: Any) -> str:
    count, free = 1, name
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    return free


def _entry(
    graph: Graph, id: str, node: Node, ids: dict[str, str], problems: list[Problem]
) -> dict[str, Any] | None:
    """The entry of a node; None, with a problem, if a prompt cannot hold it."""

    def refuse(what: str, socket: str | None = None) -> None:
        """Add a problem of the node."""
        problems.append(Problem("not in a prompt", what, Where(node=id, socket=socket)))

    definition = node.kind
    if isinstance(definition, str):
        refuse(f"no installed pack has the node {definition}")
        return None
    if not isinstance(definition, NodeDef):
        refuse("it is a workflow used as a node, which a prompt cannot hold")
        return None
    if node.each:
        refuse("it is mapped over lists, which a prompt cannot hold")
        return None
    inputs: dict[str, Any] = {}
    for name, value in node.args.items():
        key = _dotted(definition, name)
        if type(value) is Link and value.node == INPUTS and value.port in graph.inputs:
            declared = graph.inputs[value.port]
            if declared.required:
                refuse(f"its input {value.port} has no default", name)
                continue
            if declared.default is None:  # means the node's own default
                continue
            value = declared.default
        if type(value) is Link:
            source = graph.nodes.get(value.node)
            target = None if source is None else _target(value, source.kind, ids)
            if target is None:
                refuse(f"a prompt cannot hold the link to {value}", name)
            inputs[key] = target
        elif type(value) is list and any(type(item) is Link for item in value):
            for number, item in enumerate(value):
                source = graph.nodes.get(item.node) if type(item) is Link else None
                target = None if source is None else _target(item, source.kind, ids)
                if target is None:
                    refuse(f"a prompt cannot hold item {number} of the list", name)
                inputs[f"{key}.{key.removesuffix('s')}{number}"] = target
        else:
            try:
                literal = plain(value)
            except NotPlain as error:
                refuse(f"a prompt cannot hold {error}", name)
                continue
            inputs[key] = {"__value__": literal} if isinstance(literal, list) else literal
    if "id" not in node.ui:  # ComfyUI has no defaults for inputs that it calls required
        for name, socket in definition.sockets.items():
            if name not in node.args and not socket.required and socket.default is not None and widget_type(socket):
                inputs[_dotted(definition, name)] = plain(socket.default)
    title = node.ui.get("title")
    return {"inputs": inputs, "class_type": class_of(definition)} | ({"_meta": {"title": title}} if title else {})


def _dotted(definition: Definition, name: str) -> str:
    """The name of an input in prompts: `resize_type.width` for our `resize_type_width`."""
    combos = DYNAMIC_COMBOS.get(definition.name, {}) if definition.pack == PACK else {}
    for combo, options in combos.items():
        sub = name.removeprefix(f"{combo}_")
        if sub != name and any(sub in subs for subs in options.values()):
            return f"{combo}.{sub}"
    return name


def _target(link: Link, definition: Any, ids: dict[str, str]) -> list[Any] | None:
    """A link as prompts hold it; None for one to all outputs of a node at once."""
    names = list(definition.outputs) if isinstance(definition, NodeDef) else []
    return [ids[link.node], names.index(link.port)] if link.port in names else None


def plain(value: Any) -> Any:
    """A literal as plain data.

    Raises:
        NotPlain: JSON cannot hold it.
    """
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: plain(item) for key, item in value.items()}
    raise NotPlain(f"a value of the type {type(value).__name__}")
