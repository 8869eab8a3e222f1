"""Submitting to a queue, from any process; whoever runs its jobs takes them from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphengine.evaluate import bind_inputs
from graphengine.graph import Graph
from graphengine.service.document import Files, Request, body_of, wants
from graphengine.service.jobs import NewJob
from graphengine.service.queue import Queue


def files_of(queue: Queue) -> Files:
    """The folders in which a queue's jobs keep their bytes."""
    return Files(queue.file.with_name(queue.file.name + "-files"))


def new_job(
    queue: Queue,
    graph: Graph,
    inputs: Mapping[str, Any] | None = None,
    *,
    want: Any = None,
    user: str = "",
    priority: int = 0,
    attempts: int = 3,
    exact: bool = False,
    out: str | Path | None = None,
    name: str = "job",
    roots: Sequence[str | Path] | None = None,
    finish: tuple[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    like: NewJob | None = None,
) -> NewJob:
    """A job for a queue, checked, its bytes on disk. See `graphengine.run`, `document.Request` and `jobs.NewJob`.

    Args:
        like: A job of the same queue: bytes that both need lie on the disk once.

    Raises:
        WorkflowError: The graph or the inputs are wrong, or no data.
    """
    graph.check()
    bind_inputs(graph, inputs or {})
    folder = None if out is None else Path(out).absolute()
    allowed = None if roots is None else [str(Path(root).absolute()) for root in roots]
    request = Request(graph, inputs or {}, wants(graph, want), exact, Path.cwd(), folder, name, allowed, finish)
    body = body_of(request, files_of(queue), "" if like is None else like.body["files"])
    return NewJob(body, user, priority, attempts, facts or {})


def submit(queue: Queue, graph: Graph, inputs: Mapping[str, Any] | None = None, **options: Any) -> int:
    """Put a job into a queue; on disk when this returns. Options are those of `new_job`.

    Returns:
        The job's number.

    Raises:
        WorkflowError: The graph or the inputs are wrong, or no data; nothing was put into the queue.
        QueueError: The queue does not take it.
    """
    job = new_job(queue, graph, inputs, **options)
    try:
        (number,) = queue.submit(job)
    except BaseException:
        files_of(queue).remove(job.body["files"])
        raise
    return number


def delete(queue: Queue, job: int) -> None:
    """Take a job that has ended out of the history, with its bytes."""
    name = queue.body(job)["files"]
    queue.delete(job)
    files_of(queue).remove(name)
