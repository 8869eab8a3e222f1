"""What a job's run leaves: files for its user, and its outputs as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphengine.execution.evaluate import Result
from graphengine.results.outputs import OutputWriter, remove_marked, write_outputs
from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.job import Attempt
from graphengine.service.jobs.request import Files, JobRequest, result_tree

Finisher = Callable[[Any, Mapping[str, Any]], list[str]]
"""Does something with a job's outputs before it is done, given the job's data for it; returns the files it wrote. It is
called again where a job's end could not be recorded. What it was given is its own then: the queue keeps neither the
outputs nor the job's bytes."""


def deliver(
    request: JobRequest,
    result: Result,
    files: Files,
    name: str,
    finishers: Mapping[str, Finisher],
    writer: OutputWriter | None,
) -> dict[str, Any]:
    """Write what a job asks for; returns what its user is told.

    Args:
        name: The job's folder among the files.
        writer: Of the folder that the job asks for, if it asks for one.

    Raises:
        FileError: Something cannot be written.
        QueueError: There is no such finisher.
    """
    outputs = dict(result.outputs)
    if request.want is not None:  # its names there begin with their numbers
        outputs = {request.want[int(name.partition(":")[0])]: value for name, value in outputs.items()}
    trees = result_tree(outputs, name, files)  # first: if that fails, nobody has a picture of a job that failed
    files.sync(name)
    written: dict[str, Any] = {}
    paths: list[str] = []
    if writer is not None:
        written = write_outputs(
            request.graph, request.inputs, result, writer, exact=request.exact, base=request.base, together=True
        )
        paths = [str(file) for file in writer.files]
    if request.finish is not None:
        finisher, data = request.finish
        if finisher not in finishers:
            raise QueueError(f"this service does not know what {finisher!r:.40} is, which the job asks for")
        paths += finishers[finisher](data, outputs)
        outputs = {}
    return {
        "outputs": trees,
        "files": paths,
        "told": written,
        "reuse": {node: reuse.value for node, reuse in result.reuse.items()},
        "seconds": result.seconds,
        "elapsed": result.elapsed,
    }


def remove_written(attempts: Sequence[Attempt]) -> None:
    """Remove the files of attempts that did not end as done, unless somebody has changed them since."""
    for attempt in attempts:
        remove_marked(attempt.files)
