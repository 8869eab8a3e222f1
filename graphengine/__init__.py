"""graphengine: a node-graph engine for image generation. Typed functions as nodes, graphs as data, a shared memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphengine.lazy import exports
from graphengine.old_modules import find_old_modules
from graphengine.version import __version__ as __version__

if TYPE_CHECKING:
    from graphengine.api import Graph, load, loads
    from graphengine.cache import DiskStore, Store
    from graphengine.declare.context import INERT, Context
    from graphengine.declare.definition import NodeDef, node
    from graphengine.declare.registry import load_pack
    from graphengine.declare.sockets import (
        UNKNOWN,
        Added,
        Choices,
        Doc,
        Drawn,
        File,
        Lazy,
        Multiline,
        Range,
        Socket,
        Unknown,
        Uses,
    )
    from graphengine.errors import (
        Cancelled,
        FileError,
        GraphEngineError,
        Lost,
        ModelError,
        NodeDefinitionError,
        NodeError,
        NotStorable,
        PackError,
        Problem,
        Where,
        WorkflowError,
        nearest,
    )
    from graphengine.events import Event, Kind, Reuse
    from graphengine.execution.launcher import Cancellation
    from graphengine.execution.run import Result, run
    from graphengine.execution.runner import Call, Runner, ThreadRunner
    from graphengine.graph.data import Node
    from graphengine.graph.elements import Input, Link, Ref
    from graphengine.graph.flow import collect, each, switch, when
    from graphengine.keys.files import confined, fingerprint
    from graphengine.pack import FileFormat, FileName, FormatContext, Pack, PictureSettings
    from graphengine.provenance.steps import Step
    from graphengine.show.notebook import show_lists
    from graphengine.system.folders import cache_folder
    from graphengine.system.opening import (
        NotRegular,
        Outside,
        Rooted,
        check_folder,
        library_path,
        open_file,
        read_file,
        rooted,
        roots_of,
        write_file,
    )
    from graphengine.system.private import make_private, write_private
    from graphengine.values.canonical import NotData
    from graphengine.values.socket_types import SocketType, View, promise_type, register_type, socket_type
    from graphengine.warning_filters import warnings_as
    from graphengine.workflow.files import save

_HOMES = {
    "graphengine.api": ("Graph", "load", "loads"),
    "graphengine.cache": ("DiskStore", "Store"),
    "graphengine.declare.context": ("INERT", "Context"),
    "graphengine.declare.definition": ("NodeDef", "node"),
    "graphengine.declare.registry": ("load_pack",),
    "graphengine.declare.sockets": (
        "UNKNOWN", "Added", "Choices", "Doc", "Drawn", "File", "Lazy", "Multiline", "Range", "Socket", "Unknown",
        "Uses",
    ),
    "graphengine.errors": (
        "Cancelled", "FileError", "GraphEngineError", "Lost", "ModelError", "NodeDefinitionError", "NodeError",
        "NotStorable", "PackError", "Problem", "Where", "WorkflowError", "nearest",
    ),
    "graphengine.events": ("Event", "Kind", "Reuse"),
    "graphengine.execution.launcher": ("Cancellation",),
    "graphengine.execution.run": ("Result", "run"),
    "graphengine.execution.runner": ("Call", "Runner", "ThreadRunner"),
    "graphengine.graph.data": ("Node",),
    "graphengine.graph.elements": ("Input", "Link", "Ref"),
    "graphengine.graph.flow": ("collect", "each", "switch", "when"),
    "graphengine.keys.files": ("confined", "fingerprint"),
    "graphengine.pack": ("FileFormat", "FileName", "FormatContext", "Pack", "PictureSettings"),
    "graphengine.provenance.steps": ("Step",),
    "graphengine.show.notebook": ("show_lists",),
    "graphengine.system.folders": ("cache_folder",),
    "graphengine.system.opening": (
        "NotRegular", "Outside", "Rooted", "check_folder", "library_path", "open_file", "read_file", "rooted",
        "roots_of", "write_file",
    ),
    "graphengine.system.private": ("make_private", "write_private"),
    "graphengine.values.canonical": ("NotData",),
    "graphengine.values.socket_types": ("SocketType", "View", "promise_type", "register_type", "socket_type"),
    "graphengine.warning_filters": ("warnings_as",),
    "graphengine.workflow.files": ("save",),
}

__all__ = [
    "INERT", "UNKNOWN", "Added", "Call", "Cancellation", "Cancelled", "Choices", "Context", "DiskStore", "Doc", "Drawn",
    "Event", "File", "FileError", "FileFormat", "FileName", "FormatContext", "Graph", "GraphEngineError", "Input",
    "Kind", "Lazy", "Link", "Lost", "ModelError", "Multiline", "Node", "NodeDef", "NodeDefinitionError", "NodeError",
    "NotData", "NotRegular", "NotStorable", "Outside", "Pack", "PackError", "PictureSettings", "Problem", "Range",
    "Ref", "Result", "Reuse", "Rooted", "Runner", "Socket", "SocketType", "Step", "Store", "ThreadRunner", "Unknown",
    "Uses", "View", "Where", "WorkflowError", "cache_folder", "check_folder", "collect", "confined", "each",
    "fingerprint", "library_path", "load", "load_pack", "loads", "make_private", "nearest", "node", "open_file",
    "promise_type", "read_file", "register_type", "rooted", "roots_of", "run", "save", "show_lists", "socket_type",
    "switch", "warnings_as", "when", "write_file", "write_private",
]  # fmt: skip


find_old_modules()

if not TYPE_CHECKING:  # a type checker tells of names that are not there
    __getattr__ = exports(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
