"""The runner of a single job's run, over the pool of workers that all jobs share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from graphengine.declare.definition import NodeDef
from graphengine.execution.runner import Call
from graphengine.service.workers.calls import JobPolicy, environment_digest


class Workers(Protocol):
    """A service's runner, as a job's run sees it."""

    def in_place(self, definition: NodeDef[..., Any], /) -> bool:
        """Whether the job's own thread computes a node."""

    def unwanted(self) -> None:
        """Be told that a run has ended early."""

    def submit(self, calls: Sequence[Call], job: Any = None, environment: Any = None, /) -> None:
        """Take calls of a job."""


class JobRunner:
    """A service's runner as one job's run sees it.

    Args:
        environment: The environment that a worker must have reported to compute its calls; None: any worker may.
    """

    def __init__(self, runner: Workers, job: JobPolicy, environment: Mapping[str, Any] | None) -> None:
        self.runner, self.job, self.environment = runner, job, environment
        self._digest = None if environment is None else environment_digest(environment)

    def in_place(self, definition: NodeDef[..., Any]) -> bool:
        """Whether the job's own thread computes a node."""
        return self.runner.in_place(definition)

    def unwanted(self) -> None:
        """Be told that the job's run has ended early."""
        self.runner.unwanted()

    def submit(self, calls: Sequence[Call]) -> None:
        """Take calls."""
        self.runner.submit(calls, self.job, self._digest)
        self.job.on_handed_over()

    def close(self) -> None:
        """Do nothing: the service's runner serves other runs."""
