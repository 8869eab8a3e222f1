"""Warnings about files that a workflow names but that do not exist (yet: one of its nodes may write them)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graphengine.declare.definition import NodeDef
from graphengine.declare.sockets import File
from graphengine.errors import FileError, Problem, Where
from graphengine.graph.data import GraphData
from graphengine.graph.elements import INPUTS
from graphengine.graph.validate import placed
from graphengine.keys.files import resolve


def missing_files(graph: GraphData, given: Mapping[str, Any] | None = None, base: Path | None = None) -> list[Problem]:
    """List a warning, with its line, for each path among the literals and the inputs' values that does not exist.

    Args:
        graph: The graph.
        given: The values that the declared inputs get in the place of their defaults.
        base: Where relative paths among these start; None: they are not checked.
    """
    given = given or {}
    warnings = []
    for part in graph.with_parts():
        folder = part.folder or graph.folder or Path.cwd()
        for id, node in part.nodes.items():
            for name, rule in node.kind.files.items() if isinstance(node.kind, NodeDef) else ():
                for what in _missing(node.literals.get(name), rule, folder):
                    warnings.append(placed(part, _warning(what, id, name), ("nodes", id)))
    folder = graph.folder or Path.cwd()
    for id, socket, link in graph.bound_sockets():
        definition, declared = graph.nodes[id].kind, graph.inputs.get(link.port)
        if declared is None or not isinstance(definition, NodeDef) or socket not in definition.files:
            continue
        if declared.name not in given:
            value, start = declared.default, folder
        elif base is not None:
            value, start = given[declared.name], base
        else:
            continue
        for what in _missing(value, definition.files[socket], start):
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
