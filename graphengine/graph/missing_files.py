"""Warnings about files that a workflow names but that do not exist (yet: one of its nodes may write them)."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from graphengine.declare.definition import NodeDef
from graphengine.declare.sockets import File
from graphengine.errors import FileError, Problem, Where
from graphengine.graph.data import GraphData
from graphengine.graph.elements import INPUTS
from graphengine.graph.validate import placed
from graphengine.keys.files import resolve


def missing_files(graph: GraphData, given: Collection[str] = ()) -> list[Problem]:
    """List a warning, with its line, for each path among the literals and the defaults that does not exist.

    Args:
        graph: The graph.
        given: The declared inputs that get a value, so that their defaults are not checked.
    """
    warnings = []
    for part in graph.with_parts():
        base = part.folder or graph.folder or Path.cwd()
        for id, node in part.nodes.items():
            for name, rule in node.kind.files.items() if isinstance(node.kind, NodeDef) else ():
                for what in _missing(node.literals.get(name), rule, base):
                    warnings.append(placed(part, _warning(what, id, name), ("nodes", id)))
    base = graph.folder or Path.cwd()
    for id, socket, link in graph.bound_sockets():
        definition, declared = graph.nodes[id].kind, graph.inputs.get(link.port)
        if declared is None or declared.name in given or not isinstance(definition, NodeDef):
            continue
        if socket not in definition.files:
            continue
        for what in _missing(declared.default, definition.files[socket], base):
            problem = placed(graph, _warning(what, INPUTS, declared.name), (INPUTS, declared.name))
            warnings += [problem] if problem not in warnings else []
    return warnings


def _warning(what: str, node: str, socket: str) -> Problem:
    return Problem("no file", what, Where(node=node, socket=socket), severity="warning")


def _missing(value: Any, rule: File, base: Path) -> Iterator[str]:
    """The error message for each missing path in a value."""
    if rule.write or rule.missing:
        return
    if isinstance(value, list | tuple):
        for item in value:
            yield from _missing(item, rule, base)
    elif isinstance(value, str | os.PathLike):
        try:
            resolve(Path(value) if isinstance(value, os.PathLike) else value, rule, base)
        except FileError as error:
            yield str(error)
