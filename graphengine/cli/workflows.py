"""`graphengine workflows`: list shipped workflows, show one, or copy one. Imports no torch."""

from __future__ import annotations

import json as json_
import shlex
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphengine.cli import completion
from graphengine.cli.common import Debug, Json, Packs, cut, guarded, load_packs
from graphengine.cli.nodes import columns
from graphengine.declare.node_facts import socket_facts
from graphengine.declare.node_help import limits, wrapped
from graphengine.errors import FileError, Problem, WorkflowError
from graphengine.graph.type_inference import output_type
from graphengine.system.terminal import printable
from graphengine.values.socket_types import type_name

if TYPE_CHECKING:
    from graphengine.graph.data import GraphData

LONGEST = 200
"""The most characters of a default in the table of inputs."""


@guarded
def command(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A shipped workflow, or a workflow file: its inputs, outputs and nodes.",
            autocompletion=completion.workflows,
        ),
    ] = None,
    copy: Annotated[
        Path | None, typer.Option("--copy", metavar="FILE", help="Write a copy of it, to edit: .yaml or .json.")
    ] = None,
    as_: Annotated[
        str | None,
        typer.Option("--as", metavar="FORMAT", help="The format of the copy, if it is another tool's: comfyui."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Let the copy overwrite files.")] = False,
    json: Json = False,
    packs: Packs = None,
    debug: Debug = False,
) -> None:
    """List the shipped workflows, show one of them, or copy it.

    A copy is written together with the files that it names, such as pictures, and runs as the shipped one does. With
    --as comfyui it is a prompt in ComfyUI's API format, with the defaults of the inputs.
    """
    from graphengine.api import load
    from graphengine.workflow.files import shipped

    if force and copy is None:
        raise WorkflowError(Problem("usage", "--force belongs to --copy FILE"))
    if as_ is not None and copy is None:
        raise WorkflowError(Problem("usage", "--as belongs to --copy FILE"))
    if copy is not None and name is None:
        raise WorkflowError(Problem("usage", "--copy needs the name of a workflow: graphengine workflows NAME --copy "
                                    f"{copy}"))
    load_packs(packs)
    if name is None:
        listed = [_facts_or_error(known, file) for known, file in shipped().items()]
        print(json_.dumps(listed, indent=2, default=str)) if json else _list(listed)
        return
    graph = load(name)
    if copy is None:
        data = facts(name, graph)
        print(json_.dumps(data, indent=2, default=str)) if json else _show(data, graph)
        return
    from graphengine.workflow.copies import copy_workflow

    assert graph.file is not None  # it was loaded from one
    written = copy_workflow(graph.file, copy, force=force) if as_ is None else _export(graph, copy, as_, force)
    if json:
        print(json_.dumps({"workflow": name, "files": [str(file) for file in written]}))
    else:
        for file in written:
            print(file)


def _export(graph: GraphData, target: Path, format: str, force: bool) -> list[Path]:
    """Write a workflow in the format of another tool; returns the file."""
    from graphengine.system.staging import write_file
    from graphengine.workflow.formats import exported

    if target.suffix.lower() != ".json":
        raise WorkflowError(Problem("bad name", f"{target} is no name for a file of another tool", hint="end it in "
                                    ".json"))
    text = json_.dumps(exported(graph, format), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if target.exists() and not force:
        raise FileError(f"{target} would be overwritten; say --force to do that")
    write_file(target, text.encode())
    return [target]


def facts(name: str, graph: GraphData) -> dict[str, Any]:
    """A workflow as JSON data."""
    from graphengine.declare.definition import NodeDef

    used = {node.type: None for part in graph.with_parts() for node in part.nodes.values()
            if isinstance(node.kind, NodeDef | str) and node.type}  # fmt: skip
    return {
        "name": name,
        "title": graph.title,
        "description": graph.description,
        "file": str(graph.file),
        "inputs": [
            socket_facts(replace(declared.socket(), type=declared.type)) for declared in graph.inputs.values()
        ],
        "outputs": [
            {"name": output, "type": type_name(output_type(graph, link))} for output, link in graph.outputs.items()
        ],
        "nodes": list(used),
        "command": run_command(name, graph),
    }


def run_command(name: str, graph: GraphData) -> str:
    """The command that runs a workflow, with all required inputs, or else one input as an example."""
    needed = [declared for declared in graph.inputs.values() if declared.required]
    shown = needed or [given for given in graph.inputs.values() if given.default is not None][:1]
    sets = [
        f"--set {shlex.quote(f'{given.name}={_text(given.default) if not given.required else given.name.upper()}')}"
        for given in shown
    ]
    return " ".join(["graphengine run", shlex.quote(name), *sets])


def _text(value: Any) -> str:
    """Write a value as `--set` parses it."""
    return value if isinstance(value, str) else json_.dumps(value, default=str)


def _facts_or_error(name: str, file: Path) -> dict[str, Any]:
    """A shipped workflow as JSON data; if it cannot be read, its error."""
    from graphengine.api import load

    try:
        return facts(name, load(file))
    except WorkflowError as error:
        return {"name": name, "file": str(file), "error": str(error.problems[0])}


def _list(workflows: list[dict[str, Any]]) -> None:
    """Print a line for each workflow: its name and its description."""
    width = max((len(data["name"]) for data in workflows), default=0)
    for data in workflows:
        if "error" in data:
            print(f"warning: {' '.join(data['error'].split())}", file=sys.stderr)
        makes = "cannot be read" if "error" in data else data["description"] or data["title"]
        for line in wrapped(f"{data['name']:<{width}}  ", makes, "", columns()):
            print(line)
    if not workflows:
        print("no installed pack brings workflows", file=sys.stderr)


def _show(data: dict[str, Any], graph: GraphData) -> None:
    """Print a workflow's title, description, inputs, outputs and nodes."""
    width = columns()
    print("\n".join(wrapped(f"{data['name']}: " if data["title"] else "", data["title"] or data["name"], "", width)))
    if data["description"]:
        print("\n".join(["", *wrapped("", data["description"], "", width)]))
    print("\nInputs:" if data["inputs"] else "\nIt has no inputs.")
    for line in _table(graph, width):
        print(line)
    print("\nOutputs:" if data["outputs"] else "\nIt declares no outputs.")
    for output in data["outputs"]:
        print(f"  {output['name']}: {output['type']}")
    print("\nNodes:")
    print("\n".join(wrapped("  ", ", ".join(data["nodes"]), "", width)))
    print(f"\nRun it:\n  {data['command']}")


def _table(graph: GraphData, width: int) -> Iterator[str]:
    """The lines of a table of a graph's inputs, whose cells wrap at words."""
    rows = []
    for declared in graph.inputs.values():
        default = "must be given" if declared.required else cut(_text(declared.default), LONGEST)
        help = limits(replace(declared.socket(), lazy=False))
        rows.append([printable(cell) for cell in (declared.name, type_name(declared.type), default, help)])
    widths = [max((len(cell) for cell in column), default=0) for column in list(zip(*rows, strict=True))[:3]]
    widths[2:] = [min(size, max(24, width // 3)) for size in widths[2:]]
    widths.append(max(20, width - sum(widths) - 2 * 4))
    for row in rows:
        cells = [textwrap.wrap(cell, size, break_on_hyphens=False) for cell, size in zip(row, widths, strict=True)]
        for parts in zip_longest(*cells, fillvalue=""):
            line = "  ".join(part.ljust(size) for part, size in zip(parts, widths, strict=True))
            yield f"  {line.rstrip()}"
