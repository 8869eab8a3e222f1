"""What a run has done so far, as a listener counts it; what draws looks at it now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphengine.events import Event, Kind

# Names of this module are found faster, and these are looked at for each event.
STARTED, FINISHED, FAILED = Kind.NODE_STARTED, Kind.NODE_FINISHED, Kind.NODE_FAILED

MOST_LINES = 4
"""Nodes that are shown at once."""


@dataclass(frozen=True)
class Line:
    """One bar: what stands before it, how far it is, and what stands after it. Without a total nobody knows how far."""

    label: str
    done: float
    total: float | None
    count: str = ""
    rate: str = ""
    time: str = ""

    @property
    def text(self) -> str:
        """All of it in words."""
        return "  ".join(part for part in (self.label, self.count, self.rate, self.time) if part)


class Steps:
    """How far a node is. The rate is counted from its first step on: what comes before is preparation."""

    __slots__ = ("first", "first_at", "last_at", "step", "total")

    def __init__(self) -> None:
        self.step = self.total = self.first = 0
        self.first_at = self.last_at = 0.0

    def tell(self, step: int, total: int) -> None:
        now = time.monotonic()
        if not self.first_at or step < self.step:  # the first, or it begins anew
            self.first, self.first_at = step, now
        self.step, self.total, self.last_at = step, total, now

    def rate(self) -> float | None:
        """Steps a second; None as long as nobody knows."""
        spent = self.last_at - self.first_at
        return (self.step - self.first) / spent if self.step > self.first and spent > 0 else None

    def left(self) -> float | None:
        """Seconds to its last step; None as long as nobody knows."""
        rate = self.rate()
        if rate is None:
            return None
        return max(0.0, (self.total - self.step) / rate - (time.monotonic() - self.last_at))


class Tally:
    """A listener that counts what is done, and keeps the latest preview.

    Args:
        title: What is run.
        total: Says how many nodes the run may need; None where nobody knows.
        since: When it began, by `time.monotonic`; by default now.
        previews: Whether previews are wanted; else nodes make none for it.
    """

    def __init__(
        self, title: str, total: Callable[[], int] | None = None, since: float | None = None, previews: bool = False
    ) -> None:
        self.previews, self._total = previews, total
        self.restart(title)
        if since is not None:
            self._since = since

    def restart(self, title: str) -> None:
        """Count another run of several."""
        self.title, self._since = title, time.monotonic()
        self._done: set[str] = set()
        self._running: dict[str, Steps | None] = {}  # None: it has counted no step yet
        self.preview: tuple[str, Any] | None = None

    # Called on the threads of the run, for each event: no lock, and nothing is drawn.

    def __call__(self, event: Event) -> None:
        kind, node = event.kind, event.node
        if kind is STARTED:
            self._running[node] = None
        elif kind is FINISHED or kind is FAILED:
            self._done.add(node)  # it leaves `_running` when somebody looks
        elif kind is Kind.PROGRESS:
            steps = self._running.get(node)
            if steps is None:
                if node in self._done:
                    return
                steps = self._running[node] = Steps()
            steps.tell(event.step or 0, event.total or 0)
        elif kind is Kind.PREVIEW and self.previews:
            self.preview = node, event.value

    def lines(self) -> list[Line]:
        """A bar for the whole, and one for each node that counts its steps; where none does, one for the oldest."""
        for id in self._done.intersection(list(self._running)):
            del self._running[id]
        running = list(self._running.items())
        done = len(self._done)
        total = max(done + len(running), 0 if self._total is None else self._total())
        counting = [(id, steps) for id, steps in running if steps is not None and steps.total]
        shown = counting or running[:1]
        left = self._left(done, total, [steps for _, steps in counting])
        whole = Line(self.title, done, total or None, f"{done}/{total} nodes", "", left)
        found = [whole, *[_line(id, steps) for id, steps in shown[:MOST_LINES]]]
        if len(shown) > MOST_LINES:
            found.append(Line(f"  and {len(shown) - MOST_LINES} more", 0, None))
        return found

    def _left(self, done: int, total: int, counting: list[Steps]) -> str:
        spent = time.monotonic() - self._since
        seconds = [left for steps in counting if (left := steps.left()) is not None]
        if done >= 3 and total >= 10:  # many of a kind: they tell how long the rest takes
            seconds.append(spent / done * (total - done))
        if total - done > len(counting) and total < 10:  # nobody knows of the nodes that come after
            seconds = []
        return f"{clock(spent)} ({clock(max(seconds))} left)" if seconds else clock(spent)


def _line(id: str, steps: Steps | None) -> Line:
    if steps is None or not steps.total:
        return Line(f"  {id}", 0, None)
    rate, left = steps.rate(), steps.left()
    return Line(
        f"  {id}", min(steps.step, steps.total), steps.total, f"{steps.step}/{steps.total} steps",
        "" if rate is None else pace(rate), "" if left is None else f"{clock(left)} left",
    )  # fmt: skip


def pace(rate: float) -> str:
    """Steps a second, or seconds a step where they are slow."""
    return f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / rate:.1f} s/step"


def clock(seconds: float) -> str:
    """Seconds as `0:07`, `12:34` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
