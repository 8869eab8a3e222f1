"""Workflow parts: how the editor shows what of our documents is no node of ComfyUI.

Declared inputs and outputs are nodes there, of the classes `InputInt`, ... and `Output`. An input node without a name
is a plain value for an input that has no widget. What a node of ours has beyond ComfyUI's (its id, `each`, ...) is kept
as JSON in its property `graphengine`, the marks, which our page also puts into the `_meta` of prompts. It is text,
since the page would round integers above 2**53.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphengine import Problem, Where, WorkflowError

MARKS = "graphengine"
"""The property of a node, the key of `_meta` in prompts, and the key of a workflow's `extra` that holds marks."""
SHOWN_BY = "shown_by"
"""The key under `ui` of a converted document: under `inputs` and `outputs`, the ids in the file of the nodes that stand
for them, by name."""
INPUT_TYPES = {
    "InputInt": "int", "InputSeed": "int", "InputFloat": "float", "InputString": "str", "InputStringMultiline": "str",
    "InputBoolean": "bool", "InputData": "any",
}  # fmt: skip
"""The classes of nodes that are declared inputs, and the types that these have unless the marks say otherwise."""
DATA = "InputData"
"""The class whose value is written as JSON."""
OUTPUT = "Output"
"""The class of nodes that are declared outputs."""
VALUE, NULL, REQUIRED = "value", "null", "required"
"""What an input has if it is not given: the node's value, null (the default of whatever takes it), or nothing."""
DECLARED = ("type", "help", "min", "max", "step", "choices")
"""What marks hold of a declared input."""


def marks_of(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """The marks of a node of a prompt; empty without."""
    meta = node.get("_meta")
    return read_marks(meta.get(MARKS)) if isinstance(meta, dict) else {}


def read_marks(text: Any) -> Mapping[str, Any]:
    """Read marks; what is no JSON object is none."""
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def names(marks: Mapping[str, Any], key: str) -> list[str]:
    """The list of names under a key of marks."""
    found = marks.get(key)
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def flag(marks: Mapping[str, Any], key: str) -> bool:
    """The yes or no under a key of marks."""
    return marks.get(key) is True


@dataclass(frozen=True, slots=True)
class InputNode:
    """A node of a prompt that is a declared input, or a plain value.

    Attributes:
        id: Its id in the prompt.
        name: The input's name; '' for a plain value.
        value: Its default, or the plain value.
        is_given: It has a value.
        facts: The rest of the declaration.
    """

    id: str
    name: str
    value: Any
    is_given: bool
    facts: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def is_class_of(node: Mapping[str, Any]) -> bool:
        """Whether a node of a prompt is of a class of inputs."""
        return node.get("class_type") in INPUT_TYPES

    @staticmethod
    def of(id: str, node: Mapping[str, Any], marks: Mapping[str, Any]) -> InputNode:
        """Read a node of a prompt.

        Raises:
            WorkflowError: A value of its is none.
        """
        class_type, inputs = node["class_type"], node["inputs"]
        name, default, value = inputs.get("name", ""), inputs.get("default", VALUE), inputs.get("value")
        if not isinstance(name, str):
            raise _wrong(id, "name", "the name of an input is a text")
        if default not in (VALUE, NULL, REQUIRED):
            raise _wrong(id, "default", f"{default!r:.60} is not one of {VALUE}, {NULL} and {REQUIRED}")
        if isinstance(value, list):
            raise _wrong(id, "value", "its value is written into it; nothing can be linked to it")
        declared = marks.get("declared")
        facts = {key: declared[key] for key in DECLARED if key in declared} if isinstance(declared, dict) else {}
        facts.setdefault("type", INPUT_TYPES[class_type])
        if default == VALUE and class_type == DATA:
            try:
                value = json.loads(value)
            except (ValueError, TypeError, RecursionError):
                raise _wrong(id, "value", f"{value!r:.60} is no JSON; texts need quotes") from None
        if class_type == "InputFloat" and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if class_type in ("InputInt", "InputSeed") and isinstance(value, float) and value.is_integer():
            value = int(value)
        return InputNode(id, name.strip(), None if default == NULL else value, default != REQUIRED, facts)

    @property
    def declaration(self) -> dict[str, Any]:
        """Its entry under `inputs` of a document."""
        order = {"type": self.facts["type"]} | ({"default": self.value} if self.is_given else {})
        return order | {key: self.facts[key] for key in DECLARED if key in self.facts}


class InputNodes:
    """The nodes of a prompt that are declared inputs or plain values.

    Attributes:
        declared: The declared inputs by name, as documents have them.
    """

    def __init__(self, nodes: Iterable[InputNode]) -> None:
        self._nodes = {node.id: node for node in nodes}
        self.declared: dict[str, Any] = {}
        for node in self._nodes.values():
            if node.name and self.declared.setdefault(node.name, node.declaration) != node.declaration:
                raise _wrong(node.id, "name", f"two different inputs are called {node.name:.60}")
            if not node.name and not node.is_given:
                raise _wrong(node.id, "default", "only an input with a name can be required")

    @property
    def ids(self) -> dict[str, str]:
        """The ids of the nodes of declared inputs, by the inputs' names."""
        return {node.name: node.id for node in self._nodes.values() if node.name}

    def __contains__(self, id: object) -> bool:
        return id in self._nodes

    def constant(self, link: list[Any]) -> InputNode | None:
        """The plain value that a link comes from; None if it comes from anything else."""
        node = self._nodes.get(link[0])
        return node if node is not None and not node.name else None

    def link(self, id: str) -> str:
        """The link to a declared input, as documents write it."""
        return f"inputs.{self._nodes[id].name}"


def _wrong(node: str, socket: str, what: str) -> WorkflowError:
    return WorkflowError(Problem("wrong type", what, Where(node=node, socket=socket)))
