"""Following jobs: what the queue's file and the service's socket tell, as lines or as a live table."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from graphengine.service.jobs import State

if TYPE_CHECKING:
    from graphengine.service.queue import Queue

ENDED = ("done", "failed", "cancelled")


def follow(queue: Queue, job: int | None) -> Iterator[dict[str, Any]]:
    """What happens to a job until it has ended, or to all jobs for ever: changes of the queue, and the steps and
    previews that a service on this machine tells."""
    told: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=_listen, args=(queue, job, told), daemon=True).start()
    if job is not None:
        found = queue.get(job)
        yield {"job": job, "kind": found.state, "time": found.created}
        if found.state.ended:
            return
    last = queue.last_change()
    while True:
        for change in queue.changes(last):
            last = change.number
            if job is None or change.job == job:
                yield {"job": change.job, "kind": change.kind, "time": change.time, **change.facts}
                if job is not None and change.kind in ENDED:
                    return
        with contextlib.suppress(Empty):
            while True:
                yield told.get(timeout=0.05)
        queue.wait_for_change(0.05)


def _listen(queue: Queue, job: int | None, told: SimpleQueue[dict[str, Any]]) -> None:
    """Steps and previews from the service, whichever runs."""
    from graphengine.service.here import watch

    while True:
        with contextlib.suppress(OSError, ValueError):
            for line in watch(queue.file, job):
                if line["kind"] in ("progress", "preview", "node_started", "node_finished", "node_failed"):
                    told.put(line)
        time.sleep(0.5)


def table(queue: Queue, job: int | None) -> None:
    """A live table of what waits and runs, with the steps of what is computed; ends when the job has."""
    from rich.live import Live

    steps: dict[int, str] = {}
    told: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=_listen, args=(queue, job, told), daemon=True).start()
    with Live(refresh_per_second=8) as live:
        while True:
            with contextlib.suppress(Empty):
                while True:
                    line = told.get_nowait()
                    step = f" {line['step']}/{line['total']}" if line["kind"] == "progress" else ""
                    steps[line["job"]] = f"{line.get('node', '')}{step}"
            live.update(_rows(queue, job, steps))
            if job is not None and queue.get(job).state.ended:
                return
            queue.wait_for_change(0.25)


def _rows(queue: Queue, job: int | None, steps: dict[int, str]) -> Any:
    from rich.table import Table
    from rich.text import Text

    shown = [queue.get(job)] if job is not None else [*queue.running(), *queue.waiting(15)]
    counts = queue.counts()
    title = "  ".join(f"{state} {counts[state]}" for state in State)
    found = Table(title=title, box=None, pad_edge=False)
    for name in ("job", "state", "user", "node"):
        found.add_column(name, min_width=8)
    for one in shown[:30]:
        found.add_row(*[Text(str(cell)) for cell in (one.id, one.state, one.user, steps.get(one.id, ""))])
    return found
