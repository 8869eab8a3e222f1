"""Choose the command's module and import only that."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated

import typer

from graphengine.cli import completion
from graphengine.cli.common import EXIT_CODES, tell
from graphengine.errors import GraphEngineError

COMMANDS = {
    "run": "Run a workflow and write its outputs.",
    "validate": "Check workflow files; show each problem with its line.",
    "workflows": "List the shipped workflows, show or copy one.",
    "nodes": "List or search nodes, or show the help of one.",
    "schema": "Write the JSON Schema of workflow files.",
    "draw": "Draw a workflow: as Mermaid, DOT or SVG.",
    "rerun": "Make a picture again; say what differs from before.",
    "why": "Say which nodes a run would compute, and why.",
    "sweep": "Run a workflow with every combination of values.",
    "cache": "Show, clear or limit what is kept on disk.",
    "queue": "Submit jobs, look at them, cancel and reorder them.",
    "worker": "Run the jobs of this user's queue.",
    "serve": "Run the jobs of this user's queue, and serve them over HTTP.",
}
"""The commands, each the name of a module, with what the list of commands says of it."""

HELP = f"""A node-graph engine for image generation: runs workflow files, checks them and shows them.

Exit codes: {"; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())}.
"""


def start(arguments: list[str]) -> None:
    """Run a command; or tell a shell how the line that it asks about may go on."""
    if os.environ.get(completion.VARIABLE):
        with completion.silent():
            words = completion.asked()
            completion.prepare()
            application(words, completing=True)(args=[], prog_name="graphengine")
    elif arguments[:1] and arguments[0] in completion.OPTIONS:
        try:
            completion.prepare()
            completion.install(lambda: application([])(args=arguments, prog_name="graphengine"), arguments)
        except GraphEngineError as error:
            sys.exit(tell(error))
    else:
        application(arguments)(args=arguments, prog_name="graphengine")


def application(arguments: list[str], completing: bool = False) -> typer.Typer:
    """The application with the command that these arguments name; with all of them where they name none.

    Args:
        completing: A shell asks for completions.
    """
    named = arguments[0] if arguments and arguments[0] in COMMANDS else None
    app = typer.Typer(
        add_completion=completing or named is None, no_args_is_help=True, pretty_exceptions_enable=False,
        rich_markup_mode=None, help=HELP,
    )  # fmt: skip
    app.callback()(_options)
    for name in (named,) if named else COMMANDS:
        module = importlib.import_module(f"graphengine.cli.{name}")
        if hasattr(module, "commands"):
            app.add_typer(module.commands, name=name, short_help=COMMANDS[name])
        else:
            app.command(name, short_help=COMMANDS[name])(module.command)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        from graphengine.version import __version__

        print(f"graphengine {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    pass


_options.__doc__ = HELP
