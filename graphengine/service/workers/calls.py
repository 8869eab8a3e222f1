"""What is said of calls between jobs and workers: what a job may claim, what a call needs, how it ended."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphengine.declare.definition import NodeDef
from graphengine.errors import GraphEngineError, NotStorable
from graphengine.execution.runner import Call
from graphengine.pack import origin
from graphengine.service.retry import CRASHES
from graphengine.service.scheduling.scheduler import Item
from graphengine.service.workers.wire import Blobs, Values
from graphengine.values.canonical import canonical, digest
from graphengine.values.types import socket_type


class WorkerError(GraphEngineError):
    """Workers died of a call, or none has the memory for it."""


@dataclass(frozen=True, slots=True)
class CallReport:
    """A call that a worker has computed.

    Attributes:
        node, type: The node's id in its run, and its full name.
        worker, device: Who computed it, where.
        submitted: When it was ready, in seconds since the epoch.
        waited, seconds: How long it waited for a worker, and how long it took (of what was joined, its part).
        together: How many calls were joined.
        loads: How many models its worker had to load.
        error: What it failed with.
    """

    node: str
    type: str
    worker: str
    device: str
    submitted: float
    waited: float
    seconds: float
    together: int
    loads: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class JobPolicy:
    """What a job may claim of the workers.

    Attributes:
        user, priority: Whose its calls are, and how they stand.
        attempts: After how many crashes of workers a call that has caused them fails, see `retry.Losses`.
        lost: Told which worker was lost while it computed for the job, and why.
        landed: Told of each of its calls that a worker has computed, before the call lands.
        exact: Its calls go only to workers that compute alike.
        cancelled: Whether it is; asked while such workers are waited for.
        number: Which job it is.
        taken: Told when a worker takes a call of it: the node's id, and the worker.
        handed: Told when the runner has calls of it, or when it needs none that is not computed already.
        begun: How many have claimed anything before it.
    """

    user: str = ""
    priority: int = 0
    node_attempts: int = CRASHES
    on_lost: Callable[[str, str], None] = lambda worker, why: None
    on_computed: Callable[[CallReport], None] = lambda landed: None
    exact: bool = False
    is_cancelled: Callable[[], bool] = lambda: False
    number: int | None = None
    on_taken: Callable[[str, str], None] = lambda node, worker: None
    on_handed_over: Callable[[], None] = lambda: None
    job_order: int = field(default_factory=itertools.count().__next__)


@dataclass(frozen=True, slots=True)
class Status:
    """A worker as people see it.

    Attributes:
        state: `starting`, `ready`, `computing` or `dead`.
        computing: The nodes that it computes.
        held, loads: How many models it holds, and how many it has loaded.
        landed, deaths: How many calls it has computed, and how often it was lost.
        free: Bytes that it can load before it lets go of any; None where that is not known, or it holds none.
    """

    name: str
    device: str
    state: str
    computing: tuple[str, ...]
    held: int
    landed: int
    deaths: int
    loads: int
    free: int | None


def inputs_of(call: Call, values: Values, blobs: Blobs, share: bool = True) -> dict[str, Any]:
    """A call's inputs as trees; their small blobs are added to those of the message.

    Args:
        share: Whether large ones may go through the folder of the store.

    Raises:
        NotStorable: One cannot leave this process.
        Spoiled: One was changed in place.
    """
    trees = {}
    for name, value in call.inputs.items():
        try:
            trees[name] = values.encode(value, blobs, share)
        except NotStorable as error:
            raise NotStorable(f"its input {name} cannot go to a worker; {error}") from None
    if call.guard is not None:
        call.guard.check()  # what was sent is what it was when it landed
    return trees


def item_of(call: Call, job: JobPolicy, environment: bytes | None = None) -> Item:
    """A call as the scheduler sees it; only workers that report the environment `how` may take it, None: any."""
    needs: set[str] = set()
    related: set[str] = set()
    for name, value in call.inputs.items():
        for one in value if isinstance(value, list) else (value,):
            kind = socket_type(type(one))
            if kind is not None and kind.needs is not None:
                needs |= kind.needs(one, call.definition.sockets[name].uses)
                related |= kind.needs(one, None)
    try:
        group = call.group()
    except Exception:  # a group function that does not take these inputs: the call by itself tells what is wrong
        group = None
    models, components = frozenset(needs), frozenset(related)
    return Item(models, components, job.priority, job.user, group, environment=environment, job_order=job.job_order)


def runs_in_service(definition: NodeDef[..., Any]) -> bool:
    """Whether a service computes a node that needs no device in its own process, though it has helpers: one of the
    engine's own packs, which end; or one of a script, which no other process knows."""
    return definition.module_pack.distribution == "graphengine" or origin(definition.fn.__module__) == "loose"


def environment_digest(environment: Mapping[str, Any]) -> bytes:
    """How a worker computes, to be compared."""
    return digest(canonical(environment))
