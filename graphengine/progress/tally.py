"""The tally of a run's progress, counted by a listener; the drawing code reads it from time to time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphengine.events import Event, Kind

# Globals of this module, since they are compared for each event and are read faster than an enum's members.
STARTED, FINISHED, FAILED = Kind.NODE_STARTED, Kind.NODE_FINISHED, Kind.NODE_FAILED

MOST_LINES = 4
"""The most nodes that are shown at once."""


@dataclass(frozen=True)
class Line:
    """One bar: the text before it, the part that is done, and the texts after it.

    Attributes:
        label: The text before the bar.
        done, total: The part that is done; `total` is None if it is unknown.
        count, rate, time: The texts after the bar.
    """

    label: str
    done: float
    total: float | None
    count: str = ""
    rate: str = ""
    time: str = ""

    @property
    def text(self) -> str:
        """The bar as text."""
        return "  ".join(part for part in (self.label, self.count, self.rate, self.time) if part)


class Steps:
    """The steps of a node. Its rate is measured from the first step on; the time before is preparation."""

    __slots__ = ("first", "first_at", "last_at", "step", "total")

    def __init__(self) -> None:
        self.step = self.total = self.first = 0
        self.first_at = self.last_at = 0.0

    def tell(self, step: int, total: int) -> None:
        """Note that `step` of `total` steps are done."""
        now = time.monotonic()
        if not self.first_at or step < self.step:  # the first step, or the node starts over
            self.first, self.first_at = step, now
        self.step, self.total, self.last_at = step, total, now

    def rate(self) -> float | None:
        """Steps per second; None as long as it is unknown."""
        spent = self.last_at - self.first_at
        return (self.step - self.first) / spent if self.step > self.first and spent > 0 else None

    def left(self) -> float | None:
        """Seconds until the last step; None as long as they are unknown."""
        rate = self.rate()
        if rate is None:
            return None
        return max(0.0, (self.total - self.step) / rate - (time.monotonic() - self.last_at))


class Tally:
    """A listener that counts finished nodes and steps, and keeps the latest preview.

    Args:
        title: The name of the run.
        total: Returns the most nodes that the run may need; None if that is unknown.
        since: When the run began, by `time.monotonic`; by default now.
        previews: Whether previews are wanted; otherwise nodes make none.
    """

    def __init__(
        self, title: str, total: Callable[[], int] | None = None, since: float | None = None, previews: bool = False
    ) -> None:
        self.previews, self._total = previews, total
        self.restart(title)
        if since is not None:
            self._since = since

    def restart(self, title: str) -> None:
        """Start counting the next of several runs."""
        self.title, self._since = title, time.monotonic()
        self._done: set[str] = set()
        self._running: dict[str, Steps | None] = {}  # None: no step yet
        self.preview: tuple[str, Any] | None = None

    # Called on the threads of the run for each event: takes no lock, and draws nothing.

    def __call__(self, event: Event) -> None:
        kind, node = event.kind, event.node
        if kind is STARTED:
            self._running[node] = None
        elif kind is FINISHED or kind is FAILED:
            self._done.add(node)  # `lines` removes it from `_running`
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
        """A bar for the whole run, and one for each node that reports steps, or else for the node that began first."""
        for id in self._done.intersection(list(self._running)):
            del self._running[id]
        running = list(self._running.items())
        done = len(self._done)
        total = max(done + len(running), 0 if self._total is None else self._total())
        counting = [(id, steps) for id, steps in running if steps is not None and steps.total]
        shown = counting or running[:1]
        left = self._left(done, total, [steps for _, steps in counting])
        whole = Line(self.title, done, total or None, f"{done}/{total} nodes", "", left)
        lines = [whole, *[_line(id, steps) for id, steps in shown[:MOST_LINES]]]
        if len(shown) > MOST_LINES:
            lines.append(Line(f"  and {len(shown) - MOST_LINES} more", 0, None))
        return lines

    def _left(self, done: int, total: int, counting: list[Steps]) -> str:
        spent = time.monotonic() - self._since
        seconds = [left for steps in counting if (left := steps.left()) is not None]
        if done >= 3 and total >= 10:  # many nodes: their mean time predicts that of the rest
            seconds.append(spent / done * (total - done))
        if total - done > len(counting) and total < 10:  # the time of the nodes after these is unknown
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
    """Write a rate in steps per second as `2.0 steps/s`, or as `1.5 s/step` if it is below one."""
    return f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / rate:.1f} s/step"


def clock(seconds: float) -> str:
    """Write a number of seconds as `0:07`, `12:34` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
