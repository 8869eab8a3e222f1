"""`graphengine queue`: the jobs of this user. Imports no torch.

The module is long because it holds all commands of one group, each a short function under its options.
"""

from __future__ import annotations

import json as json_
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphengine.cli import remote
from graphengine.cli.common import (
    EXIT_FAILED,
    WRONG,
    Debug,
    Exact,
    Json,
    KeepGoing,
    Out,
    Packs,
    QueueFile,
    Sets,
    Workflow,
    guarded,
    load_workflow,
    workflow_name,
)
from graphengine.cli.sweep import Over
from graphengine.errors import WorkflowError
from graphengine.events import Kind
from graphengine.system.terminal import console

if TYPE_CHECKING:
    from graphengine.graph.data import GraphData
    from graphengine.service.jobs.queue import Queue

commands = typer.Typer(no_args_is_help=True, help="Submit jobs, look at them, cancel and reorder them.")

Number = Annotated[int, typer.Argument(metavar="JOB", min=1)]
Numbers = Annotated[list[int], typer.Argument(metavar="JOB...")]
HERE = ("clean",)
"""Commands for the queue of this machine only."""
WIDE = 1000
"""Columns of a table that is not shown on a terminal, so that each job has one line."""


@commands.callback()
def command(context: typer.Context, server: remote.ServerUrl = None, token_file: remote.TokenFile = None) -> None:
    """Submit jobs, look at them, cancel and reorder them."""
    if server is None:
        return
    if context.invoked_subcommand in HERE:
        what = f"{context.invoked_subcommand} is for the queue of this machine"
        raise typer.BadParameter(what, param_hint="--server")
    context.obj = remote.Server(server, token_file)


def _there(context: typer.Context, *only_here: str) -> remote.Server | None:
    """The server whose queue a command is for; None for the queue of this machine.

    Args:
        only_here: The command's options that a server does not take, besides `queue`.

    Raises:
        WorkflowError: It is for a server, and such an option is given.
    """
    there = context.find_object(remote.Server)
    usual = {parameter.name: parameter.default for parameter in context.command.params}
    given = [name for name in (*only_here, "queue") if context.params[name] != usual[name]]
    if there is not None and given:
        options = ", ".join(f"--{name}".replace("_", "-") for name in given)
        raise WorkflowError(f"a server cannot follow {options}")
    return there


@contextmanager
def _queue(file: Path | None) -> Iterator[Queue]:
    from graphengine.service.jobs.queue import Queue
    from graphengine.system.folders import queue_file

    queue = Queue(file or queue_file())
    try:
        yield queue
    finally:
        queue.close()


@commands.command("submit")
@guarded
def submit(
    context: typer.Context,
    file: Workflow,
    set: Sets = None,
    over: Annotated[list[str] | None, Over] = None,
    out: Out = Path("out"),
    priority: Annotated[int, typer.Option("--priority", help="Jobs with a higher priority run first.")] = 0,
    user: Annotated[str, typer.Option("--user", help="Whose job it is, for fairness.")] = "",
    exact: Exact = False,
    keep_going: KeepGoing = False,
    queue: QueueFile = None,
    packs: Packs = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Put a workflow into the queue; on disk when this ends. Its outputs are written into the folder of --out.

    With --over a job for every combination of values, all of them or none: workers share them, and join what they can.
    A server is given the jobs one after the other; it writes their outputs, and `queue --server URL show` names them.
    """
    there = _there(context, "out", "user", "keep_going")
    graph = load_workflow(file, packs)
    from graphengine.cli.handover import check_packs, differs
    from graphengine.cli.values import bind_sets
    from graphengine.results.outputs import check_folder
    from graphengine.service.jobs.submit import submit_all

    several: Sequence[Mapping[str, Any]]
    if over:
        graph, several = _over(graph, set, over)
    else:
        several = [bound := bind_sets(graph, set)]
        if there is not None:
            graph, several = bound.graph, [bound.given]
    if there is not None:
        remote.submit(there, graph, several, priority, exact, json)
        return
    check_folder(out, graph)  # an unwritable folder is an error now, not when the job runs
    with _queue(queue) as base:
        common = {"user": user, "priority": priority, "exact": exact, "out": out, "name": workflow_name(graph)}
        common |= {"keep_going": keep_going, "whole": keep_going}
        check_packs(base.file, [graph])
        numbers = submit_all(base, [{"graph": graph, "inputs": inputs, **common} for inputs in several])
        why = differs(base.file, None, folders=False)
    for number in numbers:
        print(json_.dumps({"job": number}) if json else f"job {number}")
    if why is not None:
        print(f"note: {why}; the job may fail there", file=sys.stderr)


def _over(graph: GraphData, set: list[str] | None, over: list[str]) -> tuple[GraphData, list[dict[str, Any]]]:
    from graphengine.cli.sweep import combinations

    graph, fixed, _, runs = combinations(graph, set, over)
    return graph, [fixed | values for values in runs]


@commands.command("list")
@guarded
def list_(
    context: typer.Context,
    state: Annotated[list[str] | None, typer.Option("--state", help="Only queued, running, done, ...")] = None,
    user: Annotated[str | None, typer.Option("--user", help="Only this user's.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000)] = 20,
    before: Annotated[int | None, typer.Option("--before", metavar="JOB", help="The page before this job.")] = None,
    queue: QueueFile = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the newest jobs; a page at a time with --before."""
    if (there := _there(context, "user", "before")) is not None:
        remote.list_(there, state or (), limit, json)
        return
    from graphengine.cli import job_rows
    from graphengine.cli.watching import idle
    from graphengine.errors import nearest
    from graphengine.service.jobs.job import State

    for name in state or ():
        if name not in set(State):
            near = " or ".join(nearest(name, State)) or ", ".join(State)
            raise WorkflowError(f"{name!r:.40} is no state of a job; did you mean {near}?")
    with _queue(queue) as base:
        jobs, doing = job_rows.page(base, [State(name) for name in state or State], user, before, limit)
        nobody = idle(base, queue)
    if json:
        for job in jobs:
            print(json_.dumps(job_rows.facts(job, doing)))
        return
    console(sys.stdout, None if sys.stdout.isatty() else WIDE).print(job_rows.table(jobs, doing))
    print(nobody, end="")


@commands.command("show")
@guarded
def show(
    context: typer.Context, job: Number, queue: QueueFile = None, json: Json = False, debug: Debug = False
) -> None:
    """Show a job with its attempts, its error and its results."""
    if (there := _there(context)) is not None:
        remote.show(there, job, json)
        return
    from graphengine.cli import job_rows

    with _queue(queue) as base:
        found, attempts = base.get(job), base.attempts(job)
        doing = job_rows.doing_now(base, [found])
    if json:
        tries = [job_rows.fields(attempt) for attempt in attempts]
        print(json_.dumps(job_rows.facts(found, doing) | {"attempts": tries, "result": found.result}))
        return
    for line in job_rows.lines(found, doing):
        print(line)
    for attempt in attempts:
        why = job_rows.plain(attempt.error or "")
        print(f"attempt {attempt.number} on {attempt.worker}: {attempt.outcome} {why}".rstrip())
    made = job_rows.made(found)
    for file in made.get("files", ()):
        print(job_rows.plain(file))
    for name, value in made.get("values", {}).items():
        print(f"{job_rows.plain(name)}: {job_rows.plain(value)}")


@commands.command("cancel")
@guarded
def cancel(context: typer.Context, jobs: Numbers, queue: QueueFile = None, debug: Debug = False) -> int | None:
    """Cancel jobs: waiting ones at once, others within a step."""
    if (there := _there(context)) is not None:
        return remote.each(there, jobs, remote.cancel_one)
    with _queue(queue) as base:

        def cancel_one(job: int) -> None:
            state = base.cancel(job)
            print(f"job {job} is {'being cancelled' if state == 'running' else state}")

        return _each(jobs, cancel_one)


@commands.command("delete")
@guarded
def delete(context: typer.Context, jobs: Numbers, queue: QueueFile = None, debug: Debug = False) -> int | None:
    """Delete jobs that have ended, with their stored results. The files in their --out folders stay."""
    if (there := _there(context)) is not None:
        return remote.each(there, jobs, lambda client, job: client.delete(job))
    from graphengine.service.jobs.submit import delete as forget

    with _queue(queue) as base:
        return _each(jobs, lambda job: forget(base, job))


@commands.command("clean")
@guarded
def clean(queue: QueueFile = None, debug: Debug = False) -> None:
    """Remove what killed processes have left.

    That is bytes of no job, hidden folders beside pictures, half-written values. A service does so as well when it
    begins. What a live process writes stays, and so does every file of a job.
    """
    from graphengine.cache import DiskStore
    from graphengine.service.cleaning import clean as remove_leftovers
    from graphengine.system.folders import cache_folder

    with _queue(queue) as base:
        count = size = 0
        for path, more in remove_leftovers(base, DiskStore(cache_folder() / "store")):
            print(path)
            count, size = count + 1, size + more
    print(f"{count} leftovers, {size / 1e6:.1f} MB" if count else "nothing was left", file=sys.stderr)


def _each(jobs: list[int], work: Callable[[int], None]) -> int | None:
    """Call a function with every job; print the error of a job for which it fails, and go on."""
    from graphengine.service.jobs.database import QueueError, QueueFileError

    code = None
    for job in jobs:
        try:
            work(job)
        except QueueFileError:
            raise
        except QueueError as error:
            print(error, file=sys.stderr)
            code = WRONG
    return code


@commands.command("move")
@guarded
def move(
    context: typer.Context,
    job: Number,
    before: Annotated[
        int | None,
        typer.Option("--before", metavar="JOB", help="The job to run it before; default: all waiting jobs."),
    ] = None,
    queue: QueueFile = None,
    debug: Debug = False,
) -> None:
    """Move a waiting job before another one, or before all. It takes the priority of that one."""
    if (there := _there(context)) is not None:
        with there.client() as client:
            client.move(str(job), None if before is None else str(before))
        print(f"job {job} is run before {'all others' if before is None else f'job {before}'}")
        return
    from graphengine.cli import job_rows
    from graphengine.errors import GraphEngineError

    with _queue(queue) as base:
        for number in filter(None, (job, before)):
            found = base.get(number)
            if found.state == "running" and job_rows.state_of(found, job_rows.doing_now(base, [found])) == "queued":
                raise GraphEngineError(f"job {number} is with the service already, and keeps its place there")
        was = base.get(job).priority
        base.move(job, before)
        now = base.get(job).priority
    changed = "" if now == was else f"; its priority is {now} now, it was {was}"
    print(f"job {job} is run before {'all others' if before is None else f'job {before}'}{changed}")


@commands.command("pause")
@guarded
def pause(
    context: typer.Context,
    user: Annotated[str, typer.Option("--user", help="Only this user's jobs.")] = "",
    queue: QueueFile = None,
    debug: Debug = False,
) -> None:
    """Begin no more jobs until `resume`; those that run go on."""
    if (there := _there(context)) is not None:
        with there.client() as client:
            client.pause(user or None)
        return
    with _queue(queue) as base:
        base.pause(user)


@commands.command("resume")
@guarded
def resume(
    context: typer.Context,
    user: Annotated[str, typer.Option("--user", help="Only this user's jobs.")] = "",
    queue: QueueFile = None,
    debug: Debug = False,
) -> None:
    """Begin waiting jobs again after `pause`."""
    if (there := _there(context)) is not None:
        with there.client() as client:
            client.resume(user or None)
        return
    with _queue(queue) as base:
        base.resume(user)


@commands.command("limit")
@guarded
def limit(
    context: typer.Context,
    count: Annotated[int | None, typer.Argument(metavar="[JOBS]", min=0, help="The limit; default: none.")] = None,
    user: Annotated[
        str, typer.Option("--user", help="The user to limit; default: all users without a limit of their own.")
    ] = "",
    queue: QueueFile = None,
    debug: Debug = False,
) -> None:
    """Limit how many jobs of a user may wait. Further ones are refused when they are submitted."""
    if (there := _there(context)) is not None:
        with there.client() as client:
            client.limit(count, user)
        return
    with _queue(queue) as base:
        base.set_limit(count, user)


@commands.command("wait")
@guarded
def wait(
    context: typer.Context,
    jobs: Annotated[
        list[int] | None, typer.Argument(metavar="[JOB...]", help="The jobs; default: all that wait or run.")
    ] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", min=0, help="In seconds.")] = None,
    queue: QueueFile = None,
    debug: Debug = False,
) -> int | None:
    """Wait until jobs have ended; 0 if all are done, else 1."""
    from graphengine.cli import job_rows
    from graphengine.cli.watching import CHECK_SECONDS, attending, left_alone
    from graphengine.service.job_activity import words

    if (there := _there(context)) is not None:
        with left_alone():
            return remote.wait(there, jobs, timeout)
    end = None if timeout is None else time.monotonic() + timeout
    with _queue(queue) as base, left_alone():
        numbers, look = jobs or base.unfinished(), attending(base, queue)
        if not numbers:
            print("no job waits or runs; `graphengine queue list` tells of those that have ended", file=sys.stderr)
        while True:
            look()
            left = CHECK_SECONDS if end is None else max(0.0, end - time.monotonic())
            found = base.wait(*numbers, timeout=min(CHECK_SECONDS, left))
            if left < CHECK_SECONDS or all(job.state.ended for job in found):
                break
        doing = job_rows.doing_now(base, found)
    for job in found:
        print(f"job {job.id} is {words(job.state, doing.get(job.id))}{f': {job.error}' if job.error else ''}")
    return None if all(job.state == "done" for job in found) else EXIT_FAILED


@commands.command("stats")
@guarded
def stats(context: typer.Context, queue: QueueFile = None, json: Json = False, debug: Debug = False) -> None:
    """Count jobs by state; show the service and its workers."""
    if (there := _there(context)) is not None:
        remote.stats(there, json)
        return
    from graphengine.cli import job_rows
    from graphengine.cli.watching import idle
    from graphengine.service.jobs.lease import holder
    from graphengine.service.socket_client import hello
    from graphengine.system.folders import queue_file

    file = queue or queue_file()
    with _queue(queue) as base:
        facts: dict[str, Any] = {"file": str(file), **job_rows.counts(base)}
        facts |= {"paused": base.paused(), "limits": base.limits(), "holder": holder(base)}
        nobody = idle(base, queue)
    told = hello(file)
    facts["service"] = told is not None
    workers = told["workers"] if told is not None else []
    if json:
        print(json_.dumps({**facts, "workers": workers}))
        return
    facts["paused"] = ", ".join(user or "all" for user in facts["paused"])
    facts["limits"] = ", ".join(f"{user or 'each'}: {count}" for user, count in facts["limits"].items())
    for name, value in facts.items():
        print(f"{name:10} {value}")
    for worker in workers:
        free = "" if worker["free"] is None else f"{worker['free'] / 2**30:.1f} GiB free, "
        print(
            f"{worker['name']:10} {worker['state']} on {worker['device']}: {worker['landed']} nodes, "
            f"{worker['held']} models held, {free}{worker['loads']} loaded, lost {worker['deaths']} times"
        )
    print(nobody, end="")


@commands.command("report")
@guarded
def report(
    context: typer.Context,
    job: Number,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.html", help="The page.")] = Path("report.html"),
    queue: QueueFile = None,
    packs: Packs = None,
    debug: Debug = False,
) -> None:
    """Write a page about a job that has ended. It shows its values, and who waited for what on which device."""
    from graphengine.cli.common import load_packs
    from graphengine.system.staging import write_file

    if (there := _there(context)) is not None:
        with there.client() as client:
            page = client.report(str(job))
    else:
        load_packs(packs)
        from graphengine.service.job_report import job_page

        with _queue(queue) as base:
            page = job_page(base, job)
    write_file(out, page.encode("utf-8", "replace"))
    print(out)


@commands.command("watch")
@guarded
def watch(
    context: typer.Context,
    job: Annotated[int | None, typer.Argument(metavar="JOB", min=1, help="The job; default: all jobs.")] = None,
    queue: QueueFile = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Follow jobs: a live table, or events as lines of JSON."""
    from graphengine.cli.watching import Following, attending, left_alone, table

    if (there := _there(context)) is not None:
        with left_alone():
            remote.watch(there, job, json, _event)
        return
    with _queue(queue) as base, left_alone():
        look = attending(base, queue)
        if json or not sys.stdout.isatty():  # a live table is for a terminal
            for line in Following(base, job, previews=json, look=look).lines():
                print(json_.dumps(line) if json else _event(line), flush=True)
        else:
            table(base, job, look)


def _event(line: dict[str, Any]) -> str:
    step = f"{line['step']}/{line['total']}" if line["kind"] == Kind.PROGRESS else ""
    facts = (str(line[name]) for name in ("node", "error", "worker") if line.get(name))
    return " ".join(["job", str(line["job"]), line["kind"], *([step] if step else []), *facts])
