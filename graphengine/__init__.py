"""graphengine: a node-graph engine for image generation. Typed functions as nodes, graphs as data, a shared memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphengine.lazy import exports

if TYPE_CHECKING:
    from graphengine.api import Graph, load, loads
    from graphengine.cache import DiskStore, Store
    from graphengine.context import INERT, Context
    from graphengine.definition import NodeDef, node
    from graphengine.elements import Input, Link, Ref
    from graphengine.errors import (
        Cancelled,
        FileError,
        GraphEngineError,
        Lost,
        ModelError,
        NodeDefinitionError,
        NodeError,
        PackError,
        Problem,
        Where,
        WorkflowError,
    )
    from graphengine.evaluate import Result, run
    from graphengine.events import Event, Kind, Reuse
    from graphengine.flow import collect, each, switch, when
    from graphengine.graph import Node
    from graphengine.launch import Cancellation
    from graphengine.pack import Pack
    from graphengine.registry import load_pack
    from graphengine.runner import Call, Runner, ThreadRunner
    from graphengine.sockets import Choices, Doc, File, Lazy, Multiline, Range, Socket, Uses
    from graphengine.types import SocketType, View, register_type
    from graphengine.workflow import save

_HOMES = {
    "api": ("Graph", "load", "loads"),
    "cache": ("DiskStore", "Store"),
    "context": ("INERT", "Context"),
    "errors": (
        "Cancelled", "FileError", "GraphEngineError", "Lost", "ModelError", "NodeDefinitionError", "NodeError",
        "PackError", "Problem", "Where", "WorkflowError",
    ),
    "events": ("Event", "Kind", "Reuse"),
    "launch": ("Cancellation",),
    "flow": ("collect", "each", "switch", "when"),
    "elements": ("Input", "Link", "Ref"),
    "graph": ("Node",),
    "definition": ("NodeDef", "node"),
    "pack": ("Pack",),
    "evaluate": ("Result", "run"),
    "registry": ("load_pack",),
    "runner": ("Call", "Runner", "ThreadRunner"),
    "sockets": ("Choices", "Doc", "File", "Lazy", "Multiline", "Range", "Socket", "Uses"),
    "types": ("SocketType", "View", "register_type"),
    "workflow": ("save",),
}

__version__ = "0.1.0"
__all__ = [
    "INERT", "Call", "Cancellation", "Cancelled", "Choices", "Context", "DiskStore", "Doc", "Event", "File",
    "FileError", "Graph", "GraphEngineError", "Input", "Kind", "Lazy", "Link", "Lost", "ModelError", "Multiline",
    "Node", "NodeDef", "NodeDefinitionError", "NodeError", "Pack", "PackError", "Problem", "Range", "Ref", "Result",
    "Reuse", "Runner", "Socket", "SocketType", "Store", "ThreadRunner", "Uses", "View", "Where", "WorkflowError",
    "collect", "each", "load", "load_pack", "loads", "node", "register_type", "run", "save", "switch", "when",
]  # fmt: skip


if not TYPE_CHECKING:  # a type checker tells of names that are not there
    __getattr__ = exports(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
