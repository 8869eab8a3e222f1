"""Options and error handling that the steps' command lines share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from training.errors import TrainingError

WorkFolder = Annotated[Path, typer.Argument(help="The work folder, made where it is missing.")]
Minutes = Annotated[float | None, typer.Option(help="Train so many minutes in all, interruptions not counted.")]
Samples = Annotated[int | None, typer.Option(help="Train on so many samples in all, instead of --minutes.")]
Rate = Annotated[float | None, typer.Option(help="Highest learning rate, instead of the recipe's.")]
FromWeights = Annotated[
    Path | None,
    typer.Option(help="Begin from the weights of an exported folder (the shipped one, say); copies what WORK lacks."),
]
Processes = Annotated[int | None, typer.Option(help="Processes of one thread; one for each core if not given.")]


def run(command: Callable[..., None]) -> None:
    """Run `command` as this process's command line; a `TrainingError` is one line and exit code 1."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    try:
        app()
    except TrainingError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from None
