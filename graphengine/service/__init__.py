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
    from graphengine.service.job_events import JobEvent, JobEventKind
    from graphengine.service.jobs.database import QueueError
    from graphengine.service.jobs.job import Job, NewJob, State
    from graphengine.service.jobs.queue import LeaseLost, Queue, QueueFull
    from graphengine.service.service import Service
    from graphengine.service.start import local_service
    from graphengine.service.workers.inline import InlineRunner
    from graphengine.service.workers.pool import WorkerRunner
    from graphengine.service.workers.process import LocalWorker
    from graphengine.system.folders import queue_file

_HOMES = {
    "graphengine.service.job_events": ("JobEvent", "JobEventKind"),
    "graphengine.service.jobs.database": ("QueueError",),
    "graphengine.service.jobs.job": ("Job", "NewJob", "State"),
    "graphengine.service.jobs.queue": ("LeaseLost", "Queue", "QueueFull"),
    "graphengine.service.service": ("Service",),
    "graphengine.service.start": ("local_service",),
    "graphengine.service.workers.inline": ("InlineRunner",),
    "graphengine.service.workers.pool": ("WorkerRunner",),
    "graphengine.service.workers.process": ("LocalWorker",),
    "graphengine.system.folders": ("queue_file",),
}
__all__ = [
    "InlineRunner", "Job", "JobEvent", "JobEventKind", "LeaseLost", "LocalWorker", "NewJob", "Queue", "QueueError",
    "QueueFull", "Service", "State", "WorkerRunner", "local_service", "queue_file",
]  # fmt: skip


if not TYPE_CHECKING:  # a type checker tells of names that are not there
    __getattr__ = exports(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
