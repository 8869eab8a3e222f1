"""A service whose queue, store and pictures lie on a disk that runs full, and is given room again.

    python -m tests.graphengine.service.acknowledged_jobs_survive.small_disk FOLDER

The disk is one of memory, in a namespace of this process; it ends with exit code 77 where none can be made.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from graphengine.cache import DiskStore
from graphengine.declare import registry
from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.job import State
from graphengine.service.jobs.queue import Queue
from graphengine.service.service import Service
from graphengine.service.workers.pool import WorkerRunner
from graphengine.service.workers.process import LocalWorker
from tests.graphengine.service.conftest import PACK
from tests.graphengine.service.test_service import of
from tests.graphengine.service.workers.alone import IMPOSSIBLE, NEW_USER

NEW_MOUNTS, PRIVATE, RECURSIVE = 0x20000, 1 << 18, 1 << 14


def mount(folder: Path) -> None:
    """Put a disk of 16 MB there, for this process and those that it starts.

    Raises:
        OSError: It may not.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    steps = [lambda: libc.unshare(NEW_USER | NEW_MOUNTS)]
    steps.append(lambda: libc.mount(b"none", b"/", None, RECURSIVE | PRIVATE, None))
    steps.append(lambda: libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, b"size=16m"))
    for number, step in enumerate(steps):
        if step() != 0:
            raise OSError(ctypes.get_errno(), "no disk")
        if number == 0:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def fill(file: Path) -> None:
    """Take what room there is."""
    with open(file, "wb", buffering=0) as target:
        for size in (100_000, 1000, 1):
            with contextlib.suppress(OSError):
                while target.write(b"x" * size):
                    pass


def refused(write: Callable[[], object]) -> bool:
    """Whether the queue does not take something for want of room."""
    try:
        write()
    except QueueError as error:
        if "full" in str(error) or "disk I/O error" in str(error):
            return True
        raise
    return False


def main(folder: Path) -> None:
    """Fill the disk under running jobs; all of them are accounted for, and nothing else is lost."""
    assert registry.load_folder(PACK) == []
    store, out, ballast = folder / "store", folder / "out", folder / "ballast"
    made = [LocalWorker("w", threads=1, store=str(store), packs=(str(PACK),))]
    disk, queue = DiskStore(store), Queue(folder / "q.sqlite", patience=1.0)
    with Service(queue, WorkerRunner(made, disk), disk) as service:
        first = [service.submit(of("page", length=50_000), {"x": 10 + n}, out=out, name=f"j{n}") for n in range(2)]
        assert {job.state for job in service.wait(*first)} == {State.DONE}
        queue.pause()
        more = [service.submit(of("page", length=50_000), {"x": 20 + n}, out=out, name=f"m{n}") for n in range(4)]
        naps = [service.submit(of("nap", seconds=0.1), {"x": n}) for n in range(4)]
        fill(ballast)
        if refused(queue.resume):
            ballast.write_bytes(b"x" * (ballast.stat().st_size - 50_000))
            queue.resume()
        while not refused(lambda: naps.append(service.submit(of("nap", seconds=0.01), {"x": 100 + len(naps)}))):
            assert len(naps) < 2000, "the disk is never full"
        time.sleep(2)  # the service goes on trying meanwhile
        ballast.unlink()
        jobs = service.wait(*more, *naps, timeout=120)
        last = service.submit(of("page", length=10_000), {"x": 99}, out=out, name="last")
        (end,) = service.wait(last, timeout=120)
    assert end.state is State.DONE, end
    written = Counter(file.name.partition("_")[0] for file in out.glob("*.txt"))
    for number, job in enumerate(jobs[:4]):
        assert job.state in (State.DONE, State.FAILED), job
        assert written[f"m{number}"] == (job.state is State.DONE), (job, written)
        if job.state is State.FAILED:
            assert "No space left on device" in str(job.error), job
    assert {job.state for job in jobs[4:]} == {State.DONE}
    assert {file.stat().st_size for file in out.glob("m*.txt")} <= {150_000}
    print("accounted for")


if __name__ == "__main__":
    try:
        mount(Path(sys.argv[1]))
    except OSError as error:
        print(f"no disk can be mounted here: {error}", file=sys.stderr)
        sys.exit(IMPOSSIBLE)
    main(Path(sys.argv[1]))
