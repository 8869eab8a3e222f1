"""The scheduler: which waiting call an idle worker computes next, as a policy without processes, clocks or files.

The order is by priority, then fair between users (see `fairness`). Of one user's, what takes less goes before what a
later job wants: a picture that is sampled is decoded before others are sampled, though its worker must load the VAE for
it. A worker may take a call whose models it holds before others, since loading a model costs as much as many pictures;
one that would have to let go of models for a call leaves it to an idle one that has more room. How often a call can be
overtaken so is bounded by a count: under a backlog a bound in seconds would make every call overdue, and the order
first in, first out. Calls of a user with many jobs may overtake a user with few only until they have taken as long as
two loads of that user's models. Of calls that may be computed together a worker takes no more than its share, so that
all are idle at once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from graphengine.service.scheduling import fairness


@dataclass(slots=True, eq=False)
class Item:
    """A call that waits to be computed.

    Attributes:
        models: The models that a worker must hold in memory for it, by digest.
        related: Every component of the models that the call uses a part of.
        group: Items of equal groups may be computed together; None for one that may not.
        cost: The time that it takes, in any unit, for fairness.
        refused: Workers that it must not go to (it failed there for lack of memory).
        environment: The environment that a worker must report; None: any.
        job_order: The position of its job in the order in which jobs began.
        overtaken: How often a later item was taken before it.
        yielded: Seconds of the calls of users with many jobs that were taken before it.
    """

    models: frozenset[str] = frozenset()
    related: frozenset[str] = frozenset()
    priority: int = 0
    user: str = ""
    group: Hashable = None
    cost: float = 1.0
    refused: set[str] = field(default_factory=set)
    environment: Hashable = None
    job_order: int = 0
    overtaken: int = 0
    yielded: float = 0.0
    number: int = 0
    due: float = 0.0


@dataclass(slots=True)
class WorkerView:
    """A worker as the scheduler sees it.

    Attributes:
        models: The models that it held when it told so last.
        free_in: Seconds until it is expected to be idle; 0 if it is, infinite if that is unknown.
        load: Seconds that loading one model takes it, as measured.
        environment: The digest of its environment; None if it has not reported it.
        room: How many models it can load now without dropping others: none while it is not idle, any number if that is
            unknown.
    """

    name: str
    models: frozenset[str] = frozenset()
    free_in: float = 0.0
    load: float = 10.0
    environment: Hashable = None
    room: float = math.inf

    def may_take(self, item: Item) -> bool:
        """Whether an item may go to it."""
        return self.name not in item.refused and item.environment in (None, self.environment)


class Scheduler:
    """The items that wait, and the choice among them.

    Args:
        bound: How often an item can be overtaken by items that suit a worker better.
    """

    def __init__(self, bound: int = fairness.OVERTAKINGS) -> None:
        self.bound = bound
        self._waiting: list[Item] = []
        self._of_user: Counter[str] = Counter()
        self._count = 0
        self._virtual = 0.0
        self._last_due: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._waiting)

    def add(self, *items: Item) -> None:
        """Let items wait."""
        for item in items:
            self._count += 1
            item.number = self._count
            item.due = fairness.due(self._virtual, self._last_due.get(item.user))
            self._last_due[item.user] = item.due + item.cost
            self._of_user[item.user] += 1
        self._waiting = sorted([*self._waiting, *items], key=_order)

    def put_back(self, item: Item) -> None:
        """Let an item wait again in its former place: its worker was lost, or lacked memory."""
        self._waiting = sorted([*self._waiting, item], key=_order)
        self._of_user[item.user] += 1

    def remove(self, item: Item) -> bool:
        """Remove an item; returns whether it was waiting."""
        if item not in self._waiting:
            return False
        self._waiting.remove(item)
        self._forget(item)
        return True

    def take(
        self,
        worker: WorkerView,
        others: Sequence[WorkerView] = (),
        limit: Callable[[Item], int] = lambda item: 1,
        seconds: Callable[[Item], float] = lambda item: item.cost,
    ) -> list[Item]:
        """Choose what an idle worker computes next: an item, or several of one group; none where none fits the worker,
        or all are better left to a worker that will soon be idle.

        Args:
            others: All other workers.
            limit: How many items of an item's group can be computed together at the worker.
            seconds: The seconds that an item is expected to take.
        """
        first = self._choose(worker, others)
        if first is None:
            return []
        first = self._sooner(first, worker, others, seconds)
        taken = [first]
        room = limit(first) if first.group is not None else 1
        if room > 1:
            work = sum(seconds(item) for item in self._waiting if item.models <= worker.models | first.models)
            free = [other.free_in for other in others if first.models <= other.models and other.may_take(first)]
            room = min(room, max(1, round(_share(work, free) / seconds(first))))
            same = (item for item in self._waiting if item.group == first.group and item is not first)
            taken += [item for item in same if worker.may_take(item)][: room - 1]
        self._let_wait(first, taken, sum(map(seconds, taken)))
        chosen = set(map(id, taken))
        self._waiting = [item for item in self._waiting if id(item) not in chosen]
        for item in taken:
            self._forget(item)
        self._virtual = max([self._virtual, *(item.due for item in taken)])
        self._last_due = {user: due for user, due in self._last_due.items() if due > self._virtual}
        return taken

    def _forget(self, item: Item) -> None:
        """Count an item as waiting no longer."""
        self._of_user[item.user] -= 1
        if not self._of_user[item.user]:
            del self._of_user[item.user]

    def _let_wait(self, first: Item, taken: Sequence[Item], work: float) -> None:
        """Count, for items that stand before the first item that is taken, that they were overtaken."""
        chosen = set(map(id, taken))
        for item in self._waiting:
            if item is first:
                break
            if id(item) not in chosen:
                item.overtaken += 1
                if fairness.has_few(self._of_user[item.user], self._of_user[first.user]):
                    item.yielded += work

    def _has_waited(self, item: Item, worker: WorkerView) -> bool:
        """Whether an item may not be overtaken any more at a worker."""
        missing = len(item.models - worker.models)
        return not fairness.may_be_overtaken(item.overtaken, self.bound, item.yielded, missing, worker.load)

    def _choose(self, worker: WorkerView, others: Sequence[WorkerView]) -> Item | None:
        possible = self._possible(worker)
        for item in possible:
            if item.models <= worker.models:
                return item
        for item in possible:
            if self._has_waited(item, worker) or not self._better_elsewhere(item, worker, others):
                return item
        return None

    def _sooner(
        self, first: Item, worker: WorkerView, others: Sequence[WorkerView], seconds: Callable[[Item], float]
    ) -> Item:
        """An item that takes less time than the first and goes before it, else the first.

        It is of the same user and of a job that began no later; an item of an earlier job may take as long. It may need
        another component of a model of which the worker holds some, if there is room: that is loaded in any case.
        """
        if self._has_waited(first, worker):
            return first

        def may_go(item: Item) -> bool:
            if item.user != first.user or item.priority != first.priority or item.job_order > first.job_order:
                return False
            missing = len(item.models - worker.models)
            known = not missing or (missing <= worker.room and not item.related.isdisjoint(worker.models))
            if not known or (missing and self._better_elsewhere(item, worker, others)):
                return False
            is_earlier = item.job_order < first.job_order
            return seconds(item) < seconds(first) or (is_earlier and seconds(item) == seconds(first))

        return min(filter(may_go, self._possible(worker)), key=lambda item: item.job_order, default=first)

    def _possible(self, worker: WorkerView) -> list[Item]:
        """The items that a worker may take now: those of the highest priority, up to the first that may not be
        overtaken any more."""
        found: list[Item] = []
        for item in self._waiting:
            if not worker.may_take(item):
                continue
            if found and item.priority < found[0].priority:
                break
            found.append(item)
            if self._has_waited(item, worker):
                break
        return found

    def _better_elsewhere(self, item: Item, worker: WorkerView, others: Sequence[WorkerView]) -> bool:
        """Whether waiting for a worker that holds an item's models is quicker than loading them here, or loading them
        here pushes others out while an idle worker has more room for as many."""
        missing = len(item.models - worker.models)
        for other in filter(lambda other: other.may_take(item), others):
            lacks = len(item.models - other.models)
            soon = lacks == 0 and other.free_in < missing * worker.load
            roomier = lacks <= missing and worker.room < missing and worker.room < other.room
            if soon or roomier:
                return True
        return False


def _share(work: float, free: Sequence[float]) -> float:
    """A worker's share of some seconds of work, so that it and others, idle in so many seconds, all end at once."""
    level, workers = work, 1
    for later in sorted(free):
        if later >= level:
            break
        level = (level * workers + later) / (workers + 1)
        workers += 1
    return level


def _order(item: Item) -> tuple[int, float, int]:
    return fairness.order(item.priority, item.due, item.number)
