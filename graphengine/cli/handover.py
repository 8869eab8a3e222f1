"""Handing a run to the service of this user that is already running on this machine. Imports no torch."""

from __future__ import annotations

import json as json_
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine.cli.common import EXIT_FAILED, NO_FILE, WRONG, workflow_name
from graphengine.declare.definition import NodeDef
from graphengine.declare.registry import WORKER_PACKS
from graphengine.errors import Cancelled, GraphEngineError, WorkflowError
from graphengine.events import Event, Kind
from graphengine.service.identity import identity
from graphengine.service.socket_client import hello
from graphengine.system.channel import listens
from graphengine.system.folders import queue_file

if TYPE_CHECKING:
    from graphengine.cli.watching import Following
    from graphengine.execution.launcher import Cancellation
    from graphengine.graph.data import GraphData
    from graphengine.service.jobs.job import Job
    from graphengine.service.jobs.queue import Queue


class JobFailed(GraphEngineError):
    """A job of the service failed; `code` is what the command ends with, as if it had failed here."""

    def __init__(self, message: str, facts: dict[str, str]) -> None:
        super().__init__(message)
        missing = facts.get("cause") in ("FileError", "ModelError")
        self.code = NO_FILE if missing else EXIT_FAILED if facts.get("error") == "NodeError" else WRONG


def hand_over(
    graph: GraphData,
    sets: list[str] | None,
    roots: list[Path] | None,
    out: Path,
    exact: bool,
    json: bool,
    backend: str,
    only_here: Sequence[str],
    keep_going: bool = False,
) -> bool:
    """Let the service run a workflow and wait for it; returns False if this process has to run it.

    Args:
        only_here: Options of the command that a service cannot follow.

    Raises:
        WorkflowError: A service was asked for, but none runs here, or its identity differs from this process's.
    """
    file = queue_file()
    why = _why_not(file, roots, only_here)
    if why is not None:
        if backend == "service":
            raise WorkflowError(why)
        if listens(file) and not only_here:
            print(f"note: {why}; running in this process", file=sys.stderr)
        return False
    from graphengine.cli.execute import interruptible, print_drawn, print_warnings
    from graphengine.cli.values import bind_sets
    from graphengine.cli.watching import Following, attending
    from graphengine.execution.launcher import Cancellation
    from graphengine.results.outputs import check_folder
    from graphengine.service.jobs.queue import Queue
    from graphengine.service.jobs.submit import submit

    inputs = bind_sets(graph, sets)
    print_warnings(graph, inputs.given)
    print_drawn(inputs)
    check_folder(out, graph)  # an unwritable folder is an error now, not of the job
    queue = Queue(file)
    # Before the job is submitted, so that none of its steps is missed.
    following = Following(queue, previews=False, look=attending(queue, None))
    cancellation = Cancellation()
    with interruptible(cancellation):  # from here on, so that no job is left behind by a Ctrl-C just after its submit
        number = submit(
            queue, graph, inputs, out=out, exact=exact, name=workflow_name(graph), roots=roots, keep_going=keep_going,
            whole=True,
        )  # fmt: skip

        def cancel() -> None:
            queue.cancel(number)

        cancellation.on_cancel(cancel)
        print(f"job {number} of the service that runs here", file=sys.stderr, flush=True)
        _follow(queue, following, number, graph, cancellation, json, out, inputs.drawn)
    return True


def _why_not(file: Path, roots: list[Path] | None, only_here: Sequence[str]) -> str | None:
    """Why the service cannot run it; None if it can."""
    if not listens(file) or (facts := hello(file)) is None:
        return "no service of this user runs here; start `graphengine worker`"
    if only_here:
        return f"a service cannot follow {', '.join(only_here)}"
    if not facts["active"]:
        return "the service that runs here stands by"
    return _differs(facts, roots)


def differs(file: Path, roots: list[Path] | None, folders: bool = True) -> str | None:
    """How the identity of the service that runs a queue's jobs differs from this process's; None if it does not, or no
    service runs.

    Args:
        folders: Whether the folders that it allows matter.
    """
    facts = hello(file)
    why = None if facts is None else _differs(facts, roots)
    return why if folders or why is None or "folders" not in why else None


def check_packs(file: Path, graphs: Iterable[GraphData]) -> None:
    """Refuse workflows for which the service that runs a queue's jobs lacks a pack; without a service, none is refused.

    Raises:
        WorkflowError: The job could only fail.
    """
    facts = hello(file) or {}
    if facts.get("version") != identity()["version"] or not isinstance(facts.get("packs"), dict):
        return
    nodes = [node for graph in graphs for part in graph.with_parts() for node in part.nodes.values()]
    missing = {node.kind.pack: node.type for node in nodes if isinstance(node.kind, NodeDef)}
    for pack in sorted(missing.keys() - facts["packs"].keys() - {"main"}):
        raise WorkflowError(
            f"the service that runs here has no pack {pack}, of which the workflow uses {missing[pack]}; "
            f"start it again with that pack: {WORKER_PACKS}"
        )


def _differs(facts: Mapping[str, Any], roots: list[Path] | None) -> str | None:
    mine = json_.loads(json_.dumps(identity(roots)))
    if facts["version"] != mine["version"]:
        return f"the service that runs here is of another version ({facts['version']})"
    differ = [name for name in mine if facts[name] != mine[name]]
    if "packs" in differ:
        theirs, ours = facts["packs"], mine["packs"]
        names = sorted(name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name))
        return f"the service that runs here has other packs ({', '.join(names)}); {WORKER_PACKS} gives it more"
    return "the service that runs here allows other folders" if differ else None


def _follow(
    queue: Queue, following: Following, number: int, graph: GraphData, cancellation: Cancellation, json: bool,
    out: Path, drawn: Mapping[str, Any],
) -> None:
    """Show the progress of a job until it has ended; raise its error if it failed."""
    from graphengine.cli.execute import needed
    from graphengine.cli.progress import JsonLines
    from graphengine.progress import Bars

    if json:
        with JsonLines(cancellation.cancel) as lines, lines.last_word():
            job = _events(queue, following, number, lines)
            result = _result(job, out)
            told = {"files": result["files"], "outputs": result["told"], "drawn": dict(drawn)}
            lines.write({"kind": "outputs", **told})
            _check(job)
        return
    with Bars(workflow_name(graph), needed(graph)) as bars:
        job = _events(queue, following, number, bars)
    result = _result(job, out)
    for told in result["told"].values():
        for path in told.get("files", ()):
            print(path)
    for name, told in result["told"].items():
        if "value" in told:
            print(f"{name}: {told['value']}")
    _check(job)


def _check(job: Job) -> None:
    """Raise the error of a job if it failed."""
    if job.state == "failed":
        raise JobFailed(job.error or "", job.result or {})


def _events(queue: Queue, following: Following, number: int, show: Callable[[Event], None]) -> Job:
    kinds = set(Kind)
    for line in following.lines(number):
        if line["kind"] in kinds:
            known = {name: line.get(name) for name in ("reuse", "seconds", "step", "total", "error")}
            show(Event(Kind(line["kind"]), number, line.get("node", ""), line.get("type", ""), **known))
    return queue.get(number)


def _result(job: Job, out: Path) -> dict[str, Any]:
    """The result of a job, also of a failed one, with its files named as this process would have named them."""
    if job.state == "cancelled":
        raise Cancelled(f"job {job.id} was cancelled")
    if "told" not in (job.result or {}):
        _check(job)

    def named(files: Sequence[str]) -> list[str]:
        return [str(out / Path(file).relative_to(out.absolute())) for file in files]

    told = {
        name: {**one, "files": named(one["files"])} if "files" in one else one
        for name, one in job.result["told"].items()
    }
    return {**job.result, "files": named(job.result["files"]), "told": told}
