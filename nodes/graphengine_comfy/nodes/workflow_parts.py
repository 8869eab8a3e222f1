"""Inputs and outputs of a workflow: how ComfyUI's editor shows what workflows of ours declare.

The file formats make declared inputs and outputs of these nodes; run as nodes, they give their value.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from graphengine import Choices, Doc, Drawn, Multiline, Range, node

SAFE = 2**53 - 1
"""The largest integer that the editor's page keeps exactly."""
Name = Annotated[str, Doc("The input's name in the workflow; without one, this is a plain value.")]
Default = Annotated[
    str, Choices("value", "null", "required"),
    Doc("What it is if nobody gives it: this value, null (the default of what it is linked to), or it must be given."),
]  # fmt: skip


@node(version=1)
def InputInt(*, name: Name = "", default: Default = "value",
             value: Annotated[int, Range(-SAFE, SAFE, 1)] = 0) -> int:  # fmt: skip
    """Declare an input of the workflow that is a whole number."""
    return value


@node(version=1)
def InputSeed(
    *, name: Name = "", default: Default = "value", value: Annotated[int, Drawn(), Range(-1, SAFE, 1)] = 0
) -> int:
    """Declare an input of the workflow that is a seed."""
    return value


@node(version=1)
def InputFloat(*, name: Name = "", default: Default = "value", value: float = 0.0) -> float:
    """Declare an input of the workflow that is a number."""
    return value


@node(version=1)
def InputString(*, name: Name = "", default: Default = "value", value: str = "") -> str:
    """Declare an input of the workflow that is a text of one line, a name or a path."""
    return value


@node(version=1)
def InputStringMultiline(
    *, name: Name = "", default: Default = "value", value: Annotated[str, Multiline()] = ""
) -> str:
    """Declare an input of the workflow that is a text."""
    return value


@node(version=1)
def InputBoolean(*, name: Name = "", default: Default = "value", value: bool = False) -> bool:
    """Declare an input of the workflow that is a yes or no."""
    return value


@node(version=1)
def InputData(
    *, name: Name = "", default: Default = "value",
    value: Annotated[str, Multiline(), Doc("As JSON: a text in quotes, a list such as [1, 2].")] = "null",
) -> Any:  # fmt: skip
    """Declare an input of the workflow that is a list, or anything else that JSON can hold."""
    return json.loads(value)


@node(version=1)
def Output(*, value: Any, name: Annotated[str, Doc("The output's name in the workflow.")] = "") -> Any:
    """Declare an output of the workflow: it is written to a file where that is possible, and shown here."""
    return value
