"""`graphengine sweep`: run a workflow over several values of its inputs, and make a contact sheet."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphengine.cli import completion
from graphengine.cli.common import (
    OK,
    Debug,
    Device,
    Json,
    NoCache,
    Out,
    Packs,
    Roots,
    Sets,
    Workflow,
    exit_code,
    guarded,
    load_workflow,
    tell,
    workflow_name,
)
from graphengine.errors import Cancelled, GraphEngineError, Problem, WorkflowError

if TYPE_CHECKING:
    from graphengine.cli.sheet import SheetCell
    from graphengine.execution.run import Result
    from graphengine.graph.data import GraphData
    from graphengine.planning.inputs import BoundInputs
    from graphengine.results.outputs import OutputWriter

MOST_RUNS = 10_000
Over = typer.Option(
    "--over", metavar="NAME=VALUES", help="1..8, 1..9..2, 10,20, or a JSON list of texts.",
    autocompletion=completion.inputs,
)  # fmt: skip


@guarded
def command(
    file: Workflow,
    over: Annotated[list[str], Over],
    set: Sets = None,
    out: Out = Path("out"),
    json: Json = False,
    no_cache: NoCache = False,
    packs: Packs = None,
    device: Device = None,
    root: Roots = None,
    debug: Debug = False,
) -> int:
    """Run a workflow with every combination of values, and make a labelled sheet of the pictures.

    What does not depend on what changes is computed once. The last --over changes fastest and makes the columns. (For
    several workers at once: `graphengine queue submit --over`.)
    """
    graph = load_workflow(file, packs, root)
    from graphengine.cli.execute import Session, needed, print_warnings

    session = Session(graph, no_cache)
    from graphengine.cli.progress import JsonLines
    from graphengine.planning.inputs import bind_inputs
    from graphengine.progress import Bars
    from graphengine.results.outputs import OutputWriter, check_folder

    graph, fixed, axes, runs = combinations(graph, set, over)
    bound = [bind_inputs(graph, fixed | values) for values in runs]
    print_warnings(graph, {**fixed, **axes})
    name = workflow_name(graph)
    check_folder(out, graph)
    writer = OutputWriter(out, name)
    options: dict[str, Any] = {"device": device, "roots": root}
    cells: dict[str, list[SheetCell]] = {}
    with contextlib.ExitStack() as stack:
        lines = bars = None
        if json:
            lines = stack.enter_context(JsonLines(session.cancellation.cancel))
            stack.enter_context(lines.last_word())
        stack.enter_context(session)
        if not json:
            bars = stack.enter_context(Bars(name, needed(graph)))
        listener = lines or bars

        def begin(number: int, label: str) -> None:
            if bars is not None:
                bars.restart(f"{number + 1} of {len(runs)}: {label}")

        def one(inputs: BoundInputs) -> Result:
            return session.run(graph, inputs, listeners=[listener], progress=False, **options)

        code = _runs(graph, runs, bound, one, begin, writer, cells, debug)
        if bars is not None:
            bars.close()
        files, sheets = list(writer.files), _sheets(cells, axes, writer)
        if lines is not None:
            lines.write({"kind": "outputs", "files": [str(f) for f in files], "sheets": [str(f) for f in sheets]})
    if not json:
        for path in (*files, *sheets):
            print(path)
    return code


def combinations(
    graph: GraphData, set: list[str] | None, over: list[str]
) -> tuple[GraphData, dict[str, Any], dict[str, list[Any]], list[dict[str, Any]]]:
    """Parse `--set` and `--over`: returns the graph, the fixed inputs, the values of the others, and all combinations
    of these.

    Numbers that are asked for by -1 or null are drawn once for all runs: the runs then differ in what `--over` says.

    Raises:
        WorkflowError: The graph is wrong; an input is given twice; there are too many runs; a value does not fit.
    """
    from graphengine.cli.values import parse_over, parse_sets
    from graphengine.planning.draws import draw_inputs, draw_literals

    fixed = parse_sets(graph, set)
    axes = parse_over(graph, over)
    if both := [name for name in axes if name in fixed]:
        raise WorkflowError(Problem("usage", f"{', '.join(both)} is given both by --set and by --over"))
    graph, _ = draw_literals(graph)
    fixed, _ = draw_inputs(graph, fixed)
    axes = {name: [draw_inputs(graph, {name: value})[0][name] for value in values] for name, values in axes.items()}
    return graph, fixed, axes, [dict(zip(axes, values, strict=True)) for values in _product(axes)]


def _product(axes: dict[str, list[Any]]) -> list[tuple[Any, ...]]:
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > MOST_RUNS:
        raise WorkflowError(Problem("usage", f"these are {count:,} runs; {MOST_RUNS:,} are the most"))
    return list(itertools.product(*axes.values()))


def _runs(
    graph: GraphData,
    runs: list[dict[str, Any]],
    bound: list[BoundInputs],
    one: Callable[[BoundInputs], Result],
    begin: Callable[[int, str], None],
    writer: OutputWriter,
    cells: dict[str, list[SheetCell]],
    debug: bool,
) -> int:
    """Do all runs, one after another; the error of a failed run is printed, and its cell stays empty."""
    from graphengine.cli.sheet import SheetCell
    from graphengine.results.outputs import write_outputs
    from graphengine.show.report import views

    code, failed = OK, 0
    for number, (values, inputs) in enumerate(zip(runs, bound, strict=True)):
        begin(number, _label(values))
        try:
            result = one(inputs)
        except (Cancelled, WorkflowError):
            raise
        except GraphEngineError as error:
            code, failed = max(code, exit_code(error)), failed + 1
            tell(error, debug)
            for row in cells.values():
                row.append(SheetCell(failed=True))
            if failed == len(runs):
                return code
            continue
        write_outputs(graph, inputs, result, writer)
        for output, value in result.outputs.items():
            row = cells.setdefault(output, [SheetCell(failed=True) for _ in runs[:number]])
            row.append(SheetCell(views(value)))
    return code


def _label(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _sheets(cells: dict[str, list[SheetCell]], axes: dict[str, list[Any]], writer: OutputWriter) -> list[Path]:
    from graphengine.cli.sheet import sheet

    made: list[Path] = []
    for output, row in cells.items():
        picture = sheet(row, axes)
        if picture is not None:
            made += writer.save(f"{output}_sheet" if len(cells) > 1 else "sheet", picture, _save, {})
    return made


def _save(png: bytes, path: Path, _: Any) -> list[Path]:
    file = path.with_suffix(".png")
    file.write_bytes(png)
    return [file]


