"""From a graph to a document: plain data, as YAML and JSON hold it."""

from __future__ import annotations

import enum
import hashlib
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any, get_args, get_origin

from graphengine.definition import NodeDef
from graphengine.elements import INPUTS, VALUES, Input, Link, Node
from graphengine.errors import Problem, Where, WorkflowError
from graphengine.graph import Graph
from graphengine.keys import NotData
from graphengine.types import SocketType, parse_type, socket_type, strip, type_name, union_members
from graphengine.workflow_read import FORMAT

MAX_INLINE = 64
"""How deep graphs may be used as nodes in one another in one document."""
MAX_EMBEDDED = 100_000
"""Nodes of one document, those of embedded workflows counted each time that they are used."""

WriteFile = Callable[[str, bytes], None]
KeepBytes = Callable[[str, bytes], None]


class NoData(ValueError):
    """A value that JSON cannot hold; the text says why."""


def plain(value: Any) -> Any:
    """A literal as JSON holds it: paths and members of enums as texts, tuples as lists.

    Raises:
        NoData: JSON cannot hold it.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, str):
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise NoData(f"the text {ascii(value)[:60]} has half a surrogate pair")
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NoData(f"{value!r} is no finite number")
        return float(value)
    if isinstance(value, PurePath):
        return plain(str(value))
    if type(value) in (list, tuple) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise NoData(f"the key {wrong[0]!r:.60} of a dictionary is no text")
        return {plain(key): plain(item) for key, item in value.items()}
    raise NoData(f"a {type(value).__name__} is no plain data, and its type is registered without a codec")


def type_in_file(annotation: Any) -> str:
    """The name that files can read of a type, or of the nearest wider one (a dictionary for `dict[str, int]`)."""
    annotation = strip(annotation)
    members = union_members(annotation)
    if len(members) > 1:
        names = list(dict.fromkeys(type_in_file(m) for m in members))
        return "any" if "any" in names else " | ".join(names)
    if get_origin(annotation) is list and get_args(annotation):
        return f"list[{type_in_file(get_args(annotation)[0])}]"
    if get_origin(annotation) is dict:
        return "dict"
    name = type_name(annotation)
    try:
        return name if parse_type(name) == annotation else "any"
    except ValueError:
        return "any"


class Writer:
    """Writes one document with all that stands in it.

    Args:
        folder: Where the document will lie: paths are written relative to it.
        embed: Write workflows used as nodes out, instead of their paths.
        pin: Write the installed versions of nodes that name none.
        stem: The beginning of the names of files that hold values.
        write_file: Writes such a file; without it the document holds digests only.
        keep: Is given the bytes of each value by digest.
    """

    def __init__(
        self, folder: Path, *, embed: bool, pin: bool, stem: str, write_file: WriteFile | None, keep: KeepBytes | None
    ) -> None:
        self.folder, self.embed, self.pin, self.stem = folder, embed, pin, stem
        self.write_file, self.keep = write_file, keep
        self.problems: list[Problem] = []
        self.files: dict[str, str] = {}
        self.count = 0

    def document(self, graph: Graph) -> dict[str, Any]:
        """The document of a graph.

        Raises:
            WorkflowError: A part of it cannot be written; holds all problems.
        """
        base = graph.folder or Path.cwd()
        data = {"version": FORMAT, **_Part(self, graph, base, "").data(0)}
        if self.problems:
            raise WorkflowError(self.problems)
        return data

    def file_for(self, name: str, digest: str) -> str:
        """A file name that no other content of this document has."""
        safe = re.sub(r"[^\w-]+", "_", name)[:80]
        file, number = f"{self.stem}.{safe}.safetensors", 1
        while self.files.setdefault(file, digest) != digest:
            number += 1
            file = f"{self.stem}.{safe}_{number}.safetensors"
        return file


class _Part:
    """One graph of a document: the outermost, or one that is used as a node."""

    def __init__(self, writer: Writer, graph: Graph, base: Path, prefix: str) -> None:
        self.writer, self.graph, self.prefix = writer, graph, prefix
        self.base = graph.folder or base
        self.moved = self.base != writer.folder
        self.values: dict[str, Any] = {}
        self.by_digest: dict[str, str] = {}

    def problem(self, node: str, socket: str | None, what: str, hint: str = "") -> None:
        self.writer.problems.append(Problem("no data", what, Where(node=self.prefix + node, socket=socket), hint))

    def data(self, depth: int) -> dict[str, Any]:
        graph, writer = self.graph, self.writer
        writer.count += len(graph.nodes)
        if depth > MAX_INLINE or writer.count > MAX_EMBEDDED:
            what = f"nested deeper than {MAX_INLINE}" if depth > MAX_INLINE else f"more than {MAX_EMBEDDED:,} nodes"
            raise WorkflowError(Problem("too large", f"the workflows used as nodes are {what}"))
        for name, value in graph.values.items():
            self.declared_value(name, value)
        nodes = {id: self.node(id, node, depth) for id, node in graph.nodes.items()}
        parts: dict[str, Any] = {
            "title": graph.title,
            "description": graph.description,
            "inputs": {name: self.input(declared) for name, declared in graph.inputs.items()},
            "values": self.values,
        }
        data = {key: part for key, part in parts.items() if part}
        data["nodes"] = nodes
        if graph.outputs:
            data["outputs"] = {name: str(link) for name, link in graph.outputs.items()}
        if graph.ui:
            data["ui"] = self.literal("ui", None, graph.ui)
        return data

    def literal(self, node: str, socket: str | None, value: Any) -> Any:
        try:
            return plain(value)
        except NoData as error:
            self.problem(node, socket, str(error))
        except RecursionError:
            self.problem(node, socket, "it is nested too deeply")
        return None

    def input(self, declared: Input) -> dict[str, Any]:
        data: dict[str, Any] = {"type": type_in_file(declared.type)}
        if not declared.required:
            default = self.literal(INPUTS, declared.name, declared.default)
            data["default"] = self.rebased(default) if "path" in data["type"] else default
        if declared.help:
            data["help"] = declared.help
        if declared.range is not None:
            limits = {key: getattr(declared.range, key) for key in ("min", "max", "step")}
            data |= {key: limit for key, limit in limits.items() if limit is not None and math.isfinite(limit)}
        if declared.choices is not None:
            data["choices"] = self.literal(INPUTS, declared.name, list(declared.choices.values()))
        return data

    # --- nodes ----------------------------------------------------------------------------------------------------

    def node(self, id: str, node: Node, depth: int) -> dict[str, Any]:
        data: dict[str, Any] = {}
        if node.workflow is not None and not (self.writer.embed and isinstance(node.kind, Graph)):
            data["workflow"] = self.rebased(node.workflow)
        elif isinstance(node.kind, Graph):
            inner = _Part(self.writer, node.kind, self.base, f"{self.prefix}{id}/")
            data["workflow"] = inner.data(depth + 1)
        else:
            data["node"] = self.name_of(node)
        links, literals = {}, {}
        for name, value in node.args.items():
            if self.is_source(value):
                links[name] = self.source(id, name, value)
            else:
                literal = self.literal(id, name, value)
                socket = node.sockets.get(name)
                literals[name] = self.rebased(literal) if socket is not None and socket.file is not None else literal
        parts = {"from": links, "with": literals, "each": list(node.each), "ui": self.literal(id, None, node.ui)}
        return data | {key: part for key, part in parts.items() if part}

    def name_of(self, node: Node) -> str:
        version = node.version
        if isinstance(node.kind, NodeDef) and version is None and self.writer.pin:
            version = node.kind.version
        return node.type if version is None else f"{node.type}@{version}"

    def rebased(self, path: Any) -> Any:
        """A relative path of a file that is there, as it is written from the new folder."""
        if isinstance(path, list):
            return [self.rebased(item) for item in path]
        if not self.moved or not isinstance(path, str) or not path or os.path.isabs(path) or path.startswith("~"):
            return path
        file = self.base / path
        try:
            there = file.exists()
        except (OSError, ValueError):
            return path
        return Path(os.path.relpath(file, self.writer.folder)).as_posix() if there else path

    def is_source(self, value: Any) -> bool:
        if type(value) is list:
            return any(self.is_source(item) for item in value)
        return type(value) is Link or self.codec(value) is not None

    def source(self, id: str, socket: str, value: Any) -> Any:
        """What stands under `from` for an argument."""
        if type(value) is Link:
            return str(value)
        if type(value) is list:
            items = [(item, self.is_source(item)) for item in value]
            return [
                self.source(id, socket, item) if linked else {"value": self.literal(id, socket, item)}
                for item, linked in items
            ]
        return f"{VALUES}.{self.held_value(id, socket, value)}"

    # --- values that JSON cannot hold -----------------------------------------------------------------------------

    def codec(self, value: Any) -> SocketType[Any] | None:
        kind = socket_type(type(value))
        return kind if kind is not None and kind.encode is not None and kind.decode is not None else None

    def declared_value(self, name: str, value: Any) -> None:
        kind = self.codec(value)
        if kind is None:
            self.values[name] = {"value": self.literal(VALUES, name, value)}
        else:
            self.values[name] = self.entry(name, kind, self.encoded(VALUES, name, kind, value))

    def encoded(self, node: str, socket: str | None, kind: SocketType[Any], value: Any) -> bytes | None:
        assert kind.encode is not None
        try:
            return kind.encode(value)
        except NotData as error:
            self.problem(node, socket, str(error))
        return None

    def held_value(self, id: str, socket: str, value: Any) -> str:
        """The name under which a literal of a node is held; equal ones share it."""
        kind = self.codec(value)
        assert kind is not None
        content = self.encoded(id, socket, kind, value)
        digest = hashlib.sha256(content or b"").hexdigest()
        name = self.by_digest.get(digest)
        if name is None:
            name = stem = f"{id}_{socket}"
            number = 1
            while name in self.values or name in self.graph.values:
                number += 1
                name = f"{stem}_{number}"
            self.by_digest[digest] = name
            self.values[name] = self.entry(name, kind, content)
        return name

    def entry(self, name: str, kind: SocketType[Any], content: bytes | None) -> Mapping[str, Any]:
        if content is None:  # a problem, which is told
            return {}
        digest = hashlib.sha256(content).hexdigest()
        entry = {"type": kind.name}
        if self.writer.keep is not None:
            self.writer.keep(digest, content)
        if self.writer.write_file is not None:
            entry["file"] = self.writer.file_for(self.prefix + name, digest)
            self.writer.write_file(entry["file"], content)
        return entry | {"digest": digest}
