"""Delivering the outputs of a job: files for its user, trees for the queue, calls of finishers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from graphengine.execution.run import Result
from graphengine.results.outputs import OutputWriter, remove_marked, write_outputs
from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.job import Attempt
from graphengine.service.jobs.request import Files, JobRequest, result_tree

Finisher = Callable[[Any, Mapping[str, Any]], list[str]]
"""A function that is called with a job's data for it and the job's outputs before the job is done; returns the files
that it wrote. It is called again if the job's end could not be recorded. The queue then keeps neither the outputs nor
the job's bytes."""


def deliver(
    request: JobRequest,
    result: Result,
    files: Files,
    name: str,
    finishers: Mapping[str, Finisher],
    writer: OutputWriter | None,
) -> dict[str, Any]:
    """Write the files and call the finisher that a job asks for; returns the job's result.

    Args:
        name: The job's folder among the files.
        writer: The writer for the folder that the job asks for, if it asks for one.

    Raises:
        FileError: A file cannot be written.
        QueueError: There is no such finisher.
    """
    outputs = dict(result.outputs)
    trees = result_tree(outputs, name, files)  # first: if that fails, no file of a failed job was written
    files.sync(name)
    written: dict[str, Any] = {}
    paths: list[str] = []
    if writer is not None:
        written = write_outputs(
            request.graph, request.inputs, result, writer, exact=request.exact, base=request.base, together=True,
            texts=request.texts,
        )  # fmt: skip
        paths = [str(file) for file in writer.files]
    if request.finish is not None:
        finisher, data = request.finish
        if finisher not in finishers:
            raise QueueError(f"this service has no finisher {finisher!r:.40}, which the job asks for")
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


def named_as_wanted(want: Sequence[str], result: Result) -> Result:
    """The result of a run of a list of wanted outputs, whose names begin with their numbers, by the names alone."""

    def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
        return {want[int(name.partition(":")[0])]: value for name, value in values.items()}

    return replace(result, outputs=renamed(result.outputs), made=renamed(result.made))


def remove_written(attempts: Sequence[Attempt]) -> None:
    """Remove the files of attempts that did not end as done, unless somebody has changed them since."""
    for attempt in attempts:
        remove_marked(attempt.files)
