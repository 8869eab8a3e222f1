"""Writing documents: converts a graph to plain data, as YAML and JSON hold it.

The module is long for the same reason as `read`, its counterpart: documents are recursive.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, get_args, get_origin

from graphengine.declare.definition import NodeDef
from graphengine.declare.registry import OWN_NODES, find, own_nodes
from graphengine.declare.sockets import written
from graphengine.errors import NotStorable, Problem, Where, WorkflowError
from graphengine.graph.data import GraphData, Node
from graphengine.graph.elements import INPUTS, VALUES, Input, Link
from graphengine.graph.type_inference import item_type
from graphengine.keys.call_key import identity
from graphengine.old_names import moved
from graphengine.values.canonical import NotData
from graphengine.values.literals import coerce, plain_number
from graphengine.values.socket_types import (
    SocketType,
    declared_as,
    parse_type,
    python_number,
    socket_type,
    strip,
    type_name,
    union_members,
)
from graphengine.workflow.read import FORMAT, PACKED

MAX_INLINE = 64
"""The most levels of graphs used as nodes in one document."""
MAX_EMBEDDED = 100_000
"""The most nodes of one document; those of an embedded workflow count each time that it is used."""

WriteFile = Callable[[str, bytes], None]
KeepBytes = Callable[[str, bytes], None]


class NoData(ValueError):
    """JSON cannot hold a value; the message says why."""


def plain(value: Any) -> Any:
    """Convert a literal to JSON data: paths and enum members to texts, tuples to lists, dataclasses to mappings.

    Raises:
        NoData: JSON cannot hold it.
    """
    value = plain_number(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        return plain(written(value))
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
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and socket_type(type(value)) is None:
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return {name: plain(getattr(value, name, None)) for name in names}
    raise NoData(f"a {type(value).__name__} is no plain data, as JSON holds it")


def not_findable(definition: NodeDef[..., Any]) -> tuple[str, str] | None:
    """Explain why a node cannot be found by its name, and what to do about it; None if it can."""
    name = definition.full_name
    installed = find(name)
    if installed is definition or (installed is not None and identity(installed) == identity(definition)):
        return None
    if installed is not None:
        what = f"{name} is another node by now than the one in the graph"
        return what, "build the graph again, or give one of them another name: @node(name='...')"
    if len(own_nodes(name)) > 1:
        return f"{name} is defined in several modules", "give one of them another name: @node(name='...')"
    what = f"{name} stands under no name at the top level of a module, so that nobody could find it again"
    return what, f"define it there, or {OWN_NODES}"


def type_in_file(annotation: Any) -> str:
    """The name of a type in files, or of the nearest wider type that has one (`dict` for `dict[str, int]`)."""
    annotation = strip(annotation)
    members = union_members(annotation)
    if len(members) > 1:
        names = list(dict.fromkeys(type_in_file(m) for m in members))
        return "any" if "any" in names else " | ".join(names)
    if get_origin(annotation) is list and get_args(annotation):
        return f"list[{type_in_file(get_args(annotation)[0])}]"
    if get_origin(annotation) is dict:
        return "dict"
    if get_origin(annotation) is tuple and get_args(annotation):
        return f"tuple[{', '.join('...' if a is ... else type_in_file(a) for a in get_args(annotation))}]"
    annotation = python_number(annotation)
    name = (declared_as(annotation) if isinstance(annotation, type) else None) or type_name(annotation)
    try:
        return name if parse_type(name) == annotation else "any"
    except ValueError:
        return "any"


def reads_back(value: Any, plainly: Any, annotation: Any) -> bool:
    """Whether a literal's JSON data, read for a socket of this type, gives the literal again.

    Args:
        value: The literal.
        plainly: Its JSON data.
        annotation: The type of the socket. A path always reads back, by the socket's file rule.
    """
    if type(value) in _PLAIN or isinstance(value, PurePath):
        return True
    return _same(coerce(value, annotation), coerce(plainly, annotation))


_PLAIN = frozenset({int, float, str, bool, type(None)})


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, PurePath):
        return str(one) == str(other)
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(item, other[key]) for key, item in one.items())
    if dataclasses.is_dataclass(one):
        names = [field.name for field in dataclasses.fields(one)]
        return all(_same(getattr(one, name, None), getattr(other, name, None)) for name in names)
    return bool(one == other)


def names_of_recursive(graph: GraphData, embed: bool = True) -> dict[int, str]:
    """Name the graphs used as nodes that use themselves, directly or through others; returns the names by `id`.

    Args:
        graph: The graph.
        embed: Include graphs that a node names by their file.
    """
    known = {id(part): part for part in graph.with_parts()}
    by_file = {id(n.kind) for part in known.values() for n in part.nodes.values() if n.workflow is not None}
    recursive = {number for number, part in known.items() if _uses_itself(part)}
    found: dict[int, str] = {}
    for number, part in known.items():
        if number in recursive and (embed or number not in by_file):
            stem = re.sub(r"\W+", "_", part.title or (part.file.stem if part.file is not None else "")) or "workflow"
            taken, name, count = set(found.values()), stem, 1
            while name in taken:
                count += 1
                name = f"{stem}_{count}"
            found[number] = name
    return found


def _uses_itself(graph: GraphData) -> bool:
    return any(graph is inner for part in graph.parts.values() for inner in part.with_parts())


class WorkflowWriter:
    """Writes one document, including the graphs used as nodes in it.

    Args:
        folder: The folder of the document, to which paths are written relative.
        embed: Write workflows used as nodes in place, instead of their paths.
        pin: Write the installed versions of nodes that name none.
        stem: The beginning of the names of files that hold values.
        write_file: Writes such a file; without it the document holds only digests.
        keep: Called with the digest and the bytes of each value.
        findable: Refuse nodes that cannot be found by their names.
    """

    def __init__(
        self, folder: Path, *, embed: bool, pin: bool, stem: str, write_file: WriteFile | None, keep: KeepBytes | None,
        findable: bool = False,
    ) -> None:
        self.folder, self.embed, self.pin, self.stem, self.findable = folder, embed, pin, stem, findable
        self.write_file, self.keep = write_file, keep
        self.problems: list[Problem] = []
        self.files: dict[str, str] = {}
        self.count = 0
        self.named: dict[int, str] = {}

    def document(self, graph: GraphData) -> dict[str, Any]:
        """Write the document of a graph.

        Raises:
            WorkflowError: A part of it cannot be written; holds all problems.
        """
        base = graph.folder or Path.cwd()
        self.named = names_of_recursive(graph, self.embed)
        data = {"version": FORMAT}
        inner = _Part(self, graph, base, "").data(0)
        parts = {id(part): part for part in graph.with_parts()}
        named = {name: _Part(self, parts[i], base, f"{name}/").data(1) for i, name in self.named.items()}
        if self.problems:
            raise WorkflowError(self.problems)
        nodes = inner.pop("nodes")
        ends = {key: inner.pop(key) for key in ("outputs", "ui") if key in inner}
        return data | inner | ({"workflows": named} if named else {}) | {"nodes": nodes} | ends

    def name_of(self, graph: object) -> str | None:
        """The name of a workflow that uses itself under `workflows` of the document; None for others."""
        return self.named.get(id(graph))

    def file_for(self, name: str, digest: str, suffix: str) -> str:
        """A name for a value's file that no other value of this document has."""
        safe = re.sub(r"[^\w-]+", "_", name)[:80]
        file, number = f"{self.stem}.{safe}{suffix}", 1
        while self.files.setdefault(file, digest) != digest:
            number += 1
            file = f"{self.stem}.{safe}_{number}{suffix}"
        return file


class _Part:
    """Writes one graph of a document: the outermost, or one used as a node."""

    def __init__(self, writer: WorkflowWriter, graph: GraphData, base: Path, prefix: str) -> None:
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
            value_type = self.codec(declared.default, parse_type(data["type"]))
            if value_type is not None:
                content = self.encoded(INPUTS, declared.name, value_type, declared.default)
                data["default_file"] = self.entry(declared.name, value_type, content)
            else:
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
        if node.workflow is not None and not (self.writer.embed and isinstance(node.kind, GraphData)):
            data["workflow"] = self.rebased(node.workflow)
        elif (name := self.writer.name_of(node.kind)) is not None:
            data["workflow"] = name
        elif isinstance(node.kind, GraphData):
            inner = _Part(self.writer, node.kind, self.base, f"{self.prefix}{id}/")
            data["workflow"] = inner.data(depth + 1)
        else:
            data["node"] = self.name_of(node)
            if self.writer.findable and isinstance(node.kind, NodeDef) and (reason := not_findable(node.kind)):
                self.problem(id, None, *reason)
        links, literals = {}, {}
        for name, value in node.args.items():
            socket = node.sockets.get(name)
            mapped = name in node.each and isinstance(value, list | tuple)
            annotation = Any if socket is None else list[socket.type] if mapped else socket.type  # type: ignore[name-defined]
            if self.is_source(value, annotation):
                links[name] = self.source(id, name, value, annotation)
            else:
                literal = self.literal(id, name, value)
                literals[name] = self.rebased(literal) if socket is not None and socket.file is not None else literal
        parts = {
            "from": links, "with": literals, "each": list(node.each), "keep_going": node.keep_going,
            "ui": self.literal(id, None, node.ui),
        }  # fmt: skip
        return data | {key: part for key, part in parts.items() if part}

    def name_of(self, node: Node) -> str:
        version = node.version
        if isinstance(node.kind, NodeDef) and version is None and self.writer.pin:
            version = node.kind.version
        return node.type if version is None else f"{node.type}@{version}"

    def rebased(self, path: Any) -> Any:
        """Rewrite the relative path of an existing file for the folder of the document."""
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

    def is_source(self, value: Any, annotation: Any) -> bool:
        """Whether an argument is written under `from`: it is a link, or a value that JSON data would not give back."""
        if type(value) is list:
            inner = item_type(annotation) or Any
            return any(self.is_source(item, inner) for item in value)
        return type(value) is Link or self.codec(value, annotation) is not None

    def source(self, id: str, socket: str, value: Any, annotation: Any) -> Any:
        """The entry of an argument under `from`."""
        if type(value) is Link:
            return str(value)
        if type(value) is list:
            inner = item_type(annotation) or Any
            items = [(item, self.is_source(item, inner)) for item in value]
            return [
                self.source(id, socket, item, inner) if linked else {"value": self.literal(id, socket, item)}
                for item, linked in items
            ]
        return f"{VALUES}.{self.held_value(id, socket, value, annotation)}"

    # --- values that JSON cannot hold -----------------------------------------------------------------------------

    def codec(self, value: Any, annotation: Any = Any) -> SocketType[Any] | None:
        """The type by which a value is written to a file; None if it is written as JSON data."""
        if type(value) in _PLAIN:
            return None
        value_type = socket_type(type(value))
        if value_type is not None and value_type.encode is not None and value_type.decode is not None:
            return value_type
        try:
            return None if reads_back(value, plain(value), annotation) else PACKED
        except NoData:
            return PACKED
        except RecursionError:
            return None  # reported when it is written

    def declared_value(self, name: str, value: Any) -> None:
        value_type = self.codec(value)
        if value_type is None:
            self.values[name] = {"value": self.literal(VALUES, name, value)}
        else:
            self.values[name] = self.entry(name, value_type, self.encoded(VALUES, name, value_type, value))

    def encoded(self, node: str, socket: str | None, value_type: SocketType[Any], value: Any) -> bytes | None:
        assert value_type.encode is not None
        try:
            return value_type.encode(value)
        except (NotData, NotStorable) as error:
            self.problem(node, socket, str(error))
        return None

    def held_value(self, id: str, socket: str, value: Any, annotation: Any) -> str:
        """Write a node's literal under `values`; returns its name there, which equal literals share."""
        value_type = self.codec(value, annotation)
        assert value_type is not None
        content = self.encoded(id, socket, value_type, value)
        digest = hashlib.sha256(content or b"").hexdigest()
        name = self.by_digest.get(digest)
        if name is None:
            name = stem = f"{id}_{socket}"
            number = 1
            while name in self.values or name in self.graph.values:
                number += 1
                name = f"{stem}_{number}"
            self.by_digest[digest] = name
            self.values[name] = self.entry(name, value_type, content)
        return name

    def entry(self, name: str, value_type: SocketType[Any], content: bytes | None) -> Mapping[str, Any]:
        if content is None:  # reported as a problem already
            return {}
        digest = hashlib.sha256(content).hexdigest()
        entry = {"type": value_type.name}
        if self.writer.keep is not None:
            self.writer.keep(digest, content)
        if self.writer.write_file is not None:
            entry["file"] = self.writer.file_for(self.prefix + name, digest, value_type.suffix)
            self.writer.write_file(entry["file"], content)
        return entry | {"digest": digest}


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)  # names that were renamed
