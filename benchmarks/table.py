"""Medians of alternating runs, and the table that they are written as."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence


def alternate(runs: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Call the measures in turn, `runs` times each; for each a list of what it returned.

    They take turns, so that other load of the machine affects all of them alike.
    """
    found: list[list[float]] = [[] for _ in measures]
    for run in range(runs):
        order = range(len(measures)) if run % 2 == 0 else reversed(range(len(measures)))
        for n in order:
            found[n].append(measures[n]())
    return found


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios turn by turn, since a drift of the machine's speed affects both of a turn alike."""
    return statistics.median(our / their for our, their in zip(ours, theirs, strict=True))


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table in Markdown."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row) + " |")


def machine() -> str:
    """The machine of the measurement, in words."""
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def environment(**more: str) -> dict[str, str]:
    """The environment of measured processes: byte code is cached, as for a user's installed programs."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | more
