"""Record of which nodes of a graph were validated, and of what has changed since."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from graphengine.declare.definition import NodeDef
from graphengine.errors import Problem
from graphengine.graph.elements import Input, Link


class Validated:
    """What of one graph was found right. What is named as changed here is validated before the graph runs.

    A node is found right together with what is declared and with the nodes that it takes something from. What is
    declared stands in plain dictionaries, which anybody may write: what was found right is kept and compared.

    Attributes:
        pending: Nodes that are new or changed, by id.
        made_other: Nodes that are gone, or may make something of another type: what takes from them may be wrong.
        may_cycle: Whether there is a link that may close a cycle.
        inputs, values: The declared inputs, and the types of the values, with which nodes were found right.
        parts: The graphs used as nodes, by `hash`, with the editions that they had before nodes were found right with
            them.
        validators: By definition, the validator by which its nodes were found right.
        right: The edition whose defaults and outputs were found right.
        warnings: What else was told of the whole graph when it was found right; None if something changed since.
    """

    __slots__ = (
        "_declared", "_edition", "inputs", "made_other", "may_cycle", "parts", "pending", "right", "validators",
        "values", "warnings",
    )  # fmt: skip

    def __init__(self) -> None:
        self.pending: dict[str, None] = {}
        self.made_other: dict[str, None] = {}
        self.may_cycle = False
        self.inputs: dict[str, Input] = {}
        self.values: dict[str, type] = {}
        self.parts: dict[int, tuple[Any, tuple[int, int]]] = {}
        self.validators: dict[NodeDef[..., Any], Callable[..., Any] | None] = {}
        self.right = 0
        self.warnings: list[Problem] | None = None
        self._edition = 0
        self._declared: tuple[dict[str, Input], dict[str, Link], dict[str, type]] = ({}, {}, {})

    def edition(self, inputs: Mapping[str, Input], outputs: Mapping[str, Link], values: Mapping[str, Any]) -> int:
        """A number for what a graph declares: it grows when it is asked for after something of that changed."""
        known, links, types = self._declared
        if not (inputs or outputs or values or known or links or types):
            return self._edition  # nothing is declared, and nothing was
        if not same(known, inputs) or links != outputs or types != types_of(values):
            self._declared = dict(inputs), dict(outputs), types_of(values)
            self._edition += 1
        return self._edition

    def begin_edition(self) -> None:
        """Let those who use the graph as a node validate that again: something inside of it has changed."""
        self._edition += 1


def same(known: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Whether two mappings hold the very same objects."""
    return len(known) == len(given) and all(given.get(name) is value for name, value in known.items())


def types_of(values: Mapping[str, Any]) -> dict[str, type]:
    """The types of values by name: all of them that validation looks at."""
    return {name: type(value) for name, value in values.items()}
