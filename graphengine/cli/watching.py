"""Following jobs: their events from the service, or from the queue's file, as lines or as a live table."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from graphengine.cli.common import CANCELLED
from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.job import Job, JobEventKind, State
from graphengine.service.socket_client import PATIENCE, hello, watch
from graphengine.service.watcher import NOTHING, Watcher
from graphengine.system.terminal import console

if TYPE_CHECKING:
    from graphengine.service.jobs.queue import Queue

MOST_WAITING = 100_000
"""The most jobs that are counted as waiting."""
SHOWN = 30
"""Lines of the live table: as many jobs, of which a third may have ended."""
LITTLE_PATIENCE = 3.0
"""Seconds to wait for a sign of a service in place of one that was found hanging."""
CHECK_SECONDS = 1.0
"""Seconds between checks whether a service runs a queue's jobs."""


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
    """Follows the events of jobs: as the service of this machine tells them while one runs, else from the queue's file.

    Args:
        job: The number of the only job to follow, from its beginning; None to follow all from now on.
        previews: Whether previews are wanted.
        look: Called now and then.
    """

    def __init__(
        self, queue: Queue, job: int | None = None, previews: bool = True, look: Callable[[], None] = lambda: None
    ) -> None:
        self.queue, self.job, self.previews, self._look = queue, job, previews, look
        if job is not None:
            queue.get(job)
        self._patience = PATIENCE
        self._known = 0 if job is not None else queue.last_change()
        self._service = self._connected()  # now: what happens from now on is told whole

    def _connected(self) -> Iterator[dict[str, Any]] | None:
        """The events of the service after the last one that is known; None if no service runs."""
        lines = watch(self.queue.file, self.job, self._known, self.previews, self._patience)
        try:
            if next(lines, None) == {"kind": JobEventKind.WATCHING}:
                self._patience = PATIENCE
                return lines
        except TimeoutError:
            self._patience = LITTLE_PATIENCE  # it hangs: another takes its place soon, and the file has news meanwhile
        except (OSError, ValueError):
            pass
        return None

    def lines(self, job: int | None = None) -> Iterator[dict[str, Any]]:
        """The events of a job (by default the one known already) until it has ended, or of all jobs for ever."""
        job = self.job if job is None else job
        while True:
            for line in self._lines():
                self._look()
                self._known = max(self._known, line.get("number", 0))
                if line["kind"] and job in (None, line["job"]):
                    yield line
                    if job is not None and line.get("last"):
                        return

    def _lines(self) -> Iterator[dict[str, Any]]:
        """The events of the service until it ends; those of the queue's file where none runs, for about a second."""
        self._service = self._service or self._connected()
        if self._service is not None:
            with contextlib.suppress(OSError, ValueError):
                yield from self._service
            self._service = None
        watcher = Watcher(self.queue, self.job, self._known)
        while watcher.take() is None:
            for event in watcher.read():
                yield event.as_dict(event.job)
        yield NOTHING.as_dict(0)
        self.queue.wait_for_change(CHECK_SECONDS)


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
