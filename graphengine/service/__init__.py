"""The service: a durable queue of jobs, and what runs them.

    from graphengine.service import local_service, queue_file

    with local_service(queue_file()) as service:
        job = service.submit(graph, {"prompt": "a red circle"})
        service.wait(job)
        image = service.outputs(job)["image"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphengine.lazy import exports

if TYPE_CHECKING:
    from graphengine.service.database import QueueError
    from graphengine.service.happenings import JobEvent
    from graphengine.service.here import queue_file
    from graphengine.service.inline import InlineRunner
    from graphengine.service.jobs import Job, NewJob, State
    from graphengine.service.local import LocalWorker
    from graphengine.service.queue import LeaseLost, Queue, QueueFull
    from graphengine.service.service import Service
    from graphengine.service.start import local_service
    from graphengine.service.workers import WorkerRunner

_HOMES = {
    "database": ("QueueError",),
    "happenings": ("JobEvent",),
    "here": ("queue_file",),
    "inline": ("InlineRunner",),
    "jobs": ("Job", "NewJob", "State"),
    "local": ("LocalWorker",),
    "queue": ("LeaseLost", "Queue", "QueueFull"),
    "service": ("Service",),
    "start": ("local_service",),
    "workers": ("WorkerRunner",),
}
__all__ = [
    "InlineRunner", "Job", "JobEvent", "LeaseLost", "LocalWorker", "NewJob", "Queue", "QueueError", "QueueFull",
    "Service", "State", "WorkerRunner", "local_service", "queue_file",
]  # fmt: skip


if not TYPE_CHECKING:  # a type checker tells of names that are not there
    __getattr__ = exports(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
