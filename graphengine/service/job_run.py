"""One attempt at a job, from its claim to its end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

from graphengine.cache import Store
from graphengine.declare import registry
from graphengine.declare.definition import NodeDef
from graphengine.errors import Cancelled, GraphEngineError, NodeError, as_exception, text_of
from graphengine.events import Event, Kind
from graphengine.execution.launcher import Cancellation
from graphengine.execution.run import Result, run
from graphengine.graph.revalidate import check_changes
from graphengine.planning.inputs import bind_inputs
from graphengine.results.outputs import OutputWriter, check_folder, remove_marked
from graphengine.service.job_activity import JobActivity
from graphengine.service.job_events import JobEvent, JobEventKind
from graphengine.service.job_results import Finisher, deliver, named_as_wanted, remove_written
from graphengine.service.jobs.database import QueueError, QueueFileError
from graphengine.service.jobs.job import Job
from graphengine.service.jobs.lease import Lease
from graphengine.service.jobs.queue import LeaseLost, Queue
from graphengine.service.jobs.request import Files, JobRequest, request_of
from graphengine.service.logs import about_job
from graphengine.service.scheduling import fairness
from graphengine.service.shortages import lack_of
from graphengine.service.workers.calls import CallReport, JobPolicy
from graphengine.system.threads import RUN_GRACE, leavable

log = logging.getLogger(__name__)


class JobHost(Protocol):
    """A service, as a job that runs in it sees it."""

    queue: Queue
    files: Files
    store: Store
    roots: list[str] | None
    batch_invariant: bool
    finishers: dict[str, Finisher]

    @property
    def backend(self) -> Any:
        """The backend that computes."""

    @property
    def stopping(self) -> bool:
        """Whether the service was asked to stop."""

    def is_to_blame(self, job: int) -> bool:
        """Note that a job has met a shortage of the service; returns whether the job itself takes too much."""

    def wants_previews(self, job: int) -> bool:
        """Whether a listener wants previews of a job now."""

    def tell(self, event: JobEvent) -> None:
        """Call the listeners with an event of a job."""


DELIVERY = 5.0
"""Seconds that a job may take to write its files after it was cancelled; if it ends in time, it counts as done."""


class JobRun:
    """Runs a claimed job once.

    Args:
        service: The service whose store, files and workers the job uses.
        lease: The lease under which the job was claimed and its end is written.
        job: The job as it was claimed.
        alone: No other job may run beside it.
        before: The run of its user's job that was claimed last before it, if that has not ended.

    Attributes:
        under_way: Set when its first node has begun or waits for a worker, or when it has ended.
    """

    def __init__(
        self, service: JobHost, lease: Lease, job: Job, alone: bool = False, before: JobRun | None = None
    ) -> None:
        self.service, self.lease, self.job, self.alone = service, lease, job, alone
        self.under_way = threading.Event()
        self._before = None if before is None else before.under_way
        self._in_place: Callable[[NodeDef[..., Any]], bool] = lambda definition: True
        self.begun = False  # whether a worker has taken a call of it
        self.doing = JobActivity()
        self._left = ""
        self._grace = RUN_GRACE
        self.named = False  # whether users were warned that it gives no sign
        self._finished: str | None = None  # the folder of bytes that go when a finisher has used them
        self._cancellation = Cancellation()
        self._calls: list[dict[str, Any]] = []
        self._losses: list[tuple[float, str]] = []
        self._files: dict[str, str] = {}  # the files that it is about to write, with their marks

    def cancel(self) -> None:
        """End the run within a step; its job is cancelled."""
        self._cancellation.cancel()

    def leave(self, why: str) -> None:
        """End the run within a step; its job is put back into the queue."""
        self._left = self._left or why
        self._cancellation.cancel()

    def run(self) -> JobEvent:
        """Run the job to its end, which is on disk when this returns, if it can be written."""
        try:
            with about_job(self.job.id):
                kind, facts = self._outcome()
        except LeaseLost as error:
            log.warning("job %d: %s", self.job.id, error, extra={"job": self.job.id})
            kind, facts = JobEventKind.LOST, {}
        except BaseException as raised:  # its end could not be written: it is begun again once the file can be
            unwritten = as_exception(raised)
            about, unforeseen = {"job": self.job.id}, not isinstance(unwritten, QueueError)
            log.error("job %d: %s", self.job.id, text_of(unwritten), extra=about, exc_info=unforeseen)
            kind, facts = JobEventKind.LOST, {"error": text_of(unwritten)}
        finally:
            self.under_way.set()
        return JobEvent(self.job.id, kind, facts=facts)

    def _outcome(self) -> tuple[JobEventKind, dict[str, Any]]:
        service, lease, job = self.service, self.lease, self.job
        try:
            told, failure = leavable(self._work, self._cancellation, name=f"job {job.id}", grace=lambda: self._grace)
            if failure is not None:
                return self._failed(failure, "\n".join(map(str, failure.failures)), told)
            lease.done(job.id, job.attempt, told)
        except Cancelled:
            remove_marked(self._files)  # it was left while it delivered
            why = self._left or ("the service that ran it was stopped" if service.stopping else "")
            if why and not service.queue.get(job.id).cancelling:
                lease.left(job.id, job.attempt, why)
                return JobEventKind.LEFT, {"error": why}
            lease.cancelled(job.id, job.attempt)
            return JobEventKind.CANCELLED, {}
        except (QueueFileError, LeaseLost):
            raise  # counts against nothing
        except BaseException as raised:
            error = as_exception(raised)
            lack = lack_of(error)
            if lack is not None and not service.is_to_blame(job.id):
                why = f"the service lacked what it needs: {lack}"
                log.warning("job %d is put back: %s", job.id, why)
                lease.left(job.id, job.attempt, why)
                return JobEventKind.LEFT, {"error": why}
            if isinstance(error, GraphEngineError | OSError | MemoryError):
                return self._failed(error, text_of(error) or "it lacked memory")
            log.exception("job %d failed", job.id)
            return self._failed(error, f"{type(error).__name__}: {text_of(error)}")
        if self._finished is not None:
            service.files.remove(self._finished)
        return JobEventKind.DONE, {"files": told["files"]}

    def _work(self) -> tuple[dict[str, Any], GraphEngineError | None]:
        """Compute and deliver the outputs; returns the job's result, and the error where only some were made."""
        service = self.service
        body = service.queue.body(self.job.id)
        request = request_of(body, service.files, service.roots)
        request.exact |= service.batch_invariant
        writer = self._writer(request)
        failure: GraphEngineError | None = None
        try:
            result = self._evaluate(request)
        except GraphEngineError as error:
            if error.result is None or not request.whole or request.finish is not None:
                raise
            result, failure = error.result, error
        if self._cancellation.cancelled:
            raise Cancelled("it was cancelled")
        self._grace = DELIVERY
        if failure is not None:
            return self._deliver(request, result, body["files"], writer), failure
        self._finished = body["files"] if request.finish is not None else None
        return self._deliver(request, result, body["files"], writer) | self._told(), None

    def _failed(
        self, error: BaseException, text: str, told: Mapping[str, Any] | None = None
    ) -> tuple[JobEventKind, dict[str, Any]]:
        cause = error.__cause__ if isinstance(error, NodeError) else error
        facts = {"error": type(error).__name__, "cause": type(cause).__name__, **(told or {}), **self._told()}
        if isinstance(error, NodeError):
            facts["node"] = error.node, error.type
        self.lease.failed(self.job.id, self.job.attempt, text, facts)
        return JobEventKind.FAILED, {"error": text}

    def _told(self) -> dict[str, Any]:
        """The part of the job's result that is about workers."""
        return {"calls": self._calls, "lost": self._losses}

    def _evaluate(self, request: JobRequest) -> Result:
        service, job = self.service, self.job
        self._wait_for_turn()
        policy = JobPolicy(
            job.user, job.priority, job.limit, self._worker_lost, self._landed, request.exact, self._unwanted, job.id,
            on_taken=self._taken, on_handed_over=self.under_way.set,
        )  # fmt: skip
        check_changes(request.graph)
        # For the run, and for the pictures that tell of it.
        request.inputs = bind_inputs(request.graph, request.inputs, request.base)
        runner = service.backend.of(policy)
        self._in_place = getattr(runner, "in_place", self._in_place)
        result = run(
            request.graph,
            None if request.want is None else list(request.want),
            request.inputs,
            store=service.store,
            runner=runner,
            listeners=[self],
            exact=request.exact,
            keep_going=request.keep_going,
            roots=request.roots if service.roots is None else service.roots,
            cancellation=self._cancellation,
            progress=False,
        )
        return result if request.want is None else named_as_wanted(request.want, result)

    def _wait_for_turn(self) -> None:
        """Wait until the job before it of its user has begun: each job has a thread of its own."""
        end = time.monotonic() + fairness.IN_ORDER
        while self._before is not None and not self._before.wait(0.1):
            if self._unwanted() or time.monotonic() > end:
                return

    def _writer(self, request: JobRequest) -> OutputWriter | None:
        """The writer for the folder that the job asks for; that it cannot be written is an error before the run."""
        if request.out is None:
            return None
        check_folder(request.out, request.graph)

        def about(marks: Mapping[str, str]) -> None:
            self._files.update(marks)
            self.lease.writes(self.job.id, self.job.attempt, self._files)

        return OutputWriter(request.out, request.name, about)

    def _deliver(self, request: JobRequest, result: Result, name: str, writer: OutputWriter | None) -> dict[str, Any]:
        remove_written(self.service.queue.attempts(self.job.id)[:-1])  # not removed when they ended
        try:
            return deliver(request, result, self.service.files, name, self.service.finishers, writer)
        except BaseException:  # a job that fails delivers nothing
            remove_marked(self._files)
            raise

    # --- callbacks of its run -----------------------------------------------------------------------------------------

    def _unwanted(self) -> bool:
        return self._cancellation.cancelled or self.service.stopping

    def _taken(self, node: str, worker: str) -> None:
        self.begun = True
        self.doing.taken(node, worker)

    def _worker_lost(self, worker: str, why: str) -> None:
        self.doing.lost(worker)
        self._losses.append((time.time(), why))
        try:
            self.lease.worker_lost(self.job.id, self.job.attempt, why)
        except QueueError as error:  # the job goes on, without this in its history
            log.warning("job %d: %s", self.job.id, error, extra={"job": self.job.id})
        self.service.tell(JobEvent(self.job.id, JobEventKind.WORKER_LOST, facts={"error": why}))

    def _landed(self, call: CallReport) -> None:
        facts = asdict(call)
        self._calls.append(facts)
        self.service.tell(JobEvent(self.job.id, JobEventKind.COMPUTED, facts=facts))

    def _is_in_place(self, type: str) -> bool:
        """Whether the job's own thread computes a node of a type."""
        definition = registry.find(type)
        return definition is not None and definition.on == "here" and self._in_place(definition)

    @property
    def previews(self) -> bool:
        """Whether anybody wants its previews now."""
        return self.service.wants_previews(self.job.id)

    def __call__(self, event: Event) -> None:
        """Hear an event of its run."""
        self.doing.heard(event)
        if event.kind is Kind.NODE_STARTED and self._is_in_place(event.type):
            self.under_way.set()
        if event.kind not in (Kind.RUN_STARTED, Kind.RUN_FINISHED, Kind.RUN_FAILED):
            self.service.tell(JobEvent(self.job.id, event.kind, event))
