"""`graphengine worker`: run the jobs of this user's queue."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from graphengine.cli.common import Debug, Packs, Roots, guarded, load_packs


@guarded
def command(
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, max=64, help="How many; by default one for each device.")
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option("--device", help="Where they compute: cpu, cuda:0, ...; may be repeated.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of each worker.")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, max=256, help="Pictures made together at most.")] = 32,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=1, help="Seconds without a sign after which a node is ended.")
    ] = None,
    queue: Annotated[Path | None, typer.Option("--queue", metavar="FILE", help="Not this user's own queue.")] = None,
    packs: Packs = None,
    root: Roots = None,
    debug: Debug = False,
) -> int | None:
    """Run the jobs of this user's queue until it is interrupted; another one stands by."""
    load_packs(packs)
    from graphengine.service.here import queue_file
    from graphengine.service.start import local_service

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    file = queue or queue_file()
    with local_service(
        file, devices=device, workers=workers, threads=threads, batch=batch, timeout=timeout, roots=root,
        packs=[str(folder) for folder in packs or ()], told=lambda line: print(line, file=sys.stderr, flush=True),
    ) as service:  # fmt: skip
        names = ", ".join(f"{status.name} on {status.device}" for status in service.backend.status())
        print(f"running the jobs of {file} with {names}; Ctrl-C ends it when the running jobs are done", flush=True)
        stop.wait()
        print("stopping", flush=True)
    return None
