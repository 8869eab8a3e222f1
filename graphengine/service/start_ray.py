"""A service whose workers are actors of a Ray cluster."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from graphengine.cache import DiskStore
from graphengine.service.retry import RAY_START
from graphengine.service.service import Service
from graphengine.service.start import helpers, serving
from graphengine.service.workers.pool import WorkerRunner
from graphengine.service.workers.ray_cluster import joined
from graphengine.service.workers.ray_workers import ray_workers
from graphengine.system.folders import cache_folder

LEAVING = 3.0
"""Seconds in which the actors of a service that ends must have ended; one whose process is stopped does not."""


@contextlib.contextmanager
def ray_service(
    file: Path,
    address: str,
    *,
    workers: int | None = None,
    num_gpus: float | None = None,
    threads: int = 1,
    shared: Path | None = None,
    batch: int = 32,
    timeout: float | None = None,
    roots: Sequence[str | Path] | None = None,
    packs: Sequence[str] = (),
    patience: float = RAY_START,
    placement: Mapping[str, Any] | None = None,
    on_warning: Callable[[str], None] = print,
    **options: Any,
) -> Iterator[Service]:
    """A service that runs a queue's jobs on a Ray cluster while the context lasts.

    Args:
        file: The queue, on this machine.
        address: As `joined` takes it.
        workers, num_gpus, threads, packs, patience: As `ray_workers` takes them.
        shared: A folder that this machine and all nodes share, for large values; by default values go through Ray.
        placement: More options of Ray's actors: `label_selector`, `resources`, ...
        batch, timeout, roots, on_warning, options: As `local_service` takes them.

    Raises:
        RayError: The cluster cannot be joined.
    """
    with joined(address):
        store = None if shared is None else str(shared)
        made = ray_workers(
            workers, num_gpus=num_gpus, threads=threads, store=store, packs=packs, patience=patience, options=placement
        )
        disk = DiskStore(shared or cache_folder() / "store")
        shares = disk if shared else None
        helping = helpers(shared, packs)  # on this machine: what they compute needs no device
        backend = WorkerRunner(made, shares, batch=batch, timeout=timeout, on_warning=on_warning, helpers=helping)
        try:
            with serving(file, backend, disk, roots, **options) as service:
                yield service
        finally:
            end = time.monotonic() + LEAVING
            for worker in made:
                worker.wait(max(0.0, end - time.monotonic()))
