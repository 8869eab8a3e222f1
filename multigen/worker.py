"""`ServiceThread`: a queue of generation jobs that outlives the process, on workers of this machine.

The module is long because `ServiceThread` is one documented class with all its methods; sessions, orders, pipes and the
configuration have modules of their own.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import operator
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from graphengine.cache import DiskStore
from graphengine.execution.display import is_watched
from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.job import Change, Job, JobEventKind, State
from graphengine.service.jobs.lease import holder
from graphengine.service.jobs.queue import NoJob, Queue
from graphengine.service.service import Service
from graphengine.service.workers.pool import WorkerRunner
from graphengine.service.workers.process import LocalWorker
from multigen.job_bars import JobBars
from multigen.log import setup_logger
from multigen.pipes.building import listed
from multigen.presence import Presence, is_present
from multigen.service_config import read_config, read_models, wrong
from multigen.service_jobs import FINISHER, Order, as_seeds, finish, prepare, submit, unfinished
from multigen.service_pipes import Catalogue, named_devices, pipes_by_name

__all__ = ["ServiceThread"]

log = logging.getLogger(__name__)

ENDED = tuple(kind for kind in JobEventKind if kind.ended)
FAILED = "Can't generate image due to error"
LEFTOVER = -1
"""The priority of jobs whose process has ended: they run after new jobs."""
LEASE = 5.0
"""Seconds after a process dies until another process takes over its jobs."""


class ServiceThread(threading.Thread):
    """Generates what is queued, in the background, until it is stopped.

    Args:
        cfg_file: `config.yaml`; paths in it are relative to its folder.
        progress: Whether bars show the jobs that run here, in a terminal or a notebook.

    Attributes:
        cwd: The folder of `cfg_file`.
        config, models: The contents of the files. The next session or job uses their changes.
        sessions: The open sessions by their ids.
        max_img_cnt: How many pictures one call may ask for.
        qlimit: How many calls of `queue_gen` may be unfinished, of all users together; None for any number.

    Raises:
        ConfigError: A configuration file is wrong; the message names file, line and key.
    """

    def __init__(self, cfg_file: str | Path, progress: bool = True) -> None:
        super().__init__(name="ServiceThread", daemon=False)
        file = Path(cfg_file).expanduser().absolute()
        self.cwd = file.parent
        self.config = read_config(file)
        self.models = read_models(self.cwd / Path(self.config["model_list"]).expanduser(), pipes_by_name())
        self.sessions: dict[str, dict[str, Any]] = {}
        self.max_img_cnt = 20
        self.qlimit: int | None = self.config.get("queue_limit")
        self.queue_num = 0
        logs = self.cwd / Path(self.config.get("logging_folder", "logs")).expanduser()
        try:
            self.logger = setup_logger(logs / "multigen.log")
        except OSError as error:
            what = f"logging_folder {logs} cannot be written: {error.strerror or error}"
            raise wrong(file, "logging_folder", what) from None
        self.queue = Queue(self.cwd / ".multigen" / "queue.sqlite")
        self._store, self._present = self.cwd / ".multigen" / "store", self.cwd / ".multigen" / "threads"
        self._orders: dict[int, Order] = {}
        self._lock = threading.RLock()
        self._ending = threading.Event()
        self._at_once = False
        self._seen = self.queue.last_change()
        self._presence = Presence(self._present)
        self._service: Service | None = None
        self._bars = JobBars() if progress and is_watched() else None

    @property
    def pipes(self) -> dict[str, Any]:
        """The Pipes that can be used, as the models file has them."""
        return dict(self.models["pipes"])

    def get_pipe_class(self, pipe: str) -> type:
        """The class of a Pipe by its name in the models file.

        Raises:
            RuntimeError: There is no such name.
        """
        return self._catalogue.pipe_class(pipe)

    @property
    def _catalogue(self) -> Catalogue:
        """The catalogue of the files as they are now."""
        return Catalogue(self.cwd, self.config, self.models)

    # --- sessions -----------------------------------------------------------------------------------------------------

    def open_session(
        self, user: str, project: str, pipe: str, model: str, loras: Sequence[str] = (), **others: Any
    ) -> dict[str, Any]:
        """Open a session; a user has one at a time.

        Returns:
            `session_id`; with `error`, the id of the session that the user has already.

        Raises:
            RuntimeError: There is no such Pipe, model or LoRA, or its files are not there.
            ValueError: User or project would lead out of `_projects`.
        """
        session = {"user": user, "project": project, "pipe": pipe, "model": model, "loras": listed(loras),
                   "images": [], "status": "not started", **others}  # fmt: skip
        if (found := self._session_of(user)) is None:
            self._catalogue.folder(session)  # errors are raised now, not by the jobs
            self._catalogue.pipe(session, {})  # reads a new model's files for its hash, while others are called back
        with self._lock:
            if (found := self._session_of(user)) is not None:
                return {"error": f"{user} has an open session already", "session_id": found}
            id = uuid.uuid4().hex
            self.sessions[id] = session
            return {"session_id": id}

    def _session_of(self, user: str) -> str | None:
        with self._lock:
            return next((id for id, session in self.sessions.items() if session["user"] == user), None)

    def close_session(self, session_id: str) -> dict[str, str]:
        """Close a session; its jobs go on.

        Raises:
            RuntimeError: There is no such session.
        """
        with self._lock:
            if self.sessions.pop(str(session_id), None) is None:
                raise RuntimeError(f"there is no session {session_id}")
        return {"status": "success"}

    def get_session_info(self, session_id: str) -> dict[str, Any]:
        """The number of a session's pictures, of jobs before its next one, and its status."""
        with self._lock:
            session = self.sessions.get(str(session_id))
            if session is None:
                return {"status": f"session {session_id} does not exist"}
            mine = [number for number, order in self._orders.items() if order.session is session]
        waiting = [job.id for job in self.queue.waiting(10_000)] if mine else []
        before = next((place for place, number in enumerate(waiting) if number in mine), 0)
        return {"available_images": len(session["images"]), "next_job": before, "status": session["status"]}

    def get_image_count(self, session_id: str) -> dict[str, Any]:
        """The number of a session's pictures."""
        session = self.sessions.get(str(session_id))
        if session is None:
            return {"image_number": 0, "comment": f"session {session_id} does not exist"}
        return {"image_number": len(session["images"]), "comment": session["status"]}

    def get_image_pathname(self, session_id: str, i: int | None = None) -> Any:
        """The path of a session's picture; without a number, that of its folder."""
        session = self.sessions.get(str(session_id))
        if session is None:
            return self.get_session_info(session_id)
        if i is None:
            return str(self._catalogue.folder(session))
        if not hasattr(i, "__index__") or not 0 <= i < len(session["images"]):
            return {**self.get_session_info(session_id), "warning": f"there is no picture {i!r:.40}"}
        return session["images"][i]

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def queue_gen(
        self,
        session_id: str | None = None,
        prompt: Any = "",
        count: int = 1,
        images: Any = None,
        seeds: Any = None,
        session: dict[str, Any] | None = None,
        gen_dir: str | Path | None = None,
        start_callback: Callable[[], object] | None = None,
        image_callback: Callable[[str], object] | None = None,
        finish_callback: Callable[..., object] | None = None,
        **setup: Any,
    ) -> dict[str, Any]:
        """Queue pictures; on disk when this returns.

        Args:
            session_id: An open session.
            prompt: A text or a template, see `Cfgen`; `nprompt` is the negative one.
            count: How many pictures, at most `max_img_cnt`.
            images: The Pipe's picture (a path, a PIL picture, an array), for masked Pipes the original and
                the painted one.
            seeds: One for each picture; by default random ones.
            session: A dictionary with `user`, `pipe`, `model`, `images` in the place of an opened session.
            gen_dir: Where the pictures go; by default into the project's folder.
            start_callback, image_callback, finish_callback: Called in this process: before the first picture, with
                each picture's path, and at the end, with a message if something failed.
            setup: Arguments of the Pipe's `setup`.

        Returns:
            `status` and `queue_number`; `warning` where there was something to change; `error` where nothing was
            queued.

        Raises:
            RuntimeError: The session's Pipe, model or LoRA is not there any more, or `session` is no session.
            ValueError, FileError: An argument of `setup`, a seed or the folder is wrong.
        """
        session = self.sessions.get(str(session_id)) if session is None else session
        if session is None:
            return {"error": f"session {session_id} does not exist"}
        try:
            if isinstance(count, bool):
                raise TypeError
            count = operator.index(count)
        except TypeError:
            return {"error": f"count is {count!r:.40}, but must be a number of pictures"}
        if count < 1:
            return {"warning": f"count is {count}: nothing to generate"}
        found: dict[str, Any] = {}
        if count > self.max_img_cnt:
            found["warning"] = f"{count} pictures are too many at once, {self.max_img_cnt} are generated"
            count = self.max_img_cnt
        if not isinstance(session, dict):
            raise RuntimeError(f"session is {session!r:.40}, but must be a dictionary with user, pipe and model")
        if absent := [name for name in ("user", "pipe", "model") if name not in session]:
            raise RuntimeError(f"the session lacks {', '.join(absent)}")
        if self._is_busy():
            return {"error": "Server is busy"}
        catalogue = self._catalogue
        lacking = catalogue.lacking(session, images, setup)
        if lacking is not None:
            return {"error": lacking}
        folder = catalogue.folder(session, gen_dir)
        try:
            pictures = prepare(catalogue.pipe(session, setup), prompt, count, as_seeds(seeds, count), images, setup)
        except RecursionError:
            raise ValueError("the prompt is a template that is nested too deeply, or holds itself") from None
        order = Order(session, start_callback, image_callback, finish_callback)
        with self._lock:  # so that no change of these jobs is read before the order is known
            if self._is_busy():
                return {"error": "Server is busy"}
            facts = {"process": self._presence.name, "call": uuid.uuid4().hex}
            jobs = submit(self.queue, pictures, folder, str(session["user"]), facts)
            order.places = list(jobs)
            self._orders |= dict.fromkeys(jobs, order)
            if not isinstance(session.get("images"), list):
                session["images"] = listed(session.get("images"))
            session["status"] = "running"
            self.queue_num += 1
        return {"status": "success", "queue_number": self.queue_num, **found}

    def _is_busy(self) -> bool:
        if self.qlimit is None:
            return False
        return len({job.facts.get("call") for job in unfinished(self.queue)}) >= self.qlimit

    # --- the thread ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run jobs, and call back, until `stop`."""
        service = self._service = Service(
            self.queue, self._workers, DiskStore(self._store),
            seconds=LEASE, finishers={FINISHER: finish}, on_lease=self._put_behind,
        )  # fmt: skip
        if self._bars is not None:
            service.subscribe(self._bars)
        atexit.register(self._exit)  # after a Ctrl-C while nothing but this thread was left
        if not self._ending.is_set():
            service.start()
        while not self._ending.is_set() and not _interrupted():
            self.queue.wait_for_change(0.2)
            self._call_back()
        service.drain()
        while service.busy and self._ending.is_set() and not self._at_once:
            self.queue.wait_for_change(0.2)
            self._call_back()
        self._call_back()
        service.stop(finish=self._ending.is_set() and not self._at_once)
        self._call_back()
        with contextlib.suppress(QueueError):
            self._see_out()
        if self._bars is not None:
            self._bars.close()
        self._presence.end()
        atexit.unregister(self._exit)

    def _see_out(self) -> None:
        """Wait for this service's jobs that run in another service, which holds the lease."""
        running = {job.id for job in self.queue.running()}
        while running & self._orders.keys() and holder(self.queue) is not None and not self._at_once:
            self.queue.wait_for_change(0.2)
            self._call_back()

    def _exit(self) -> None:
        self._at_once = True
        self._ending.set()
        with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C means the same
            self.join(LEASE)

    def stop(self) -> None:
        """Stop after the running jobs; waiting jobs stay on disk. `join` waits for the end."""
        self._ending.set()

    def _workers(self) -> WorkerRunner:
        places = named_devices(self.config)
        count, threads = int(self.config.get("workers") or len(places)), self.config.get("threads")
        made = [LocalWorker(f"w{n}", places[n % len(places)], threads, str(self._store)) for n in range(count)]
        return WorkerRunner(made, DiskStore(self._store))

    def _put_behind(self) -> None:
        """Let the jobs of ended processes run after new jobs."""
        waiting = {job.id: self._process_of(job) for job in unfinished(self.queue) if job.state is State.QUEUED}
        absent = {name for name in set(waiting.values()) if not is_present(self._present, name)}
        gone = [id for id, name in waiting.items() if name in absent]
        self.queue.prefer(LEFTOVER, *gone)
        if gone:
            log.warning("%d jobs of an earlier process are run after new ones; nobody will be called back", len(gone))

    def _call_back(self) -> None:
        """Call back for all changes of jobs since the last call."""
        while True:
            try:
                with self._lock:
                    changes = self.queue.changes(self._seen)
                for change in changes:
                    self._note_change(change)
                    self._seen = change.number
            except QueueError as error:  # locked for too long: the next call tries again
                log.warning("%s", error)
                return
            if not changes:
                return

    def _note_change(self, change: Change) -> None:
        order = self._orders.get(change.job)
        if order is not None:
            self._call_order(order, change)
            return
        has_ended = change.kind in (JobEventKind.FAILED, JobEventKind.DONE)
        if has_ended and self._service and self._service.active and self._is_lost(change.job):
            lost = "job %d of an earlier process is %s; its callbacks are lost"
            log.warning(lost, change.job, change.kind, extra={"job": change.job})

    def _is_lost(self, number: int) -> bool:
        try:
            return not is_present(self._present, self._process_of(self.queue.get(number)))
        except NoJob:
            return False

    @staticmethod
    def _process_of(job: Job) -> str:
        return str(job.facts.get("process", ""))

    def _call_order(self, order: Order, change: Change) -> None:
        if change.kind == JobEventKind.RUNNING and not order.started:
            order.started = True
            self._call(order.start_callback)
        if change.kind not in ENDED:
            return
        made = self._files(change.job) if change.kind == JobEventKind.DONE else []
        with self._lock:
            del self._orders[change.job]
        if change.kind == JobEventKind.FAILED:
            log.error("job %d failed: %s", change.job, change.facts.get("error"), extra={"job": change.job})
            order.failed = True
        for file in order.ended(change.job, made):
            order.session.setdefault("images", []).append(file)
            self._call(order.image_callback, file)
        if not order.places:
            others = any(other.session is order.session for other in self._orders.values())
            order.session["status"] = "running" if others else "done"
            self._call(order.finish_callback, *([FAILED] if order.failed else []))

    def _files(self, number: int) -> list[str]:
        """The files that a job has written; empty if the job was deleted since."""
        try:
            return list(self.queue.get(number).result["files"])
        except NoJob:
            return []

    def _call(self, callback: Callable[..., object] | None, *args: Any) -> None:
        try:
            if callback is not None:
                callback(*args)
        except BaseException:  # a failing callback must not stop the jobs of others
            log.exception("a callback failed")


def _interrupted() -> bool:
    """Whether the script has ended with Ctrl-C."""
    return not threading.main_thread().is_alive() and getattr(sys, "last_type", None) is KeyboardInterrupt


def _unraisable(told: sys.UnraisableHookArgs, before: Callable[[sys.UnraisableHookArgs], object]) -> None:
    """Do not report Ctrl-C as an error while Python waits only for a ServiceThread: it ends the thread."""
    if told.exc_type is not KeyboardInterrupt or told.object is not threading:
        before(told)


sys.unraisablehook = functools.partial(_unraisable, before=sys.unraisablehook)
