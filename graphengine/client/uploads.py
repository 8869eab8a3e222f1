"""Orders of jobs as they are sent: a graph as a document, with the local files that it and its inputs name."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, MutableMapping, MutableSequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from graphengine.api import load
from graphengine.declare import registry
from graphengine.declare.shipped import SUFFIXES
from graphengine.errors import FileError, Problem, Where, WorkflowError
from graphengine.graph.data import GraphData
from graphengine.graph.elements import INPUTS
from graphengine.workflow.files import to_document
from graphengine.workflow.write import NoData, plain

Graphs = GraphData | Mapping[str, Any] | str | Path
"""What a job is made of: a graph, a document, a workflow file of this machine, or the name of a workflow of the
server."""
Place = tuple[MutableMapping[str, Any] | MutableSequence[Any], Any]
"""Where in JSON data a file is named: a dictionary or a list, and the key there."""


@dataclass
class Sending:
    """What is sent to run a job.

    Attributes:
        workflow: The name of a workflow of the server, or a document.
        inputs: JSON data.
        files: By file of this machine, the places that name it: there its id is put once it is on the server.
    """

    workflow: str | dict[str, Any]
    inputs: dict[str, Any]
    files: dict[Path, list[Place]] = field(default_factory=dict)

    def name(self, file: Path, id: str) -> None:
        """Put the id of a file in the place of its path."""
        for holder, key in self.files[file]:
            holder[key] = id

    def _add(self, path: str | PurePath, base: Path, holder: Any, key: Any, needed: bool = False) -> None:
        file = base / Path(path).expanduser()
        if file.is_file():
            self.files.setdefault(file, []).append((holder, key))
        elif needed:
            raise FileError(f"there is no file {path}")

    def look_for_files(self, named: set[str], base: Path) -> None:
        """Note the local files that the inputs and the document name.

        Args:
            named: The inputs that name files; paths (`pathlib`) do so in others too.
            base: The folder where relative paths of the document start; those of the inputs start at the current one.
        """
        here = Path.cwd()
        if isinstance(self.workflow, dict):
            named = named | _file_inputs(self.workflow)
            declared = self.workflow.get("inputs")
            for name, facts in declared.items() if isinstance(declared, dict) else ():
                default = facts.get("default") if isinstance(facts, dict) else None
                is_open = name in named and name not in self.inputs
                if is_open and isinstance(default, str) and (base / default).is_file():
                    self.inputs[name] = str(base / default)
            for holder, key in _places(self.workflow):
                self._add(holder[key], base, holder, key)
        for name, value in list(self.inputs.items()):
            self._look(self.inputs, name, value, name in named, here)

    def _look(self, holder: Any, key: Any, value: Any, named: bool, base: Path) -> None:
        if isinstance(value, list):
            for number, item in enumerate(value):
                self._look(value, number, item, named, base)
        elif isinstance(value, PurePath):
            holder[key] = str(value)
            self._add(value, base, holder, key, needed=not named)
        elif named and isinstance(value, str) and not value.startswith(("data:", "sha256:", "http://", "https://")):
            self._add(value, base, holder, key)


def sending(graph: Graphs, inputs: Mapping[str, Any] | None) -> tuple[Sending, Path]:
    """What is sent to run a job, and the folder where relative paths of its document start.

    Args:
        graph: See `Graphs`.
        inputs: Its inputs by name: plain data, and files as paths.

    Raises:
        WorkflowError: The graph or the inputs are no data that can be sent.
    """
    if isinstance(graph, Path) or (isinstance(graph, str) and Path(graph).suffix.lower() in SUFFIXES):
        graph = load(graph)
    if not isinstance(graph, GraphData | Mapping | str):
        raise WorkflowError(f"a {type(graph).__name__} is no graph, document, workflow file, or name of a workflow")
    if not isinstance(inputs, Mapping | None):
        raise WorkflowError(f"the inputs are values by name, not a {type(inputs).__name__}")
    base = Path.cwd()
    if isinstance(graph, GraphData):
        base = graph.folder or base
        kept: list[str] = []
        document: Any = to_document(graph, embed=True, findable=True, keep=lambda digest, content: kept.append(digest))
        if kept:
            what = "the graph holds values that are no plain data, and cannot be sent to a server"
            raise WorkflowError(Problem("no data", what, hint="write them into files, and load those by a node"))
    else:
        document = graph if isinstance(graph, str) else copy.deepcopy(dict(graph))
    return Sending(document, {name: _plain(value, name) for name, value in (inputs or {}).items()}), base


def _plain(value: Any, name: str) -> Any:
    if isinstance(value, PurePath):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, name) for item in value]
    try:
        return plain(value)
    except NoData:
        what = f"a {type(value).__name__} is no plain data, and cannot be sent to a server"
        hint = "write it into a file, and give its path"
        if isinstance(value, float):
            what, hint = f"{value} is no number that can be sent to a server", ""
        raise WorkflowError(Problem("no data", what, Where(node=INPUTS, socket=name), hint=hint)) from None


def _nodes(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The nodes of a document and of the workflows in it."""
    nodes = document.get("nodes")
    for node in nodes.values() if isinstance(nodes, dict) else ():
        if isinstance(node, dict):
            yield node
            if isinstance(node.get("workflow"), dict):
                yield from _nodes(node["workflow"])
    inner = document.get("workflows")
    for part in inner.values() if isinstance(inner, dict) else ():
        if isinstance(part, dict):
            yield from _nodes(part)


def _file_sockets(node: Mapping[str, Any]) -> Iterator[str]:
    """The inputs of a node that name files to read, and nothing else; none for nodes that are not installed here."""
    name = node.get("node")
    definition = registry.find(name.partition("@")[0]) if isinstance(name, str) else None
    if definition is not None:
        yield from (socket for socket, rule in definition.files.items() if not rule.write and not rule.names)


def _places(document: Mapping[str, Any]) -> Iterator[Place]:
    """The places of a document that name files."""
    for node in _nodes(document):
        given = node.get("with")
        if not isinstance(given, dict):
            continue
        for socket in _file_sockets(node):
            value = given.get(socket)
            if isinstance(value, str):
                yield given, socket
            elif isinstance(value, list):
                yield from ((value, number) for number, item in enumerate(value) if isinstance(item, str))


def _file_inputs(document: Mapping[str, Any]) -> set[str]:
    """The declared inputs of a document that name files."""
    declared, nodes = document.get("inputs"), document.get("nodes")
    found = set()
    for name, facts in declared.items() if isinstance(declared, dict) else ():
        if isinstance(facts, dict) and str(facts.get("type", "")).startswith("path"):
            found.add(name)
    for node in nodes.values() if isinstance(nodes, dict) else ():
        links = node.get("from") if isinstance(node, dict) else None
        if not isinstance(links, dict):
            continue
        for socket in _file_sockets(node):
            link = links.get(socket)
            if isinstance(link, str) and link.startswith(f"{INPUTS}."):
                found.add(link.removeprefix(f"{INPUTS}."))
    return found


def file_inputs_of(schema: Mapping[str, Any]) -> set[str]:
    """The inputs that name files, by the JSON Schema of a workflow of the server; models are names there."""
    found = schema.get("properties", {}).items()
    return {name for name, facts in found if facts.get("x-file") not in (None, "weights")}


def read(file: Path) -> tuple[str, bytes]:
    """The id of a file on a server, and its bytes.

    Raises:
        FileError: It cannot be read.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise FileError(f"{file} cannot be read: {error.strerror or error}") from None
    return id_of(content), content


def id_of(content: bytes) -> str:
    """The id of a file on a server."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
