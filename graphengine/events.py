"""Events of a run: the one stream that progress bars, callbacks, logs and traces read."""

from __future__ import annotations

import enum
from collections.abc import Callable
from time import time as now
from typing import Any


class Kind(enum.StrEnum):
    """The type of an event."""

    RUN_STARTED = "run_started"
    NODE_STARTED = "node_started"
    PROGRESS = "progress"
    PREVIEW = "preview"
    NODE_FINISHED = "node_finished"
    NODE_FAILED = "node_failed"
    RUN_FINISHED = "run_finished"
    RUN_FAILED = "run_failed"


class Reuse(enum.StrEnum):
    """How a node's value was obtained: computed, from memory or disk, or from a run that was computing it already."""

    COMPUTED = "computed"
    MEMORY = "memory"
    DISK = "disk"
    JOINED = "joined"


STARTED = Kind.NODE_STARTED  # a module global is read faster than an enum's member


class Event:
    """One thing that happened in a run.

    Attributes:
        kind: The type of the event.
        run: The run's number in this process.
        node, type: The node's id and full name; '' for events of the run.
        reuse: With `node_finished`: how the value was obtained.
        step, total: With `progress`: steps done, and steps in all.
        value: With `node_finished` and `preview`: the value itself, which `as_dict` leaves out. Of a preview that
            another process has made, its `View`.
        seconds: With `node_finished` of a computed value and `run_finished`: how long it took.
        error: With `node_failed` and `run_failed`: the message.
        time: Seconds since the epoch.
    """

    # Defaults stand in the class, so that most events need not store them.
    reuse: Reuse | None = None
    step: int | None = None
    total: int | None = None
    value: Any = None
    seconds: float | None = None
    error: str | None = None

    def __init__(
        self,
        kind: Kind,
        run: int,
        node: str = "",
        type: str = "",
        reuse: Reuse | None = None,
        seconds: float | None = None,
        value: Any = None,
        step: int | None = None,
        total: int | None = None,
        error: str | None = None,
    ) -> None:
        self.kind, self.run, self.node, self.type, self.time = kind, run, node, type, now()
        if reuse is not None:
            self.reuse, self.seconds, self.value = reuse, seconds, value
        elif kind is not STARTED:
            self.seconds, self.value, self.step, self.total, self.error = seconds, value, step, total, error

    def as_dict(self) -> dict[str, Any]:
        """The event as data for JSON, without the value and without empty fields."""
        items = sorted(vars(self).items())
        return {name: value for name, value in items if name != "value" and value is not None and value != ""}

    def __repr__(self) -> str:
        return f"<{' '.join(str(v) for v in (self.kind, self.node, self.reuse or '', self.step or '') if v)}>"


Listener = Callable[[Event], None]
