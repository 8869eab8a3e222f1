"""Shortages of a service itself (threads, descriptors, memory), which are no fault of the job that meets one."""

from __future__ import annotations

import errno
import os
import traceback
from types import FrameType

from graphengine.declare import registry
from graphengine.errors import Exhausted, NodeError, text_of
from graphengine.pack import origin, pack_of
from graphengine.service import retry
from graphengine.system.threads import start

_LACKS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS})
_PROBE = 16 << 20
"""Bytes that a service must be able to allocate to count as well."""


def lack_of(error: BaseException) -> str | None:
    """The shortage of this process from which an exception comes, in words; None if it comes of anything else.

    An exception of a pack's code that is asked about a value (a codec, its size, the models that it needs) is blamed
    on the value as long as this process is well.
    """
    lack = _lack_of(error)
    return None if lack is not None and _is_of_value(error) and is_well() else lack


def _lack_of(error: BaseException | None) -> str | None:
    while error is not None:
        if isinstance(error, Exhausted | MemoryError):
            return text_of(error) or "it lacks memory"
        if isinstance(error, OSError) and error.errno in _LACKS:
            return error.strerror or text_of(error)
        if isinstance(error, RuntimeError) and "start new thread" in text_of(error):
            return text_of(error)
        error = error.__cause__ or error.__context__
    return None


def _is_of_value(error: BaseException | None) -> bool:
    """Whether an exception came through a pack's code that is asked about a value: not the engine's own pack, and not
    the function of a node, which shares this process with those of other jobs."""
    frames: list[FrameType] = []
    called: set[object] = set()
    while error is not None:
        frames += [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        if isinstance(error, NodeError) and (node := registry.find(error.type)) is not None:
            called |= {getattr(function, "__code__", None) for function in (node.fn, node.many_fn)}
        error = error.__cause__ or error.__context__
    if any(frame.f_code in called for frame in frames):
        return False
    modules = {frame.f_globals.get("__name__", "") for frame in frames}
    return any(origin(module) == "pack" and pack_of(module).distribution != "graphengine" for module in modules)


def is_well() -> bool:
    """Whether this process can open a few descriptors, start a thread and allocate some memory now."""
    try:
        descriptors = [os.open(os.devnull, os.O_RDONLY)]
        try:
            descriptors += [os.dup(descriptors[0]) for _ in range(7)]
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        bytearray(_PROBE)
        start(lambda: None, "graphengine-probe").join()
    except (OSError, MemoryError, Exhausted):
        return False
    return True


class ConcurrencyLimit:
    """The number of jobs that a service runs at once: fewer after a shortage, and none until a pause is over.

    Args:
        most: The number without a shortage.
    """

    def __init__(self, most: int) -> None:
        self.most = self._now = most
        self._pause, self._until = retry.SHORTAGE_PAUSES.first, 0.0
        self._alone: dict[int, int] = {}

    def limit(self, now: float) -> int:
        """How many jobs may run now."""
        return 0 if now < self._until else self._now

    def met(self, running: int, now: float) -> None:
        """Note that a shortage was met while so many jobs ran."""
        self._now = retry.jobs_after_shortage(self._now, running)
        self._until = now + self._pause
        self._pause = retry.SHORTAGE_PAUSES.after(self._pause)

    def is_to_blame(self, job: int, running: int) -> bool:
        """Whether a job that has met a shortage takes too much: it ran alone, and the service is well without it."""
        if running > 1 or not is_well():
            return False
        self._alone[job] = self._alone.get(job, 0) + 1
        return retry.shortage_is_of_job(self._alone[job])

    def ended(self, job: int) -> None:
        """Note that a job has come to its end."""
        self._alone.pop(job, None)
        self._now, self._pause = min(self.most, self._now + 1), retry.SHORTAGE_PAUSES.first
