"""The activity of running jobs: which node is computed, at which step; kept in memory, told over the socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphengine.events import Event, Kind
from graphengine.old_names import moved

SILENT = 60.0
"""Seconds without a sign (a node that begins or ends, a step, a preview) after which users are warned of a job."""


@dataclass
class _Node:
    """A node that is computed, or waits for a worker."""

    type: str
    since: float
    worker: str | None = None
    begun: bool = False
    step: int | None = None
    total: int | None = None


class JobActivity:
    """The activity of one job: its nodes that are computed, and those that wait for a worker.

    Attributes:
        begun: Whether any of its nodes was begun; until then users see the job as queued.
        served: Whether a worker has begun any of its nodes.
        sign: When the last event of its run was (`time.monotonic`).
    """

    def __init__(self) -> None:
        self.begun = self.served = False
        self.sign = time.monotonic()
        self._nodes: dict[str, _Node] = {}
        self._finished: set[str] = set()
        self._lock = threading.Lock()

    def heard(self, event: Event) -> None:
        """Note an event of its run."""
        with self._lock:
            self.sign = time.monotonic()
            if event.kind in (Kind.NODE_FINISHED, Kind.NODE_FAILED):
                self._nodes.pop(event.node, None)
                if event.kind is Kind.NODE_FINISHED and "/" not in event.node:  # those of expansions are in no graph
                    self._finished.add(event.node)
            elif event.kind is Kind.NODE_STARTED:
                begun = not _waits_for_worker(event.type)
                self._nodes[event.node] = _Node(event.type, self.sign, begun=begun)
                self.begun |= begun
            elif event.kind is Kind.PROGRESS:  # also of a value that another job computes for both
                node = self._nodes.setdefault(event.node, _Node(event.type, self.sign))
                node.begun = self.begun = True
                node.step, node.total = event.step, event.total

    def taken(self, node: str, worker: str) -> None:
        """Note that a worker has begun to compute a node."""
        with self._lock:
            self.sign = time.monotonic()
            self.begun = self.served = True
            found = self._nodes.setdefault(node, _Node("", self.sign))
            found.worker, found.begun, found.since = worker, True, self.sign
            found.step = found.total = None

    def lost(self, worker: str) -> None:
        """Note that a worker was lost: the nodes that it computed wait for another."""
        with self._lock:
            for node in self._nodes.values():
                if node.worker == worker:
                    node.worker, node.begun, node.step, node.total = None, False, None, None

    def facts(self) -> dict[str, Any]:
        """The activity as JSON data.

        `state` is `queued` or `running`; `waits`, whether it runs and each of its nodes waits for a worker; `served`,
        whether a worker has begun any of its nodes; `silent`, the seconds since its last event; `finished`, how many
        nodes of its graph have a value. Of the node that was begun last: `node`, `type`, `worker` (None in the service
        itself), `step`, `total`, and `left`, the seconds until its last step by the pace of those before.
        """
        with self._lock:
            now, nodes = time.monotonic(), dict(self._nodes)
            begun = {id: node for id, node in nodes.items() if node.begun}
            found: dict[str, Any] = {
                "state": "running" if self.begun else "queued",
                "waits": self.begun and bool(nodes) and not begun,
                "served": self.served,
                "silent": now - self.sign,
                "finished": len(self._finished),
            }
            if begun:
                id = max(begun, key=lambda id: (begun[id].step is not None, begun[id].since))
                node = begun[id]
                found |= {"node": id, "type": node.type, "worker": node.worker, "step": node.step, "total": node.total}
                found["left"] = _left(node, now)
            return found


def _left(node: _Node, now: float) -> float | None:
    if not node.step or node.total is None:
        return None
    return (now - node.since) / node.step * (node.total - node.step)


def _waits_for_worker(type: str) -> bool:
    """Whether nodes of a type wait for a worker first; others are begun at once."""
    from graphengine.declare import registry

    definition = registry.find(type)
    return definition is not None and definition.on == "device"


def words(state: str, doing: Mapping[str, Any] | None) -> str:
    """The state of a job in words, from its state in the queue and what its service tells of it, if one runs it."""
    if state != "running" or doing is None:
        return state
    return "running, waits for a worker" if doing["waits"] else str(doing["state"])


def silence(number: int, doing: Mapping[str, Any] | None) -> str | None:
    """A warning about a running job that has given no sign for long, with what to do; None for any other job."""
    if doing is None or doing["state"] != "running" or doing["waits"] or doing["silent"] < SILENT:
        return None
    node, worker = doing.get("node"), doing.get("worker")
    what = f" while it computes {node}" if node else ""
    return (
        f"job {number} has given no sign for {doing['silent']:.0f} s{what}{f' on {worker}' if worker else ''}; a node "
        f"that takes long should call `ctx.progress`; `graphengine queue cancel {number}` ends it, and the option "
        "`--timeout SECONDS` of `graphengine worker` and `graphengine serve` ends nodes that give no sign"
    )


if not TYPE_CHECKING:  # a type checker tells of names that have moved
    __getattr__ = moved("graphengine.service.job_activity")
