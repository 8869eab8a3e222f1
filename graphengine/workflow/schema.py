"""The JSON Schema (2020-12) of workflow files, generated from the installed nodes, for editors.

With yaml-language-server, write this line above a workflow:

    # yaml-language-server: $schema=workflow.schema.json
"""

from __future__ import annotations

import enum
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar, get_args, get_origin

from graphengine.declare.definition import NodeDef
from graphengine.declare.sockets import Range, Socket
from graphengine.graph.data import GraphData
from graphengine.values.socket_types import socket_type, strip, type_name, type_names, union_members
from graphengine.workflow.read import FORMAT
from graphengine.workflow.write import NoData, plain

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


def schema(nodes: Mapping[str, NodeDef[..., Any]] | None = None) -> Schema:
    """Generate the JSON Schema of workflow files.

    Args:
        nodes: The nodes that files may use, by full name; by default all installed nodes.

    Returns:
        A JSON Schema. A node's inputs are checked if its name is written bare, in full, or with the installed version;
        nodes with older versions, which are migrated when a file is read, are accepted unchecked.
    """
    if nodes is None:
        from graphengine.declare.registry import nodes as installed

        nodes = installed()
    definitions = sorted(nodes.values(), key=lambda d: d.full_name)
    bare: dict[str, int] = {}
    for definition in definitions:
        bare[definition.name] = bare.get(definition.name, 0) + 1
    names = {d.full_name: [d.full_name, *([d.name] if bare[d.name] == 1 else [])] for d in definitions}
    return {
        "$schema": DIALECT,
        "title": "graphengine workflow",
        "type": "object",
        "required": ["version", "nodes"],
        "properties": {
            "version": {"const": FORMAT, "description": "The version of the file format."},
            **_graph_properties(),
        },
        "additionalProperties": False,
        "$defs": {
            "workflow": {
                "type": "object",
                "properties": {"version": {"const": FORMAT}, **_graph_properties()},
                "additionalProperties": False,
            },
            "input": _input(),
            "value": _value(),
            "link": {
                "type": "string",
                "pattern": r"^(?!(inputs|values)$)[^.\s]([^.]*[^.\s])?(\..+)?$",
                "description": "A node's id, id.port, inputs.NAME or values.NAME.",
            },
            "source": {"anyOf": [{"$ref": "#/$defs/link"}, {"type": "array", "items": {"$ref": "#/$defs/item"}}]},
            "item": {"anyOf": [
                {"$ref": "#/$defs/source"},
                {"type": "object", "properties": {"value": {}}, "required": ["value"], "additionalProperties": False},
            ]},
            "node": _node(definitions, names),
            **{f"node.{d.full_name}": _inputs_of(d) for d in definitions},
        },
    }  # fmt: skip


def inputs_schema(graph: GraphData) -> Schema:
    """Generate the JSON Schema of the inputs of a graph, for forms and for programs that run it by name.

    What JSON Schema has no word for stands under names of our own: `x-multiline`, a text of several lines; `x-file`, a
    path to a file of this kind (`image`, `weights`, ...); `x-drawn`, a number that -1 draws; `x-step`, editors' step.
    """
    bound = [(link.port, graph.nodes[id].sockets.get(name)) for id, name, link in graph.bound_sockets()]
    sockets: dict[str, list[Socket]] = {}
    for port, target in bound:
        if target is not None:
            sockets.setdefault(port, []).append(target)
    properties: Schema = {}
    for name, declared in graph.inputs.items():
        targets = sockets.get(name, [])
        socket = replace(declared.socket(), drawn=any(target.drawn for target in targets))
        found = _literal(socket) or {}
        properties[name] = {
            **found, "description": _doc(replace(socket, type=declared.type)), **_for_forms(socket, targets)
        }  # fmt: skip
    needed = [name for name, declared in graph.inputs.items() if declared.required]
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": needed} if needed else {}),
    }


def _for_forms(socket: Socket, targets: Sequence[Socket]) -> Schema:
    """What a form needs to know of an input besides its type, by the input itself and the sockets it is linked to."""
    found: Schema = {}
    if any(target.multiline for target in targets):
        found["x-multiline"] = True
    files = [target.file.kind for target in targets if target.file is not None]
    if files:
        found["x-file"] = files[0]
    if socket.drawn:
        found["x-drawn"] = True
    if socket.range is not None and socket.range.step is not None:
        found["x-step"] = socket.range.step
    return found


def _graph_properties() -> Schema:
    def named(kind: str, doc: str) -> Schema:
        return {"type": "object", "description": doc, "additionalProperties": {"$ref": f"#/$defs/{kind}"}}

    return {
        "title": {"type": "string"},
        "description": {"type": "string"},
        "inputs": named("input", "What may be given when the workflow runs, linked as inputs.NAME."),
        "values": named("value", "Values that JSON cannot hold, linked as values.NAME."),
        "workflows": named("workflow", "Workflows that nodes use by name, and that may use themselves."),
        "nodes": named("node", "The nodes by id."),
        "outputs": named("link", "What the workflow gives, by name."),
        "ui": {"type": "object", "description": "Positions and notes of editors."},
    }


def _input() -> Schema:
    kinds = {"enum": type_names(), "description": "A type; also list[int], Image | null, 'a' | 'b'."}
    number = {"type": "number"}
    return {
        "type": "object",
        "properties": {
            "type": {"anyOf": [kinds, {"type": "string", "pattern": r"[\[|'\"]"}]},
            "default": {"description": "Without one it must be given; null: the default of what it is linked to."},
            "default_file": {"$ref": "#/$defs/value"},
            "help": {"type": "string"},
            "min": number,
            "max": number,
            "step": number,
            "choices": {"type": "array"},
        },
        "required": ["type"],
        "additionalProperties": False,
    }


def _value() -> Schema:
    return {
        "type": "object",
        "properties": {
            "type": {"type": "string"},
            "file": {"type": "string", "description": "A file beside the workflow."},
            "digest": {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "The SHA-256 of the file."},
            "value": {"description": "Plain data, in place of a file."},
        },
        "oneOf": [{"required": ["type", "digest"]}, {"required": ["value"]}],
        "additionalProperties": False,
    }


def _node(definitions: Iterable[NodeDef[..., Any]], names: Mapping[str, list[str]]) -> Schema:
    written: dict[str, str] = {}
    cases = []
    for definition in definitions:
        mine = names[definition.full_name]
        version = definition.version
        current = mine + ([f"{name}@{version}" for name in mine] if version is not None else [])
        older = [f"{name}@{v}" for v in sorted(definition.migrations) for name in mine]
        doc = definition.doc.partition("\n\n")[0]
        written |= dict.fromkeys([*current, *older], doc)
        pattern = f"^({'|'.join(re.escape(name) for name in mine)}){f'(@{version})?' if version is not None else ''}$"
        # `if` and `then`, not `oneOf`: an editor then complains about the wrong input, not about all nodes at once.
        cases.append({
            "if": {"properties": {"node": {"type": "string", "pattern": pattern}}, "required": ["node"]},
            "then": {"$ref": f"#/$defs/node.{definition.full_name}"},
        })  # fmt: skip
    return {
        "type": "object",
        "properties": {
            "node": {"enum": list(written), "enumDescriptions": list(written.values())},
            "workflow": {
                "anyOf": [{"type": "string"}, {"$ref": "#/$defs/workflow"}],
                "description": "A workflow used as a node: a path relative to this file, or one written out.",
            },
            "from": {"type": "object", "additionalProperties": {"$ref": "#/$defs/source"}, "description": "Links."},
            "with": {"type": "object", "description": "Values."},
            "each": {"type": "array", "items": {"type": "string"}, "description": "Inputs it is mapped over."},
            "keep_going": {"type": "boolean", "description": "The error of an item stands in the item's place."},
            "ui": {"type": "object"},
        },
        "oneOf": [{"required": ["node"]}, {"required": ["workflow"]}],
        "additionalProperties": False,
        "allOf": cases,
    }


def _inputs_of(definition: NodeDef[..., Any]) -> Schema:
    """The schema of a node's inputs, under `with` and `from`."""
    literals: Schema = {}
    links: Schema = {}
    for name, socket in definition.sockets.items():
        doc = _doc(socket)
        literal = _literal(socket)
        if literal is not None:
            literals[name] = {**literal, "description": doc}
        links[name] = {"$ref": "#/$defs/source", "description": doc}
    needed = [
        {"anyOf": [{"properties": {key: {"required": [name]}}, "required": [key]} for key in ("from", "with")]}
        for name, socket in definition.sockets.items()
        if socket.required
    ]
    known = {"propertyNames": {"enum": list(literals)}}
    found: Schema = {
        "description": definition.doc,
        "properties": {
            "from": {"properties": links, "propertyNames": {"enum": list(links)}},
            "each": {"items": {"enum": list(links)}},
        },
        # An input that is mapped over takes a list of its type, and is not checked.
        "if": {"required": ["each"]},
        "then": {"properties": {"with": {"propertyNames": {"enum": list(links)}}}},
        "else": {"properties": {"with": {"properties": literals, **known}}},
    }
    return found | ({"allOf": needed} if needed else {})


def _doc(socket: Socket) -> str:
    parts = [socket.doc, f"({type_name(socket.type)}{', needed' if socket.required else ''})"]
    return " ".join(part for part in parts if part)


def _literal(socket: Socket) -> Schema | None:
    """The schema of a literal for a socket; None if only a link is possible."""
    limits = Range(-1, None if socket.range is None else socket.range.max) if socket.drawn else socket.range
    found = _of(socket.type, limits)
    if found is None:
        return None
    if socket.choices is not None:
        choices = [value for value in map(_plain, socket.choices.values()) if value is not None]
        may_be_null = type(None) in union_members(socket.type)
        found = {"enum": [*choices, None] if may_be_null else choices}
    if socket.drawn:
        found = {"anyOf": [found, {"type": "null"}]}
    default = _plain(socket.default)
    if not socket.required and (default is not None or socket.default is None):
        found = {**found, "default": default}
    return found


def _plain(value: Any) -> Any:
    try:
        return plain(value)
    except NoData:
        return None


def _of(annotation: Any, limits: Range | None = None) -> Schema | None:
    """The schema of a type's literals; None for a type without literals in JSON."""
    annotation = strip(annotation)
    members = union_members(annotation)
    if len(members) > 1:
        found = [found for m in members if (found := _of(m, limits)) is not None]
        only_null = all(f == {"type": "null"} for f in found)
        return None if not found else found[0] if only_null or len(found) == 1 else {"anyOf": _without_doubles(found)}
    if annotation is Any or annotation is object or isinstance(annotation, TypeVar):
        return {}
    origin = get_origin(annotation)
    if origin is Literal:
        return {"enum": list(get_args(annotation))}
    if origin in (list, tuple) or annotation in (list, tuple):
        return _of_list(annotation, limits)
    if origin is dict or annotation is dict:
        values = _of(get_args(annotation)[1]) if get_args(annotation) else {}
        return None if values is None else {"type": "object", "additionalProperties": values}
    if not isinstance(annotation, type) or socket_type(annotation) is not None:
        return None
    return _of_class(annotation, limits)


def _of_list(annotation: Any, limits: Range | None) -> Schema | None:
    inner = get_args(annotation)
    if get_origin(annotation) is tuple and inner and inner[-1] is not ...:
        parts = [_of(part, limits) for part in inner]
        sizes = {"minItems": len(parts), "maxItems": len(parts)}
        return None if None in parts else {"type": "array", "prefixItems": parts, **sizes}
    items = _of(inner[0], limits) if inner else {}
    return None if items is None else {"type": "array", "items": items}


def _of_class(cls: type, limits: Range | None) -> Schema | None:
    if issubclass(cls, enum.Enum):
        return {"enum": [_plain(member) for member in cls]}
    if cls is bool:
        return {"type": "boolean"}
    if cls in (int, float):
        found: Schema = {"type": "integer" if cls is int else "number"}
        if limits is not None:
            bounds = {"minimum": limits.min, "maximum": limits.max}
            found |= {key: bound for key, bound in bounds.items() if bound is not None and abs(bound) != float("inf")}
        return found
    if cls is str or issubclass(cls, pathlib.PurePath):
        return {"type": "string"}
    return {"type": "null"} if cls is type(None) else None


def _without_doubles(found: list[Schema]) -> list[Schema]:
    return [s for n, s in enumerate(found) if s not in found[:n]]
