"""Data about calls that jobs and the pool of workers exchange: a job's policy, a call's needs, a call's report."""

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
from graphengine.values.socket_types import socket_type


class WorkerError(GraphEngineError):
    """A call failed at workers: too many were lost while they computed it, or none has the memory for it."""


@dataclass(frozen=True, slots=True)
class CallReport:
    """The report of a call that a worker has computed.

    Attributes:
        node, type: The node's id in its run, and its full name.
        worker, device: The worker that computed it, and that worker's device.
        submitted: When it was ready, in seconds since the epoch.
        waited, seconds: How long it waited for a worker, and how long it took (of a batch, its part).
        together: How many calls were computed together.
        loads: How many models its worker had to load.
        error: The message of the error with which it failed; None if it did not.
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
    """How the calls of a job are scheduled and tried again, and the callbacks that tell the job of them.

    Attributes:
        user, priority: The user whose calls they are, and their priority.
        node_attempts: After how many crashes of workers a call that has caused them fails, see `retry.Losses`.
        on_lost: Called with a worker that was lost while it computed for the job, and the reason.
        on_computed: Called with the report of each call that a worker has computed, before its outcome is handed back.
        exact: Its calls go only to workers with the same environment.
        is_cancelled: Whether the job is cancelled; asked while it waits for such workers.
        number: The job's number.
        on_taken: Called with a node's id and a worker when the worker takes the node's call.
        on_handed_over: Called when the pool was given calls of the job, or none were needed.
        job_order: The position of the job in the order in which jobs began.
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
    """A worker as users see it.

    Attributes:
        state: `starting`, `loading` (models, before its first job), `ready`, `computing` or `dead`.
        computing: The nodes that it computes.
        held, loads: How many parts of models it holds in memory, and how many it has loaded since it started.
        landed, deaths: How many calls it has computed, and how often it was lost.
        free: Bytes that it can load before it drops a model; None if unknown, or if it holds none.
        memory: The bytes of its device's own memory that were free when it last told, and all of it; None if unknown.
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
    memory: tuple[int, int] | None = None


def inputs_of(call: Call, values: Values, blobs: Blobs, share: bool = True) -> dict[str, Any]:
    """A call's inputs as trees; their small blobs are added to those of the message.

    Args:
        share: Whether large blobs may go through the folder of the store.

    Raises:
        NotStorable: An input cannot leave this process.
        Spoiled: An input was changed in place.
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
    """A call as the scheduler sees it.

    Args:
        environment: The digest that a worker must have reported to compute it; None: any worker may.
    """
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
    """Whether a service computes a node that needs no device in its own process although it has helper processes: nodes
    of the engine's own packs, which end by themselves, and nodes of a script, which no other process can import."""
    return definition.module_pack.distribution == "graphengine" or origin(definition.fn.__module__) == "loose"


def environment_digest(environment: Mapping[str, Any]) -> bytes:
    """A digest of a worker's environment, to compare."""
    return digest(canonical(environment))
