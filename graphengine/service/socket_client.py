"""The client of a service's socket: whether a service of this user runs on this machine, what its jobs do, events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graphengine.system.channel import connected

PATIENCE = 10.0
"""Seconds without a sign, which comes every second, after which a service that is watched is taken to hang."""


def hello(file: Path) -> dict[str, Any] | None:
    """The identity and workers of the service that runs a queue's jobs on this machine; None if none does. Of a service
    of another version, only the version: other fields may have another meaning."""
    from graphengine.version import __version__

    try:
        found = _answer(file, "hello")
    except (OSError, ValueError):
        return None
    version = found.get("version") if isinstance(found, dict) else None
    return found if version == __version__ else {"version": version, "active": True, "workers": []}


def doing(file: Path) -> dict[int, dict[str, Any]]:
    """The activity of the jobs that run on this machine, by number, as `JobActivity.facts` has it; maybe empty."""
    try:
        found = _answer(file, "jobs")
    except (OSError, ValueError):  # no service runs, or one of an older version, which does not know `jobs`
        return {}
    return {int(number): facts for number, facts in found.items()} if isinstance(found, dict) else {}


def _answer(file: Path, op: str) -> Any:
    """Send a request to a service and read its answer, a line of JSON.

    Raises:
        OSError, ValueError: No service runs, or its answer cannot be read.
    """
    with connected(file) as stream:
        stream.write(json.dumps({"op": op}).encode() + b"\n")
        stream.flush()
        return json.loads(stream.readline())


def watch(
    file: Path, job: int | None = None, after: int = 0, previews: bool = False, patience: float = PATIENCE
) -> Iterator[dict[str, Any]]:
    """The events of a job, or of all jobs, until its end or that of the service; the first is `watching`, and `""` is a
    sign that nothing has happened for a second. They are those that clients over HTTP have, with the job's number as
    `job`.

    Args:
        after: The number of the last event of the queue's log that is known; 0 for all that the log holds.
        previews: Whether previews are wanted.
        patience: Seconds without a sign after which the service is taken to hang.

    Raises:
        OSError: No service runs the queue's jobs, or it gives no sign any more.
    """
    with connected(file, timeout=patience) as stream:
        asked = {"op": "events", "job": job, "after": after, "previews": previews}
        stream.write(json.dumps(asked).encode() + b"\n")
        stream.flush()
        for line in stream:
            yield json.loads(line)
