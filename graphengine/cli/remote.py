"""Running and looking at jobs of a server, for `run --server` and `queue --server`. Imports no torch."""

from __future__ import annotations

import json as json_
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphengine.cli.common import EXIT_FAILED, WRONG, workflow_name
from graphengine.cli.handover import JobFailed
from graphengine.errors import Cancelled, FileError, GraphEngineError
from graphengine.events import Event, Kind
from graphengine.system.opening import read_file
from graphengine.system.terminal import console

if TYPE_CHECKING:
    from graphengine.client import Client
    from graphengine.client import Event as JobEvent
    from graphengine.client import Job as RemoteJob
    from graphengine.graph.data import GraphData
    from graphengine.service.jobs.job import Job

ServerUrl = Annotated[
    str | None, typer.Option("--server", metavar="URL", help="A server, `graphengine serve`, in place of this machine.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="Holds the token for --server; default: GRAPHENGINE_TOKEN."),
]
PAUSE = 0.5
"""Seconds between two looks at a server's queue."""
SHOWN = 30
"""Lines of the live table."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that a command is to use: its address, and the file of the token, which is on no command line."""

    url: str
    token_file: Path | None = None

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client of it.

        Raises:
            FileError: The file of the token cannot be read.
        """
        from graphengine.client import Client

        token = os.environ.get("GRAPHENGINE_TOKEN")
        if self.token_file is not None:
            try:
                token = read_file(self.token_file).decode("ascii", "replace").strip()
            except OSError as error:
                raise FileError(f"{self.token_file} cannot be read: {error.strerror or error}") from None
        with Client(self.url, token) as found:
            yield found


def run_there(server: Server, graph: GraphData, sets: list[str] | None, out: Path, exact: bool, json: bool) -> None:
    """Run a workflow on a server, show its progress, and write its outputs here as a run of this process does."""
    from graphengine.cli.execute import interruptible, needed, print_drawn, print_warnings
    from graphengine.cli.progress import JsonLines
    from graphengine.cli.values import bind_sets
    from graphengine.execution.launcher import Cancellation
    from graphengine.progress import Bars
    from graphengine.results.outputs import check_folder

    inputs = bind_sets(graph, sets)
    print_warnings(graph, inputs.given)
    print_drawn(inputs)
    check_folder(out, graph)
    cancellation, lost = Cancellation(), list[GraphEngineError]()
    with server.client() as client, interruptible(cancellation):
        job = client.submit(inputs.graph, inputs.given, exact=exact)

        def cancel() -> None:
            try:
                with server.client() as other:  # which waits for no server that has gone
                    other.cancel(job)
            except GraphEngineError as error:
                lost.append(error)
                client.close()

        def follow(show: Callable[[Event], None]) -> None:
            try:
                _show(client.events(job), job.number, show)
            except GraphEngineError:
                if not lost:
                    raise
                print(f"job {job.number} was not cancelled and may go on: {lost[0]}", file=sys.stderr)
                raise Cancelled(f"job {job.number} is left alone") from None

        cancellation.on_cancel(cancel)
        print(f"job {job.number} of {server.url}", file=sys.stderr, flush=True)
        if json:
            with JsonLines(cancellation.cancel) as lines, lines.last_word():
                follow(lines)
                told = _fetch(client, ended := client.get(job), out, graph)
                files = [file for one in told.values() for file in one.get("files", ())]
                lines.write({"kind": "outputs", "files": files, "outputs": told, "drawn": dict(inputs.drawn)})
                _check(ended)
            return
        with Bars(workflow_name(graph), needed(graph)) as bars:
            follow(bars)
        told = _fetch(client, ended := client.get(job), out, graph)
        for name, one in told.items():
            print("\n".join(one["files"]) if "files" in one else f"{name}: {one['value']}")
        _check(ended)


def _show(events: Iterator[JobEvent], number: int, show: Callable[[Event], None]) -> None:
    for event in events:
        if event.kind in set(Kind):
            known = {name: event.data.get(name) for name in ("reuse", "seconds", "step", "total", "error")}
            show(Event(Kind(event.kind), number, event.data.get("node", ""), event.data.get("type", ""), **known))


def _fetch(client: Client, job: RemoteJob, out: Path, graph: GraphData) -> dict[str, Any]:
    """Write the outputs of a job into a folder, each as the next free number; returns their files, or values."""
    from graphengine.pack import FileName
    from graphengine.results.file_names import file_name
    from graphengine.results.outputs import OutputWriter

    writer, told = OutputWriter(out, workflow_name(graph)), dict[str, Any]()

    def save(content: bytes, path: Path, text: Mapping[str, str]) -> list[Path]:
        file = path.with_name(path.name + text["suffix"])
        file.write_bytes(content)
        return [file]

    for name, output in job.outputs.items():
        if not output.files:
            told[name] = {"value": output.value}
            continue
        told[name] = {"files": []}
        named = file_name(graph, {}, name, None)
        for file in output.files:
            suffix = {"suffix": Path(file.name).suffix}
            stem = re.sub(r"_\d{5,}_$", "", Path(file.name).stem)  # the server knows what its patterns stand for
            mine = None if named is None else FileName((PurePosixPath(named.path).parent / stem).as_posix())
            told[name]["files"] += map(str, writer.save(name, client.file(file.url), save, suffix, mine))
    return told


def _check(job: RemoteJob) -> None:
    """Raise the error of a job that is not done."""
    if job.state == "failed":
        raise JobFailed(job.error or "", {"error": "NodeError"} if job.node is not None else {})
    if job.state == "cancelled":
        raise Cancelled(f"job {job.number} was cancelled")


# --- the queue --------------------------------------------------------------------------------------------------------


def submit(
    server: Server, graph: GraphData, several: Sequence[Mapping[str, Any]], priority: int, exact: bool, json: bool
) -> None:
    """Submit a job for each of several inputs of a workflow, and print their numbers."""
    with server.client() as client:
        for inputs in several:
            job = client.submit(graph, inputs, priority=priority, exact=exact)
            print(json_.dumps({"job": job.number, "uuid": job.id}) if json else f"job {job.number}", flush=True)


def stats(server: Server, json: bool) -> None:
    """Count the jobs that run and wait; show the workers."""
    with server.client() as client:
        queue, workers = client.queue(), client.workers()
    facts = {"server": server.url, "running": len(queue.running), "queued": len(queue.waiting), "paused": queue.paused}
    facts |= {"limit": queue.limit} | ({} if queue.limits is None else {"limits": dict(queue.limits)})
    if json:
        print(json_.dumps({**facts, "workers": workers}))
        return
    if queue.limits is not None:
        facts["limits"] = ", ".join(f"{user or 'each'}: {count}" for user, count in queue.limits.items())
    for name, value in facts.items():
        print(f"{name:10} {value}")
    for worker in workers:
        free = "" if worker["free"] is None else f"{worker['free'] / 2**30:.1f} GiB free, "
        print(
            f"{worker['name']:10} {worker['state']} on {worker['device']}: {worker['computed']} nodes, "
            f"{worker['parts']} parts of models held, {free}{worker['loads']} loaded, lost {worker['deaths']} times"
        )


def list_(server: Server, states: Sequence[str], limit: int, json: bool) -> None:
    """List the newest jobs."""
    from itertools import islice

    with server.client() as client:
        jobs = list(islice(client.jobs(states, page=min(limit, 100)), limit))
    _print(jobs, json)


def _print(jobs: Sequence[RemoteJob], json: bool) -> None:
    from graphengine.cli import job_rows

    if json:
        for job in jobs:
            print(json_.dumps(_facts(job)))
        return
    wide = None if sys.stdout.isatty() else 1000
    console(sys.stdout, wide).print(job_rows.table([*map(_row, jobs)], _doing(jobs)))


def show(server: Server, job: int, json: bool) -> None:
    """Show a job with its error and its results."""
    from graphengine.cli import job_rows

    with server.client() as client:
        found = client.get(str(job))
    if json:
        print(json_.dumps(_facts(found)))
        return
    for line in job_rows.lines(_row(found), _doing([found])):
        print(line)
    for name, output in found.outputs.items():
        for file in output.files:
            print(f"{server.url.rstrip('/')}{job_rows.plain(file.url)}")
        if not output.files:
            print(f"{job_rows.plain(name)}: {job_rows.plain(output.value)}")


def each(server: Server, jobs: Sequence[int], work: Callable[[Client, str], str | None]) -> int | None:
    """Call a function with every job, and print what it returns; print the error of one for which it fails, and go
    on."""
    from graphengine.client import Unreachable

    code = None
    with server.client() as client:
        for job in jobs:
            try:
                if (line := work(client, str(job))) is not None:
                    print(line)
            except Unreachable:
                raise
            except GraphEngineError as error:
                print(error, file=sys.stderr)
                code = WRONG
    return code


def cancel_one(client: Client, job: str) -> str:
    """Cancel a job; returns what it is now, in words."""
    found = client.cancel(job)
    running = not found.state.ended
    return f"job {found.number} is {'being cancelled' if running else found.state}"


def wait(server: Server, jobs: Sequence[int] | None, timeout: float | None) -> int | None:
    """Wait until jobs have ended, by default all that wait or run; 0 if all are done, else 1."""
    with server.client() as client:
        numbers = list(map(str, jobs or ())) or [job.id for job in client.jobs(("running", "queued"))][::-1]
        if not numbers:
            print("no job waits or runs", file=sys.stderr)
        ended = client.wait(*numbers, timeout=timeout)
    for job in ended:
        print(f"job {job.number} is {job.state}{f': {job.error}' if job.error else ''}")
    return None if all(job.state == "done" for job in ended) else EXIT_FAILED


def watch(server: Server, job: int | None, json: bool, line_of: Callable[[dict[str, Any]], str]) -> None:
    """Follow a job as lines, or all jobs as a live table.

    Args:
        line_of: Makes a line of an event.
    """
    with server.client() as client:
        if job is None:
            _live(client, json)
            return
        found = client.get(str(job))
        for event in client.events(found, previews=json):
            line = {**event.data, "job": found.number, "kind": event.kind}
            print(json_.dumps(line) if json else line_of(line), flush=True)


def _live(client: Client, json: bool) -> None:
    from rich.live import Live

    from graphengine.cli import job_rows

    if json or not sys.stdout.isatty():
        raise GraphEngineError("a server's jobs are followed one by one where no terminal is: name a job")
    with Live(console=console(sys.stdout), refresh_per_second=8) as live:
        while True:
            queue = client.queue()
            jobs = [*queue.running, *queue.waiting][:SHOWN]
            title = f"running {len(queue.running)}  queued {len(queue.waiting)}"
            live.update(job_rows.table([*map(_row, jobs)], _doing(jobs), title))
            time.sleep(PAUSE)


def _row(job: RemoteJob) -> Job:
    """A job as this machine's queue has it."""
    from graphengine.service.jobs.job import Job

    told = {
        name: {"files": [file.name for file in one.files]} if one.files else {"value": one.value}
        for name, one in job.outputs.items()
    }
    files = [file.name for one in job.outputs.values() for file in one.files]
    times = [None if when is None else when.timestamp() for when in (job.created, job.started, job.ended)]
    facts = {"workflow": job.workflow, "inputs": dict(job.inputs)}
    row = Job(
        job.number, job.state, job.user, job.priority, facts, 1, 1, None, job.cancelling, times[0] or 0.0, times[1],
        times[2], {"told": told, "files": files}, job.error,
    )  # fmt: skip
    object.__setattr__(row, "uuid", job.id)
    return row


def _doing(jobs: Sequence[RemoteJob]) -> dict[int, dict[str, Any]]:
    """The activity of jobs as `JobActivity.facts` has it."""
    always = {"state": "running", "waits": False, "silent": 0.0}
    return {job.number: {**always, **job.progress} for job in jobs if job.progress is not None}


def _facts(job: RemoteJob) -> dict[str, Any]:
    """A job as JSON data."""
    found = {name: getattr(job, name) for name in job.__dataclass_fields__}
    found |= {name: when and when.isoformat() for name in ("created", "started", "ended") for when in [found[name]]}
    outputs = {
        name: {"files": [{"name": file.name, "url": file.url} for file in one.files]} if one.files
        else {"value": one.value} for name, one in job.outputs.items()
    }  # fmt: skip
    return found | {"outputs": outputs, "job": found.pop("number"), "uuid": found.pop("id")}
