"""Answers of a server, typed: jobs, their outputs and events, workflows and the queue."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from graphengine.events import Kind
from graphengine.service.jobs.job import LAST_KINDS, State


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that a job wrote: its name, and where it is on the server."""

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class Output:
    """An output of a job: its files, or without any its plain value."""

    files: tuple[OutputFile, ...] = ()
    value: Any = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the server shows it.

    Attributes:
        id: Its UUID.
        number: Its number in the server's queue.
        inputs: Its inputs in short.
        drawn: The numbers that were drawn for it.
        created, started, ended: With their time zone; None for what has not happened.
        ahead: How many jobs wait before it; None if it does not wait.
        progress: The node that is computed (`node`, `type`, `step`, `total`, `left` in seconds); None if it does not
            run.
        error, node: Why it failed, and at which node.
        outputs: By name; of a failed job those that were made.
    """

    id: str
    number: int
    state: State
    workflow: str | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    drawn: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    priority: int = 0
    created: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    ahead: int | None = None
    cancelling: bool = False
    progress: Mapping[str, Any] | None = None
    error: str | None = None
    node: str | None = None
    outputs: Mapping[str, Output] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a job.

    Attributes:
        job: The job's UUID.
        kind: A `JobEventKind`, or a `Kind` of events of runs (`progress`, `preview`, ...).
        number: Its number in the queue's log, after which events can be asked for; None for progress and previews.
        data: More about it, as JSON data.
    """

    job: str
    kind: str
    number: int | None
    data: Mapping[str, Any]

    @property
    def last(self) -> bool:
        """Whether nothing happens to the job after it."""
        return self.kind in LAST_KINDS

    @property
    def picture(self) -> bytes | None:
        """The picture of a preview, PNG or JPEG; None of other events."""
        return base64.b64decode(self.data["data"]) if self.kind == Kind.PREVIEW else None


@dataclass(frozen=True, slots=True)
class Workflow:
    """A named workflow of the server.

    Attributes:
        inputs: The JSON Schema of its inputs.
        outputs: The types of its outputs, by name.
        error: Why it cannot be run, if it cannot.
    """

    name: str
    title: str = ""
    description: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """The queue as the caller sees it.

    Attributes:
        running, waiting: Jobs, those that wait in their order.
        paused: Whether the caller's jobs, or all, are paused.
        limit: How many jobs of the caller may wait; None for any number.
        limits: The limits by user, '' for users without one of their own; for admins only.
    """

    running: list[Job]
    waiting: list[Job]
    paused: bool
    limit: int | None
    limits: Mapping[str, int] | None = None


def job_of(data: Mapping[str, Any]) -> Job:
    """A job of JSON data; fields that this version does not know are left out."""
    error = data.get("error") or {}
    known: dict[str, Any] = {name: data[name] for name in _PLAIN if data.get(name) is not None}
    known |= {name: datetime.fromisoformat(data[name]) for name in ("created", "started", "ended") if data.get(name)}
    known["outputs"] = {name: _output(one) for name, one in data.get("outputs", {}).items()}
    return Job(
        data["id"], data["number"], State(data["state"]), error=error.get("message"), node=error.get("node"), **known
    )


_PLAIN = (
    "workflow", "inputs", "drawn", "labels", "user", "priority", "ahead", "cancelling", "progress",
)  # fmt: skip


def _output(data: Mapping[str, Any]) -> Output:
    return Output(tuple(OutputFile(one["name"], one["url"]) for one in data.get("files", ())), data.get("value"))


def workflow_of(data: Mapping[str, Any]) -> Workflow:
    """A workflow of JSON data."""
    return Workflow(**{name: data[name] for name in Workflow.__dataclass_fields__ if data.get(name) is not None})


def queue_of(data: Mapping[str, Any]) -> QueueFacts:
    """The queue of JSON data."""
    running, waiting = ([job_of(one) for one in data[name]] for name in ("running", "waiting"))
    return QueueFacts(running, waiting, data["paused"], data["limit"], data.get("limits"))
