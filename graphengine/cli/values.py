"""Parsing of values on the command line: `--set name=value` and `--over name=values`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from graphengine.errors import Problem, Where, WorkflowError, nearest
from graphengine.graph.elements import INPUTS, Input
from graphengine.values.literals import value_fits
from graphengine.values.socket_types import strip

if TYPE_CHECKING:
    from graphengine.graph.data import GraphData
    from graphengine.planning.inputs import BoundInputs

MOST = 10_000
"""The most values of one `--over`."""


def bind_sets(graph: GraphData, pairs: Iterable[str] | None) -> BoundInputs:
    """Parse `--set name=value` options and bind them as the inputs of a run, which gets no further ones.

    Args:
        graph: The graph that declares the inputs.
        pairs: The options' values.

    Raises:
        WorkflowError: The graph or an option is wrong, or an input is missing; holds all problems, those of the graph
            first.
    """
    from graphengine.planning.inputs import bind_inputs

    found, problems = _read_sets(graph, pairs)
    try:
        bound = bind_inputs(graph, found)
    except WorkflowError as error:
        raise WorkflowError(problems + [problem for problem in error.problems if problem not in problems]) from None
    _raise_errors(problems)
    return bound


def parse_sets(graph: GraphData, pairs: Iterable[str] | None) -> dict[str, Any]:
    """Parse `--set name=value` options, each by the type of its declared input; a run may get further inputs.

    Args:
        graph: The graph that declares the inputs.
        pairs: The options' values.

    Raises:
        WorkflowError: The graph or an option is wrong; holds all problems, those of the graph first.
    """
    found, problems = _read_sets(graph, pairs)
    _raise_errors(problems)
    return found


def _read_sets(graph: GraphData, pairs: Iterable[str] | None) -> tuple[dict[str, Any], list[Problem]]:
    """Parse `--set` options; returns the values, and the problems of the graph and of the options."""
    from graphengine.graph.validate import problems as problems_of

    values: dict[str, Any] = {}
    wrong: list[Problem] = []
    for pair in pairs or ():
        try:
            if not _set_literal(graph, pair):
                declared, text = _split(graph, pair, "--set")
                values[declared.name] = parse(text, declared)
        except WorkflowError as error:
            wrong += error.problems
    return values, [*problems_of(graph), *wrong]


def _set_literal(graph: GraphData, pair: str) -> bool:
    """Set an input of a node as `--set NODE.INPUT=VALUE` says, in the graph itself; False if no node is named.

    A node of a file of another tool may be named by its id there.

    Raises:
        WorkflowError: The node has no such input, or the input is linked.
    """
    from graphengine.workflow.formats import original_ids

    name, separator, text = pair.partition("=")
    id, dot, socket_name = name.rpartition(".")
    if not separator or not dot or name in graph.inputs:
        return False
    id = next((ours for ours, original in original_ids(graph).items() if original == id), id)
    if id not in graph.nodes:
        return False
    node, where = graph.nodes[id], Where(node=id, socket=socket_name)
    socket = node.sockets.get(socket_name)
    if socket is None:
        near = nearest(socket_name, node.sockets)
        hint = "" if near else f"it has {', '.join(node.sockets)}"
        what = f"{node.type} has no input {socket_name}"
        raise WorkflowError(Problem("unknown socket", what, where, hint, nearest=near))
    if (link := dict(node.sources()).get(socket_name)) is not None:
        hint = f"set the input {link.port}" if link.node == INPUTS else "set an input of that node"
        raise WorkflowError(Problem("linked", f"it gets its value from {link}", where, hint))
    graph.set(id, socket_name, parse(text, Input(name, socket.type, socket.required, socket.default)))
    return True


def _raise_errors(problems: list[Problem]) -> None:
    if any(problem.severity == "error" for problem in problems):
        raise WorkflowError(problems)


def parse(text: str, declared: Input) -> Any:
    """Parse a value by the rules of YAML 1.2, but as a text if the input accepts texts and no better type fits.

    `null` and `~` are null if the input may be null. Comments, document markers and anchors of YAML are ordinary
    characters in a text. A single value for an input that takes lists is a list of it. A value that does not fit the
    input is returned as parsed; the run reports it.
    """
    value, annotation = _parsed(text, declared), strip(declared.type)
    one = value is not None and not value_fits(value, annotation) and value_fits([value], annotation)
    return [value] if one else value


def _parsed(text: str, declared: Input) -> Any:
    from graphengine.workflow import yaml12

    annotation = strip(declared.type)
    is_text = annotation is not Any and value_fits(text, annotation)
    may_be_text = is_text or annotation is Any
    try:
        value, _ = yaml12.load(text, f"--set {declared.name}")
    except WorkflowError:
        if may_be_text:
            return text
        raise
    if text.strip() in yaml12.NULL_WORDS:
        nullable = not declared.required or value_fits(None, annotation)
        return text if is_text and not nullable else None
    if value is None:  # the text is empty, or holds only what YAML skips
        return text if may_be_text or text.strip() else None
    if may_be_text and not isinstance(value, dict | list) and _READ_OVER.search(text) and text.lstrip()[0] not in "'\"":
        return text
    if annotation is Any and isinstance(value, str):
        return value if text.lstrip()[0] in "'\"" else text
    if not is_text or (not isinstance(value, str) and value_fits(value, annotation)):
        return value
    return text


_READ_OVER = re.compile(r"\A\s*(?:&|---|%)|(?:\A|\s)#")
"""Parts of a text that YAML skips: an anchor, a document marker, a comment."""
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(\d+))?\Z")


def parse_over(graph: GraphData, axes: Iterable[str]) -> dict[str, list[Any]]:
    """Parse `--over name=values` options: `1..8`, `1..9..2`, `10,20`, or a JSON list.

    Raises:
        WorkflowError: An input is unknown, or values cannot be parsed; holds all such problems.
    """
    values: dict[str, list[Any]] = {}
    problems: list[Problem] = []
    for axis in axes:
        try:
            declared, text = _split(graph, axis, "--over")
            values[declared.name] = _several(text, declared)
        except WorkflowError as error:
            problems += error.problems
    if problems:
        raise WorkflowError(problems)
    return values


def _several(text: str, declared: Input) -> list[Any]:
    where = Where(node=INPUTS, socket=declared.name)
    if text.lstrip().startswith("["):
        try:
            values = json.loads(text)
        except ValueError as error:
            raise WorkflowError(Problem("bad list", f"{text:.60} is no JSON list ({error})", where)) from None
    elif match := _RANGE.match(text):
        first, last, step = int(match[1]), int(match[2]), int(match[3] or 1)
        if not step or abs(last - first) // step >= MOST:
            raise WorkflowError(Problem("bad range", f"{text} is no range of at most {MOST:,} values", where))
        values = list(range(first, last + 1, step)) if last >= first else list(range(first, last - 1, -step))
    elif value_fits(text, strip(declared.type)) and "," in text:
        raise WorkflowError(
            Problem("bad list", "texts are written as a JSON list", where,
                    hint=f"--over '{declared.name}={json.dumps([t.strip() for t in text.split(',')])}'")
        )
    else:
        values = [parse(part.strip(), declared) for part in text.split(",")]
    if not values or len(values) > MOST:
        raise WorkflowError(Problem("bad list", f"{text:.60} holds {len(values):,} values", where))
    return list(values)


def _split(graph: GraphData, pair: str, option: str) -> tuple[Input, str]:
    name, separator, text = pair.partition("=")
    if not separator or not name:
        raise WorkflowError(Problem("usage", f"{option} takes name=value, not {pair!r:.60}"))
    declared = graph.inputs.get(name)
    if declared is None:
        near = nearest(name, graph.inputs)
        hint = "" if near else f"it has {', '.join(graph.inputs) or 'none'}"
        raise WorkflowError(
            Problem("unknown input", f"{graph.name} has no input {name}", Where(node=INPUTS, socket=name),
                    nearest=near, hint=hint)
        )
    return declared, text
