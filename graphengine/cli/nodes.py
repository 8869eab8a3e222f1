"""`graphengine nodes`: which nodes there are, and what each of them takes and gives. Imports no torch."""

from __future__ import annotations

import json as json_
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphengine.cli.common import Debug, Json, Packs, guarded, load_packs
from graphengine.errors import Problem, WorkflowError
from graphengine.node_help import help_of, wrapped
from graphengine.types import type_name

if TYPE_CHECKING:
    from graphengine.definition import NodeDef


@guarded
def command(
    name: Annotated[str | None, typer.Argument(help="A node: its help, inputs and outputs.")] = None,
    json: Json = False,
    packs: Packs = None,
    debug: Debug = False,
) -> None:
    """List all nodes, or show the help of one."""
    from graphengine import registry

    load_packs(packs)
    if name is None:
        found = dict(sorted(registry.nodes().items()))
        if json:
            print(json_.dumps([facts(definition) for definition in found.values()], indent=2, default=str))
        else:
            _table(found)
        return
    definition = registry.find(name)
    if definition is None:
        sentence, near = registry.why_not(name)
        raise WorkflowError(Problem("unknown node", sentence, found=name, nearest=near))
    print(json_.dumps(facts(definition), indent=2, default=str) if json else help_of(definition, _columns()))


def _table(found: dict[str, NodeDef[..., Any]]) -> None:
    width = max((len(name) for name in found), default=0)
    columns = _columns()
    for name, definition in found.items():
        for line in wrapped(f"{name:<{width}}  ", first_line(definition), "", columns):
            print(line)


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000


def first_line(definition: NodeDef[..., Any]) -> str:
    """The first sentence of a node's help."""
    return definition.doc.partition("\n")[0]


def facts(definition: NodeDef[..., Any]) -> dict[str, Any]:
    """A node as JSON data."""
    inputs = []
    for socket in definition.sockets.values():
        told: dict[str, Any] = {"name": socket.name, "type": type_name(socket.type), "required": socket.required}
        if not socket.required:
            told["default"] = socket.default
        if socket.range is not None:
            told["range"] = [socket.range.min, socket.range.max, socket.range.step]
        if socket.choices is not None:
            told["choices"] = list(socket.choices.values())
        if socket.doc:
            told["help"] = socket.doc
        inputs.append(told)
    outputs = [{"name": name, "type": type_name(kind)} for name, kind in definition.outputs.items()]
    return {
        "name": definition.full_name,
        "version": definition.version,
        "help": definition.doc,
        "inputs": inputs,
        "outputs": outputs,
    }
