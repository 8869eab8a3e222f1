"""The commands by name. Only the module of the one that is asked for is imported."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

COMMANDS = (
    "run", "validate", "workflows", "nodes", "schema", "draw", "rerun", "why", "sweep", "cache", "queue", "worker",
)  # fmt: skip

HELP = """A node-graph engine for image generation: runs workflow files, checks them and shows them.

Exit codes: 0 done; 1 a node failed; 2 the workflow, an input or the command itself is wrong, nothing was run;
3 a file or a model cannot be read or written; 130 cancelled; 141 the reader of the output went away.
"""


def application(arguments: list[str]) -> typer.Typer:
    """The application with the command that these arguments name; with all of them where they name none."""
    app = typer.Typer(
        add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, help=HELP
    )
    app.callback()(_options)
    named = arguments[0] if arguments and arguments[0] in COMMANDS else None
    for name in (named,) if named else COMMANDS:
        module = importlib.import_module(f"graphengine.cli.{name}")
        if hasattr(module, "commands"):
            app.add_typer(module.commands, name=name)
        else:
            app.command(name)(module.command)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        from graphengine import __version__

        print(f"graphengine {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    pass


_options.__doc__ = HELP
