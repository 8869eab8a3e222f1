"""Names of output files as the formats of other tools give them to the outputs of their workflows."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from graphengine.declare import registry
from graphengine.declare.definition import NodeDef
from graphengine.errors import FileError, WorkflowError
from graphengine.graph.data import GraphData
from graphengine.graph.elements import Link
from graphengine.graph.selection import link_of
from graphengine.pack import FileName
from graphengine.provenance.steps import Step, steps
from graphengine.values.socket_types import strip, union_members
from graphengine.workflow.formats import formats

PLAIN = (str, int, float, bool, type(None))
LONGEST = 200
"""The most bytes of each part of a path."""
_UNFIT = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]" if os.name != "nt" else r'[\x00-\x1f\x7f<>:"|?*\\\ud800-\udfff]')
UNKNOWN = object()


def file_name(
    graph: GraphData, inputs: Mapping[str, Any], output: str, value: Any, item: int | None = None,
    base: Path | None = None,
) -> FileName | None:  # fmt: skip
    """How the files of an output are named, where the format of its node says so; None: as all others.

    Args:
        graph, inputs: What was run; the inputs as they were given, or as they were bound for the run.
        output: A declared output's name, or a node's id.
        value: The value that is written.
        item: Its number, if the output is a list.
        base: The folder at which relative paths among the inputs start; by default the current one.

    Raises:
        FileError: The name leads outside the folder of the outputs, or no file can have it.
    """
    try:
        link = link_of(graph, output)
    except WorkflowError:
        return None
    node = graph.nodes.get(link.node)
    if node is None or not isinstance(node.kind, NodeDef):
        return None
    for format in formats():
        if format.file_name is not None and format.is_output is not None and format.is_output(node.kind):
            named = format.file_name(node.kind, _arguments(graph, inputs, link, item, base), value)
            if named is not None:
                _check(named.path)
                return named
    return None


def _arguments(
    graph: GraphData, inputs: Mapping[str, Any], link: Link, item: int | None, base: Path | None
) -> dict[str, Any]:
    """The plain values of the inputs of an output's node, as far as they are known."""
    try:
        step = steps(graph, inputs, link.node, item, base)
    except WorkflowError:
        return {}
    definition = registry.find(step.node) if isinstance(step, Step) else None
    if definition is None:
        return {}
    named = {name: _known(value, definition.pack) for name, value in step.inputs.items()
             if name in definition.sockets and _is_plain(definition.sockets[name].type)}  # fmt: skip
    return {name: value for name, value in named.items() if value is not UNKNOWN}


def _known(value: Any, pack: str) -> Any:
    """A plain value, also one that quick nodes of the same pack make of plain values alone; else `UNKNOWN`."""
    if isinstance(value, PLAIN):
        return value
    definition = registry.find(value.node) if isinstance(value, Step) else None
    if definition is None or definition.pack != pack or definition.on != "here" or definition.expand:
        return UNKNOWN
    if definition.files or not all(_is_plain(socket.type) for socket in definition.sockets.values()):
        return UNKNOWN
    given = {name: _known(part, pack) for name, part in value.inputs.items()}
    if any(part is UNKNOWN for part in given.values()):
        return UNKNOWN
    try:
        made = definition(**given)
    except Exception:  # it has been run with these values, so that this is no mistake of the workflow
        return UNKNOWN
    return made if isinstance(made, PLAIN) else UNKNOWN


def _is_plain(annotation: Any) -> bool:
    return all(strip(member) in PLAIN for member in union_members(strip(annotation)))


def _check(path: str) -> None:
    """Refuse a path that leads out of its folder, is hidden, or that no file can have."""
    parts = PurePosixPath(path).parts
    wrong = not parts or path.startswith("/") or _UNFIT.search(path) is not None
    if wrong or any(part.startswith(".") or len(part.encode()) > LONGEST for part in parts):
        raise FileError(f"outputs cannot be called {path[:80]!r}: a name, or a path inside the folder of the outputs")
