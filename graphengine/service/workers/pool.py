"""The pool of workers that computes the ready calls of many runs.

Calls are chosen by the scheduler, joined to batches, tried again where a worker was lost or lacked memory, and the
outcome of each is handed back once.

The module is long because giving a call out, its answer, its loss and the check for hanging workers all change the same
tables of workers and calls, under one lock; what needs no lock is in `worker_state`, `calls`, `retry` and `scheduling`.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphengine.cache.disk import DiskStore
from graphengine.declare.definition import NodeDef
from graphengine.errors import Cancelled, as_exception, text_of
from graphengine.execution.runner import Call, ThreadRunner
from graphengine.keys.call_key import identity
from graphengine.service import retry
from graphengine.service.retry import Fault
from graphengine.service.scheduling.batch_limits import Limits
from graphengine.service.scheduling.durations import Durations
from graphengine.service.scheduling.fairness import OVERTAKINGS
from graphengine.service.scheduling.scheduler import Item, Scheduler
from graphengine.service.workers.calls import (
    CallReport,
    JobPolicy,
    Status,
    WorkerError,
    environment_digest,
    inputs_of,
    item_of,
    runs_in_service,
)
from graphengine.service.workers.compatibility import why_incompatible
from graphengine.service.workers.deaths import End
from graphengine.service.workers.job_runner import JobRunner
from graphengine.service.workers.loading import Weights, order_of
from graphengine.service.workers.process import Handle
from graphengine.service.workers.wire import BlobLost, Blobs, Message, Values, error_of
from graphengine.service.workers.worker_state import PendingCall, WorkerState
from graphengine.system.threads import start
from graphengine.values.socket_types import View

log = logging.getLogger(__name__)

TICK = 0.02
"""Seconds between looks for cancelled calls and hanging workers."""
OVERDUE = 0.25
"""Seconds after a worker was expected to be idle after which other workers may take the calls that were left to it."""
SUSPENDED = 1.0
"""A gap of this many seconds between two checks means that this process was suspended, and read no messages."""
FOLLOWERS = 0.01
"""Seconds in which a run submits the calls that follow from one whose outcome it was handed."""
LONG = 1.0
"""Seconds of a call before which such calls are waited for."""
HELPED = 64
"""Calls without a device that a helper process computes at the same time, each on a thread of its own."""


class WorkerRunner:
    """Computes calls on workers: the runner of a service.

    Args:
        handles: The workers; the pool starts them.
        disk: The store whose folder this process and the workers share; None where they share none.
        node_attempts: After how many crashes of workers a call that has caused them fails, see `retry.Losses`.
        timeout: Seconds without a sign (progress, a preview, the end) after which a worker is killed; None for never.
        bound: How often a call can be overtaken.
        batch: How many calls are computed together at most.
        on_warning: Called with a sentence about each worker that is lost or cannot be started.
        helpers: Workers for nodes that need no device, started when there is such a call; without helpers this
            process computes them, and a node that does not end cannot be ended.
        slots: How many groups of calls each worker computes at once.
    """

    def __init__(
        self,
        handles: Sequence[Handle],
        disk: DiskStore | None = None,
        *,
        node_attempts: int = retry.CRASHES,
        timeout: float | None = None,
        bound: int = OVERTAKINGS,
        batch: int = 32,
        on_warning: Callable[[str], None] = log.warning,
        helpers: Sequence[Handle] = (),
        slots: int = 1,
    ) -> None:
        self.node_attempts, self.timeout, self.on_warning = node_attempts, timeout, on_warning
        self.values, self.limits = Values(disk), Limits(batch)
        self._scheduler = Scheduler(bound)
        self._waiting: dict[Item, PendingCall] = {}
        self._slots = slots
        first = "starting" if slots == 1 else "dead"
        self._workers = {handle.name: WorkerState(handle, slots, first) for handle in handles}
        self._numbers = itertools.count(1)
        self.durations = Durations()
        self._size = 0
        self._exact = False
        self._warm: dict[str, tuple[Message, Blobs, frozenset[str]]] = {}
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._looked = time.monotonic()
        self._unusable_since = 0.0  # since when no worker is usable; 0 where one is, or may be soon
        self._here = ThreadRunner(device_threads=1)
        self._helpers: WorkerRunner | None = None
        if helpers:
            self._helpers = WorkerRunner(
                helpers, disk, node_attempts=node_attempts, timeout=timeout, bound=bound, batch=1,
                on_warning=on_warning, slots=HELPED,
            )  # fmt: skip
        self._keeper = start(self._keep, "graphengine-keeper")
        for worker in self._workers.values():
            if worker.state == "starting":
                self._start(worker.handle)

    # --- taking calls -------------------------------------------------------------------------------------------------

    def submit(self, calls: Sequence[Call], job: JobPolicy | None = None, environment: bytes | None = None) -> None:
        """Take calls of a job; those that need no device are computed by helpers, or by threads of this process.

        Args:
            environment: The digest that a worker must have reported to be given one; None: any worker may compute it.
        """
        job = job or JobPolicy(node_attempts=self.node_attempts)
        rest = [call for call in calls if call.definition.on != "device"]
        if self._helpers is not None:
            self._helpers.take([call for call in rest if not runs_in_service(call.definition)], job)
            rest = [call for call in rest if runs_in_service(call.definition)]
        self._here.submit(rest)
        self.take([call for call in calls if call.definition.on == "device"], job, environment)

    def take(self, calls: Sequence[Call], job: JobPolicy, environment: bytes | None = None) -> None:
        """Take calls for the workers of this pool, whether they need a device or not."""
        waiting: list[PendingCall] = []
        for call in calls:
            try:
                waiting.append(PendingCall(call, item_of(call, job, environment), job))
            except BaseException as error:  # of the code by which a pack says which models a value needs
                call.landed(as_exception(error), 0.0, {})
        with self._lock:
            for pending in waiting:
                pending.item.cost = self.durations.of(pending.call.definition.full_name)
                self._waiting[pending.item] = pending
            self._scheduler.add(*[pending.item for pending in waiting])
        self._dispatch()

    def in_place(self, definition: NodeDef[..., Any]) -> bool:
        """Whether a job's own thread computes a node with `on="here"`."""
        return self._helpers is None or runs_in_service(definition)

    def unwanted(self) -> None:
        """Be told that a run has ended early: threads of this process whose calls do not end soon are replaced; the
        keeper does the same for workers."""
        self._here.unwanted()

    def of(self, job: JobPolicy) -> JobRunner:
        """The runner for a job's run; an exact job waits until a worker has reported its environment.

        Raises:
            Cancelled: The job was cancelled meanwhile.
        """
        return JobRunner(self, job, self._environment(job) if job.exact else None)

    def _environment(self, job: JobPolicy) -> Mapping[str, Any]:
        """The environment that most workers report; they are asked for it only for exact jobs, as answering imports
        torch."""
        with self._lock:
            first, self._exact = not self._exact, True
            asked = [worker for worker in self._workers.values() if first and worker.state == "ready"]
        for worker in asked:
            self._ask(worker)
        while not job.is_cancelled() and not self._closing.is_set():
            if job.number is None and (why := self.why_unusable()) is not None:
                raise WorkerError(why)
            with self._lock:
                known = [worker.environment for worker in self._workers.values() if worker.environment is not None]
                failed = [worker.environment_error for worker in self._workers.values() if worker.environment_error]
            if known:
                return max(known, key=known.count)
            if len(failed) == len(self._workers):
                raise WorkerError(f"no worker can say how it computes, which an exact job must know: {failed[0]}")
            time.sleep(TICK)
        raise Cancelled("cancelled before a worker was there")

    def _ask(self, worker: WorkerState) -> None:
        """Ask a worker for its environment."""
        worker.environment_due, worker.environment_asked = retry.acknowledged_by(time.monotonic()), True
        worker.handle.send({"op": "environment"}, {})

    def load(self, name: str, weights: Sequence[Weights]) -> None:
        """Have every worker load weights, now and whenever it is started again, before it is given calls.

        Args:
            name: By which `not_loaded` tells of them.

        Raises:
            NotStorable: A reference cannot leave this process.
        """
        needs = frozenset(digest for one in weights for digest in one.needs())
        with self._lock:
            self._warm[name] = (*order_of(name, weights, self.values), needs)
            for worker in self._workers.values():
                if worker.state == "ready":
                    self._have_load(worker, name)

    def _have_load(self, worker: WorkerState, name: str) -> None:
        if name in worker.abandoned:
            worker.not_loaded[name] = worker.abandoned[name]
        else:
            message, blobs, _ = self._warm[name]
            worker.loading.append(name)
            worker.handle.send(message, blobs)

    def not_loaded(self) -> dict[str, str]:
        """The workers that have not loaded all that `load` was given, with the reason."""
        with self._lock:
            return {
                worker.handle.name: why for worker in self._workers.values() if (why := worker.why_cold(self._warm))
            }

    def status(self) -> list[Status]:
        """Every worker as it is now."""
        with self._lock:
            return [worker.status() for worker in self._workers.values()]

    def free(self) -> None:
        """Let every worker drop the models that no call needs, once it has ended what it computes."""
        with self._lock:
            handles = [worker.handle for worker in self._workers.values() if worker.state == "ready"]
        for handle in handles:
            handle.send({"op": "free"}, {})
        if self._helpers is not None:
            self._helpers.free()

    def waiting(self) -> int:
        """How many calls wait for a worker."""
        with self._lock:
            return len(self._scheduler)

    def waiting_jobs(self) -> set[int | None]:
        """The jobs that wait for a worker."""
        with self._lock:
            found = {pending.job.number for pending in self._waiting.values()}
        return found if self._helpers is None else found | self._helpers.waiting_jobs()

    def lacking(self) -> dict[int | None, str]:
        """The jobs that wait although no worker is usable, with the reason."""
        found = {} if self._helpers is None else self._helpers.lacking()
        if (why := self.why_unusable()) is not None:
            with self._lock:
                found |= dict.fromkeys((pending.job.number for pending in self._waiting.values()), why)
        return found

    def why_unusable(self) -> str | None:
        """Why no worker has been usable for a while and none is expected to be; None if one is."""
        with self._lock:
            if not retry.lack_workers(self._unusable_since, time.monotonic()):
                return None
            why = {worker.why_unusable: worker.handle.name for worker in self._workers.values()}
        return "no worker can be used: " + "; ".join(f"{name}: {text}" for text, name in why.items())

    def wait_until_ready(self, timeout: float) -> bool:
        """Wait until every worker has started; returns whether all have."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if all(status.state != "starting" for status in self.status()):
                return True
            time.sleep(TICK)
        return False

    def close(self) -> None:
        """Stop the workers; the calls that they compute are lost."""
        self._closing.set()
        self._keeper.join()
        with self._lock:
            left = [*self._waiting.values()]
            self._waiting.clear()
        for worker in self._workers.values():
            worker.handle.kill()
        for pending in left:
            pending.call.landed(Cancelled("the service is stopping"), 0.0, {})
        if self._helpers is not None:
            self._helpers.close()
        self._here.close()

    # --- giving calls to workers --------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Give every idle worker the calls that it should compute next."""
        sent = [True]
        while sent:  # once more where a worker took calls and none of them could be sent
            given: list[tuple[WorkerState, list[PendingCall]]] = []
            with self._lock:
                # Until no worker takes any: a call that one has left to another, that other may leave for a better one.
                while more := [(worker, group) for worker in self._workers.values() if (group := self._take(worker))]:
                    given += more
            sent = [True for worker, group in given if not self._send(worker, group)]

    def _take(self, worker: WorkerState) -> list[PendingCall]:
        """Choose the calls that a worker begins now; none where it is not idle."""
        if not worker.has_room or self._closing.is_set() or not len(self._scheduler):
            return []
        now, device = time.monotonic(), worker.handle.device
        view, *others = [
            one.view(now, self.durations.load, self._size)
            for one in (worker, *(other for other in self._workers.values() if other is not worker))
        ]
        limit, seconds = functools.partial(self._limit, device), functools.partial(self._seconds, device)
        items = self._scheduler.take(view, others if self._slots == 1 else (), limit, seconds)
        if worker.computing and any(self._waiting[item].alone for item in items):
            for item in items:
                self._scheduler.put_back(item)
            return []
        return self._begin(worker, [self._waiting[item] for item in items], now) if items else []

    def _limit(self, device: str, item: Item) -> int:
        return self.limits.of(item.group, device)

    def _seconds(self, device: str, item: Item) -> float:
        """The seconds that a call is expected to take: as others of its group, else as others of its node."""
        known = self.limits.seconds(item.group, device) if item.group is not None else None
        return known if known is not None else self.durations.of(self._waiting[item].call.definition.full_name)

    def _begin(self, worker: WorkerState, group: list[PendingCall], now: float) -> list[PendingCall]:
        for pending in group:
            pending.number, pending.together = next(self._numbers), len(group)
            pending.cancelled_at, pending.last_sign = 0.0, now
            pending.acknowledge_by = math.inf  # until it is sent
            pending.waited, pending.loads = time.time() - pending.submitted, len(pending.item.models - worker.held)
            worker.computing[pending.number] = pending
            pending.job.on_taken(pending.call.context.node, worker.handle.name)
            pending.call.context.begin()
        worker.since = now
        seconds = self._seconds(worker.handle.device, group[0].item)
        worker.busy_until = now + seconds * len(group) + group[0].loads * self.durations.load
        return group

    def _send(self, worker: WorkerState, group: list[PendingCall]) -> bool:
        """Send calls to a worker; returns whether there was any to send."""
        blobs: Blobs = {}
        items = []
        for pending in group:
            call, context = pending.call, pending.call.context
            try:
                inputs = inputs_of(call, self.values, blobs, pending.may_share)
                making = {name: dict(context.making(name, call.inputs[name])) for name in _saved(call)}
            except BaseException as error:
                self._land(worker, pending.number, as_exception(error), 0.0, {})
                continue
            made = {k: dict(v) for k, v in context.made.items()}
            pending.watched = context.watched
            facts = {"node": context.node, "exact": call.exact, "made": made, "watched": pending.watched}
            facts |= {"call": pending.number, "share": pending.may_share}
            items.append({"inputs": inputs, "making": making, **facts})
        if not items:
            return False
        try:
            name = group[0].call.definition.full_name
            due = retry.acknowledged_by(time.monotonic(), sum(map(len, blobs.values())))
            for pending in group:
                pending.acknowledge_by = due
            worker.handle.send({"op": "calls", "node": name, "items": items}, blobs)
        except BaseException as error:  # no memory for the message; facts of a node that are no data
            for pending in group:
                self._land(worker, pending.number, as_exception(error), 0.0, {})
            return False
        return True

    # --- messages of workers ------------------------------------------------------------------------------------------

    def _message(self, handle: Handle, message: Message, blobs: Blobs) -> None:
        """Work on a worker's message, called on the thread that reads it. Whatever raises, no call waits for ever."""
        worker = self._workers[handle.name]
        worker.reading = True
        try:
            self._handle(worker, message, blobs)
        except BaseException as error:
            log.exception("a message of worker %s could not be worked on", handle.name)
            if message.get("op") == "landed":
                self._land(worker, message.get("call", 0), as_exception(error), 0.0, {})
                self._dispatch()
        finally:
            worker.reading = False

    def _handle(self, worker: WorkerState, message: Message, blobs: Blobs) -> None:
        op, handle = message["op"], worker.handle
        with self._lock:
            worker.note_sign(message.get("call", 0), time.monotonic())
            pending = worker.computing.get(message.get("call", 0))
            if "held" in message:
                size = worker.note_memory(frozenset(message["held"]), message["free"])
                self._size = max(self._size, size)
            if (memory := message.get("memory")) is not None:
                worker.memory = memory[0], memory[1]
            if op == "ready" and (why := why_incompatible(message)) is not None:
                worker.ending, worker.pause, op = End(why, Fault.NOBODY), retry.WORKER_PAUSES.most, "unfit"
                worker.note_failed_start(why, for_good=True)
                handle.kill()
            if op == "ready":
                worker.state, worker.failed_starts = "ready", 0
                for name in self._warm:
                    self._have_load(worker, name)
            lacks: dict[str, str] = {}
            if op == "loaded":
                lacks = worker.note_loaded(message["name"], self._warm[message["name"]][2], message["error"])
            if op == "taken":
                worker.note_acknowledged(message["calls"])
            worker.environment_asked = worker.environment_asked and op != "environment"
            if op == "environment" and "error" in message:
                worker.environment_error = str(message["error"])
            elif op == "environment":
                worker.environment, worker.environment_digest = message["facts"], environment_digest(message["facts"])
        if op == "ready":
            if self._exact:
                self._ask(worker)
            self._dispatch()
        elif op == "environment":
            self._dispatch()
        elif op == "loaded":
            for name, why in lacks.items():
                self._say(f"worker {handle.name} does not hold {name}: {why}")
            self._dispatch()
        elif op == "warning":
            self._say(f"worker {handle.name}: {message['text']}")
        elif pending is None:
            return
        elif op == "progress":
            self._tell(pending, lambda: pending.call.context.progress(message["step"], message["total"]))
        elif op == "preview":
            self._tell(pending, lambda: pending.call.context.preview(View(png=blobs.get("png"))))
        elif op == "landed":
            self._answer(worker, pending, message, blobs)

    def _tell(self, pending: PendingCall, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Cancelled:
            pass  # the keeper tells the worker
        except BaseException:  # of a listener
            about = {"job": pending.job.number, "node": pending.call.context.node}
            log.exception("a sign of %s could not be passed on", pending.call.definition.full_name, extra=about)

    def _answer(self, worker: WorkerState, pending: PendingCall, message: Message, blobs: Blobs) -> None:
        error, seconds = message.get("error"), float(message["seconds"])
        size = int(message.get("facts", {}).get("batch", 1))
        group, device = pending.item.group, worker.handle.device
        if error is not None and error["memory"] and not pending.call.context.cancelled:
            self._lacked(worker, pending, error)
        elif error is not None and error["type"] == BlobLost.__name__ and pending.may_share:
            self._send_again(worker, pending)
        elif error is not None:
            cancelled = error["type"] == "Cancelled"
            outcome = Cancelled(error["message"]) if cancelled else error_of(error)
            self._land(worker, pending.number, outcome, seconds, {})
        else:
            try:
                outcome = self.values.decode(message["tree"], blobs)
            except BlobLost as lost:
                if pending.may_share:
                    self._send_again(worker, pending)
                    self._dispatch()
                    return
                outcome = lost
            except BaseException as damage:  # of a codec
                outcome = as_exception(damage)
            # Data that a node reads beside its inputs may differ between a worker and this process.
            pending.call.kept = message.get("identity") in (None, identity(pending.call.definition).hex())
            with self._lock:
                self.durations.took(pending.call.definition.full_name, seconds, pending.together, pending.loads)
            if group is not None:
                self.limits.took(group, device, size, seconds)
            self._land(worker, pending.number, outcome, seconds, message["facts"])
            self._wait_for_followers(worker)
        self._dispatch()

    def _wait_for_followers(self, worker: WorkerState) -> None:
        """Wait a moment before a long call is begun: a call that follows from the one that has just ended may be short,
        and then goes first."""
        if self._slots > 1:
            return
        with self._lock:
            first = next(iter(self._scheduler), None)
            long = first is not None and self._seconds(worker.handle.device, first) > LONG
        if long and not worker.computing:
            time.sleep(FOLLOWERS)

    def _lacked(self, worker: WorkerState, pending: PendingCall, error: Mapping[str, Any]) -> None:
        """Try a call again for which a worker lacked memory: fewer together, then elsewhere, then fail with advice."""
        with self._lock:
            if retry.remedy_for_memory(pending.together) is retry.Remedy.FEWER:
                self.limits.lacked(pending.item.group, worker.handle.device, pending.together)
            else:
                pending.item.refused.add(worker.handle.name)
                pending.memory_error = str(error["message"] or error["type"])
            hopeless = self._is_hopeless(pending)
            if not hopeless:
                del worker.computing[pending.number]
                self._scheduler.put_back(pending.item)
        if hopeless:
            self._land(worker, pending.number, pending.why_hopeless(), 0.0, {})

    def _send_again(self, worker: WorkerState, pending: PendingCall) -> None:
        """Try a call again whose bytes were lost in the store's folder, now with all bytes in the messages."""
        with self._lock:
            if worker.computing.pop(pending.number, None) is not None:
                pending.may_share = False
                self._scheduler.put_back(pending.item)

    def _land(self, worker: WorkerState, number: int, outcome: Any, seconds: float, facts: Mapping[str, Any]) -> None:
        with self._lock:
            pending = worker.computing.pop(number, None)
            if pending is None or self._waiting.pop(pending.item, None) is None:
                return
            worker.landed += 1
            worker.pause = retry.WORKER_PAUSES.first
        try:
            error = text_of(outcome) if isinstance(outcome, BaseException) else None
            call, handle = pending.call, worker.handle
            pending.job.on_computed(
                CallReport(
                    call.context.node, call.definition.full_name, handle.name, handle.device, pending.submitted,
                    pending.waited, seconds, int(facts.get("batch", 1)), pending.loads, error,
                )
            )  # fmt: skip
        finally:
            pending.call.landed(outcome, seconds, {**facts, "worker": worker.handle.name})

    def _lost(self, handle: Handle, end: End) -> None:
        """Work on the end of a worker, called on the thread that reads its messages."""
        worker = self._workers[handle.name]
        dead: list[PendingCall] = []
        with self._lock:
            group, worker.computing = list(worker.computing.values()), {}
            on_purpose = worker.state == "ending" and not group
            loading = "" if on_purpose or group else worker.note_lost(end.why)
            if worker.state == "starting" and worker.ending is None:
                worker.note_failed_start(end.why, for_good=False)
            worker.note_end()
            end, worker.ending = worker.ending or end, None
            if self._closing.is_set():
                return
            if on_purpose:  # counts against nothing
                worker.busy_until, worker.pause = time.monotonic(), retry.WORKER_PAUSES.first
                return  # the keeper starts it again at once
            worker.deaths += 1
            beside = self._slots > 1 and len(group) > 1  # which call ended it is not known: each is tried alone
            for pending in group:
                pending.alone |= beside
                if pending.survives(end, beside):
                    self._scheduler.put_back(pending.item)
                else:
                    dead.append(pending)
                    del self._waiting[pending.item]
            seconds, worker.pause = retry.restart(worker.pause, computed=bool(group))
            worker.busy_until = time.monotonic() + seconds
        names = ", ".join(pending.call.definition.full_name for pending in group) or "nothing"
        did = f"loaded {loading}, which it is not to load again" if loading else f"computed {names}"
        sentence = f"worker {handle.name} was lost while it {did}: {end.why}"
        if group or sentence != worker.last_warning:  # an unusable worker is started again and again
            self._say(sentence)
        worker.last_warning = sentence
        for pending in group:
            try:
                pending.job.on_lost(handle.name, sentence)
            except Exception:  # the job goes on without this in its history
                log.exception("%s", sentence, extra={"job": pending.job.number})
        for pending in dead:
            pending.call.landed(pending.why_given_up(end), 0.0, {})
        self._dispatch()

    def _say(self, sentence: str) -> None:
        """Warn users about a worker; a warning that cannot be shown stops no call."""
        try:
            self.on_warning(sentence)
        except Exception:
            log.exception("%s", sentence)

    def _is_hopeless(self, pending: PendingCall) -> bool:
        """Whether no worker may take the call."""
        return not any(worker.may_ever_take(pending.item) for worker in self._workers.values())

    # --- keeping watch ------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Look after workers and calls until the pool is closed, on the keeper's thread; no exception ends that."""
        while not self._closing.wait(TICK):
            try:
                self._look_after()
            except Exception:
                log.exception("the workers could not be looked after; it is tried again")
                self._closing.wait(retry.WORKER_PAUSES.first)

    def _look_after(self) -> None:
        """Cancel calls that are not wanted, tell workers which are watched, take back calls that are not acknowledged,
        end workers that hang or are blocked, start lost workers again."""
        gone: list[PendingCall] = []
        cancels: list[tuple[Handle, int]] = []
        watched: list[tuple[Handle, int, bool]] = []
        ended: list[tuple[WorkerState, End]] = []
        taken_back = False
        with self._lock:
            now = time.monotonic()
            passed, self._looked = now - self._looked, now
            unusable = all(worker.is_unusable for worker in self._workers.values())
            self._unusable_since = (self._unusable_since or now) if unusable else 0.0
            why = self.why_unusable()
            for pending in list(self._waiting.values()):
                hopeless = self._is_hopeless(pending) or (why is not None and pending.job.number is None)
                unwanted = pending.call.context.cancelled or hopeless
                if unwanted and self._scheduler.remove(pending.item):
                    del self._waiting[pending.item]
                    gone.append(pending)
            for worker in self._workers.values():
                for number, pending in worker.computing.items():
                    if pending.call.context.cancelled and not pending.cancelled_at:
                        pending.cancelled_at = now
                        cancels.append((worker.handle, number))
                    if pending.call.context.watched != pending.watched:
                        pending.watched = not pending.watched
                        watched.append((worker.handle, number, pending.watched))
                if worker.reading or passed > SUSPENDED:
                    worker.extend_deadlines(passed)
                if worker.state != "ready":
                    continue
                if (end := self._hangs(worker, now)) is not None:
                    worker.state, worker.ending = "ending", end
                    ended.append((worker, end))
                    gone += self._put_back(worker, self._not_counted(worker, now))
                elif late := worker.unacknowledged(now):
                    worker.unresponsive = taken_back = True
                    cancels += [(worker.handle, number) for number in late]
                    gone += self._put_back(worker, late)
            starts = [worker.handle for worker in self._workers.values() if self._is_due(worker, now)]
            overdue = any(worker.computing and now > worker.busy_until + OVERDUE for worker in self._workers.values())
        for handle, number in cancels:
            handle.send({"op": "cancel", "call": number}, {})
        for handle, number, wanted in watched:
            handle.send({"op": "watched", "call": number, "watched": wanted}, {})
        for worker, end in ended:
            worker.handle.kill()
            if end.fault is Fault.NOBODY:  # other ends are told when the worker has ended
                self._say(f"worker {worker.handle.name} was ended: {end.why}")
        for pending in gone:
            cancelled = pending.call.context.cancelled
            error = pending.why_hopeless() if why is None else WorkerError(why)
            pending.call.landed(Cancelled("nobody wants it any more") if cancelled else error, 0.0, {})
        for handle in starts:
            self._start(handle)
        if overdue or ended or taken_back:
            self._dispatch()

    def _hangs(self, worker: WorkerState, now: float) -> End | None:
        """Why a worker is to be ended: a cancelled call does not end, it acknowledges nothing, its process is stopped,
        or a call gives no sign. None if it works."""
        if worker.is_blocked(now):
            names = {pending.call.definition.full_name for pending in worker.computing.values() if pending.cancelled_at}
            return End(f"{', '.join(sorted(names))} was cancelled and did not end", Fault.NOBODY)
        if worker.is_stopped(now):
            return End(f"it did not take up what it was sent within {retry.ACKNOWLEDGED:g} s", Fault.NOBODY)
        if worker.has_been_stopped(now):
            return End(f"its process was stopped for {retry.STOPPED:g} s in the middle of its calls", Fault.NOBODY)
        if any(self._is_silent(pending, now) for pending in worker.computing.values()):
            return End(f"it gave no sign for {self.timeout:g} s and was ended", Fault.CALL)
        return None

    def _is_silent(self, pending: PendingCall, now: float) -> bool:
        return self.timeout is not None and not pending.acknowledge_by and now - pending.last_sign > self.timeout

    def _not_counted(self, worker: WorkerState, now: float) -> dict[int, PendingCall]:
        """The calls of a worker that is to be ended against which that is not counted, by number."""
        computing = worker.computing.items()
        return {number: one for number, one in computing if one.cancelled_at or not self._is_silent(one, now)}

    def _put_back(self, worker: WorkerState, calls: Mapping[int, PendingCall]) -> list[PendingCall]:
        """Take calls back from a worker, to be computed elsewhere; returns those that are cancelled."""
        unwanted = []
        for number, pending in calls.items():
            del worker.computing[number]
            if pending.cancelled_at:
                del self._waiting[pending.item]
                unwanted.append(pending)
            else:
                self._scheduler.put_back(pending.item)
        return unwanted

    def _is_due(self, worker: WorkerState, now: float) -> bool:
        """Whether a lost worker is to be started now; if so, it counts as starting."""
        if worker.state != "dead" or now < worker.busy_until:
            return False
        if self._slots > 1 and not self._is_needed(worker):
            return False
        worker.state, worker.since = "starting", now
        return True

    def _is_needed(self, worker: WorkerState) -> bool:
        """Whether a call waits for a worker that no other will take soon: a call that lacked memory at one worker goes
        to another."""
        coming = [other for other in self._workers.values() if self._is_coming(other, time.monotonic())]
        waiting = (item for item in self._scheduler if item.refused or not coming)
        return any(
            worker.may_ever_take(item) and not any(other.may_ever_take(item) for other in coming) for item in waiting
        )

    def _is_coming(self, worker: WorkerState, now: float) -> bool:
        return (worker.state == "starting" and retry.is_starting(worker.since, now)) or worker.has_room

    def _start(self, handle: Handle) -> None:
        try:
            handle.start(self._message, self._lost)
        except Exception as error:  # no thread, no memory: it is tried again
            self._lost(handle, End(f"it cannot be started: {error}", Fault.NOBODY))


def _saved(call: Call) -> Sequence[str]:
    """The inputs that a node may save together with how they were made, which only this process knows."""
    definition = call.definition
    return list(call.inputs) if definition.output and definition.context_parameter is not None else ()
