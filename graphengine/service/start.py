"""A service with workers on this machine, its socket and its disk store, all together."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from graphengine.cache import DiskStore
from graphengine.declare import registry
from graphengine.pack import pack_of
from graphengine.service.identity import identity
from graphengine.service.jobs.queue import Queue
from graphengine.service.service import Backend, Service
from graphengine.service.socket_server import SocketServer
from graphengine.service.workers.pool import WorkerRunner
from graphengine.service.workers.process import LocalWorker
from graphengine.system.devices import check_device
from graphengine.system.folders import cache_folder

log = logging.getLogger(__name__)

HELPERS = 4
"""Helper processes for nodes that need no device, at most."""


def devices_here() -> list[str]:
    """The devices of this machine that packs list."""
    asked = [pack.devices for pack in map(pack_of, registry.modules()) if pack.devices is not None]
    return list(dict.fromkeys(device for devices in asked for device in devices())) or ["cpu"]


def local_workers(
    devices: Sequence[str] | None = None,
    count: int | None = None,
    threads: int | None = None,
    store: Path | None = None,
    packs: Sequence[str] | None = None,
) -> list[LocalWorker]:
    """Workers of this machine, not started yet: a `WorkerRunner` starts them.

    Args:
        devices: Devices that they compute on, in turn; by default every GPU, else the processor.
        count: How many workers; by default one for each device.
        threads: How many threads each computes with; None as torch chooses.
        store: The folder of the disk store that they share; None: all values go through their pipes.
        packs: Folders of nodes to load; by default those that this process has loaded.

    Raises:
        WorkflowError: A device's name is wrong.
    """
    places = [check_device(device) for device in devices or devices_here()]
    named = [(f"worker-{n}", places[n % len(places)]) for n in range(count or len(places))]
    folder = None if store is None else str(store)
    given = tuple(map(str, registry.folders())) if packs is None else tuple(packs)
    return [LocalWorker(name, device, threads, folder, given) for name, device in named]


def helpers(store: Path | None = None, packs: Sequence[str] | None = None) -> list[LocalWorker]:
    """Helper processes of this machine for nodes of packs that need no device, not started yet: a service starts the
    first when there is such a node, and another only while a node that does not end blocks the one before it."""
    folder = None if store is None else str(store)
    given = tuple(map(str, registry.folders())) if packs is None else tuple(packs)
    return [LocalWorker(f"helper-{n}", "cpu", 1, folder, given, helps=True) for n in range(HELPERS)]


@contextlib.contextmanager
def local_service(
    file: Path,
    *,
    devices: Sequence[str] | None = None,
    workers: int | None = None,
    threads: int | None = None,
    batch: int = 32,
    timeout: float | None = None,
    roots: Sequence[str | Path] | None = None,
    packs: Sequence[str] | None = None,
    store: Path | None = None,
    on_warning: Callable[[str], None] = print,
    **options: Any,
) -> Iterator[Service]:
    """A service that runs a queue's jobs while the context lasts.

    Args:
        file: The queue.
        devices, workers, threads, packs: As those of `local_workers`.
        store: The folder of the disk store; by default the user's.
        on_warning: Called with a sentence about each worker that is lost or cannot be started.
        options: Those of `serving` and `Service`.
    """
    folder = store or cache_folder() / "store"
    made = local_workers(devices, workers, threads, folder, packs)
    disk = DiskStore(folder)
    helping = helpers(folder, packs)
    backend = WorkerRunner(made, disk, batch=batch, timeout=timeout, on_warning=on_warning, helpers=helping)
    with serving(file, backend, disk, roots, **options) as service:
        yield service


@contextlib.contextmanager
def serving(
    file: Path,
    backend: Backend,
    disk: DiskStore,
    roots: Sequence[str | Path] | None = None,
    prepare: Callable[[Service], object] = lambda service: None,
    **options: Any,
) -> Iterator[Service]:
    """A service that runs while the context lasts, with a socket while it runs the queue's jobs. Left by an error it
    waits for no job, as `Service` itself.

    Args:
        prepare: Called with the service before it begins: a listener that it adds misses no event.
    """
    facts, announced = identity(roots), contextlib.ExitStack()

    def announce() -> None:
        try:
            announced.callback(SocketServer(service, facts).close)
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no thread for it
            why = "a socket beside %s cannot be made: %s; no run can be handed over, and no job watched"
            log.warning(why, file, error)

    service = Service(Queue(file), backend, disk, roots=roots, on_lease=announce, **options)
    with announced, contextlib.ExitStack() as stopping:  # a service may take over while it is about to stop
        stopping.push(service)
        prepare(service)
        service.start()
        try:
            yield service
        finally:
            announced.close()
