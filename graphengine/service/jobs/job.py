"""Jobs as data, as the queue holds them: a job, its state, its attempts, and the changes of it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphengine.service.retry import CRASHES


class State(enum.StrEnum):
    """The state of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return self in (State.DONE, State.FAILED, State.CANCELLED)


class JobEventKind(enum.StrEnum):
    """The kinds of events of jobs, in the queue's file and for listeners of a service. An event of a job's run is an
    `events.Kind`."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    CANCELLING = "cancelling"
    LOST = "lost"
    LEFT = "left"
    WORKER_LOST = "worker_lost"
    COMPUTED = "computed"
    SILENT = "silent"
    MOVED = "moved"
    PREFERRED = "preferred"
    DELETED = "deleted"
    PAUSED = "paused"
    RESUMED = "resumed"
    WATCHING = "watching"

    @property
    def ended(self) -> bool:
        """Whether nothing happens to the job after it."""
        return self in (JobEventKind.DONE, JobEventKind.FAILED, JobEventKind.CANCELLED)


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be submitted.

    Attributes:
        body: A graph, its inputs and its wanted outputs, as JSON data.
        user: The user whose job it is; '' where there is only one.
        priority: A job with a higher one is run first.
        attempts: How often each of its nodes is tried when workers crash (not how often the job is).
        facts: What lists of jobs show without reading the body, as JSON data.
    """

    body: Mapping[str, Any]
    user: str = ""
    priority: int = 0
    attempts: int = CRASHES
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """A job in the queue, without its body.

    Attributes:
        id: Its number; later jobs have higher ones.
        state: Its state.
        user, priority, facts: As it was submitted.
        attempt: The number of its last attempt: how often it was begun.
        limit: How often each of its nodes is tried when workers crash (`NewJob.attempts`).
        worker: The service that runs it, or ran it last.
        cancelling: It runs, and was cancelled.
        created, started, ended: Seconds since the epoch; None for what has not happened.
        result: JSON data of its last attempt: its outputs, or the class of its error.
        error: Why it failed, or why its last attempt was lost.
    """

    id: int
    state: State
    user: str
    priority: int
    facts: Mapping[str, Any]
    attempt: int
    limit: int
    worker: str | None
    cancelling: bool
    created: float
    started: float | None
    ended: float | None
    result: Any
    error: str | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a job by a service.

    Attributes:
        number: 1 for the first of the job.
        worker: The service.
        outcome: How it ended, a `JobEventKind`; `running` until it has.
        files: The files that it was about to write when it ended, by path, with the marks of `outputs.marks`.
    """

    number: int
    worker: str
    started: float
    ended: float | None
    outcome: str
    error: str | None
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a job in the queue; `number` grows with each.

    Attributes:
        kind: A `JobEventKind`; as text where a newer version has written it.
    """

    number: int
    job: int
    kind: str
    time: float
    facts: Mapping[str, Any]
