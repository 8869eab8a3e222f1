"""The backend of this process: no workers, the calls of all jobs on its own threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphengine.execution.runner import Call, Runner, ThreadRunner
from graphengine.service.workers.calls import JobPolicy, Status


class InlineRunner(ThreadRunner):
    """A runner on this process's threads, for all users and priorities alike."""

    def of(self, job: JobPolicy) -> Runner:
        """The runner that a job's run is given."""
        return _Shared(self, job)

    def status(self) -> list[Status]:
        """It has no workers."""
        return []

    def waiting_jobs(self) -> set[int | None]:
        """None waits for a worker."""
        return set()

    def lacking(self) -> dict[int | None, str]:
        """None waits for a worker."""
        return {}


class _Shared:
    """The runner as one run sees it."""

    environment: Mapping[str, Any] | None = None

    def __init__(self, runner: ThreadRunner, job: JobPolicy) -> None:
        self.unwanted = runner.unwanted
        self._runner, self._job = runner, job

    def submit(self, calls: Sequence[Call]) -> None:
        """Take calls."""
        self._runner.submit(calls)
        self._job.on_handed_over()

    def close(self) -> None:
        """The service's runner goes on."""
