"""Submitting jobs to a queue, from any process; the service that runs the queue's jobs takes them from there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from graphengine.errors import WorkflowError
from graphengine.graph.data import GraphData
from graphengine.graph.revalidate import check_changes
from graphengine.graph.selection import wanted_links
from graphengine.planning.inputs import bound_inputs
from graphengine.service.jobs.job import NewJob
from graphengine.service.jobs.queue import Queue
from graphengine.service.jobs.request import Files, JobRequest, body_of, wants
from graphengine.service.retry import CRASHES

SHORT = 80
"""Characters of an input as lists of jobs show it."""


def files_of(queue: Queue) -> Files:
    """The folders in which a queue's jobs keep their bytes."""
    return Files(queue.file.with_name(queue.file.name + "-files"))


def new_job(
    queue: Queue,
    graph: GraphData,
    inputs: Mapping[str, Any] | None = None,
    *,
    want: Any = None,
    user: str = "",
    priority: int = 0,
    attempts: int = CRASHES,
    exact: bool = False,
    out: str | Path | None = None,
    name: str = "job",
    roots: Sequence[str | Path] | None = None,
    finish: tuple[str, Any] | None = None,
    keep_going: bool = False,
    whole: bool = False,
    texts: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
    base: str | Path | None = None,
    like: NewJob | None = None,
    files: Files | None = None,
) -> NewJob:
    """Make a job for a queue: checked, its bytes on disk. See `graphengine.run`, `request.JobRequest` and `job.NewJob`.

    Args:
        base: The folder from which relative paths among the inputs start; by default the current one.
        like: A job of the same queue: bytes that both need lie on the disk once.
        files: The queue's files, see `files_of`: they keep sweeps from the job's bytes until `settle` is called once
            the job is in the queue.

    Raises:
        WorkflowError: The graph, the inputs or the wanted outputs are wrong, or no data.
    """
    if not isinstance(graph, GraphData):
        raise WorkflowError(f"a job is made of a Graph, not of {graph!r:.60}")
    if not isinstance(inputs or {}, Mapping):
        raise WorkflowError(f"inputs are a dictionary of names and values, not {inputs!r:.60}")
    check_changes(graph)
    bound = bound_inputs(graph, inputs if isinstance(inputs, Mapping) else {}, base)
    given = bound.given
    wanted_links(graph, want)
    folder = None if out is None else Path(out).absolute()
    allowed = None if roots is None else [str(Path(root).absolute()) for root in roots]
    start = Path.cwd() if base is None else Path(base).absolute()
    request = JobRequest(bound.graph, given, wants(graph, want), exact, start, folder, name, allowed, finish)
    request.keep_going, request.whole, request.texts = keep_going, whole, texts or {}
    body = body_of(request, files_of(queue) if files is None else files, "" if like is None else like.body["files"])
    about = {"workflow": name, "inputs": {key: in_short(value) for key, value in given.items()}}
    if bound.drawn:
        about["drawn"] = dict(bound.drawn)
    return NewJob(body, user, priority, attempts, about | dict(facts or {}))


def in_short(value: Any) -> Any:
    """An input as lists of jobs show it: numbers as they are, the rest as a short text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and abs(value) < 2**63:  # not infinite, and no NaN
        return value
    try:
        text = str(value) if isinstance(value, str | PurePath) else repr(value)
    except Exception:  # of the value's own class, or a number of too many digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"


def submit(queue: Queue, graph: GraphData, inputs: Mapping[str, Any] | None = None, **options: Any) -> int:
    """Put a job into a queue; it is on disk when this returns. Options are those of `new_job`, and `uuid`: the job's
    UUID in lower case, by default a random one.

    Returns:
        The job's number.

    Raises:
        WorkflowError: The graph or the inputs are wrong, or no data; nothing was put into the queue.
        QueueError: The queue refuses it.
    """
    return submit_all(queue, [{"graph": graph, "inputs": inputs, **options}])[0]


def submit_all(queue: Queue, wanted: Iterable[Mapping[str, Any]]) -> list[int]:
    """Put several jobs into a queue, all of them or none; they are on disk when this returns.

    Args:
        wanted: The arguments of `new_job` for each, and maybe `uuid`; bytes that the first job has too lie on the
            disk once.

    Returns:
        The jobs' numbers, in that order.

    Raises:
        WorkflowError, QueueError: As `submit`.
    """
    jobs: list[NewJob] = []
    uuids: list[str] = []
    files = files_of(queue)
    try:
        for one in wanted:
            options = dict(one)
            uuids.append(options.pop("uuid", ""))
            jobs.append(new_job(queue, **options, like=jobs[0] if jobs else None, files=files))
        numbers = queue.submit(*jobs, uuids=uuids)
    except BaseException:
        for job in jobs:
            files.remove(job.body["files"])
        raise
    for job in jobs:
        files.settle(job.body["files"])
    return numbers


def delete(queue: Queue, job: int) -> None:
    """Remove a job that has ended from the history, with its bytes."""
    name = queue.body(job)["files"]
    queue.delete(job)
    files_of(queue).remove(name)
