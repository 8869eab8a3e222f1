"""Calls the listeners of a service with the events of jobs (their kinds are in `jobs/job`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphengine.events import Event, Kind
from graphengine.service.jobs.job import JobEventKind

__all__ = ["JobEvent", "JobEventKind", "JobListener"]


@dataclass(frozen=True, slots=True)
class JobEvent:
    """An event of a job.

    Attributes:
        job: The job's number.
        kind: What happened to the job, or in its run (`node_started`, `progress`, ...).
        event: The event of the job's run, if it is one.
        facts: More about it, as JSON data.
    """

    job: int
    kind: JobEventKind | Kind
    event: Event | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    time: float = field(default_factory=time.time)


JobListener = Callable[[JobEvent], None]
