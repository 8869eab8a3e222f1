"""`graphengine run`: run a workflow and write its outputs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from graphengine.cli.common import (
    Debug,
    Device,
    Exact,
    Json,
    KeepGoing,
    NoCache,
    Out,
    Packs,
    Roots,
    Sets,
    Workflow,
    guarded,
    load_workflow,
    named_in_file,
    naming_nodes,
    sentence,
    workflow_name,
)
from graphengine.cli.remote import Server, ServerUrl, TokenFile, run_there
from graphengine.errors import GraphEngineError, WorkflowError

if TYPE_CHECKING:
    from graphengine.cli.execute import Session
    from graphengine.execution.run import Result
    from graphengine.graph.data import GraphData
    from graphengine.service.workers.process import LocalWorker


@guarded
def command(
    file: Workflow,
    set: Sets = None,
    out: Out = Path("out"),
    json: Json = False,
    no_cache: NoCache = False,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Write a page that shows the run.")
    ] = None,
    packs: Packs = None,
    device: Device = None,
    exact: Exact = False,
    root: Roots = None,
    keep_going: KeepGoing = False,
    backend: Annotated[
        Literal["auto", "inline", "local", "service"],
        typer.Option(
            "--backend",
            help="inline: compute in this process. local: in one process for each GPU. service: in this user's "
            "`graphengine worker`. auto: the service if one runs, else inline.",
        ),
    ] = "auto",
    server: ServerUrl = None,
    token_file: TokenFile = None,
    debug: Debug = False,
) -> int | None:
    """Run a workflow and write its outputs. Each picture holds the record of how it was made."""
    graph = load_workflow(file, packs, root)
    if server is not None:
        given = {
            "--device": device, "--no-cache": no_cache, "--report": report, "--keep-going": keep_going, "--root": root,
            "--backend": backend != "auto",
        }  # fmt: skip
        if here := [name for name, value in given.items() if value]:
            raise WorkflowError(f"a server cannot follow {', '.join(here)}")
        with naming_nodes(graph):
            run_there(Server(server, token_file), graph, set, out, exact, json)
        return None
    if backend in ("auto", "service"):
        from graphengine.cli.handover import hand_over

        only_here = {"--device": device, "--no-cache": no_cache, "--report": report}
        not_there = [name for name, value in only_here.items() if value]
        with naming_nodes(graph):
            handed_over = hand_over(graph, set, root, out, exact, json, backend, not_there, keep_going)
        if handed_over:
            return None
    from graphengine.cli.execute import Session, print_drawn, print_warnings

    # it begins with the heavy imports
    session = Session(graph, no_cache, _workers(device, no_cache, packs) if backend == "local" else None)
    from graphengine.cli.progress import JsonLines
    from graphengine.cli.values import bind_sets
    from graphengine.results.outputs import OutputWriter, check_folder, write_outputs

    inputs = bind_sets(graph, set)
    print_warnings(graph, inputs.given)
    print_drawn(inputs)
    name = workflow_name(graph)
    check_folder(out, graph)
    writer = OutputWriter(out, name)
    options: dict[str, Any] = {"device": device, "exact": exact, "roots": root, "keep_going": keep_going}
    with naming_nodes(graph), reporting(graph, inputs.given, report) as listeners:
        if json:
            options |= {"progress": False}
            with (
                JsonLines(session.cancellation.cancel) as lines,
                lines.last_word(),
                naming_nodes(graph),
                session,
                made_of(session, graph, inputs, listeners=[lines, *listeners], **options) as result,
            ):
                for recorder in listeners:
                    recorder.outputs = result.outputs
                told = write_outputs(graph, inputs, result, writer, exact=exact)
                files = [str(f) for f in writer.files]
                lines.write({"kind": "outputs", "files": files, "outputs": told, "drawn": dict(inputs.drawn)})
        else:
            with session, made_of(session, graph, inputs, listeners=listeners, **options) as result:
                for recorder in listeners:
                    recorder.outputs = result.outputs
                write_outputs(graph, inputs, result, writer, exact=exact, show=print)
    if not no_cache:
        from graphengine.results.history import record
        from graphengine.system.folders import cache_folder

        record(graph, inputs, result, cache_folder(), root)
    return None


@contextlib.contextmanager
def made_of(session: Session, graph: GraphData, inputs: Mapping[str, Any], **options: Any) -> Iterator[Result]:
    """Run a graph; gives its result, which is partial if the run failed, and then raises the error at the end."""
    failure = None
    try:
        result = session.run(graph, inputs, **options)
    except GraphEngineError as error:
        if error.result is None:
            raise
        result, failure = error.result, error
    yield result
    if failure is not None:
        for other in failure.failures[1:]:
            print(f"error: {named_in_file(graph, sentence(other))}", file=sys.stderr)
        raise failure


def _workers(device: str | None, no_cache: bool, packs: list[Path] | None) -> list[LocalWorker]:
    """Make worker processes for one run, one for each device, which share the disk store."""
    from graphengine.service.start import local_workers
    from graphengine.system.folders import cache_folder

    store = None if no_cache else cache_folder() / "store"
    return local_workers([device] if device else None, store=store, packs=[str(folder) for folder in packs or ()])


@contextlib.contextmanager
def reporting(graph: GraphData, inputs: Mapping[str, Any], file: Path | None) -> Iterator[list[Any]]:
    """Give the listeners for a report, and write it at the end, also of a run that failed."""
    if file is None:
        yield []
        return
    from graphengine.show.report import ReportRecorder
    from graphengine.show.report_page import page
    from graphengine.system.staging import write_file

    recorder = ReportRecorder()
    try:
        yield [recorder]
    finally:
        if recorder.nodes:
            text = page(graph, recorder, inputs, graph.title or workflow_name(graph))
            write_file(file, text.encode("utf-8", "replace"))
