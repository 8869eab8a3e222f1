"""The service: takes jobs from the queue, runs their graphs, gives their calls to workers, and reports events.

One service at a time runs the jobs of a queue's file; others stand by and take over when it is gone. Values that a
job's run has computed lie in the disk store, so that a job that is begun again computes only the rest.

The module is long because taking the lease, claiming jobs and ending them change one state; its policies, runs of jobs,
sockets and results have modules of their own.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from graphengine.cache import DiskStore, Store
from graphengine.cache.tree import from_tree
from graphengine.errors import Exhausted, FileError
from graphengine.execution.runner import Runner
from graphengine.graph.data import GraphData
from graphengine.old_names import moved
from graphengine.service.cleaning import clean
from graphengine.service.event_hub import EventHub
from graphengine.service.job_activity import JobActivity, silence
from graphengine.service.job_events import JobEvent, JobEventKind, JobListener
from graphengine.service.job_results import Finisher, remove_written
from graphengine.service.job_run import JobRun
from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.job import Job, State
from graphengine.service.jobs.lease import SECONDS, Lease, take
from graphengine.service.jobs.queue import ALL, LeaseLost, Queue
from graphengine.service.jobs.submit import delete, files_of, submit
from graphengine.service.retry import SERVICE_PAUSE, job_runs_alone, services_lost
from graphengine.service.scheduling import fairness
from graphengine.service.shortages import ConcurrencyLimit, lack_of
from graphengine.service.workers.calls import JobPolicy, Status
from graphengine.service.workers.loading import Weights
from graphengine.system.threads import begin

log = logging.getLogger(__name__)

JOBS_READ = 1000
"""Waiting jobs that are read from the queue to choose the next ones."""

START_SECONDS = 5.0
"""Seconds that `start` waits while the queue's file is locked."""


class Backend(Protocol):
    """Computes the calls of all jobs: `WorkerRunner` on workers, `InlineRunner` in this process."""

    def of(self, job: JobPolicy) -> Runner:
        """The runner for a job's run; an exact job waits until a worker has reported its environment."""

    def status(self) -> list[Status]:
        """The workers as they are now."""

    def waiting_jobs(self) -> set[int | None]:
        """The jobs that have calls waiting for a worker."""

    def lacking(self) -> dict[int | None, str]:
        """The jobs that wait although no worker is usable, with the reason."""

    def load(self, name: str, weights: Sequence[Weights]) -> None:
        """Have every worker load weights before it is given calls, and again when it is started again."""

    def not_loaded(self) -> dict[str, str]:
        """The workers that have not loaded all that `load` was given, with the reason."""

    def free(self) -> None:
        """Let whoever computes drop the models that no call needs, once their calls have ended."""

    def close(self) -> None:
        """Stop computing."""


class Service:
    """Runs the jobs of a queue.

        with Service("queue.sqlite", backend) as service:
            job = service.submit(graph, {"prompt": "a red circle"})
            service.wait(job)
            service.outputs(job)

    The block ends when the running jobs have; left by an error or Ctrl-C it does not wait, and they are begun again by
    the next service of the queue.

    Args:
        queue: The queue, or its file.
        backend: The backend, which is closed with the service; or a function that makes it when this service begins to
            run jobs.
        disk: The disk store, shared with the workers.
        concurrency: How many jobs are run at once; one more of each user of whom none runs, up to as many again.
        seconds: How long the lease lasts that is not renewed: another service takes over so long after this one's
            death.
        memory: Bytes of values kept in this process.
        roots: Folders that no job's file parameters may leave, whatever the job says; None allows what it says.
        batch_invariant: Every job's run is exact: each picture is the same, bit for bit, as if it was made alone.
        finishers: Functions that jobs may ask to be called with their outputs, by name.
        on_lease: Called when this service begins to run the queue's jobs.

    Attributes:
        hub: Tells clients what happens to jobs, from the log and from here, in one order.
    """

    def __init__(
        self,
        queue: Queue | str | Path,
        backend: Backend | Callable[[], Backend],
        disk: DiskStore | None = None,
        *,
        concurrency: int = fairness.CONCURRENCY,
        seconds: float = SECONDS,
        memory: int = 2 << 30,
        roots: Sequence[str | Path] | None = None,
        batch_invariant: bool = False,
        finishers: Mapping[str, Finisher] | None = None,
        on_lease: Callable[[], object] | None = None,
    ) -> None:
        self.queue = queue if isinstance(queue, Queue) else Queue(queue)
        self.files = files_of(self.queue)
        self.concurrency, self.seconds, self._on_lease = concurrency, seconds, on_lease
        self.batch_invariant = batch_invariant
        self._made: Backend | None = None if not hasattr(backend, "of") else backend  # type: ignore[assignment]
        self._make: Callable[[], Backend] = backend  # type: ignore[assignment]
        self.store = Store(memory, disk)
        self.finishers = dict(finishers or {})
        self.roots = None if roots is None else [str(Path(root).absolute()) for root in roots]
        # In a container, each start may have the same process id: the last part tells them apart.
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._listeners: list[tuple[JobListener, Callable[[int], bool]]] = []
        self._running: dict[int, JobRun] = {}
        self._claiming: list[int] = []  # the job that is being claimed
        self._users: Counter[str] = Counter()
        self._turns: dict[str, int] = {}
        self._caution = ConcurrencyLimit(concurrency)
        self._lock, self._making = threading.Lock(), threading.Lock()
        self._stopping, self._looked = threading.Event(), threading.Event()
        self._putting_back = self._letting_go = False
        self._lease: Lease | None = None
        self._threads: set[threading.Thread] = set()
        self._thread = threading.Thread(target=self._serve, name="graphengine-service", daemon=True)
        self.hub = EventHub(self.queue, self.doing)
        self.subscribe(self.hub.hear, self.hub.wants_previews)

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop(finish=kind is None)  # an error or Ctrl-C does not wait for jobs; they are in the queue

    def start(self) -> None:
        """Begin to run jobs, as soon as no other service does; returns when it is known whether another does."""
        self._thread.start()
        self._looked.wait(START_SECONDS)

    def stop(self, finish: bool = True) -> None:
        """Begin no more jobs; running jobs are finished, or with `finish=False` left to be begun again."""
        self._stopping.set()
        if not finish:
            self.let_go()
        if self._thread.ident is not None:
            self._thread.join()
        for thread in list(self._threads):
            if thread is not threading.current_thread():  # a listener may stop it
                thread.join()
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                lease.release()
            except QueueError as error:
                log.warning("%s", error)
        if self._made is not None:
            self._made.close()
        self.hub.close()

    def drain(self, put_back: bool = False) -> None:
        """Begin no more jobs, before `stop` or while it waits.

        Args:
            put_back: Running jobs that only wait for a worker are put back into the queue.
        """
        self._putting_back |= put_back
        self._stopping.set()

    def let_go(self) -> None:
        """Stop within a step, also while `stop` waits: running jobs are put back into the queue."""
        self._stopping.set()
        self._letting_go = True
        self._cancel_all()

    # --- for users ----------------------------------------------------------------------------------------------------

    def submit(self, graph: GraphData, inputs: Mapping[str, Any] | None = None, **options: Any) -> int:
        """Put a job into the queue; on disk when this returns. Options are those of `submit.submit`."""
        number = submit(self.queue, graph, inputs, **options)
        self.tell(JobEvent(number, JobEventKind.QUEUED))
        return number

    def wait(self, *jobs: int, timeout: float | None = None) -> list[Job]:
        """Wait until jobs have ended."""
        return self.queue.wait(*jobs, timeout=timeout)

    def outputs(self, job: int) -> dict[str, Any]:
        """The outputs of a job, by name.

        Raises:
            QueueError: The job is not done.
            FileError: Its outputs are damaged, or gone.
        """
        found = self.queue.get(job)
        if found.state is not State.DONE:
            raise QueueError(f"job {job} is {found.state}{f': {found.error}' if found.error else ''}")
        name = self.queue.body(job)["files"]
        trees = found.result["outputs"]
        try:
            return {key: from_tree(tree, lambda blob: self.files.get(name, blob)) for key, tree in trees.items()}
        except OSError as error:
            raise FileError(f"an output of job {job} is gone from {self.files.folder}: {error.strerror}") from None

    def cancel(self, job: int) -> State:
        """Cancel a job: at once if it waits, within a step if it runs."""
        before = self.queue.cancel_from(job)
        run = self._running.get(job)
        if run is not None:
            run.cancel()
        if before is State.QUEUED:
            self.tell(JobEvent(job, JobEventKind.CANCELLED))
            return State.CANCELLED
        return before

    def delete(self, job: int) -> None:
        """Take a job that has ended out of the history, with its bytes."""
        delete(self.queue, job)

    def free(self, models: bool = True, values: bool = False) -> None:
        """Free memory: of models that no call needs, and of values that are remembered in this process.

        What the disk store holds stays.
        """
        if models:
            self.backend.free()
        if values:
            self.store.memory.clear()

    def doing(self) -> dict[int, dict[str, Any]]:
        """The activity of the jobs that run here, by number, as `JobActivity.facts` has it; `lacks` is the reason for
        which no worker can compute a job that waits for one."""
        with self._lock:
            doing = {number: JobActivity() for number in self._claiming}
            doing |= {number: run.doing for number, run in self._running.items()}
        lacking = {} if self._made is None else self._made.lacking()
        return {number: one.facts() | {"lacks": lacking.get(number)} for number, one in doing.items()}

    def subscribe(
        self, listener: JobListener, previews: Callable[[int], bool] = lambda job: False
    ) -> Callable[[], None]:
        """Call a listener with every event of jobs that run here; returns a function that ends that.

        Args:
            previews: Returns whether the listener wants previews of a job now: nodes make none that nobody wants.
        """
        entry = listener, previews
        self._listeners.append(entry)
        return lambda: self._listeners.remove(entry)

    def wants_previews(self, job: int) -> bool:
        """Whether a listener wants previews of a job now."""
        return any(wanted(job) for _, wanted in self._listeners)

    @property
    def backend(self) -> Backend:
        """The backend, made when it is first needed."""
        with self._making:  # the first jobs ask for it at once
            if self._made is None:
                self._made = self._make()
            return self._made

    @property
    def stopping(self) -> bool:
        """Whether the service was asked to stop."""
        return self._stopping.is_set()

    @property
    def busy(self) -> bool:
        """Whether jobs run here."""
        return bool(self._running)

    @property
    def active(self) -> bool:
        """Whether this service runs the queue's jobs, or stands by."""
        return self._lease is not None

    # --- the loop -----------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        renewed, told = 0.0, ""
        while not self._stopping.is_set() or self._running:  # the lease is held until the last job has ended
            try:
                if self._lease is None and not self._stopping.is_set():
                    self._take_over()
                    self._looked.set()
                    renewed = time.monotonic()
                elif self._lease is not None and time.monotonic() - renewed > self.seconds / 3:
                    self._lease.renew()
                    renewed = time.monotonic()
                if self._lease is not None:
                    self._look_after(self._lease)
                    self._leave_unbegun()
                    self._claim(self._lease)
                told = ""
                self.queue.wait_for_change(min(0.25, self.seconds / 4))
            except LeaseLost as error:
                log.warning("%s; this service stops running them", error)
                self._lease = None
                self._cancel_all()
            except Exception as error:  # of any kind: jobs wait for this thread
                if isinstance(error, QueueError):  # a full disk, a locked file
                    sentence = str(error)
                elif (lack := lack_of(error)) is not None:
                    sentence = f"the service lacks what it needs: {lack}"
                else:
                    sentence = ""
                    log.exception("an error in the service of %s; it goes on", self.queue.file)
                if sentence and sentence != told:  # once, not at every try
                    log.error("%s; retrying every %g s", told := sentence, SERVICE_PAUSE)
                time.sleep(SERVICE_PAUSE)

    def _take_over(self) -> None:
        lease = take(self.queue, self.name, self.seconds)
        if lease is None:
            return
        self._lease = lease
        for job in lease.recover(self._clear):
            log.warning("job %d was left running by another service", job, extra={"job": job})
            self.tell(JobEvent(job, JobEventKind.LOST))
        threading.Thread(target=self._sweep, name="graphengine-sweep", daemon=True).start()
        if self._on_lease is not None:
            self._on_lease()

    def _look_after(self, lease: Lease) -> None:
        """Cancel jobs that other processes have cancelled, put back those whose end could not be written, and warn of
        silent ones."""
        for job in self.queue.running():
            run = self._running.get(job.id)
            if run is None:  # it has ended, maybe since the queue was read: nothing is changed where that is on disk
                self._clear(job)
                lease.left(job.id, job.attempt, "its end could not be written")
            elif job.cancelling:
                run.cancel()
            else:
                self._name_silent(run)

    def _name_silent(self, run: JobRun) -> None:
        """Warn of a job that gives no sign, once each time."""
        sentence = silence(run.job.id, run.doing.facts())
        if sentence is not None and not run.named:
            log.warning("%s", sentence, extra={"job": run.job.id})
            self.tell(JobEvent(run.job.id, JobEventKind.SILENT, facts={"error": sentence}))
        run.named = sentence is not None

    def _clear(self, job: Job) -> None:
        """Remove the files of a job's last attempt, unless its end is recorded."""
        last = self.queue.attempts(job.id)[-1]
        if last.outcome != JobEventKind.RUNNING:
            return
        remove_written([last])
        self.files.tidy(self.queue.body(job.id).get("files") or "")

    def _sweep(self) -> None:
        """Remove leftovers of killed submitters and services; on a thread of its own, as folders may be slow."""
        try:
            for path, _ in clean(self.queue, self.store.disk):
                log.info("%s was left by a process that was killed; it is removed", path)
                if self.stopping:
                    return
        except (QueueError, OSError) as error:
            log.warning("what killed processes have left could not be removed: %s", error)

    def _leave_unbegun(self) -> None:
        """Put back jobs that only wait for a worker, if they are paused or the service stops."""
        every, paused = self._putting_back, self.queue.paused()
        if self._made is None or not (every or paused):
            return
        waiting = self._made.waiting_jobs()
        for run in list(self._running.values()):
            if not run.begun and run.job.id in waiting and (every or not {ALL, run.job.user}.isdisjoint(paused)):
                run.leave("the service that ran it was stopped" if every else "it was paused before it began")

    def _claim(self, lease: Lease) -> None:
        """Begin as many jobs as there is room for, in the order of `fairness`."""
        most = self._caution.limit(time.monotonic())
        free = fairness.free_places(most, len(self._running))
        is_alone = any(run.alone for run in list(self._running.values()))
        if fairness.is_full(most, free) or self._stopping.is_set() or is_alone:
            return
        waiting = self.queue.waiting(JOBS_READ) if free > 0 else []
        if len(waiting) == JOBS_READ or free <= 0:  # others may wait behind the many of one user
            waiting += [job for job in self.queue.first_of_users() if all(job.id != one.id for one in waiting)]
        with self._lock:  # users of whom nothing waits or runs are forgotten
            users = {job.user for job in waiting}.union(self._users)
        self._turns = {user: count for user, count in self._turns.items() if user in users}
        while not fairness.is_full(most, free) and not self._stopping.is_set():
            candidates = fairness.contenders(waiting, self._users, free)
            if not candidates:
                return
            chosen = fairness.next_job(candidates, self._users, self._turns)
            waiting.remove(chosen)
            alone = self._is_suspect(chosen)
            if alone and self._running:
                return  # until they have ended
            self._claiming.append(chosen.id)  # first: who reads that it runs finds it in `doing`, until it has ended
            try:
                run = self._claimed(lease, chosen, alone)
            finally:
                self._claiming.clear()
            if run is None:
                continue
            job = run.job
            self._turns[job.user] = fairness.turns_after(self._turns, job.user, candidates)
            if self._letting_go:  # since it was claimed
                run.cancel()
            waited = (job.started or job.created) - job.created
            self.tell(JobEvent(job.id, JobEventKind.RUNNING, facts={"attempt": job.attempt, "waited": waited}))
            if not self._begin(lease, run) or alone:
                return
            free -= 1

    def _claimed(self, lease: Lease, chosen: Job, alone: bool) -> JobRun | None:
        """Claim a job; None if it does not wait any more."""
        job = lease.claim(chosen.id, self.name)
        if job is None:
            return None
        with self._lock:
            before = next((run for run in reversed(self._running.values()) if run.job.user == job.user), None)
            run = self._running[job.id] = JobRun(self, lease, job, alone, before)
            self._users[job.user] += 1
        return run

    def _begin(self, lease: Lease, run: JobRun) -> bool:
        """Run a job on a thread of its own; without a thread the job is put back. Returns whether it runs."""
        job = run.job
        # No pool of concurrent.futures: those take nothing more once a script's main thread has ended.
        thread = threading.Thread(target=self._run, args=(run,), name=f"graphengine-{job.id}", daemon=True)
        self._threads.add(thread)
        try:
            begin(thread)
        except Exhausted as error:
            log.warning("job %d is put back: %s", job.id, error, extra={"job": job.id})
            self._threads.discard(thread)
            run.under_way.set()
            self._caution.met(len(self._running) - 1, time.monotonic())
            self._forget(run)
            lease.left(job.id, job.attempt, str(error))
            self.tell(JobEvent(job.id, JobEventKind.LEFT, facts={"error": str(error)}))
            return False
        return True

    def _is_suspect(self, job: Job) -> bool:
        if not job_runs_alone(job.attempt):  # saves looking: there were no more services than attempts
            return False
        return job_runs_alone(services_lost((one.worker, one.outcome) for one in self.queue.attempts(job.id)))

    def _cancel_all(self) -> None:
        for run in list(self._running.values()):
            run.cancel()

    def _run(self, run: JobRun) -> None:
        try:
            ended = run.run()
        finally:
            self._forget(run)
        if isinstance(ended.kind, JobEventKind) and ended.kind.ended:
            self._caution.ended(run.job.id)
        self.tell(ended)
        self._threads.discard(threading.current_thread())  # `stop` waits until the listeners have been called

    def _forget(self, run: JobRun) -> None:
        with self._lock:
            if self._running.get(run.job.id) is run:  # and no later run of it: the lease was lost, and taken again
                del self._running[run.job.id]
            self._users -= Counter([run.job.user])  # drops users of whom nothing runs

    def is_to_blame(self, job: int) -> bool:
        """Note that a job has met a shortage of this service; returns whether the job itself takes too much."""
        running = len(self._running)
        self._caution.met(running, time.monotonic())
        return self._caution.is_to_blame(job, running)

    def tell(self, event: JobEvent) -> None:
        """Call the listeners with an event of a job."""
        for listener, _ in list(self._listeners):
            try:
                listener(event)
            except Exception:  # of a listener: it must not stop the service
                log.exception("a listener failed on %s of job %d", event.kind, event.job, extra={"job": event.job})


if not TYPE_CHECKING:  # a type checker tells of names that have moved
    __getattr__ = moved("graphengine.service.service")
