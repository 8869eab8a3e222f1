"""Progress bars for the jobs of a `ServiceThread`."""

from __future__ import annotations

import threading

from graphengine.progress import Bars
from graphengine.service.job_events import JobEvent, JobEventKind

GONE = frozenset({*(kind for kind in JobEventKind if kind.ended), JobEventKind.LEFT, JobEventKind.LOST})


class JobBars:
    """A listener of a service that shows progress bars for each job while it runs."""

    def __init__(self) -> None:
        self._bars: dict[int, Bars] = {}
        self._lock = threading.Lock()

    def __call__(self, told: JobEvent) -> None:
        with self._lock:
            if told.event is not None:
                if told.job not in self._bars:
                    self._bars[told.job] = Bars(f"job {told.job}")
                self._bars[told.job](told.event)
            elif told.kind in GONE and (bars := self._bars.pop(told.job, None)) is not None:
                bars.close()

    def close(self) -> None:
        """Remove all bars and draw no more."""
        with self._lock:
            while self._bars:
                self._bars.popitem()[1].close()
