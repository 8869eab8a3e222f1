"""Fairness between users: which user's job begins next, and which user's call goes first.

Pure functions over plain data: what waits, what runs and how often each user had a turn are arguments. Jobs begin by
priority, then those of the user of whom the fewest run, then of the one who had the fewest turns. Calls are ordered by
start-time fair queueing (Goyal et al. 1996): each call of a user is due after the one before it, so that many calls of
one user wait for the few of another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol, TypeVar

# --- jobs -------------------------------------------------------------------------------------------------------------

CONCURRENCY = 64
"""Jobs that are run at once: what is batched across jobs must be ready at once."""
IN_ORDER = 5.0
"""Seconds that a job waits at most for the job of its user before it to begin."""


class WaitingJob(Protocol):
    """A job that waits, as far as fairness looks at it."""

    @property
    def user(self) -> str:
        """The user who submitted it."""

    @property
    def priority(self) -> int:
        """Jobs with a higher one run first."""


J = TypeVar("J", bound=WaitingJob)


def free_places(most: int, running: int) -> int:
    """How many more jobs may begin of any user; 0 or less where only users of whom nothing runs may begin one."""
    return most - running


def is_full(most: int, free: int) -> bool:
    """Whether no job may begin: beyond the places of all there are as many again, one for each user."""
    return free <= -most


def contenders(waiting: Iterable[J], running: Mapping[str, int], free: int) -> dict[str, J]:
    """The next job of each user who may begin one now, by user.

    Args:
        waiting: Jobs in the order of the queue, the highest priority first.
        running: How many jobs of each user run.
        free: See `free_places`.
    """
    found: dict[str, J] = {}
    top: int | None = None
    for job in waiting:
        top = job.priority if top is None else top
        if job.priority == top and (free > 0 or not running.get(job.user)):
            found.setdefault(job.user, job)
    return found


def next_job(jobs: Mapping[str, J], running: Mapping[str, int], turns: Mapping[str, int]) -> J:
    """The job that begins next.

    Args:
        jobs: What `contenders` returned, not empty.
        running: How many jobs of each user run.
        turns: How many jobs of each user were begun, see `turns_after`.
    """
    return min(jobs.values(), key=lambda job: (running.get(job.user, 0), turns.get(job.user, 0)))


def turns_after(turns: Mapping[str, int], user: str, users: Collection[str]) -> int:
    """How many turns a user has had whose job begins: a user who comes back is not owed the turns of the time when
    they wanted nothing.

    Args:
        turns: How many turns each user had before.
        users: All users who might have begun a job.
    """
    least = min((turns.get(other, 0) for other in users if other != user), default=0)
    return max(turns.get(user, 0), least) + 1


# --- calls ------------------------------------------------------------------------------------------------------------

OVERTAKINGS = 100
"""How often a call can be overtaken by calls whose models a worker holds."""
MANY = 4
"""A user has many calls, and another few, if more than this many times as many calls of the first wait."""
LOADS = 2
"""Calls of users with many jobs may overtake a call until they have taken as long as this many loads of its models: one
to load them, one to load the others' models again."""


def due(virtual: float, end: float | None) -> float:
    """When a user's next call is due, in virtual time.

    Args:
        virtual: The virtual time now: when the last call that was taken was due.
        end: When the user's call before it would end, in virtual time; None if that has passed.
    """
    return virtual if end is None else max(virtual, end)


def order(priority: int, due: float, number: int) -> tuple[int, float, int]:
    """The key by which calls are sorted.

    Args:
        number: Its position in the order in which calls came.
    """
    return -priority, due, number


def has_few(waiting: int, others: int) -> bool:
    """Whether a user has few waiting calls in comparison with another.

    Args:
        waiting: How many calls of the user wait.
        others: How many calls of the other wait.
    """
    return MANY * waiting < others


def may_be_overtaken(overtaken: int, bound: int, yielded: float, missing: int, load: float) -> bool:
    """Whether another call may go before one at a worker.

    Args:
        overtaken: How often a later call was taken before it.
        bound: How often that may be.
        yielded: Seconds of the calls of users with many jobs that were taken before it.
        missing: How many of its models the worker does not hold.
        load: Seconds that loading one takes.
    """
    return overtaken < bound and (not missing or yielded < LOADS * missing * load)
