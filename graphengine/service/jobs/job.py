"""Jobs as data: a row of the queue, its state, its attempts, and the kinds of events in its life."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphengine.service.retry import CRASHES


class State(enum.StrEnum):
    """The state of a job."""

    QUEUED = "queued"
    """It waits to be begun, for the first time or again."""
    RUNNING = "running"
    """A service has begun it."""
    DONE = "done"
    """It has ended; its outputs are stored."""
    FAILED = "failed"
    """It has ended with an error."""
    CANCELLED = "cancelled"
    """It was cancelled before it ended by itself."""

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return self in (State.DONE, State.FAILED, State.CANCELLED)


class JobEventKind(enum.StrEnum):
    """The kinds of events of jobs, in the queue's file and for listeners of a service. An event of a job's run is an
    `events.Kind`."""

    QUEUED = "queued"
    """The job was submitted."""
    RUNNING = "running"
    """A service has begun the job."""
    DONE = "done"
    """The job has ended; its outputs are stored."""
    FAILED = "failed"
    """The job has ended with an error."""
    CANCELLED = "cancelled"
    """The job has ended because it was cancelled."""
    CANCELLING = "cancelling"
    """The running job was cancelled; it ends within a step."""
    LOST = "lost"
    """The job's service died, or could not record the job's end: the job waits again, and the service counts against
    it."""
    LEFT = "left"
    """The service put the job back on purpose, for example because it was stopped: the job waits again, and nothing
    counts against it."""
    WORKER_LOST = "worker_lost"
    """A worker was lost while it computed for the job, which goes on."""
    COMPUTED = "computed"
    """A worker has computed a call of the job."""
    SILENT = "silent"
    """The job has given no sign for long."""
    MOVED = "moved"
    """The waiting job was given another place in the queue."""
    PREFERRED = "preferred"
    """The waiting job was given another priority."""
    DELETED = "deleted"
    """The ended job was removed from the history."""
    PAUSED = "paused"
    """The jobs of a user, or all, were paused."""
    RESUMED = "resumed"
    """A pause was ended."""
    WATCHING = "watching"
    """The service's first line to a client that watches: events follow from now on."""

    @property
    def ended(self) -> bool:
        """Whether the job has ended with it."""
        return self in (JobEventKind.DONE, JobEventKind.FAILED, JobEventKind.CANCELLED)


LAST_KINDS = (JobEventKind.DONE, JobEventKind.FAILED, JobEventKind.CANCELLED, JobEventKind.DELETED)
"""The kinds of events after which who watches a job hears nothing more of it."""


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


class Named:
    """The UUID of a job: no field of `Job`, as fields of a value that a node is given are in the node's key."""

    __slots__ = ("uuid",)
    uuid: str


@dataclass(frozen=True, slots=True)
class Job(Named):
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
        uuid: Its name for programs on other machines, in lower case: no other job of any queue has it. Only a job that
            was read from a queue has one.
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
