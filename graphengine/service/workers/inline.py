"""The backend without workers: the calls of all jobs are computed on threads of this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphengine.execution.runner import Call, Runner, ThreadRunner
from graphengine.service.workers.calls import JobPolicy, Status


class InlineRunner(ThreadRunner):
    """Computes calls on this process's threads, without regard to users and priorities."""

    def of(self, job: JobPolicy) -> Runner:
        """The runner for a job's run."""
        return _Shared(self, job)

    def status(self) -> list[Status]:
        """The workers: there are none."""
        return []

    def waiting_jobs(self) -> set[int | None]:
        """The jobs that wait for a worker: there are none."""
        return set()

    def lacking(self) -> dict[int | None, str]:
        """The jobs that wait although no worker is usable: there are none."""
        return {}


class _Shared:
    """The threads of this process as one job's run sees them."""

    environment: Mapping[str, Any] | None = None

    def __init__(self, runner: ThreadRunner, job: JobPolicy) -> None:
        self.unwanted = runner.unwanted
        self._runner, self._job = runner, job

    def submit(self, calls: Sequence[Call]) -> None:
        """Take calls."""
        self._runner.submit(calls)
        self._job.on_handed_over()

    def close(self) -> None:
        """Do nothing: the service's runner serves other runs."""
