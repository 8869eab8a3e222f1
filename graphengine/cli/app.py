"""The commands by name. Only the module of the one that is asked for is imported."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated

import typer

from graphengine.cli import completion
from graphengine.cli.common import tell
from graphengine.errors import GraphEngineError

COMMANDS = (
    "run", "validate", "workflows", "nodes", "schema", "draw", "rerun", "why", "sweep", "cache", "queue", "worker",
)  # fmt: skip

HELP = """A node-graph engine for image generation: runs workflow files, checks them and shows them.

Exit codes: 0 done; 1 a node failed; 2 the workflow, an input or the command itself is wrong, nothing was run;
3 a file or a model cannot be read or written; 130 cancelled; 141 the reader of the output went away.
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
            app.add_typer(module.commands, name=name)
        else:
            app.command(name)(module.command)
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
