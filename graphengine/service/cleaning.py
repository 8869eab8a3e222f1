"""Removing leftovers of killed processes: bytes of no job, half-written files, hidden folders beside pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from graphengine.cache import DiskStore
from graphengine.service.jobs.queue import Queue
from graphengine.service.jobs.submit import files_of
from graphengine.system.staging import sweep


def clean(queue: Queue, disk: DiskStore | None = None) -> Iterator[tuple[Path, int]]:
    """Remove leftovers of killed submitters, services and workers; files that a live process writes stay.

    Args:
        disk: A disk store to clean as well.

    Yields:
        Each path that is removed, and its size in bytes.
    """
    files = files_of(queue)
    known = queue.folders()

    def is_nobodys(name: str) -> bool:
        return name not in known and not queue.has_folder(name)  # asked while its submitter cannot add it

    for folder in sweep(files.folder, is_nobodys):
        yield folder, _size(folder)
    # They are listed before the running jobs are: what a job writes that begins meanwhile is not among them.
    half_written = {name: files.half_written(name) for name in sorted(known)}
    running = {queue.body(job.id).get("files") for job in queue.running()}
    for file in (file for name, left in half_written.items() if name not in running for file in left):
        with contextlib.suppress(OSError):
            file.unlink()
        yield file, 0
    for out in queue.out_folders():
        for folder in sweep(Path(out)):
            yield folder, _size(folder)
    for file in () if disk is None else disk.sweep():
        yield file, 0


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
