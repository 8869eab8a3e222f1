"""`graphengine worker`: run the jobs of this user's queue."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphengine.cli.common import (
    CANCELLED,
    Debug,
    Packs,
    QueueFile,
    Roots,
    Warm,
    device_option,
    guarded,
    load_packs,
    say,
    warn,
)
from graphengine.cli.process import resume_garbage_search
from graphengine.errors import WorkflowError
from graphengine.system.threads import start

if TYPE_CHECKING:
    from graphengine.service.service import Service

IN_TIME = 8.0
"""Seconds after a SIGTERM in which the service ends by itself."""


@guarded
def command(
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, max=64, help="How many workers; default: one for each device.")
    ] = None,
    device: Annotated[
        list[str] | None, device_option("Where the workers compute: cpu, cuda:0, ...; may be repeated.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of each worker.")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, max=256, help="The most pictures made together.")] = 32,
    batch_invariant: Annotated[
        bool, typer.Option("--batch-invariant", help="Make every picture as if it was made alone, bit for bit.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=1, help="Seconds without a sign after which a node on a worker is ended."),
    ] = None,
    backend: Annotated[
        str, typer.Option("--backend", help="local: processes of this machine. ray: actors of a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="HOST:PORT", help="The Ray cluster; `local` starts one of this machine."),
    ] = None,
    gpus: Annotated[
        float | None, typer.Option("--gpus", min=0, help="GPUs of each worker on Ray; by default one, if it has any.")
    ] = None,
    shared: Annotated[
        Path | None, typer.Option("--shared", metavar="FOLDER", help="A folder that all nodes of the cluster share.")
    ] = None,
    warm: Warm = None,
    queue: QueueFile = None,
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", min=1, max=65535, help="Serve Prometheus metrics on this port of 127.0.0.1."),
    ] = None,
    log: Annotated[
        Path | None, typer.Option("--log", metavar="FILE", help="Append a log in JSON lines to this file.")
    ] = None,
    packs: Packs = None,
    root: Roots = None,
    debug: Debug = False,
) -> int | None:
    """Run the jobs of this user's queue until it is interrupted.

    Where one runs already, this one stands by and takes over when that one has ended. Ctrl-C lets the jobs end that
    a worker has begun; all others stay in the queue. A second Ctrl-C lets no job end: those that run are put back, and
    begun again later. A third ends this process at once, whatever it does. SIGTERM puts back what runs and ends this
    process within 10 seconds.
    """
    load_packs(packs)
    from graphengine.cli.handover import differs
    from graphengine.service.jobs.lease import holder
    from graphengine.service.logs import log_event, log_to
    from graphengine.system.folders import queue_file

    if log is not None:
        log_to(log)

    def prepare(service: Service) -> None:
        if log is not None:
            service.subscribe(log_event)
        if metrics_port is not None:
            from graphengine.service.metrics import Metrics

            Metrics(service).serve(metrics_port)

    stop, again, at_once = threading.Event(), threading.Event(), threading.Event()

    def asked(number: int, _: object) -> None:
        if number == signal.SIGTERM:
            at_once.set()
        (again if stop.is_set() else stop).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, asked)
    file = queue or queue_file()
    common: dict[str, Any] = {
        "workers": workers, "batch": batch, "batch_invariant": batch_invariant, "timeout": timeout, "roots": root,
        "packs": [str(folder) for folder in packs or ()], "prepare": prepare,
        "on_warning": warn,
    }  # fmt: skip
    if _on_ray(backend, address, device, gpus, shared):
        from graphengine.service.start_ray import ray_service

        assert address is not None
        serve = ray_service(file, address, num_gpus=gpus, threads=threads or 1, shared=shared, **common)
    else:
        from graphengine.service.start import local_service

        serve = local_service(file, devices=device, threads=threads, **common)
    with serve as service:
        resume_garbage_search(skip_existing=True)  # jobs leave cycles, and this process lasts
        start(functools.partial(_terminate, service, at_once), "graphengine-terminate")
        names = ", ".join(f"{status.name} on {status.device}" for status in service.backend.status())
        does = "running" if service.active else "standing by for another worker that runs"
        if not service.active and holder(service.queue) is None:  # the queue's file cannot be written
            does = "standing by until it can run"
        elif not service.active and (why := differs(file, root)) is not None:
            print(f"warning: {why}; jobs that need that will fail once this one takes over", file=sys.stderr)
        print(f"{does} the jobs of {file} with {names}; Ctrl-C ends it when the running jobs are done", flush=True)
        if warm:
            from graphengine.service.warming import Warming, shipped_workflow

            Warming(service.backend, warm, shipped_workflow, (), say, warn).start()
        while not stop.wait(0.5):
            if does != "running" and service.active:
                print(f"{(does := 'running')} the jobs of {file} now", flush=True)
        if at_once.is_set():
            print("stopping; the running jobs are put back", flush=True)
        else:
            print("stopping when the running jobs are done; Ctrl-C again leaves them to be begun again", flush=True)
        service.drain(put_back=True)
        start(functools.partial(_let_go, service, again), "graphengine-let-go")
    return None


def _terminate(service: Service, at_once: threading.Event) -> None:
    """At a SIGTERM, put the running jobs back, and end this process in time, whatever it does."""
    at_once.wait()
    service.let_go()
    time.sleep(IN_TIME)
    print("ending, though nodes still run in this process", file=sys.stderr, flush=True)
    os._exit(CANCELLED)


def _let_go(service: Service, again: threading.Event) -> None:
    """Put the running jobs back at the second signal; at the third, end this process, whose nodes may not end."""
    again.wait()
    again.clear()
    service.let_go()
    print("leaving them; Ctrl-C again ends all at once", flush=True)
    again.wait()
    os._exit(CANCELLED)


def _on_ray(backend: str, address: str | None, device: list[str] | None, gpus: float | None, shared: Any) -> bool:
    """Whether workers are on a Ray cluster; refuses options that do not fit together."""
    if backend not in ("local", "ray"):
        raise WorkflowError(f"--backend is local or ray, not {backend!r:.40}")
    if backend == "ray" and address is None:
        raise WorkflowError("--backend ray needs --address: HOST:PORT of the head of the cluster, or local")
    if backend == "ray" and device:
        raise WorkflowError("Ray chooses the devices; say --gpus instead of --device")
    if backend == "local" and not (address is None and gpus is None and shared is None):
        raise WorkflowError("--address, --gpus and --shared are for --backend ray")
    return backend == "ray"
