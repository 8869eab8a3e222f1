"""The service: a durable queue of jobs, and what runs them.

    from graphengine.service import local_service, queue_file

    with local_service(queue_file()) as service:
        job = service.submit(graph, {"prompt": "a red circle"})
        service.wait(job)
        image = service.outputs(job)["image"]
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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
    "InlineRunner": "inline",
    "Job": "jobs",
    "JobEvent": "happenings",
    "LeaseLost": "queue",
    "LocalWorker": "local",
    "NewJob": "jobs",
    "Queue": "queue",
    "QueueError": "database",
    "QueueFull": "queue",
    "Service": "service",
    "State": "jobs",
    "WorkerRunner": "workers",
    "local_service": "start",
    "queue_file": "here",
}
__all__ = [
    "InlineRunner", "Job", "JobEvent", "LeaseLost", "LocalWorker", "NewJob", "Queue", "QueueError", "QueueFull",
    "Service", "State", "WorkerRunner", "local_service", "queue_file",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # As in `graphengine`: who looks only at the queue imports no more than that.
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'graphengine.service' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"graphengine.service.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
