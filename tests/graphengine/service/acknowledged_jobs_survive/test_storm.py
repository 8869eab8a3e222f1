"""Random kills of workers and the service, a full disk, a locked file, a clock that jumps: each job is accounted for.

The short form runs for some seconds with a fixed seed; the slow form for minutes, with sampling.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from graphengine_nodes import decode_latent, encode_prompt, load_model, sample

from graphengine import Graph, Store, run
from graphengine.cache import DiskStore
from graphengine.cache.tree import from_tree
from graphengine.service.cleaning import clean
from graphengine.service.job_events import JobEvent
from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.job import Change, Job, State
from graphengine.service.jobs.lease import take
from graphengine.service.jobs.queue import Queue
from graphengine.service.jobs.submit import files_of, submit
from graphengine.service.retry import SERVICES
from graphengine.service.service import Service
from graphengine.service.workers.calls import JobPolicy
from graphengine.service.workers.inline import InlineRunner
from graphengine.service.workers.pool import WorkerRunner
from graphengine.service.workers.process import LocalWorker
from tests import ROOT
from tests.graphengine.service.conftest import PACK
from tests.graphengine.service.jobs.test_queue import Clock
from tests.graphengine.service.test_service import of
from tests.graphengine.service.workers.alone import IMPOSSIBLE

SERVE = """
import os, signal, sys, threading, time
from pathlib import Path
from graphengine.declare import registry
from graphengine.cache import DiskStore
from graphengine.service.workers.process import LocalWorker
from graphengine.service.jobs.queue import Queue
from graphengine.service.service import Service
from graphengine.service.workers.pool import WorkerRunner
folder, pack, shift = Path(sys.argv[1]), sys.argv[2], [0.0]
registry.load_folder(pack)
signal.signal(signal.SIGUSR1, lambda *_: shift.__setitem__(0, -3600.0 if shift[0] > 0 else 3600.0))
made = [LocalWorker(f"w{n}", threads=1, store=str(folder / "store"), packs=(pack,)) for n in range(2)]
disk = DiskStore(folder / "store")
queue = Queue(folder / "q.sqlite", lambda: time.time() + shift[0], "NORMAL")
def fill(*_):  # the file may not grow any more
    pages = queue._base.execute("pragma page_count").fetchone()[0]
    queue._base.execute(f"pragma max_page_count = {pages}")
    threading.Timer(0.7, lambda: queue.read("pragma max_page_count = 1000000")).start()
full = threading.Event()
signal.signal(signal.SIGUSR2, lambda *_: full.set())
runner = WorkerRunner(made, disk, on_warning=lambda sentence: None)
service = Service(queue, runner, disk, seconds=1, concurrency=8)
service.start()
print("up", flush=True)
while True:
    full.wait()
    full.clear()
    with queue._lock:
        fill()
"""

SUBMIT = """
import sys
from typing import Any
from pathlib import Path
from graphengine import Graph
from graphengine.declare import registry
from graphengine.declare.registry import find
from graphengine.service.jobs.queue import Queue
from graphengine.service.jobs.submit import submit
folder, pack, first = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
registry.load_folder(pack)
page = type(find("pack.page").fn(0))
queue = Queue(folder / "q.sqlite", synchronous="NORMAL")
graph = Graph()
graph.add("pack.echo", "n", value=graph.input("value", Any))
graph.output("y", graph["n"])
for x in range(first, first + 1000):
    value = page(f"{x}\\n" * 100_000)
    print(submit(queue, graph, {"value": value}, out=folder / "out", name=f"job{x}"), x, flush=True)
"""

KINDS = ("double", "nap", "whose", "together", "page", "fail", "deadly_once", "poison", "cancel", "torn")

SECONDS = float(os.environ.get("GRAPHENGINE_STORM", 480))
"""How long the slow storm lasts."""
Submit = Callable[[], int]

HARM = ("worker", "service", "full", "locked", "clock", "cancel")
MORE = (*HARM, "submitter", "frozen")


class Storm:
    """Services that are killed, in processes of their own, and the jobs that they must do all the same."""

    def __init__(self, folder: Path, seed: int, kinds: tuple[str, ...] = HARM) -> None:
        self.folder, self.rng, self.kinds = folder, random.Random(seed), kinds
        self.queue = Queue(folder / "q.sqlite", synchronous="NORMAL")
        self.jobs: dict[int, tuple[str, int]] = {}
        self.process: subprocess.Popen[str] | None = None
        self.harm: Counter[str] = Counter()
        self.coming: list[str] = []

    def serve(self) -> None:
        with open(self.folder / "stderr.txt", "a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE, str(self.folder), str(PACK)], stdout=subprocess.PIPE, text=True,
                stderr=errors,
            )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "up\n"

    def submit(self, count: int) -> None:
        """Light jobs of all kinds, few of those that kill."""
        for _ in range(count):
            x = len(self.jobs)
            (kind,) = self.rng.choices(KINDS, (30, 30, 10, 30, 10, 4, 2, 0.7, 4, 2))
            if kind in ("nap", "cancel"):
                graph = of("nap", seconds=self.rng.choice((0.02, 0.1)))
            elif kind == "deadly_once":
                graph = of(kind, mark=str(self.folder / f"mark{x}"))
            else:
                graph = of(kind)
            options = {"user": self.rng.choice(("ann", "bob")), "priority": self.rng.choice((0, 0, 1))}
            number = submit(self.queue, graph, {"x": x}, out=self.folder / "out", name=f"job{x}", **options)
            self.jobs[number] = kind, x

    def hurt(self) -> None:
        """One thing that goes wrong."""
        assert self.process is not None
        if not self.coming:  # all of it, in ever another order
            self.coming = self.rng.sample([*self.kinds, "worker", "worker"], len(self.kinds) + 2)
        kind = self.coming.pop()
        self.harm[kind] += 1
        match kind:
            case "worker":
                workers = psutil.Process(self.process.pid).children()
                if workers:
                    self.rng.choice(workers).kill()
            case "service":
                self.process.kill()
                self.process.wait()
                self.serve()
            case "full":
                self.process.send_signal(signal.SIGUSR2)
            case "clock":
                self.process.send_signal(signal.SIGUSR1)
            case "locked":
                other = sqlite3.connect(self.queue.file, 30, isolation_level=None)
                other.execute("begin immediate")
                time.sleep(0.3)
                other.execute("commit")
                other.close()
            case "cancel":
                wanted = [number for number, (what, _) in self.jobs.items() if what == "cancel"]
                for number in [self._running(), *self.rng.sample(wanted, min(3, len(wanted)))]:
                    self.queue.cancel(number)
            case "submitter":
                self._kill_a_submitter()
            case "frozen":
                self._freeze()

    def _kill_a_submitter(self) -> None:
        """Kill one in the middle of what it writes; what it was promised counts."""
        first = 1_000_000 + 1000 * self.harm["submitter"]
        command = [sys.executable, "-c", SUBMIT, str(self.folder), str(PACK), str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline()]
            threading.Timer(self.rng.uniform(0, 0.3), process.kill).start()
            lines += process.stdout.readlines()
        for number, x in (map(int, line.split()) for line in lines if line.endswith("\n")):
            self.jobs[number] = "bytes", x

    def _freeze(self) -> None:
        """Let a service sleep until another has its lease, go on for a moment, and end."""
        assert self.process is not None
        frozen, epoch = self.process, self._epoch()
        frozen.send_signal(signal.SIGSTOP)
        self.serve()
        end = time.monotonic() + 60
        while self._epoch() == epoch and time.monotonic() < end:
            time.sleep(0.02)
        frozen.send_signal(signal.SIGCONT)
        time.sleep(self.rng.uniform(0.2, 2.0))
        frozen.kill()
        frozen.wait()

    def _epoch(self) -> int:
        return int(self.queue.read("select epoch from lease")[0][0])

    def _running(self) -> int:
        """A job that would run for long, and in most weather has begun."""
        number = submit(self.queue, of("nap", seconds=600.0), {"x": len(self.jobs)}, priority=9)
        self.jobs[number] = "long", len(self.jobs)
        end = time.monotonic() + 60
        while self.queue.get(number).state is State.QUEUED and time.monotonic() < end:
            time.sleep(0.02)
        return number

    def account(self, timeout: float) -> None:
        """Every job has ended as it must, once."""
        jobs = self.queue.wait(*self.jobs, timeout=timeout)
        assert [job.id for job in jobs if not job.state.ended] == []
        changes = all_changes(self.queue)
        for job in jobs:
            kind, x = self.jobs[job.id]
            ends = [change.kind for change in changes[job.id] if change.kind in ("done", "failed", "cancelled")]
            assert ends == [job.state], (kind, ends)  # told once, and as it stands
            begun = [change for change in changes[job.id] if change.kind == "running"]
            assert len(begun) == job.attempt == len(self.queue.attempts(job.id))
            lost = [change for change in changes[job.id] if change.kind in ("lost", "left")]
            assert len(lost) >= job.attempt - 1
            self._check(job, kind, x)
        written = Counter(file.name.partition("_")[0] for file in (self.folder / "out").glob("*.txt"))
        assert set(written.values()) == {1}, written
        for _ in clean(self.queue, DiskStore(self.folder / "store")):  # of the last one that was killed
            pass
        known = {self.queue.body(job.id)["files"] for job in self.queue.history(limit=100_000)}
        assert {file.name for file in files_of(self.queue).folder.iterdir()} <= known
        hidden = [file for file in self.folder.rglob("*") if file.name.startswith(".") or file.suffix == ".tmp"]
        assert hidden == []

    def _check(self, job: Job, kind: str, x: int) -> None:
        if kind == "torn":
            assert (job.state, "No space left" in str(job.error)) == (State.FAILED, True), job
        elif kind == "fail":
            assert (job.state, f"{x} is not to its taste" in str(job.error)) == (State.FAILED, True), job
        elif kind == "poison":
            assert job.state is State.FAILED
            assert "workers were lost" in str(job.error) or job.attempt >= SERVICES
        elif kind in ("cancel", "long") and job.state is State.CANCELLED:
            assert job.result is None
        elif job.state is State.FAILED:  # killed by chance, and often
            assert "workers were lost" in str(job.error), job
        else:
            assert (job.state, kind == "long") == (State.DONE, False), job
            made = outputs(self.queue, job)["y"]
            right = {"double": 2 * x, "whose": made}.get(kind, x)
            if kind in ("page", "bytes"):
                assert made.text == f"{x}\n" * (1 if kind == "page" else 100_000), (kind, x)
            else:
                assert made == right, (kind, x, made)
            files = [str(self.folder / "out" / f"job{x}_y_00000.txt")] if kind in ("page", "bytes") else []
            assert job.result["files"] == files


def outputs(queue: Queue, job: Job) -> dict[str, Any]:
    """What a job made."""
    files, name = files_of(queue), queue.body(job.id)["files"]
    trees = job.result["outputs"]
    return {key: from_tree(tree, lambda blob: files.get(name, blob)) for key, tree in trees.items()}


def all_changes(queue: Queue) -> dict[int, list[Change]]:
    """Everything that was told, by job."""
    found: dict[int, list[Change]] = defaultdict(list)
    last = 0
    while page := queue.changes(last):
        last = page[-1].number
        for change in page:
            found[change.job].append(change)
    return found


@contextmanager
def storm(folder: Path, seed: int, kinds: tuple[str, ...] = HARM) -> Iterator[Storm]:
    """A storm whose service runs, and is ended with the test."""
    one = Storm(folder, seed, kinds)
    one.submit(60)
    one.serve()
    try:
        yield one
    finally:
        if one.process is not None:
            one.process.kill()
            one.process.wait()


def weather(
    one: Storm, seconds: float, jobs: int, *, calm: tuple[float, float] = (0.1, 0.6), more: Sequence[Submit] = ()
) -> list[int]:
    """Jobs and harm, by turns, and on a slow machine for longer: until all has happened that can.

    Args:
        calm: Seconds between two harms, at least and at most.
        more: Called one after another over the time; the numbers of these jobs are returned.
    """
    numbers: list[int] = []
    end, first = time.monotonic() + seconds, time.monotonic()
    while (now := time.monotonic()) < end or (now < end + 600 and lacking(one)):
        part = min(1.0, (now - first) / seconds)
        one.submit(max(0, int(60 + (jobs - 60) * part) - len(one.jobs)))
        numbers += [put() for put in more[len(numbers) : 1 + int(part * len(more))]]
        time.sleep(one.rng.uniform(*calm))
        one.hurt()
    one.submit(max(0, jobs - len(one.jobs)))
    return numbers + [put() for put in more[len(numbers) :]]


def test_every_job_is_accounted_for(tmp_path: Path) -> None:
    with storm(tmp_path, 6) as one:
        weather(one, 10, 300)
        one.account(600)
        assert lacking(one) == set()


def lacking(one: Storm) -> set[str]:
    """Of all kinds of harm, and of all that can be recorded of jobs, what did not happen yet."""
    kinds = {change.kind for changes in all_changes(one.queue).values() for change in changes}
    outcomes = {attempt.outcome for number in one.jobs for attempt in one.queue.attempts(number)}
    missing = {*one.kinds} - one.harm.keys() | {*State, "cancelling", "lost", "worker_lost"} - kinds
    return missing | {f"an attempt {word}" for word in ("done", "failed", "cancelled", "lost") if word not in outcomes}


def pictures(count: int) -> list[tuple[Graph, dict[str, Any]]]:
    """Jobs that sample on `tiny`."""
    with Graph() as graph:
        seed = graph.input("seed", int)
        model = load_model("tiny")
        text = encode_prompt(model, "a red circle on a blue background")
        graph.output("image", decode_latent(model, sample(model, text, seed=seed, steps=20)))
    return [(graph, {"seed": n}) for n in range(count)]


@pytest.mark.slow
def test_minutes_of_it_with_sampling(tmp_path: Path) -> None:
    """Slower, so that workers have the time to begin with sampling, which is killed in the middle of it."""
    asked = pictures(48)
    with storm(tmp_path, int.from_bytes(os.urandom(4), "big"), MORE) as one:
        more = [functools.partial(submit, one.queue, graph, inputs, attempts=20) for graph, inputs in asked]
        numbers = weather(one, SECONDS, 60 + int(3 * SECONDS), calm=(1.0, 5.0), more=more)
        one.account(900)
        assert lacking(one) == set()
        jobs = one.queue.wait(*numbers, timeout=900)
        assert {job.state for job in jobs} == {State.DONE}, [job.error for job in jobs]
        for job, (graph, inputs) in zip(jobs, asked, strict=True):
            made, right = outputs(one.queue, job)["image"].pixels, graph.run(inputs=inputs)["image"].pixels
            assert (made - right).abs().max() < 0.02  # what was joined differs in its last digits
        changes = all_changes(one.queue)
        assert any(change.kind in ("lost", "worker_lost") for job in jobs for change in changes[job.id])


def test_a_worker_that_is_killed_in_the_middle_of_sampling(tmp_path: Path) -> None:
    ((graph, inputs),) = pictures(1)
    store = DiskStore(tmp_path / "store")
    worker = LocalWorker("w", threads=1, store=str(tmp_path / "store"))

    def kill(event: JobEvent) -> None:
        if event.kind == "progress" and worker.process is first and event.event is not None and event.event.step == 3:
            first.kill()

    runner = WorkerRunner([worker], store, on_warning=lambda sentence: None)
    with Service(tmp_path / "q.sqlite", runner, store) as service:
        first = worker.process
        assert first is not None
        service.subscribe(kill)
        (job,) = service.wait(service.submit(graph, inputs), timeout=600)
        assert (job.state, job.attempt) == (State.DONE, 1)
        assert worker.process is not first
        told = [change.facts["error"] for change in service.queue.changes() if change.kind == "worker_lost"]
        assert told == ["worker w was lost while it computed std.sample: it was ended by SIGKILL"]
        made = service.outputs(job.id)["image"].pixels
    assert (made - graph.run(inputs=inputs)["image"].pixels).abs().max() < 0.02


def test_a_clock_that_jumps(tmp_path: Path) -> None:
    clock = Clock()
    queue = Queue(tmp_path / "q.sqlite", clock)
    with Service(queue, InlineRunner(), seconds=0.5) as service:
        for jump in (0.0, 3600.0, -7200.0, 86400.0 * 365, -86400.0 * 400):
            clock.now += jump
            (job,) = service.wait(service.submit(of("double"), {"x": int(jump)}), timeout=600)
            assert (job.state, job.attempt) == (State.DONE, 1)
            time.sleep(0.3)
        assert service.active
    assert take(queue, "another", 15) is not None  # and it was let go


def test_a_file_that_cannot_be_written_for_a_while(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q.sqlite", patience=0.05)
    with Service(queue, InlineRunner(), seconds=30) as service:
        numbers = [service.submit(of("double"), {"x": n}) for n in range(3)]
        service.wait(*numbers, timeout=600)
        queue.pause()
        more = [service.submit(of("double"), {"x": n}) for n in range(10, 13)]
        other = sqlite3.connect(queue.file, isolation_level=None)
        queue.resume()
        other.execute("begin immediate")
        time.sleep(0.6)
        with pytest.raises(QueueError, match="locked"):
            service.submit(of("double"), {"x": 5})
        other.execute("commit")
        other.close()
        jobs = service.wait(*more, timeout=600)
        assert {job.state for job in jobs} == {State.DONE}


def test_a_disk_that_runs_full(tmp_path: Path) -> None:
    """In a process that has such a disk, see `small_disk`."""
    command = [sys.executable, "-m", "tests.graphengine.service.acknowledged_jobs_survive.small_disk", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode == IMPOSSIBLE:
        pytest.skip(done.stderr)
    assert (done.returncode, done.stdout) == (0, "accounted for\n"), done.stderr


def test_a_worker_that_reads_nothing_holds_up_no_other(tmp_path: Path) -> None:
    made = [LocalWorker(name, threads=1, packs=(str(PACK),)) for name in ("a", "b")]
    runner = WorkerRunner(made, timeout=2.0, on_warning=lambda sentence: None)
    assert runner.wait_until_ready(600)
    assert made[0].process is not None
    stopped = made[0].process.pid
    os.kill(stopped, signal.SIGSTOP)
    graph = Graph()
    graph.add("echo", "n", value=graph.input("value", str))
    text = "x" * 5_000_000  # more than a pipe takes
    try:
        result = run(graph, inputs={"value": text}, store=Store(), runner=runner.of(JobPolicy()))
        assert result["n"] == text
        assert made[0].process is None or made[0].process.pid != stopped  # it was ended,
        assert sum(status.deaths for status in runner.status()) == 0  # which counts against nobody
    finally:
        runner.close()
