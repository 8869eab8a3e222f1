"""Asking a service of this user on this machine: whether it runs, what its jobs do, what happens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from graphengine.system.channel import connected


def hello(file: Path) -> dict[str, Any] | None:
    """What runs a queue's jobs on this machine; None if nothing does. Of another version than this program, it tells
    no more than its version: the rest may mean anything."""
    from graphengine.version import __version__

    try:
        found = _answer(file, "hello")
    except (OSError, ValueError):
        return None
    version = found.get("version") if isinstance(found, dict) else None
    return found if version == __version__ else {"version": version, "active": True, "workers": []}


def doing(file: Path) -> dict[int, dict[str, Any]]:
    """What the jobs do that run on this machine, by number, as `Doing.facts` tells it; empty if nothing runs them."""
    try:
        found = _answer(file, "jobs")
    except (OSError, ValueError):  # none runs, or one of an older version, which knows no such question
        return {}
    return {int(number): facts for number, facts in found.items()} if isinstance(found, dict) else {}


def _answer(file: Path, op: str) -> Any:
    """The one line with which a service answers.

    Raises:
        OSError, ValueError: None runs, or it says nothing that can be read.
    """
    with connected(file) as stream:
        stream.write(json.dumps({"op": op}).encode() + b"\n")
        stream.flush()
        return json.loads(stream.readline())


def watch(file: Path, job: int | None = None, kinds: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """What happens to a job, or to all, until the service ends; the first is `watching`.

    Args:
        kinds: Those that are wanted; by default all.

    Raises:
        OSError: Nothing runs the queue's jobs.
    """
    with connected(file, timeout=None) as stream:
        stream.write(json.dumps({"op": "watch", "job": job, "kinds": kinds}).encode() + b"\n")
        stream.flush()
        for line in stream:
            yield json.loads(line)
