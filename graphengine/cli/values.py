"""Values that are written on a command line: `--set name=value` and `--over name=values`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from graphengine.errors import Problem, Where, WorkflowError, nearest
from graphengine.graph.elements import INPUTS, Input
from graphengine.values.literals import value_fits
from graphengine.values.types import strip

if TYPE_CHECKING:
    from graphengine.graph.data import GraphData

MOST = 10_000
"""Values that one `--over` may stand for."""


def parse_sets(graph: GraphData, pairs: Iterable[str] | None, whole: bool = True) -> dict[str, Any]:
    """The values of `--set name=value`, each read as its declared input's type says.

    Args:
        whole: These are all the values that a run gets: also say what is missing or does not fit.

    Raises:
        WorkflowError: Something is wrong with the graph or with them; holds all problems, the graph's first.
    """
    from graphengine.graph.validate import problems as problems_of
    from graphengine.planning.inputs import bind_inputs

    found: dict[str, Any] = {}
    problems: list[Problem] = problems_of(graph)
    for pair in pairs or ():
        try:
            declared, text = _split(graph, pair, "--set")
            found[declared.name] = parse(text, declared)
        except WorkflowError as error:
            problems += error.problems
    if whole:
        try:
            bind_inputs(graph, found)
        except WorkflowError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if any(problem.severity == "error" for problem in problems):
        raise WorkflowError(problems)
    return found


def parse(text: str, declared: Input) -> Any:
    """A value by the rules of YAML 1.2, except that what may be a text is one, unless it is something else by type.

    `null` and `~` are null where the input may be null. Nothing in a text is a comment, a marker of a document or an
    anchor. What does not fit is returned as it was read: the run says so.
    """
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
    if value is None:  # there is nothing, or only what YAML reads over
        return text if may_be_text or text.strip() else None
    if may_be_text and not isinstance(value, dict | list) and _READ_OVER.search(text) and text.lstrip()[0] not in "'\"":
        return text
    if annotation is Any and isinstance(value, str):
        return value if text.lstrip()[0] in "'\"" else text
    if not is_text or (not isinstance(value, str) and value_fits(value, annotation)):
        return value
    return text


_READ_OVER = re.compile(r"\A\s*(?:&|---|%)|(?:\A|\s)#")
"""What YAML leaves out of a single value: an anchor, a marker of a document, a comment."""
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(\d+))?\Z")


def parse_over(graph: GraphData, axes: Iterable[str]) -> dict[str, list[Any]]:
    """The values of `--over name=values`: `1..8`, `1..9..2`, `10,20`, or a JSON list.

    Raises:
        WorkflowError: An input is unknown, or values cannot be read; holds all such problems.
    """
    found: dict[str, list[Any]] = {}
    problems: list[Problem] = []
    for axis in axes:
        try:
            declared, text = _split(graph, axis, "--over")
            found[declared.name] = _several(text, declared)
        except WorkflowError as error:
            problems += error.problems
    if problems:
        raise WorkflowError(problems)
    return found


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
