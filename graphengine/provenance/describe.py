"""The record that a picture carries: the workflow, its inputs, and the versions and weights that it was made with.

Files are recorded by name and SHA-256, never with their folders: a picture reveals nothing about the machine on which
it was made, and `graphengine rerun` finds the files again wherever they are.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import logging
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphengine.declare.definition import NodeDef
from graphengine.declare.sockets import File
from graphengine.errors import FileError, WorkflowError
from graphengine.graph.combine import copy
from graphengine.graph.data import GraphData, Node, folder_of
from graphengine.graph.elements import INPUTS, Link, has_links
from graphengine.graph.order import packs_of
from graphengine.keys.files import fingerprint, resolve
from graphengine.pack import version_stamp
from graphengine.planning.inputs import bound_inputs
from graphengine.provenance.steps import Step, references, steps
from graphengine.values.socket_types import socket_type

_log = logging.getLogger(__name__)

FORMAT = 1
MOST_HELD = 1 << 20
"""The most bytes of values that JSON cannot hold and that are stored in a picture."""
CHUNK = "graphengine"
"""The name of the PNG text chunk that holds the record, as JSON."""
PARAMETERS = "parameters"
"""The name of the text chunk that other tools read."""
EXIF, MAKER_NOTE = 0x8769, 0x927C
"""The EXIF directory and tag in which JPEG and WebP files hold the text chunks, as one JSON object."""

Position = tuple[str | int, ...]


def chunks(
    graph: GraphData,
    inputs: Mapping[str, Any],
    output: str,
    value: Any,
    made: Mapping[str, Any],
    *,
    base: Path | None = None,
    item: int | None = None,
    exact: bool = False,
) -> dict[str, str]:
    """Make the text chunks of a picture; empty, with a logged warning, if its graph cannot be written.

    Args:
        graph, inputs: What was run; the inputs as they were given, or as they were bound for the run.
        output: The output of which the value is: a declared output's name, or a node's id.
        value: The picture.
        made: How it was made (`Result.made[output]`).
        base: The folder at which relative paths among the inputs start; by default the current one.
        item: The number of the picture, if the output is a list.
        exact: Whether it was an exact run.
    """
    try:
        bound = bound_inputs(graph, inputs, base)
        record = describe(graph, bound, output, made, item=item, exact=exact)
    except WorkflowError as error:
        _log.warning("the picture will not carry how it was made: %s", error)
        return {}
    found = {CHUNK: json.dumps(record, ensure_ascii=False, default=str)}
    asked = [pack for pack in packs_of(graph) if pack.parameters is not None]
    source = steps(graph, bound, output, item) if asked else None
    for pack in asked:
        assert pack.parameters is not None
        if isinstance(source, Step) and (text := pack.parameters(source, value)):
            found[PARAMETERS] = text
            break
    return found


def describe(
    graph: GraphData,
    inputs: Mapping[str, Any],
    output: str,
    made: Mapping[str, Any],
    *,
    base: Path | None = None,
    item: int | None = None,
    exact: bool = False,
) -> dict[str, Any]:
    """Make the record of how a value was made, as JSON data; the arguments are those of `chunks`."""
    from graphengine.workflow.files import to_document

    bound = bound_inputs(graph, inputs, base)
    graph = bound.graph
    plain, given, files = without_folders(graph, bound.given, bound.base or Path.cwd())
    held: dict[str, bytes] = {}
    record: dict[str, Any] = {
        "format": FORMAT,
        "name": graph.file.stem if graph.file is not None else graph.name,
        "workflow": to_document(plain, embed=True, pin=True, keep=held.__setitem__),
        "inputs": given,
        "output": output,
        "files": files,
        "weights": weights(graph, bound, output),
        "made": dict(made),
        "versions": versions(graph),
        "exact": exact,
    }
    if item is not None:
        record["item"] = item
    if held and sum(map(len, held.values())) <= MOST_HELD:
        record["held"] = {digest: base64.b64encode(content).decode() for digest, content in held.items()}
    return record


def versions(graph: GraphData) -> dict[str, Any]:
    """The installed versions that affect a graph's results: of graphengine, Python and the packs it uses."""
    from graphengine.version import __version__

    return {
        "graphengine": __version__,
        "python": platform.python_version(),
        "packs": {pack.name: list(version_stamp(pack)) for pack in packs_of(graph)},
    }


def weights(
    graph: GraphData, inputs: Mapping[str, Any], output: str, base: Path | None = None
) -> dict[str, dict[str, str]]:
    """The references to weights that an output needs: by node, the type, a name for people and the digest."""
    found = {}
    for id, value in references(graph, inputs, output, base).items():
        kind = socket_type(type(value))
        if kind is not None and kind.digest is not None:
            name = str(getattr(value, "source", ""))
            found[id] = {"type": kind.name, "name": Path(name).name, "digest": kind.digest(value, None)}
    return found


# --- files by name and hash -------------------------------------------------------------------------------------------


def file_rule(kind: NodeDef[..., Any] | GraphData | str, socket: str) -> File | None:
    """The file rule of a node's input; of a workflow's input, that of the node's input to which it is linked."""
    if isinstance(kind, NodeDef):
        return kind.files.get(socket)
    if isinstance(kind, str):
        return None
    for node in kind.nodes.values():
        for name, link in node.sources():
            if link == Link(INPUTS, socket) and (rule := file_rule(node.kind, name)) is not None:
                return rule
    return None


def without_folders(
    graph: GraphData, inputs: Mapping[str, Any], base: Path
) -> tuple[GraphData, dict[str, Any], list[dict[str, Any]]]:
    """Copy a graph and its inputs with files by name only; returns the copies, and the facts about these files."""
    from graphengine.workflow.write import NoData, plain

    files: list[dict[str, Any]] = []
    given = {}
    for name, value in inputs.items():
        with contextlib.suppress(NoData):  # what is no data was given by a program, which has to give it again
            given[name] = plain(_named(value, file_rule(graph, name), base, (INPUTS, name), files))
    from graphengine.workflow.write import names_of_recursive

    return _without_folders(graph, ("workflow",), files, set(given), names_of_recursive(graph), {}), given, files


def _without_folders(
    graph: GraphData, place: Position, files: list[dict[str, Any]], given: set[str], named: Mapping[int, str],
    twins: dict[int, GraphData],
) -> GraphData:
    """Copy a graph without folders.

    Args:
        graph: The graph.
        place: Its position in the record.
        files: Filled with the facts about files.
        given: The declared inputs that get a value.
        named: The names, by `id`, of graphs that use themselves; such a graph stands once in the record.
        twins: The copies of these, by `id`; filled.
    """
    base, twin = folder_of(graph), copy(graph)
    twin.title = graph.title or (graph.file.stem if graph.file is not None and id(graph) in named else "")
    twin.file = None
    if place[:2] == ("workflow", "workflows"):
        twins[id(graph)] = twin
    for name, declared in graph.inputs.items():
        # A default that is not used is named only: its file need not exist.
        at = () if name in given else (*place, INPUTS, name, "default")
        default = _named(declared.default, file_rule(graph, name), base, at, files)
        twin.inputs[name] = dataclasses.replace(declared, default=default)
    for name_of_node, node in graph.nodes.items():
        here = (*place, "nodes", name_of_node)
        kind = node.kind
        if isinstance(kind, GraphData) and id(kind) in twins:
            kind = twins[id(kind)]
        elif isinstance(kind, GraphData) and id(kind) in named:
            kind = _without_folders(kind, ("workflow", "workflows", named[id(kind)]), files, set(), named, twins)
        elif isinstance(kind, GraphData):
            kind = _without_folders(kind, (*here, "workflow"), files, set(node.args), named, twins)
        args = {}
        for name, value in node.args.items():
            rule = file_rule(node.kind, name)
            if rule is not None and isinstance(value, list) and has_links(value):
                at = (*here, "from", name)
                args[name] = [_named(v, rule, base, (*at, n, "value"), files) for n, v in enumerate(value)]
            else:
                args[name] = _named(value, rule, base, (*here, "with", name), files)
        workflow = Path(node.workflow).name if node.workflow else None
        twin.put(name_of_node, Node(kind, args, node.each, node.version, workflow, node.ui, node.keep_going))
    return twin


def _named(value: Any, rule: File | None, base: Path, place: Position, files: list[dict[str, Any]]) -> Any:
    if isinstance(value, Path):
        value = str(value)
    if rule is None or value is None or type(value) is Link:
        return value
    if isinstance(value, list | tuple):
        return [_named(item, rule, base, (*place, n) if place else (), files) for n, item in enumerate(value)]
    if rule.write or not isinstance(value, str):
        return Path(value).name if isinstance(value, str) else value
    try:
        path = resolve(value, rule, base)
    except FileError:
        return Path(value).name
    if isinstance(path, str):
        return path  # a name, as the rule allows
    if place:
        facts: dict[str, Any] = {"at": list(place), "name": path.name, "sha256": fingerprint(path)}
        if path.is_file():
            facts["size"] = path.stat().st_size
        files.append(facts)
    return path.name
