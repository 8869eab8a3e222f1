"""The backend without workers: the calls of all jobs are computed on threads of this process."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from graphengine.errors import as_exception, text_of
from graphengine.execution.runner import Call, Runner, ThreadRunner, free_memory
from graphengine.pack import environment, pack_of
from graphengine.service.workers.calls import JobPolicy, Status
from graphengine.service.workers.loading import Weights, load_all
from graphengine.system.threads import start

log = logging.getLogger(__name__)

HERE = "this process"
"""The name under which `not_loaded` tells of the process that computes."""


class InlineRunner(ThreadRunner):
    """Computes calls on this process's threads, without regard to users and priorities.

    Args:
        device_threads, threads, batch: Those of `ThreadRunner`.
    """

    def __init__(self, device_threads: int = 1, threads: int = 32, batch: int = 1) -> None:
        super().__init__(device_threads, threads, batch)
        self._cold: dict[str, str] = {}
        self._used: set[str] = set()

    def submit(self, calls: Sequence[Call]) -> None:
        """Take calls, and note on which devices they are computed."""
        self._used |= {call.context.device for call in calls if call.definition.on == "device"}
        super().submit(calls)

    def free(self) -> None:
        """Drop the models that no call needs now."""
        for device in sorted(self._used):
            try:
                free_memory(device)
            except Exception as error:  # of a pack
                log.warning("memory of %s could not be freed: %s: %s", device, type(error).__name__, text_of(error))

    def of(self, job: JobPolicy) -> Runner:
        """The runner for a job's run."""
        return _Shared(self, job)

    def load(self, name: str, weights: Sequence[Weights]) -> None:
        """Load weights into this process's memory, on a thread of their own."""
        self._cold[name] = f"it loads {name}"
        start(functools.partial(self._load, name, weights), "graphengine-load")

    def _load(self, name: str, weights: Sequence[Weights]) -> None:
        try:
            for one in weights:
                facts = environment([pack_of(type(one.reference).__module__)])
                device = str(facts.get("device", "cpu"))
                self._used.add(device)
                load_all([one], device)
            del self._cold[name]
        except BaseException as error:  # of a pack: files that are damaged or gone, no memory for them
            self._cold[name] = f"it does not hold {name}: {text_of(as_exception(error))}"
            log.warning("%s does not hold %s: %s", HERE, name, text_of(as_exception(error)))

    def not_loaded(self) -> dict[str, str]:
        """This process and the reason, if it has not loaded all that `load` was given."""
        return {HERE: "; ".join(cold)} if (cold := list(self._cold.values())) else {}

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
