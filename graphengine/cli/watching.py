"""Following jobs: events from the queue's file and the service's socket, as lines or as a live table."""

from __future__ import annotations

import contextlib
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import typer

from graphengine.cli.common import CANCELLED
from graphengine.events import Kind
from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.job import Job, JobEventKind, State
from graphengine.service.socket_client import hello, watch
from graphengine.system.channel import listens
from graphengine.system.terminal import console

if TYPE_CHECKING:
    from graphengine.service.jobs.queue import Queue

ENDED = tuple(kind for kind in JobEventKind if kind.ended)
STEPS = (
    Kind.PROGRESS, Kind.PREVIEW, Kind.NODE_STARTED, Kind.NODE_FINISHED, Kind.NODE_FAILED, JobEventKind.SILENT,
)  # fmt: skip
"""Events that only the service's socket has; all others are in the queue's file."""
MOST_WAITING = 100_000
"""The most jobs that are counted as waiting."""
SHOWN = 30
"""Lines of the live table: as many jobs, of which a third may have ended."""
CHECK_SECONDS = 1.0
"""Seconds between checks whether a service runs a queue's jobs."""
SERVICE_SECONDS = 1.0
"""Seconds to wait for a service that runs: for its first line, and at a job's end for its last steps."""


def idle(base: Queue, file: Path | None) -> str:
    """A line about jobs that wait while no service runs the queue's; jobs of a killed service count as waiting."""
    from graphengine.service.jobs.lease import holder

    if holder(base) is not None:  # first: this is asked every second
        return ""
    count = len(waiting := [*base.running(), *base.waiting(MOST_WAITING)])
    if not waiting:
        return ""
    wait, them = ("1 job waits", "it") if count == 1 else (f"{count} jobs wait", "them")
    if (told := hello(base.file)) is not None and told["active"]:
        return f"{wait}; the service that runs {them} cannot write {base.file}: is the disk full?\n"
    what = f"{wait} and nothing runs {them}"
    if base.body(waiting[0].id).get("finish"):  # of a script that has a finisher
        return f"{what}; the script that queued them does when it is started again\n"
    return f"{what}; `graphengine worker{'' if file is None else f' --queue {shlex.quote(str(file))}'}` does\n"


def attending(base: Queue, file: Path | None) -> Callable[[], None]:
    """A function to call now and then while waiting: it prints to standard error why no job goes on, and when one does
    again."""
    said, looked = "", -CHECK_SECONDS

    def look() -> None:
        nonlocal said, looked
        if time.monotonic() - looked < CHECK_SECONDS:
            return
        looked = time.monotonic()
        why = idle(base, file) or _paused(base)
        if why != said:
            print(why or "something runs the jobs again\n", end="", file=sys.stderr, flush=True)
        said = why

    return look


def _paused(base: Queue) -> str:
    """A line about jobs that wait because they are paused."""
    for user in base.paused():
        if not user:
            return "the queue is paused; `graphengine queue resume` ends that\n"
        if base.history([State.QUEUED], user, limit=1):
            name = shlex.quote(user)
            return f"the jobs of {name} are paused; `graphengine queue resume --user {name}` ends that\n"
    return ""


@contextlib.contextmanager
def left_alone() -> Iterator[None]:
    """Let Ctrl-C end this command only, not the jobs.

    Raises:
        typer.Exit: Ctrl-C was pressed.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("the jobs go on", file=sys.stderr)
        raise typer.Exit(CANCELLED) from None


class Following:
    """Follows the events of jobs from now on: changes of the queue, and steps and previews of this machine's service.

    Args:
        job: The number of the only job to follow, if it is known already.
        previews: Whether previews are wanted.
        look: Called now and then while nothing happens.
    """

    def __init__(
        self, queue: Queue, job: int | None = None, previews: bool = True, look: Callable[[], None] = lambda: None
    ) -> None:
        self.queue, self.job, self._last, self._look = queue, job, queue.last_change(), look
        self._first = None if job is None else queue.get(job)
        self._told: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._listening = threading.Event()
        self._over = False
        kinds = [*(kind for kind in STEPS if previews or kind is not Kind.PREVIEW), *ENDED]
        threading.Thread(target=self._listen, args=(job, kinds), daemon=True).start()
        if listens(queue.file):
            self._listening.wait(SERVICE_SECONDS)

    def _listen(self, job: int | None, kinds: list[str]) -> None:
        """Read the socket of the service, again and again, whichever runs."""
        while True:
            with contextlib.suppress(OSError, ValueError):
                for line in watch(self.queue.file, job, kinds):
                    self._listening.set()
                    if line["kind"] in kinds:
                        self._told.put(line)
            self._listening.clear()
            time.sleep(0.5)

    def steps(self, timeout: float = 0.0) -> Iterator[dict[str, Any]]:
        """The service's events so far, in their order, until there was none for so many seconds."""
        with contextlib.suppress(Empty):
            while True:
                yield self._told.get(timeout > 0, timeout)

    def lines(self, job: int | None = None) -> Iterator[dict[str, Any]]:
        """The events of a job (by default the one known already) until it has ended, or of all jobs for ever."""
        job = self.job if job is None else job
        if self._first is not None:
            yield {"job": self._first.id, "kind": self._first.state, "time": self._first.created}
            if self._first.state.ended:
                return
        while True:
            end = None
            for change in self.queue.changes(self._last):
                self._last = change.number
                if job in (None, change.job):
                    line = {"job": change.job, "kind": change.kind, "time": change.time, **change.facts}
                    if change.kind in ENDED and job is not None:
                        end = line
                    else:
                        yield line
            yield from self._steps_of(job, 0.05 if end is None else SERVICE_SECONDS)
            if end is not None:
                yield end
                return
            self._look()
            self.queue.wait_for_change(0.05)

    def _steps_of(self, job: int | None, timeout: float) -> Iterator[dict[str, Any]]:
        """The service's steps, until its event of the job's end."""
        if self._over:
            return
        for line in self.steps(timeout if self._listening.is_set() else 0.0):
            if job in (None, line["job"]):
                if line["kind"] in STEPS:
                    yield line
                elif job is not None:
                    self._over = True
                    return


def table(queue: Queue, job: int | None, look: Callable[[], None] = lambda: None) -> None:
    """Show a live table of waiting and running jobs with their activity; jobs that end meanwhile keep their line.
    Returns when the job has ended."""
    from rich.live import Live

    known: dict[int, Job] = {}
    with Live(console=console(sys.stdout), refresh_per_second=8) as live:
        while True:
            live.update(_rows(queue, job, known))
            if job is not None and queue.get(job).state.ended:
                return
            look()
            queue.wait_for_change(0.25)


def _rows(queue: Queue, job: int | None, known: dict[int, Job]) -> Any:
    """The table as it is now.

    Args:
        known: By number, the jobs that were shown before; those that are shown now are put there.
    """
    from graphengine.cli import job_rows

    if job is not None:
        going = [queue.get(job)]
    else:
        waiting = queue.waiting(SHOWN // 2)  # first: a job that begins meanwhile is in both, not in neither
        begun = {one.id: one for one in queue.running()}
        going = [*begun.values(), *(one for one in waiting if one.id not in begun)]
    for gone in known.keys() - {one.id for one in going}:
        if known[gone].state.ended:
            continue
        try:
            known[gone] = queue.get(gone)
        except QueueError:  # it was deleted
            del known[gone]
    known |= {one.id: one for one in going}
    ended = sorted((one for one in known.values() if one.state.ended), key=lambda one: one.ended or 0.0)
    for one in ended[: -SHOWN // 3]:
        del known[one.id]
    doing = job_rows.doing_now(queue, going)
    going.sort(key=lambda one: job_rows.state_of(one, doing) != State.RUNNING)  # running jobs stand before waiting ones
    shown = sorted(filter(lambda one: one.state.ended, known.values()), key=lambda one: one.id)
    shown += [one for one in going if not one.state.ended][: SHOWN - len(shown)]
    title = "  ".join(f"{state} {count}" for state, count in job_rows.counts(queue).items())
    return job_rows.table(shown, doing, title)
