"""What a job is: data only, as the queue holds it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphengine.service.retry import CRASHES


class State(enum.StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self in (State.DONE, State.FAILED, State.CANCELLED)


class JobEventKind(enum.StrEnum):
    """What happens to a job, in the queue's file and for those who listen to a service. What happens in a job's run
    is an `events.Kind`."""

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
        user: Whose it is; '' where there is but one.
        priority: What is higher is run first.
        attempts: How often each of its nodes is tried when workers die of it.
        facts: What the scheduler wants to know without reading the body (models, sizes), as JSON data.
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
        state: Where it stands.
        user, priority, facts: As it was submitted.
        attempt: How often it was begun: more than once when the service was ended meanwhile.
        limit: How often each of its nodes is tried.
        worker: Who runs it, or ran it last.
        cancelling: It runs, and is wanted to stop.
        created, started, ended: Seconds since the epoch; None for what has not happened.
        result: JSON data that its run left: what it made, or of which class its error was.
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
    """One try at a job: when, by whom, and how it ended (`running` until it has).

    Attributes:
        files: What it was about to write when it ended, by path, with the marks of `outputs.marks`.
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
    """Something that happened to a job; `number` grows with each.

    Attributes:
        kind: A `JobEventKind`; as text where a newer version has written it.
    """

    number: int
    job: int
    kind: str
    time: float
    facts: Mapping[str, Any]
