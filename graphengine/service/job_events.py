"""What happens to jobs, as the service tells it to whoever listens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphengine.events import Event


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job.

    Attributes:
        job: Its number.
        kind: A state, `queued` to `cancelled`, `lost` (its service died), `left` (to be begun again), `worker_lost`,
            `computed` (a call by a worker, with the facts of `Landed`), or what happened in its run (`node_started`,
            `progress`, ...).
        event: The event of its run, if it is one.
        facts: More about it.
    """

    job: int
    kind: str
    event: Event | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    time: float = field(default_factory=time.time)


JobListener = Callable[[JobEvent], None]
