"""Pages that are made from the code when the site is built: nodes, commands, events, exit codes, and files of the root.

Nothing of it is written into the repository.
"""

from __future__ import annotations

import ast
import html
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKS = ("std", "flow")
"""The packs whose nodes are listed."""
LINE, WIDTH = 17, 420
"""Pixels of a node's picture: the height of a line, the width of the box."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that come from the code, and the pages that stand in the repository's root."""
    pages = {
        "reference/nodes.md": nodes_page(),
        "reference/commands.md": commands_page(),
        "reference/events.md": events_page(),
        "reference/exit-codes.md": exit_codes_page(),
        "reference/python.md": python_page(),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    for name, file in OF_THE_ROOT.items():
        files.append(File.generated(config, name, content=linked((ROOT / file).read_text("utf-8"))))
    return files


OF_THE_ROOT = {
    "reference/contributing.md": "CONTRIBUTING.md",
    "reference/changelog.md": "CHANGELOG.md",
    "reference/tiny.md": "nodes/graphengine_nodes/tiny/README.md",
}
"""Pages of the site that are files elsewhere in the repository."""


def linked(text: str) -> str:
    """A page of the root with links that lead somewhere in the site; what is no page of it is named without a link."""
    text = re.sub(r"\]\(docs/", "](../", text)
    return re.sub(r"\[([^\]]+)\]\((?!\.\./|https?:|#)[^)]+\)", r"\1", text)


# --- nodes ------------------------------------------------------------------------------------------------------------


def nodes_page() -> str:
    """Every node of the installed packs: picture, help, inputs with types, defaults and limits, outputs."""
    from graphengine.declare.node_groups import node_groups

    what = "Every node of the standard pack and of the engine. `graphengine nodes NAME` shows the same."
    lines = ["# Nodes", "", what, ""]
    packs = {pack: groups for pack, groups in node_groups().items() if pack in PACKS}
    for group, definitions in (item for pack in PACKS for item in packs[pack].items()):
        lines += [f"## {group}", "", *(line for definition in definitions for line in node_section(definition))]
    return "\n".join(lines)


def node_section(definition: Any) -> list[str]:
    """One node: its picture, its docstring and its sockets."""
    name = definition.full_name.rpartition(".")[2]
    lines = [f"### {name}", "", f'<div class="node-picture">{node_picture(definition)}</div>', ""]
    version = f"@{definition.version}" if definition.version else ""
    lines += [code(definition.full_name + version), "", *docstring(definition.doc), ""]
    if definition.sockets:
        lines += ["| input | type | default | limits | |", "| --- | --- | --- | --- | --- |"]
        for socket in definition.sockets.values():
            default = "" if socket.required else code(repr(socket.default))
            lines.append(row(code(socket.name), code(typed(socket.type)), default, limits(socket), cell(socket.doc)))
    if list(definition.outputs) == [""]:
        lines += ["", f"Returns {code(typed(definition.outputs['']))}."]
    else:
        lines += ["", "| output | type |", "| --- | --- |"]
        lines += [row(code(output), code(typed(kind))) for output, kind in definition.outputs.items()]
    return [*lines, "", '<div style="clear: both"></div>', ""]


def typed(annotation: Any) -> str:
    """A type as files and messages name it."""
    from graphengine.values.socket_types import type_name

    return type_name(annotation)


def limits(socket: Any) -> str:
    """What a literal of an input may be."""
    parts = []
    if socket.range is not None:
        low, high = socket.range.min, socket.range.max
        parts.append(f"{'' if low is None else f'{low:g}'} to {'' if high is None else f'{high:g}'}")
    if socket.drawn:
        parts.append("-1 or null draws one")
    if choices := socket.known_choices():
        parts.append("one of " + ", ".join(map(code, choices)))
    if socket.lazy:
        parts.append("lazy")
    if socket.file is not None:
        parts.append(f"{socket.file.kind} to write" if socket.file.write else f"path of a {socket.file.kind}")
    return "; ".join(parts)


def docstring(text: str) -> list[str]:
    """A Google docstring as Markdown: `Args:` and the like in bold, their items as a list."""
    lines: list[str] = []
    for paragraph in text.replace("``", "`").split("\n\n"):
        head, _, rest = paragraph.partition("\n")
        if re.fullmatch(r"[A-Z]\w+:", head) and rest:
            lines += [f"**{head[:-1]}**", ""]
            items = re.split(r"\n(?=\S)", textwrap.dedent(rest))
            for name, _, what in (item.partition(":") for item in items):
                lines.append(f"- `{name}`: {' '.join(what.split())}")
            lines.append("")
        else:
            lines += [paragraph, ""]
    return lines


def node_picture(definition: Any) -> str:
    """A node as editors draw it: inputs at the left, outputs at the right."""
    inputs, outputs = list(definition.sockets.values()), list(definition.outputs.items())
    height = 30 + LINE * max(len(inputs), len(outputs))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="the node {definition.full_name}">',
        f'<rect x="6" y="1" width="{WIDTH - 12}" height="{height - 2}" rx="6"/>',
        f'<text class="title" x="{WIDTH / 2}" y="16" text-anchor="middle">{html.escape(definition.full_name)}</text>',
    ]
    for number, socket in enumerate(inputs):
        y = 34 + LINE * number
        kind = html.escape(textwrap.shorten(typed(socket.type), 34, placeholder=" ..."))
        parts.append(f'<circle cx="6" cy="{y - 4}" r="4"/>')
        parts.append(f'<text x="16" y="{y}">{socket.name} <tspan class="type">{kind}</tspan></text>')
    for number, (name, annotation) in enumerate(outputs):
        y = 34 + LINE * number
        kind = html.escape(textwrap.shorten(typed(annotation), 20, placeholder=" ..."))
        parts.append(f'<circle cx="{WIDTH - 6}" cy="{y - 4}" r="4"/>')
        text = f'{name} <tspan class="type">{kind}</tspan>'
        parts.append(f'<text x="{WIDTH - 16}" y="{y}" text-anchor="end">{text}</text>')
    return "".join(parts) + "</svg>"


# --- commands ---------------------------------------------------------------------------------------------------------


def commands_page() -> str:
    """Every command with its arguments and options."""
    import typer.main

    from graphengine.cli.app import application

    lines = ["# Commands", ""]
    root: Any = typer.main.get_command(application([]))
    for name, command in root.commands.items():
        lines += command_section(f"graphengine {name}", command, "##")
    return "\n".join(lines)


def command_section(name: str, command: Any, level: str) -> list[str]:
    """One command and those under it: its usage, help and options."""
    lines = [f"{level} {name}", "", *paragraphs(command.help or ""), ""]
    subcommands = getattr(command, "commands", {})
    if subcommands and not getattr(command, "invoke_without_command", False):
        return [*lines, *commands_below(name, subcommands, level)]
    import click

    context = click.Context(command, info_name=name)
    lines += ["```text", " ".join(command.get_usage(context).removeprefix("Usage: ").split()), "```", ""]
    options = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and parameter.name != "help":
            options.append(row(code(record[0]), cell(record[1])))
    lines += ["| option | |", "| --- | --- |", *options, ""] if options else []
    return [*lines, *commands_below(name, subcommands, level)]


def commands_below(name: str, commands: Any, level: str) -> list[str]:
    """The commands under a command."""
    return [line for below, one in commands.items() for line in command_section(f"{name} {below}", one, level + "#")]


def paragraphs(text: str) -> list[str]:
    """A command's help as Markdown."""
    return [re.sub(r"<", r"\\<", inspect.cleandoc(text))]


# --- events, exit codes, the Python reference -------------------------------------------------------------------------


def events_page() -> str:
    """What a listener of a run and a listener of a service hears."""
    from graphengine import Event, Kind, Reuse
    from graphengine.service import JobEvent, JobEventKind, State

    lines = [
        "# Events",
        "",
        "Everything that happens in a run is an `Event`. A listener is a function that takes one:",
        "`run(graph, listeners=[print])`. `graphengine run --json` writes the same as lines of JSON.",
        "",
        "## A run's events",
        "",
        "| kind | |",
        "| --- | --- |",
        *(row(code(kind.value), WHAT[kind.name]) for kind in Kind),
        "",
        *attributes(Event),
        "`reuse` says why a node did or did not run:",
        "",
        *(f"- `{reuse.value}`: {WHAT[reuse.name]}" for reuse in Reuse),
        "",
        "## A service's events",
        "",
        "`Service.subscribe` hears what happens to jobs here. `graphengine queue watch --json` and clients over HTTP",
        "are told what the queue's log holds, which has a `number`, and of running jobs the nodes that begin, finish",
        "and fail, progress, previews (`type` and, in base64, `data`), and that a job is silent.",
        "",
        f"The states of a job are {', '.join(code(state.value) for state in State)}.",
        "",
        "| kind | |",
        "| --- | --- |",
        *(row(code(kind.value), WHAT[f"{JobEventKind.__name__}.{kind.name}"]) for kind in JobEventKind),
        "",
        *attributes(JobEvent),
    ]
    return "\n".join(lines)


WHAT = {
    "RUN_STARTED": "The run begins.",
    "NODE_STARTED": "A node begins to compute.",
    "PROGRESS": "A node has done `step` of `total` steps.",
    "PREVIEW": "A node shows what it has so far, in `value`.",
    "NODE_FINISHED": "A node has its value, in `value`; `reuse` says how it came.",
    "NODE_FAILED": "A node raised; `error` is the message.",
    "RUN_FINISHED": "The run has ended well, after `seconds`.",
    "RUN_FAILED": "The run has ended with `error`.",
    "COMPUTED": "It was computed now.",
    "MEMORY": "It was still in memory.",
    "DISK": "It was in the store on disk.",
    "JOINED": "Another run was computing the same value, and this run waited for it.",
    "JobEventKind.QUEUED": "The job was submitted and waits.",
    "JobEventKind.RUNNING": "A service has begun the job; `attempt` counts how often that was.",
    "JobEventKind.DONE": "The job has made what was wanted, in `files`.",
    "JobEventKind.FAILED": "The job has failed with `error`; it is not tried again.",
    "JobEventKind.CANCELLED": "The job has ended because somebody cancelled it.",
    "JobEventKind.CANCELLING": "Somebody has cancelled the job while it runs; it ends within a step.",
    "JobEventKind.LOST": "The service that ran the job has ended, or could not write the job's end; it waits again.",
    "JobEventKind.LEFT": "The service has put the job back, with why in `error`; it waits again.",
    "JobEventKind.WORKER_LOST": "A worker was lost while it computed for the job, which goes on; `error` says how.",
    "JobEventKind.COMPUTED": "A worker has computed a call: `node`, `worker`, `seconds`, how long it `waited`, ...",
    "JobEventKind.SILENT": "The job runs and has given no sign for a minute; `error` says what to do.",
    "JobEventKind.MOVED": "The job was put elsewhere among those that wait, maybe with another `priority`.",
    "JobEventKind.PREFERRED": "The job waits with another `priority`.",
    "JobEventKind.DELETED": "The job was taken out of the history.",
    "JobEventKind.PAUSED": "The jobs of `user` are not begun; of all users where `user` is empty.",
    "JobEventKind.RESUMED": "The pause of `user` has ended.",
    "JobEventKind.WATCHING": "The service tells what happens from now on: its first line on the socket.",
}
"""Events, ways of reuse and, with the name of their class, events of jobs, in a sentence each."""


def attributes(cls: type) -> list[str]:
    """The attributes that a class's docstring lists, as a table."""
    listed = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")[2]
    items = re.split(r"\n(?=\S)", textwrap.dedent(listed).strip())
    rows = [row(code(name), cell(what.strip())) for name, _, what in (item.partition(":") for item in items)]
    return [f"### {cls.__name__}", "", "| attribute | |", "| --- | --- |", *rows, ""]


def exit_codes_page() -> str:
    """The exit codes, as the command line's help has them, and the exceptions of Python with them."""
    from graphengine import GraphEngineError
    from graphengine.cli import app

    text = " ".join(app.HELP.partition("Exit codes:")[2].split()).rstrip(".")
    rows = [row(*part.strip().split(" ", 1)) for part in text.split(";")]
    tree = inspect.cleandoc(inspect.getdoc(inspect.getmodule(GraphEngineError)) or "").partition("\n\n")[2]
    lines = ["# Exit codes and errors", "", "| exit code | |", "| --- | --- |", *rows, ""]
    lines += [
        "An error is a sentence on standard error that says what was wrong, where, and what to do, with a second line",
        "of the inputs where a node failed. `--debug` shows the traceback. With `--json` the last line of standard",
        "output is the error as JSON.",
        "",
        "## Exceptions of Python",
        "",
        "```text",
        *textwrap.dedent(tree.partition("\n\n")[0]).splitlines(),
        "```",
    ]
    return "\n".join(lines)


PACKAGES = {
    "graphengine": "The engine: declare nodes, build graphs, run them.",
    "graphengine.service": "The queue of jobs and what runs them.",
    "graphengine.testing": "Help for tests of nodes, graphs and workflows.",
    "graphengine_nodes": "Types of the standard pack. Its nodes have [a page of their own](nodes.md).",
    "multigen": "The API of multigen.",
}
"""The packages whose public names are documented, and what they are."""


def python_page() -> str:
    """Every public name of the packages, from their docstrings."""
    import importlib

    from graphengine import NodeDef

    lines = ["# Python", ""]
    for package, what in PACKAGES.items():
        lines += [f"## {package}", "", what, ""]
        names = importlib.import_module(package).__all__
        for name in names:
            value = getattr(importlib.import_module(package), name)
            if isinstance(value, NodeDef) and package != "graphengine":
                continue
            own = None if isinstance(value, NodeDef) else getattr(value, "__module__", None)
            home = own if isinstance(own, str) and inspect.getmodule(value) else home_of(package, name)
            lines += [f"::: {home}.{name}", ""]
    return "\n".join(lines)


def home_of(package: str, name: str) -> str | None:
    """The module from which a package takes a name."""
    import importlib

    source = Path(importlib.import_module(package).__file__ or "").read_text("utf-8")
    for statement in ast.walk(ast.parse(source)):
        if isinstance(statement, ast.ImportFrom) and name in {alias.asname or alias.name for alias in statement.names}:
            return statement.module
    return None


# --- tables -----------------------------------------------------------------------------------------------------------


def row(*cells: str) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def code(text: str) -> str:
    """A text as code in a cell of a table, where bars need no escape; nothing for an empty text."""
    return f"`{' '.join(text.split())}`" if text else ""


def cell(text: str) -> str:
    """A text in a cell of a table: on one line, with its bars escaped."""
    return " ".join(text.split()).replace("|", "\\|")
