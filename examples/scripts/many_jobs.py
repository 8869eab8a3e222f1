"""Runs jobs on workers from a queue on disk: `python many_jobs.py [FOLDER]`. Kill it and start it again: it goes on."""

from __future__ import annotations

import sys
from pathlib import Path

from graphengine import load
from graphengine.service import JobEvent, State, local_service


def show(event: JobEvent) -> None:
    """Write one line for each state that a job comes to."""
    if event.kind in set(State):
        print(f"job {event.job}: {event.kind}")


def main(folder: Path) -> None:
    """Submit a job for each seed and wait until all have ended."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = load("text_to_image")
    with local_service(folder / "queue.sqlite", workers=1, threads=1) as service:
        service.subscribe(show)
        jobs = [service.submit(graph, {"seed": seed, "steps": 4}) for seed in range(1, 4)]
        for job in service.wait(*jobs):
            if job.state is not State.DONE:
                raise SystemExit(f"job {job.id}: {job.error}")
            service.outputs(job.id)["image"].save(folder / f"job_{job.id}.png")


if __name__ == "__main__":
    main(Path(*sys.argv[1:2]))
