"""Threads that nobody has to wait for: a run or a call that was cancelled and does not end is left with its thread.

Python cannot end a thread. What is left goes on by itself, is named in a warning, and what it gives is taken by nobody;
whoever waited for it, and its place among the threads, are free. Code that holds the interpreter's lock for long (some
C extensions do) lets no thread of its process go on, and cannot be left.
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
from typing import Any, Generic, Protocol, TypeVar

from graphengine.errors import Cancelled, Exhausted, short_path

T = TypeVar("T")


class Stop(Protocol):
    """What asks work to stop (a `Cancellation`)."""

    cancelled: bool

    def cancel(self) -> None: ...

    def on_cancel(self, tell: Callable[[], None], /) -> None: ...

    def forget(self, tell: Callable[[], None], /) -> None: ...


class Waiting(Protocol):
    """A call as a lane sees it (a `runner.Call`)."""

    definition: Any
    context: Any
    order: tuple[int, int]
    landed: Callable[[Any, float, Mapping[str, Any]], None]


C = TypeVar("C", bound=Waiting)

RUN_GRACE = 1.0
"""Seconds that a cancelled run may take to end before it is left."""
CALL_GRACE = 3.0
"""Seconds that a call which nobody wants any more may take to end before it is left, or its worker ended: a step of
sampling looks whether it is wanted, but takes its time."""
IDLE = 60.0
"""Seconds without work after which a thread ends."""
LEFT = "graphengine-left"
"""What the names of threads begin with that were left."""

log = logging.getLogger(__name__)


def start(work: Callable[[], object], name: str) -> threading.Thread:
    """Start a thread that does not keep the process from ending.

    Raises:
        Exhausted: This process may have no more threads, or has no memory for one.
    """
    thread = threading.Thread(target=work, name=name, daemon=True)
    begin(thread)
    return thread


def begin(thread: threading.Thread) -> None:
    """Start a thread that was made.

    Raises:
        Exhausted: This process may have no more threads, or has no memory for one.
    """
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        raise Exhausted(f"this process cannot start a thread: {error or 'it lacks memory'}") from error


def is_any_left() -> bool:
    """Whether threads that were left still go on: then a process should end without waiting for them."""
    return any(thread.name.startswith(LEFT) for thread in threading.enumerate())


def _leave(thread: threading.Thread, what: str) -> None:
    """Rename a thread that is left, and say in a warning where it is."""
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
    """Work that may be left.

    Attributes:
        cancellation: Asks it to stop.
        left: Called when it is left.
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
    """Do work on a thread of its own, which is left where it was cancelled and does not end.

    Within work that is leavable by the same cancellation, and without one, it is done on this thread.

    Args:
        left: Called when it is left.
        name: What it is called in the warning.
        grace: Seconds that it may take to end; asked when it is cancelled.

    Raises:
        Cancelled: It was left.
        Exhausted: There is no thread for it.
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
        thread = start(go, f"{threading.current_thread().name}-run")  # whose threads runners know by their names
        try:
            outcome = ended.get()
            deadline = time.monotonic() + grace()
            while outcome is None:  # it was cancelled
                outcome = ended.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            _leave(thread, name or "a run")
            for tell in mine.left:
                tell()
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
            del error, outcome  # no circle of the exception and this frame
    return value  # type: ignore[no-any-return]


# --- calls ------------------------------------------------------------------------------------------------------------


class Lane(Generic[C]):
    """Threads of one name that compute calls, the smallest `order` first.

    Args:
        name: What the names of its threads begin with.
        size: How many threads there are at most, those that were left not counted.
        compute: Computes calls that belong together, and never raises.
        join: Given the next call and what else waits, in order, which of that is computed together with it.
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
        self._more, self._quiet = threading.Condition(lock), threading.Condition(lock)
        self._closed = False

    def put(self, calls: Sequence[C]) -> None:
        """Take calls; they are computed on the lane's threads."""
        with self._more:
            for call in calls:
                heapq.heappush(self._waiting, (call.order, next(self._count), call))
            self._more.notify(len(calls))
        self._man()

    def close(self) -> None:
        """Take nothing more, and wait for what is computed or waits, but for what is left."""
        with self._more:
            self._closed = True
            self._more.notify_all()
            self._quiet.wait_for(lambda: not self._waiting and not any(self._work.values()))

    def _man(self) -> None:
        """Start threads for what waits. Where there can be no more, those that there are do it; where there is none,
        what waits fails."""
        lacking: list[C] = []
        error: Exhausted | None = None
        with self._more:
            while len(self._waiting) > self._idle and len(self._work) < self.size:
                try:
                    thread = start(self._serve, self.name)
                except Exhausted as found:
                    if not self._work:
                        lacking, error = [call for _, _, call in self._waiting], found
                        self._waiting.clear()
                    break
                self._work[thread] = []
                self._idle += 1  # until it has looked
        for call in lacking:
            call.landed(error, 0.0, {})

    def _serve(self) -> None:
        """What each thread does; it counts as idle when it begins."""
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
                    return  # it was left, and another has its place
                self._work[me] = []
                self._idle += 1
                self._quiet.notify_all()

    def _take(self) -> list[C]:
        first = heapq.heappop(self._waiting)[2]
        more = self._join(first, (call for _, _, call in sorted(self._waiting))) if self._join is not None else []
        if more:
            taken = set(map(id, more))
            self._waiting = [one for one in self._waiting if id(one[2]) not in taken]
            heapq.heapify(self._waiting)
        return [first, *more]

    # --- what nobody wants any more -------------------------------------------------------------------------------

    def unwanted(self) -> list[tuple[threading.Thread, list[C]]]:
        """The threads whose calls nobody wants any more, with those calls."""
        with self._more:
            work = list(self._work.items())
        return [(thread, calls) for thread, calls in work if calls and all(call.context.cancelled for call in calls)]

    def leave(self, thread: threading.Thread, calls: list[C]) -> None:
        """Leave a thread to calls, if it still computes them; another takes its place."""
        with self._more:
            if self._work.get(thread) is not calls:
                return
            del self._work[thread]
            self._quiet.notify_all()
        _leave(thread, f"node {short_path(calls[0].context.node)} ({calls[0].definition.full_name})")
        for call in calls:
            call.landed(Cancelled("it was cancelled and did not end"), 0.0, {})
        self._man()
