"""Rules for retries: what is tried again, how often, after what pause, and what a failure is counted against.

Decisions alone: counts and times are arguments, nothing here reads a clock or keeps a state. `docs/retries.md` tells
the same to users.
"""

from __future__ import annotations

import enum
import signal
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

# --- a call, when its worker is lost ----------------------------------------------------------------------------------

CRASHES = 3
"""After this many crashes of workers that a call has caused, it fails; a job may be submitted with another number."""
KILLS_PER_CRASH = 4
"""This many kills of workers by an unknown process count as one crash."""

KILLING_SIGNALS = {name for name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT") if hasattr(signal, name)}
"""Signals by which others end a process; the rest (SIGSEGV, SIGABRT, SIGBUS, ...) come of what it does itself."""


class Fault(enum.Enum):
    """What the end of a worker is counted against."""

    CALL = "call"
    """The call: its process ended itself, used up the memory, or gave no sign."""
    UNKNOWN = "unknown"
    """A process was killed: the call may have done it, or anybody else."""
    NOBODY = "nobody"
    """Nothing: the service ended the worker or could not start it, for no reason that lies in a call."""


def fault_of_exit(code: int, memory_kills: int = 0) -> Fault:
    """What the exit of a worker's process is counted against.

    Args:
        code: Its exit code; of a signal its number, negative.
        memory_kills: How many processes the kernel has killed for lack of memory since the worker was given its calls.
    """
    name = signal_name(code)
    if name == "SIGKILL" and memory_kills > 0:
        return Fault.CALL
    return Fault.UNKNOWN if name in KILLING_SIGNALS else Fault.CALL


def signal_name(code: int) -> str | None:
    """The signal that an exit code stands for; None for one that stands for none."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Losses:
    """Workers that were lost while they computed one call and nothing beside it.

    Attributes:
        crashes: Those whose end is counted against the call.
        kills: Those that were killed by an unknown process.
    """

    crashes: int = 0
    kills: int = 0

    def and_another(self, fault: Fault) -> Losses:
        """These losses and one more."""
        if fault is Fault.CALL:
            return replace(self, crashes=self.crashes + 1)
        return replace(self, kills=self.kills + 1) if fault is Fault.UNKNOWN else self

    def leave_another_try(self, crashes: int = CRASHES) -> bool:
        """Whether the call is tried again.

        Args:
            crashes: After how many crashes it is not.
        """
        return self.crashes < crashes and self.kills < KILLS_PER_CRASH * crashes

    @property
    def count(self) -> int:
        """All of them."""
        return self.crashes + self.kills


# --- a call, when a device lacks memory for it ------------------------------------------------------------------------


class Remedy(enum.Enum):
    """Ways to retry a call after a worker ran out of memory."""

    FEWER = "fewer together"
    ELSEWHERE = "on another worker"


def remedy_for_memory(together: int) -> Remedy:
    """Choose how to retry calls after a worker ran out of memory with `together` of them at once."""
    return Remedy.FEWER if together > 1 else Remedy.ELSEWHERE


# --- a worker ---------------------------------------------------------------------------------------------------------

ACKNOWLEDGED = 10.0
"""Seconds in which a worker acknowledges what it is sent, whatever it computes; after that it is taken back."""
PACE = 10e6
"""The slowest expected transfer of a message to a worker, in bytes a second; longer messages get more time."""
STOPPED = 10.0
"""Seconds for which the process of a worker may be stopped (SIGSTOP) in the middle of its calls; then it is ended."""
OTHERS = 2.0
"""Seconds that a worker which is to be ended may go on with calls of other jobs; then those are computed elsewhere."""
UNUSABLE = 10.0
"""Seconds without a usable worker after which a run of a program ends; jobs of a queue wait."""
STARTS = 3
"""A worker that has ended this often in a row before it was ready is unusable."""
HELPER_START = 60.0
"""Seconds that a helper may take to start before another is started for what waits."""
RAY_START = 120.0
"""Seconds in which an actor of Ray must be placed and started; after a pause it is tried again."""


class Backoff(NamedTuple):
    """Pauses between tries, each twice as long as the one before.

    Attributes:
        first, most: Seconds of the first pause, and of the longest.
    """

    first: float
    most: float

    def after(self, pause: float) -> float:
        """The pause that follows one of so many seconds."""
        return min(self.most, 2 * pause)


WORKER_PAUSES = Backoff(0.5, 30.0)
"""Seconds before a worker is started again that ended without computing anything."""


def restart(pause: float, computed: bool) -> tuple[float, float]:
    """When a lost worker is started again, and the pause after the next loss, in seconds.

    Args:
        pause: The one that is due if it is lost while it computes nothing.
        computed: It was lost while it computed something: then it is started again at once.
    """
    return (0.0, WORKER_PAUSES.first) if computed else (pause, WORKER_PAUSES.after(pause))


def acknowledged_by(sent: float, size: int = 0) -> float:
    """The time by which a worker must have acknowledged a message.

    Args:
        sent: When it was sent.
        size: Its bytes.
    """
    return sent + ACKNOWLEDGED + size / PACE


def is_unusable(failed_starts: int) -> bool:
    """Whether a worker that has so often in a row ended before it was ready cannot be expected to be ready soon."""
    return failed_starts >= STARTS


def lack_workers(since: float, now: float) -> bool:
    """Whether no worker has been usable for so long that a run of a program ends.

    Args:
        since: When the last usable worker was lost; 0 while there is one.
        now: The time now.
    """
    return since > 0 and now - since >= UNUSABLE


def is_starting(since: float, now: float) -> bool:
    """Whether a worker whose start began at a time may still be waited for."""
    return now - since < HELPER_START


# --- a job, when its service ends -------------------------------------------------------------------------------------

SERVICES = 10
"""A job fails that was running when this many services ended: it may have ended them."""
SUSPECT = SERVICES // 2
"""A job that was running when this many services ended is run alone: no other job pays for what it may have done."""


def services_lost(runs: Iterable[tuple[str, str]]) -> int:
    """How many services were lost while they ran a job.

    Services are counted, not runs: two that live may take the lease from one another again and again.

    Args:
        runs: The service and the outcome of each run of the job.
    """
    return len({service for service, outcome in runs if outcome == "lost"})


def job_is_given_up(services: int) -> bool:
    """Whether a job fails with which so many services were lost."""
    return services >= SERVICES


def job_runs_alone(services: int) -> bool:
    """Whether a job with which so many services were lost runs while no other does."""
    return services >= SUSPECT


# --- a job, when the service lacks threads, descriptors or memory -----------------------------------------------------

SERVICE_PAUSE = 0.5
"""Seconds after which a service tries again that could not write the queue's file, or lacked what it needs."""
SHORTAGES = 3
"""A job fails that meets a shortage this often while it runs alone and the service is well before and after: the job
itself takes more than there is."""
SHORTAGE_PAUSES = Backoff(0.5, 30.0)
"""Seconds in which a service begins no job after it has met a shortage."""


def jobs_after_shortage(allowed: int, running: int) -> int:
    """How many jobs a service runs at once after it has met a shortage.

    Args:
        allowed: How many it might run.
        running: How many it ran.
    """
    return max(1, min(allowed, running) // 2)


def shortage_is_of_job(times: int) -> bool:
    """Whether it is the job that takes too much, which has met a shortage so often while it ran alone."""
    return times >= SHORTAGES
