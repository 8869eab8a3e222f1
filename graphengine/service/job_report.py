"""The report of a job that has ended, as an HTML page: its values, its calls, how long they waited and computed."""

from __future__ import annotations

import contextlib
import html
import time
from collections.abc import Mapping, Sequence
from typing import Any

from graphengine.cache.tree import from_tree
from graphengine.errors import FileError
from graphengine.events import Reuse
from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.job import Attempt, Job, State
from graphengine.service.jobs.queue import Queue
from graphengine.service.jobs.request import request_of
from graphengine.service.jobs.submit import files_of
from graphengine.show.report import ReportRecorder, Seen
from graphengine.show.report_page import page


def job_page(queue: Queue, number: int) -> str:
    """A job's report as one HTML page that needs no network and runs no script.

    Raises:
        QueueError: There is no such job, or it has not ended.
        WorkflowError: Its workflow cannot be read here.
    """
    job = queue.get(number)
    if not job.state.ended:
        raise QueueError(f"job {number} is {job.state}; there is a report of it when it has ended")
    files, body = files_of(queue), queue.body(number)
    request = request_of(body, files)
    result = job.result or {}
    recorder = ReportRecorder()
    recorder.elapsed = result.get("elapsed")
    recorder.error = job.error or ("" if job.state is State.DONE else f"it was {job.state}")
    calls: Sequence[Mapping[str, Any]] = result.get("calls", ())
    types = {id: node.type for id, node in request.graph.nodes.items()} | {call["node"]: call["type"] for call in calls}
    for node, reuse in result.get("reuse", {}).items():
        if node:
            seconds = result["seconds"].get(node)
            recorder.nodes[node] = Seen(types.get(node, ""), Reuse(reuse), seconds, known=False)
    for call in calls:
        if call["error"] is not None:
            recorder.nodes[call["node"]] = Seen(call["type"], error=call["error"])
        elif call["node"] not in recorder.nodes:  # of a job that failed later
            recorder.nodes[call["node"]] = Seen(call["type"], Reuse.COMPUTED, call["seconds"], known=False)
    if (failed := result.get("node")) is not None:
        recorder.nodes[failed[0]] = Seen(failed[1], error=job.error or "")
    for name, tree in result.get("outputs", {}).items():
        link = request.graph.outputs.get(name)
        seen = recorder.nodes.get(link.node if link is not None else name)
        if seen is not None and tree is not None:
            # What was finished keeps no bytes, see `results.Finisher`; damaged ones are no picture.
            with contextlib.suppress(FileNotFoundError, FileError):
                seen.value, seen.known = from_tree(tree, lambda blob: files.get(body["files"], blob)), True
    more = _attempts(job, queue.attempts(number)) + _calls(job, calls)
    return page(request.graph, recorder, request.inputs, f"Job {number}: {request.name}", more)


def _attempts(job: Job, attempts: Sequence[Attempt]) -> str:
    rows: list[Sequence[object]] = [("submitted", _clock(job.created), job.user)]
    for attempt in attempts:
        ended = "" if attempt.ended is None else f"{attempt.ended - attempt.started:.2f} s"
        begun = f"{_clock(attempt.started)} (waited {attempt.started - job.created:.2f} s)"
        rows.append((f"attempt {attempt.number}: {attempt.outcome}", begun, f"{attempt.worker} {ended}", attempt.error))
    rows += [("worker lost", _clock(moment), "", why) for moment, why in (job.result or {}).get("lost", ())]
    rows += [("wrote", file, "", "") for file in (job.result or {}).get("files", ())]
    return f"<h2>The job</h2>{_table(('', 'at', 'by', ''), rows)}"


def _calls(job: Job, calls: Sequence[Mapping[str, Any]]) -> str:
    """Every call that a worker computed, in the order in which they were ready."""
    if not calls:
        return ""
    begun = job.started or job.created
    rows = []
    for call in sorted(calls, key=lambda call: call["submitted"]):
        ready = f"{max(0.0, call['submitted'] - begun):.3f} s"
        together = f"{call['together']} together" if call["together"] > 1 else ""
        loads = f"{call['loads']} models loaded" if call["loads"] else ""
        how = ", ".join(word for word in (together, loads, call["error"]) if word)
        waited, took = f"{call['waited']:.3f} s", f"{call['seconds']:.3f} s"
        rows.append((call["node"], ready, waited, f"{call['worker']} on {call['device']}", took, how))
    return f"<h2>Workers</h2>{_table(('node', 'ready after', 'waited', 'computed by', 'took', ''), rows)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    def row(cells: Sequence[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell or ''))}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{row(head, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
