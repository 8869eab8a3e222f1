"""Nodes and their inputs as JSON data, for lists that programs read."""

from __future__ import annotations

from typing import Any

from graphengine.declare.definition import NodeDef
from graphengine.declare.node_groups import group_of
from graphengine.declare.sockets import Socket
from graphengine.values.socket_types import type_name


def node_facts(definition: NodeDef[..., Any]) -> dict[str, Any]:
    """A node as JSON data."""
    inputs = [socket_facts(socket) for socket in definition.sockets.values()]
    outputs = [{"name": name, "type": type_name(type)} for name, type in definition.outputs.items()]
    return {
        "name": definition.full_name,
        "group": group_of(definition),
        "version": definition.version,
        "help": definition.doc,
        "inputs": inputs,
        "outputs": outputs,
    }


def socket_facts(socket: Socket) -> dict[str, Any]:
    """An input as JSON data."""
    data: dict[str, Any] = {"name": socket.name, "type": type_name(socket.type), "required": socket.required}
    if not socket.required:
        data["default"] = socket.default
    if socket.range is not None:
        data["range"] = [socket.range.min, socket.range.max, socket.range.step]
    if socket.drawn:
        data["drawn"] = True
    if socket.choices is not None:
        data["choices"] = list(socket.choices.values())
    if socket.doc:
        data["help"] = socket.doc
    return data
