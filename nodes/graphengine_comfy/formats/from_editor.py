"""From the editor: converts workflows of ComfyUI's editor to documents of ours, with the nodes that no output needs.

It is the counterpart of `to_editor`. What documents of ours cannot hold (subgraphs, muted and bypassed nodes) is
refused; reroutes and primitives become plain links and values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from graphengine import FormatContext, Problem, Where, WorkflowError
from graphengine_comfy.formats.api_format import document_of
from graphengine_comfy.formats.class_facts import classes_in
from graphengine_comfy.formats.classes import definitions_of
from graphengine_comfy.formats.export import plain
from graphengine_comfy.formats.to_editor import EDITOR, LOOKS
from graphengine_comfy.formats.ui_format import BYPASSED, MUTED, NOTES, api_of
from graphengine_comfy.formats.workflow_parts import INPUT_TYPES, MARKS, SHOWN_BY, flag, names, read_marks

CANNOT = "a YAML file of graphengine cannot hold it"
HINT = "remove it, or save under a name that ends in neither .yaml nor .yml"


def from_editor(
    workflow: Mapping[str, Any], classes: Mapping[str, Any], context: FormatContext
) -> dict[str, Any]:
    """Convert a workflow of the editor to a document.

    Args:
        workflow: The workflow.
        classes: The classes that the editor knows: the answer to `GET /object_info`.
        context: Knows all nodes.

    Raises:
        WorkflowError: It is damaged, has unknown classes, or parts that a document cannot hold.
    """
    written = workflow.get("nodes")
    if not isinstance(written, list) or not all(isinstance(node, dict) for node in written):
        raise WorkflowError(Problem("damaged", "`nodes` of a workflow of the editor is a list of mappings"))
    nodes: list[dict[str, Any]] = written
    _refuse_others(workflow, nodes)
    named = _with_ids(nodes)
    prompt = api_of({**workflow, "nodes": named}, classes_in(classes), context)
    order = sorted(prompt, key=lambda id: (int(id) if id.isdigit() else 0, id))
    found = document_of({id: prompt[id] for id in order}, context, everything=True)
    extra = workflow.get("extra")
    marks = read_marks(extra.get(MARKS)) if isinstance(extra, dict) else {}
    shown_by = found.get("ui", {}).get(SHOWN_BY, {}).get("outputs", {})
    ids = {entry["ui"]["id"]: id for id, entry in found["nodes"].items()}
    by_id = {str(node.get("id")): node for node in named}
    find = definitions_of(context)
    for id, entry in found["nodes"].items():
        _tidy(id, entry, read_marks(_properties(by_id[entry["ui"].pop("id")]).get(MARKS)), find)
    looks = _looks(workflow, by_id, prompt, ids, {number: name for name, number in shown_by.items()})
    kept = {key: marks[key] for key in ("title", "description") if isinstance(marks.get(key), str)}
    ui = marks["ui"] if isinstance(marks.get("ui"), dict) else {}
    order_of = marks["order"] if isinstance(marks.get("order"), dict) else {}
    parts = {
        part: _ordered(found.get(part, {}), names(order_of, part)) for part in ("inputs", "nodes", "outputs")
    }  # fmt: skip
    return {"version": 1} | kept | {key: part for key, part in parts.items() if part or key == "nodes"} | {
        "ui": ui | {EDITOR: looks}
    }  # fmt: skip


def _refuse_others(workflow: Mapping[str, Any], nodes: list[dict[str, Any]]) -> None:
    """Refuse what a document cannot hold."""
    definitions, extra = workflow.get("definitions"), workflow.get("extra")
    subgraphs = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    groups = extra.get("groupNodes") if isinstance(extra, dict) else None
    inner = {one["id"] for one in _list(subgraphs) if isinstance(one, dict) and isinstance(one.get("id"), str)}
    inner |= {f"workflow{mark}{name}" for name in (groups if isinstance(groups, dict) else {}) for mark in ">/"}
    problems = []
    for node in nodes:
        what = (
            "is a subgraph" if str(node.get("type")) in inner else "is muted" if node.get("mode") == MUTED
            else "is bypassed" if node.get("mode") == BYPASSED else ""
        )  # fmt: skip
        if what:
            title = str(node.get("title") or node.get("type"))
            where = Where(node=str(node.get("id")))
            problems.append(Problem("not in a document", f"the node {title:.60} {what}: {CANNOT}", where, HINT))
    if problems:
        raise WorkflowError(problems)


def _properties(node: Mapping[str, Any]) -> Mapping[str, Any]:
    found = node.get("properties")
    return found if isinstance(found, dict) else {}


def _with_ids(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The nodes of the editor, each with an id for our document among its marks.

    A new node is called after its class; a copy, which has the marks of its original, gets a number.
    """
    marks = [dict(read_marks(_properties(node).get(MARKS))) for node in nodes]
    taken: set[str] = set()
    later = []
    for node, mark in zip(nodes, marks, strict=True):
        if isinstance(mark.get("id"), str) and mark["id"] not in taken:
            taken.add(mark["id"])
        else:
            later.append((mark, mark["id"] if isinstance(mark.get("id"), str) else _name(str(node.get("type")))))
    for mark, name in later:
        count, free = 1, name
        while free in taken:
            count += 1
            free = f"{name}_{count}"
        taken.add(free)
        mark["id"] = free
    return [
        {**node, "properties": {**_properties(node), MARKS: json.dumps(mark)}}
        for node, mark in zip(nodes, marks, strict=True)
    ]


def _name(type: str) -> str:
    """A name for a node of a class: `resize_image` for `std.resize_image`, `clip_text_encode` for CLIPTextEncode."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type.rpartition(".")[2])
    return re.sub(r"\W+", "_", name).strip("_").lower() or "node"


def _tidy(id: str, entry: dict[str, Any], marks: Mapping[str, Any], find: Any) -> None:
    """Take out of a node's entry what it has anyway: defaults that the document did not write, its id as title."""
    definition = find(entry["node"])
    if "from" in entry:  # the editor sorts inputs by whether they have widgets
        entry["from"] = _ordered(entry["from"], names(marks, "from"))
    if definition.version is not None:
        entry["node"] += f"@{definition.version}"
    written, kept = entry.get("with", {}), names(marks, "with")
    for name in list(written):
        socket = definition.sockets.get(name)
        if socket is None or socket.required or name in kept:
            continue
        default = plain(socket.default)
        if written[name] == default and isinstance(written[name], bool) == isinstance(default, bool):
            del written[name]
    if not written:
        entry.pop("with", None)
    title = entry["ui"].get("title")
    if title in (id, definition.name, definition.full_name, _words(definition.name)) and not flag(marks, "titled"):
        entry["ui"].pop("title", None)
    if not entry["ui"]:
        del entry["ui"]


def _words(name: str) -> str:
    """A node's name as the editor shows it."""
    text = name.replace("_", " ").strip()
    return text[:1].upper() + text[1:]


def _looks(
    workflow: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]], prompt: Mapping[str, Any],
    ids: Mapping[str, str], outputs: Mapping[str, str],
) -> dict[str, Any]:
    """What the editor alone needs: where the nodes lie, groups and notes."""
    found: dict[str, Any] = {}
    for number, node in nodes.items():
        looks = {key: node[key] for key in LOOKS if node.get(key)}
        for key in ("pos", "size"):
            if key in looks:
                looks[key] = _rounded(looks[key])
        if node.get("type") in NOTES:
            note = looks | {key: node[key] for key in ("type", "title", "widgets_values") if key in node}
            found.setdefault("notes", []).append(note)
        elif number in outputs:
            found.setdefault("outputs", {})[outputs[number]] = looks
        elif number in ids:
            found.setdefault("nodes", {})[ids[number]] = looks
        elif number in prompt and node.get("type") in INPUT_TYPES:
            name = prompt[number]["inputs"].get("name")
            of = read_marks(_properties(node).get(MARKS)).get("of")
            if name:
                found.setdefault("inputs", {})[name.strip()] = looks
            elif isinstance(of, str):
                found.setdefault("values", {})[of] = looks
    groups = [_group(group) for group in _list(workflow.get("groups")) if isinstance(group, dict)]
    return found | ({"groups": groups} if groups else {})


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _group(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _rounded(group[key]) if key == "bounding" else group[key]
            for key in ("title", "bounding", "color", "font_size", "flags") if group.get(key)}  # fmt: skip


def _rounded(numbers: Any) -> Any:
    """Coordinates as whole pixels; older files have them in a mapping."""
    listed = list(numbers.values()) if isinstance(numbers, dict) else numbers
    if not isinstance(listed, list) or not all(isinstance(number, int | float) for number in listed):
        return listed
    return [round(number) for number in listed]


def _ordered(parts: Mapping[str, Any], order: list[str]) -> dict[str, Any]:
    """The parts in the order that the document had, then the new ones."""
    known = [name for name in order if name in parts]
    return {name: parts[name] for name in dict.fromkeys([*known, *parts])}
