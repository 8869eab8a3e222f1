"""Threads that can be abandoned: if a cancelled run or call does not end, its thread is left running and ignored.

Python cannot end a thread. An abandoned thread is named in a warning, runs on, and its result is ignored; its caller
continues, and another thread takes its place. Code that holds the interpreter's lock for long (some C extensions do)
stops all threads of its process, and cannot be abandoned.
"""

from __future__ import annotations

import contextvars
import heapq
import itertools
import logging
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from graphengine.errors import Cancelled, Exhausted, short_path
from graphengine.old_names import moved

T = TypeVar("T")


class Stop(Protocol):
    """A request to stop, as threads see it (a `Cancellation`)."""

    cancelled: bool

    def cancel(self) -> None: ...

    def on_cancel(self, callback: Callable[[], None], /) -> None: ...

    def forget(self, callback: Callable[[], None], /) -> None: ...


class LaneCall(Protocol):
    """A call as a lane sees it (a `graphengine.Call`)."""

    definition: Any
    context: Any
    order: tuple[int, int]
    landed: Callable[[Any, float, Mapping[str, Any]], None]


C = TypeVar("C", bound=LaneCall)

RUN_GRACE = 1.0
"""Seconds within which a cancelled run must end before it is abandoned."""
CALL_GRACE = 3.0
"""Seconds within which a cancelled call must end before it is abandoned or its worker is ended. Sampling checks for
cancellation at each step, and a step takes time."""
IDLE = 60.0
"""Seconds without work after which a thread ends."""
LEFT = "graphengine-left"
"""The beginning of the names of abandoned threads."""

log = logging.getLogger(__name__)


def start(work: Callable[[], object], name: str) -> threading.Thread:
    """Start a daemon thread, which does not keep the process from ending.

    Raises:
        Exhausted: This process can start no more threads, or has no memory for one.
    """
    thread = threading.Thread(target=work, name=name, daemon=True)
    begin(thread)
    return thread


def begin(thread: threading.Thread) -> None:
    """Start an existing thread object.

    Raises:
        Exhausted: This process can start no more threads, or has no memory for one.
    """
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        raise Exhausted(f"this process cannot start a thread: {error or 'it lacks memory'}") from error


def is_any_left() -> bool:
    """Whether abandoned threads are still running; then a process should end without waiting for its threads."""
    return any(thread.name.startswith(LEFT) for thread in threading.enumerate())


def _leave(thread: threading.Thread, what: str) -> None:
    """Abandon a thread: rename it, and say in a warning which line of code it is running."""
    thread.name = f"{LEFT}-{thread.ident}"
    frame = sys._current_frames().get(thread.ident or 0)
    place = traceback.extract_stack(frame, limit=1)[0] if frame is not None else None
    where = "" if place is None else f" (it is at {place.filename}:{place.lineno} in {place.name})"
    log.warning(
        "%s was cancelled and does not end%s; its thread is left to it. A node that takes long should call "
        "ctx.check_cancelled() at each step",
        what, where,
    )  # fmt: skip


# --- runs -------------------------------------------------------------------------------------------------------------


class _Leavable:
    """Work that may be abandoned.

    Attributes:
        cancellation: Asks it to stop.
        left: Functions to call when it is abandoned.
    """

    def __init__(self, cancellation: Stop) -> None:
        self.cancellation = cancellation
        self.left: list[Callable[[], object]] = []


_within: contextvars.ContextVar[_Leavable | None] = contextvars.ContextVar("graphengine-leavable", default=None)


def leavable(
    work: Callable[[], T],
    cancellation: Stop | None,
    left: Callable[[], object] = lambda: None,
    name: str = "",
    grace: Callable[[], float] = lambda: RUN_GRACE,
) -> T:
    """Do work on a thread of its own that is abandoned if it is cancelled and does not end in time.

    Without a cancellation, and inside work with the same cancellation, it is done on the current thread.

    Args:
        work: The function to call.
        cancellation: Asks the work to stop.
        left: Called when the work is abandoned.
        name: The name of the work in the warning.
        grace: Returns the seconds within which the work must end; called when it is cancelled.

    Returns:
        What `work` returns.

    Raises:
        Cancelled: The work was abandoned.
        Exhausted: No thread could be started.
    """
    around = _within.get()
    if cancellation is None:
        return work()
    if around is not None and around.cancellation is cancellation:
        around.left.append(left)
        return work()
    mine = _Leavable(cancellation)
    mine.left.append(left)
    ended: queue.SimpleQueue[tuple[Any, BaseException | None] | None] = queue.SimpleQueue()
    context = contextvars.copy_context()
    context.run(_within.set, mine)

    def go() -> None:
        try:
            outcome: tuple[Any, BaseException | None] = context.run(work), None
        except BaseException as error:
            outcome = None, error
        ended.put(outcome)

    def cancelled() -> None:
        ended.put(None)

    cancellation.on_cancel(cancelled)
    try:
        thread = start(go, f"{threading.current_thread().name}-run")  # runners recognise their threads by the names
        try:
            outcome = ended.get()
            deadline = time.monotonic() + grace()
            while outcome is None:  # it was cancelled
                outcome = ended.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            _leave(thread, name or "a run")
            for callback in mine.left:
                callback()
            raise Cancelled("the run was cancelled") from None
        except BaseException:  # Ctrl-C
            cancellation.cancel()
            raise
    finally:
        cancellation.forget(cancelled)
    value, error = outcome
    if error is not None:
        try:
            raise error
        finally:
            del error, outcome  # so that exception and frame do not refer to each other
    return value  # type: ignore[no-any-return]


# --- calls ------------------------------------------------------------------------------------------------------------


class Lane(Generic[C]):
    """A pool of threads that compute calls, the smallest `order` first.

    Args:
        name: The beginning of its threads' names.
        size: The most threads at once, abandoned ones not counted.
        compute: Computes one call, or several joined ones together; it never raises.
        join: Given the next call and the other waiting calls in order, returns those to compute together with it.
    """

    def __init__(
        self,
        name: str,
        size: int,
        compute: Callable[[Sequence[C]], None],
        join: Callable[[C, Iterable[C]], list[C]] | None = None,
    ) -> None:
        self.name, self.size, self._compute, self._join = name, size, compute, join
        self._waiting: list[tuple[tuple[int, int], int, C]] = []  # a heap
        self._work: dict[threading.Thread, list[C]] = {}
        self._idle = 0
        self._count = itertools.count()
        lock = threading.Lock()
        self._more, self._idle_again = threading.Condition(lock), threading.Condition(lock)
        self._closed = False

    def put(self, calls: Sequence[C]) -> None:
        """Add calls, to be computed on the lane's threads."""
        with self._more:
            for call in calls:
                heapq.heappush(self._waiting, (call.order, next(self._count), call))
            self._more.notify(len(calls))
        self._start_threads()

    def close(self) -> None:
        """Accept no more calls, and wait until all calls have ended, except abandoned ones."""
        with self._more:
            self._closed = True
            self._more.notify_all()
            self._idle_again.wait_for(lambda: not self._waiting and not any(self._work.values()))

    def _start_threads(self) -> None:
        """Start threads for the waiting calls.

        If no further thread can be started, the existing ones do the work; if there is none, the waiting calls fail.
        """
        failed: list[C] = []
        error: Exhausted | None = None
        with self._more:
            while len(self._waiting) > self._idle and len(self._work) < self.size:
                try:
                    thread = start(self._serve, self.name)
                except Exhausted as exhausted:
                    if not self._work:
                        failed, error = [call for _, _, call in self._waiting], exhausted
                        self._waiting.clear()
                    break
                self._work[thread] = []
                self._idle += 1  # until it takes its first call
        for call in failed:
            call.landed(error, 0.0, {})

    def _serve(self) -> None:
        """The loop of each thread, which counts as idle when it begins."""
        me = threading.current_thread()
        while True:
            with self._more:
                self._more.wait_for(lambda: self._waiting or self._closed, IDLE)
                self._idle -= 1
                if not self._waiting:
                    del self._work[me]
                    return
                calls = self._work[me] = self._take()
            self._compute(calls)
            del calls
            with self._more:
                if me not in self._work:
                    return  # it was abandoned, and another thread has its place
                self._work[me] = []
                self._idle += 1
                self._idle_again.notify_all()

    def _take(self) -> list[C]:
        first = heapq.heappop(self._waiting)[2]
        more = self._join(first, (call for _, _, call in sorted(self._waiting))) if self._join is not None else []
        if more:
            taken = set(map(id, more))
            self._waiting = [entry for entry in self._waiting if id(entry[2]) not in taken]
            heapq.heapify(self._waiting)
        return [first, *more]

    # --- cancelled calls ------------------------------------------------------------------------------------------

    def unwanted(self) -> list[tuple[threading.Thread, list[C]]]:
        """The threads whose calls are all cancelled, with these calls."""
        with self._more:
            work = list(self._work.items())
        return [(thread, calls) for thread, calls in work if calls and all(call.context.cancelled for call in calls)]

    def leave(self, thread: threading.Thread, calls: list[C]) -> None:
        """Abandon a thread if it still computes these calls; another thread takes its place."""
        with self._more:
            if self._work.get(thread) is not calls:
                return
            del self._work[thread]
            self._idle_again.notify_all()
        _leave(thread, f"node {short_path(calls[0].context.node)} ({calls[0].definition.full_name})")
        for call in calls:
            call.landed(Cancelled("it was cancelled and did not end"), 0.0, {})
        self._start_threads()


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)  # names that were renamed
