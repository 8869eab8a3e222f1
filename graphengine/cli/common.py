"""Code that all commands share: options, loading workflows and packs, error messages and exit codes."""

from __future__ import annotations

import contextlib
import errno
import functools
import json as json_
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from graphengine.cli import completion
from graphengine.errors import (
    Cancelled,
    FileError,
    GraphEngineError,
    ModelError,
    NodeError,
    Problem,
    WorkflowError,
    text_of,
)
from graphengine.system.devices import check_device

if TYPE_CHECKING:
    from graphengine.graph.data import GraphData

P = ParamSpec("P")

MOST_PROBLEMS = 50
"""The most problems that are printed for people."""
LONGEST_LINE = 2_000
"""The most characters of one printed problem."""
LONGEST_ERROR = 10_000
"""The most characters of a printed error, which may have several lines."""

OK, EXIT_FAILED, WRONG, NO_FILE, CANCELLED, NO_READER = 0, 1, 2, 3, 130, 141
EXIT_CODES = {
    OK: "done",
    EXIT_FAILED: "a node failed",
    WRONG: "the workflow, an input or the command itself is wrong, nothing was run",
    NO_FILE: "a file or a model cannot be read or written",
    CANCELLED: "cancelled",
    NO_READER: "the reader of the output went away",
}
"""What each exit code of a command means."""

Packs = Annotated[
    list[Path] | None,
    typer.Option("--packs", metavar="FOLDER", envvar="GRAPHENGINE_PACKS", help="A folder of .py files with nodes."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON for programs on standard output.")]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE",
        help="Give a declared input a value, or an input of a node (NODE.INPUT=VALUE); texts need no quotes.",
        autocompletion=completion.inputs,
    ),
]
KeepGoing = Annotated[
    bool, typer.Option("--keep-going", help="After a failure, compute all that does not depend on it.")
]
Workflow = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="A workflow file, or the name of a shipped workflow.", autocompletion=completion.workflows
    ),
]
Exact = Annotated[
    bool,
    typer.Option(
        "--exact",
        help="Make each picture as if alone: no batching, no values from processes that compute differently.",
    ),
]
QueueFile = Annotated[
    Path | None, typer.Option("--queue", metavar="FILE", help="The queue's file; default: this user's own queue.")
]
Out = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where outputs are written.")]
Warm = Annotated[
    list[str] | None,
    typer.Option(
        "--warm", metavar="MODEL",
        help="A model, or a workflow for its models, that every worker loads before its first job; may be repeated.",
    ),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Use no values from earlier runs and keep none.")]


def device_option(help: str) -> Any:
    """Make the option `--device`, which may be given several times and refuses names that no device can have."""

    def checked(given: Any) -> Any:
        try:
            for name in [given] if isinstance(given, str) else given or ():
                check_device(name)
        except WorkflowError as error:
            raise typer.BadParameter(str(error)) from None
        return given

    return typer.Option("--device", help=help, callback=checked)


Device = Annotated[str | None, device_option("Where to compute: cpu, cuda:0, ...")]
Roots = Annotated[
    list[Path] | None, typer.Option("--root", metavar="FOLDER", help="Nodes read and write files only inside it.")
]


# --- errors -----------------------------------------------------------------------------------------------------------


def guarded(function: Callable[P, int | None]) -> Callable[P, None]:
    """Make a command of a function that returns an exit code: errors are printed as sentences, without tracebacks."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = function(*args, **kwargs) or OK
            sys.stdout.flush()
        except BaseException as error:
            if isinstance(error, typer.Exit):
                raise
            code = tell(error, debug=bool(kwargs.get("debug")), as_json=bool(kwargs.get("json")))
        raise typer.Exit(code)

    return run


def exit_code(error: BaseException) -> int:
    """The exit code for an error."""
    match error:
        case KeyboardInterrupt() | Cancelled():
            return CANCELLED
        case BrokenPipeError():
            return NO_READER
        case NodeError():
            return NO_FILE if isinstance(error.__cause__, FileError | ModelError) else EXIT_FAILED
        case FileError() | ModelError() | OSError():
            return NO_FILE
        case GraphEngineError():
            return int(getattr(error, "code", WRONG))
    return EXIT_FAILED


def tell(error: BaseException, debug: bool = False, as_json: bool = False) -> int:
    """Print an error on standard error, and with `as_json` as JSON on standard output; returns the exit code."""
    code = exit_code(error)
    if code == NO_READER:
        leave_output()
        return code
    try:
        if as_json:
            data: dict[str, Any] = {"kind": "error", "code": code, "error": sentence(error)}
            if isinstance(error, WorkflowError):
                data["problems"] = [problem.as_dict() for problem in error.problems]
            _print_json(data)
        if debug:
            import traceback

            traceback.print_exception(error)
        if isinstance(error, WorkflowError):
            print_problems(error.problems)
        else:
            print(cut(sentence(error), LONGEST_ERROR), file=sys.stderr, flush=True)
    except BrokenPipeError:
        leave_output()
        return NO_READER
    return code


def _print_json(data: dict[str, Any]) -> None:
    """Print a line of JSON on standard output; print nothing if the disk behind it is full."""
    try:
        print(json_.dumps(data), flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        leave_output()


@contextlib.contextmanager
def naming_nodes(graph: GraphData) -> Iterator[None]:
    """Let the error of a node say which node it is in the file of another tool."""
    try:
        yield
    except GraphEngineError as error:
        if not isinstance(error, WorkflowError):
            error.args = (named_in_file(graph, str(error)),)
        raise


def named_in_file(graph: GraphData, text: str) -> str:
    """The message of a node's failure, with the node's id and title in the file of another tool."""
    from graphengine.graph.validate import in_file

    found = re.match(r"node (\S+) \(\S+\)(?= failed)", text)
    original = None if found is None else in_file(graph, found[1])
    return text if found is None or original is None else f"{found[0]}, {original},{text[found.end():]}"


def sentence(error: BaseException) -> str:
    """An error as one sentence, without a traceback."""
    if isinstance(error, KeyboardInterrupt):
        return f"cancelled {text_of(error)}".rstrip()
    if isinstance(error, Cancelled):
        return "cancelled"
    if isinstance(error, GraphEngineError):
        return str(error)
    if isinstance(error, FileNotFoundError) and not error.filename and _is_homeless():
        return "the current folder is not there any more; change into one that is (cd)"
    if isinstance(error, OSError):
        full = "standard output, or a file, cannot be written: " if error.errno == errno.ENOSPC else ""
        place = f"{error.filename}: " if error.filename else full
        return f"{place}{error.strerror or error}"
    return f"{type(error).__name__}: {text_of(error)} (--debug shows where)"


def _is_homeless() -> bool:
    """Whether the folder in which this process runs was deleted."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def print_problems(problems: Iterable[Problem]) -> None:
    """Print the first problems on standard error, one line each, and how many more there are."""
    listed = list(problems)
    for problem in listed[:MOST_PROBLEMS]:
        print(cut(" ".join(str(problem).split("\n")), LONGEST_LINE), file=sys.stderr)
    if len(listed) > MOST_PROBLEMS:
        print(f"... and {len(listed) - MOST_PROBLEMS:,} more problems; --json writes all", file=sys.stderr)
    sys.stderr.flush()


def cut(text: str, most: int) -> str:
    """Cut the middle out of a text of more than `most` characters, and say how long it was."""
    if len(text) <= most:
        return text
    return f"{text[: most * 3 // 4]} ... {text[-most // 4 :]} ({len(text):,} characters)"


def leave_output() -> None:
    """Discard everything that is still to be written to standard output: its reader has gone, or the disk is full."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


# --- packs and workflows ----------------------------------------------------------------------------------------------


def load_packs(folders: Iterable[Path] | None) -> None:
    """Load the packs in these folders, besides the installed ones, and warn of packs that cannot be loaded."""
    from graphengine.declare import registry

    for folder in folders or ():
        registry.load_folder(folder)
    for failure in registry.failures():
        print(f"warning: {' '.join(str(failure).split())}", file=sys.stderr)


def load_workflow(
    name: str, packs: Iterable[Path] | None = None, roots: Sequence[str | Path] | None = None
) -> GraphData:
    """Load packs, then read a workflow file or a shipped workflow.

    Args:
        name: The path of a file, or the name of a shipped workflow.
        packs: Folders of packs to load first.
        roots: Folders that must contain every file that the workflow names; None allows all.

    Raises:
        WorkflowError: There is no such file, or it cannot be read.
    """
    from graphengine.api import load

    load_packs(packs)
    return load(name, roots=roots, anywhere=True)


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)


def warn(line: str) -> None:
    """Print a line on standard error at once."""
    print(line, file=sys.stderr, flush=True)


def workflow_name(graph: GraphData) -> str:
    """A name for a graph that is safe in file names."""
    name = graph.file.stem if graph.file is not None else graph.name
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name) or "workflow"
