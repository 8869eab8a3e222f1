"""Every job ends, and says so: nodes that hang in each way and place, and whatever raises around a node."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from graphengine import Graph, NodeError, Pack, Store, run
from graphengine.declare import registry
from graphengine.service import local_service, retry, shortages
from graphengine.service.job_events import JobEvent
from graphengine.service.jobs.job import State
from graphengine.service.jobs.queue import Queue
from graphengine.service.jobs.submit import submit, submit_all
from graphengine.service.service import Service
from graphengine.service.start import helpers
from graphengine.service.workers import worker_state
from graphengine.service.workers.calls import JobPolicy, WorkerError
from graphengine.service.workers.inline import InlineRunner
from graphengine.service.workers.pool import WorkerRunner
from graphengine.service.workers.process import LocalWorker
from graphengine.testing import FakeWorker
from tests.graphengine.cli.conftest import command, environment
from tests.graphengine.service.conftest import PACK, RAY
from tests.graphengine.service.workers.test_contract import at_once, wait_for

STUCK = Path(__file__).parent / "stuck"

pytestmark = pytest.mark.skipif(RAY, reason="of this machine")

PLACES = ("here", "thread", "device")
WAYS = ("loop", "read", "gil")
LONGEST = 10.0
"""Seconds from the cancellation of a node that hangs to the next job's start."""


@pytest.fixture(scope="module", autouse=True)
def stuck_nodes() -> None:
    """The nodes of `stuck/stuck.py`."""
    assert registry.load_folder(STUCK) == []


def of(node: str, **inputs: Any) -> Graph:
    """A graph of one node of `stuck/stuck.py`."""
    graph = Graph()
    graph.output("y", graph.add(f"stuck.{node}", "n", **inputs))
    return graph


@contextmanager
def served(folder: Path, **options: Any) -> Iterator[Service]:
    """A service as the command line starts it, with one worker."""
    packs = [str(PACK), str(STUCK)]
    common = {"workers": 1, "threads": 1, "packs": packs, "store": folder / "store", "on_warning": lambda line: None}
    with local_service(folder / "q.sqlite", devices=["cpu"], **{**common, **options}) as service:
        yield service


def hung(service: Service, folder: Path, on: str, how: str) -> int:
    """A job that has begun and does not end."""
    mark = folder / f"{on} {how} {time.monotonic_ns()}"
    job = service.submit(of(f"stuck_{on}", how=how, mark=str(mark)))
    wait_for(mark.exists)
    return job


def next_start(service: Service, folder: Path, on: str, how: str) -> float:
    """Seconds from the cancellation of a node that hangs until another job for the same place has ended."""
    job = hung(service, folder, on, how)
    other = service.submit(of(f"process_{on}", x=time.monotonic_ns()))
    start = time.monotonic()
    service.cancel(job)
    assert service.wait(job, timeout=600)[0].state is State.CANCELLED
    (ended,) = service.wait(other, timeout=600)
    assert (ended.state, ended.attempt) == (State.DONE, 1)
    assert ended.result["lost"] == []  # nobody's death
    return time.monotonic() - start


@pytest.mark.process
def test_a_cancelled_node_that_hangs_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_state, "CALL_GRACE", 0.5)
    monkeypatch.setattr(retry, "OTHERS", 0.3)
    told: list[str] = []
    with served(tmp_path, on_warning=told.append) as service:
        for on, how in (("here", "gil"), ("thread", "read"), ("device", "loop"), ("device", "gil")):
            next_start(service, tmp_path, on, how)  # how fast, the slow test says
        assert [status.deaths for status in service.backend.status()] == [0]
        wait_for(lambda: len(told) >= 3)
    assert "worker helper-0 was ended: stuck.stuck_here was cancelled and did not end" in told
    assert told.count("worker worker-0 was ended: stuck.stuck_device was cancelled and did not end") == 2


@pytest.mark.slow
@pytest.mark.process
def test_the_next_job_starts_in_time_wherever_a_node_hangs(tmp_path: Path) -> None:
    with served(tmp_path) as service:
        seconds = {(on, how): next_start(service, tmp_path, on, how) for on in PLACES for how in WAYS}
    print(seconds)
    assert max(seconds.values()) < LONGEST


@pytest.mark.process
def test_where_nodes_of_packs_are_computed(tmp_path: Path) -> None:
    with served(tmp_path) as service:
        jobs = [service.submit(of(f"process_{on}", x=1)) for on in PLACES]
        service.wait(*jobs, timeout=600)
        here, thread, device = [service.outputs(job)["y"] for job in jobs]
        assert here == thread != device
        assert os.getpid() not in (here, thread, device)
        graph = Graph()
        graph.output("y", graph.add("stuck.keeps_making", "n", value=graph.add("pack.double", "d", x=4), folder="f"))
        made = service.submit(graph)
        service.wait(made, timeout=600)
        assert "graphengine" in service.outputs(made)["y"]  # as if it was computed in the service's own process


@pytest.mark.process
def test_what_was_computed_together_with_it_is_computed_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_state, "CALL_GRACE", 0.3)
    monkeypatch.setattr(retry, "OTHERS", 0.3)
    mark = tmp_path / "mark"
    with served(tmp_path) as service:
        workers: Any = service.backend
        service.submit(of("stuck_device", how="sleep", mark=str(tmp_path / "gather")))
        wait_for((tmp_path / "gather").exists)
        bad, *good = [service.submit(of("stuck_together", x=x, mark=str(mark))) for x in (1, 2, 3)]
        wait_for(lambda: workers.waiting() == 3)
        (tmp_path / "gather").unlink()
        wait_for(mark.exists)
        assert mark.read_text() == "3"
        service.cancel(bad)
        jobs = service.wait(*good, timeout=600)
        assert [(job.state, job.attempt, job.result["lost"]) for job in jobs] == [(State.DONE, 1, [])] * 2
        assert [status.deaths for status in service.backend.status()] == [0]


@pytest.mark.process
def test_a_helper_that_dies_takes_only_the_guilty_node_with_it(tmp_path: Path) -> None:
    with served(tmp_path) as service:
        mark = tmp_path / "mark"
        bad = service.submit(of("ends_process", x=1, mark=str(mark), seconds=0.5))
        good = [service.submit(of("process_here", x=n, seconds=1.0)) for n in range(3)]
        failed, *done = service.wait(bad, *good, timeout=600)
        assert (failed.state, [job.state for job in done]) == (State.FAILED, [State.DONE] * 3)
        assert "3 workers were lost while they computed stuck.ends_process: it ended with exit code 3" in failed.error


@pytest.mark.process
@pytest.mark.parametrize("on", ["here", "device"])
def test_a_process_that_is_stopped_is_ended_and_its_calls_are_computed_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: str
) -> None:
    monkeypatch.setattr(retry, "ACKNOWLEDGED", 0.5)
    told: list[str] = []
    with served(tmp_path, on_warning=told.append) as service:
        first = service.submit(of(f"process_{on}", x=1))
        service.wait(first, timeout=600)
        stopped = service.outputs(first)["y"]
        os.kill(stopped, signal.SIGSTOP)
        jobs = [service.submit(of(f"process_{on}", x=n)) for n in range(3)]
        ended = service.wait(*jobs, timeout=600)
        assert [(job.state, job.attempt, job.result["lost"]) for job in ended] == [(State.DONE, 1, [])] * 3
        assert stopped not in [service.outputs(job)["y"] for job in jobs]
        assert [status.deaths for status in service.backend.status()] == [0]
    name = "helper-0" if on == "here" else "worker-0"
    assert told == [f"worker {name} was ended: it did not take up what it was sent within 0.5 s"]


@pytest.mark.process
@pytest.mark.parametrize("on", ["here", "device"])
def test_what_a_stopped_process_was_computing_is_computed_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: str
) -> None:
    monkeypatch.setattr(retry, "STOPPED", 0.5)
    mark, told = tmp_path / "mark", list[str]()
    with served(tmp_path, on_warning=told.append) as service:
        first = service.submit(of(f"process_{on}", x=1))
        service.wait(first, timeout=600)
        job = service.submit(of(f"stuck_{on}", how="sleep", mark=str(mark)))
        wait_for(mark.exists)
        os.kill(service.outputs(first)["y"], signal.SIGSTOP)
        mark.unlink()
        wait_for(mark.exists)  # another process computes it
        mark.unlink()
        (ended,) = service.wait(job, timeout=600)
        assert (ended.state, ended.attempt, ended.result["lost"]) == (State.DONE, 1, [])
        assert [status.deaths for status in service.backend.status()] == [0]
    name = "helper-0" if on == "here" else "worker-0"
    assert told == [f"worker {name} was ended: its process was stopped for 0.5 s in the middle of its calls"]


@pytest.mark.process
def test_an_exact_job_does_not_wait_for_a_worker_that_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "ACKNOWLEDGED", 0.5)
    with served(tmp_path) as service:
        first = service.submit(of("process_device", x=1))
        service.wait(first, timeout=600)
        os.kill(service.outputs(first)["y"], signal.SIGSTOP)
        (job,) = service.wait(service.submit(of("process_device", x=2), exact=True), timeout=600)
        assert (job.state, job.attempt) == (State.DONE, 1)


@pytest.mark.process
def test_another_helper_is_started_where_one_is_stopped_before_it_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "HELPER_START", 0.5)
    mark = tmp_path / "mark"
    (folder := tmp_path / "stopping").mkdir()
    program = "import os, pathlib, signal\nmark = pathlib.Path({!r})\nif not mark.exists():\n    mark.touch()\n"
    (folder / "stopping.py").write_text(program.format(str(mark)) + "    os.kill(os.getpid(), signal.SIGSTOP)\n")
    backend = WorkerRunner([FakeWorker("w")], helpers=helpers(packs=[str(STUCK), str(folder)]))
    with Service(tmp_path / "q.sqlite", backend) as service:
        (job,) = service.wait(service.submit(of("process_here", x=1)), timeout=600)
        assert job.state is State.DONE
        assert job.result["calls"][0]["worker"] == "helper-1"


@pytest.mark.process
def test_a_process_whose_node_holds_the_lock_goes_on_while_others_compute_what_it_does_not_take_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "ACKNOWLEDGED", 0.5)
    mark, until, told = tmp_path / "mark", tmp_path / "until", list[str]()
    os.mkfifo(until)
    with served(tmp_path, on_warning=told.append) as service:
        long = service.submit(of("holds_lock", mark=str(mark), until=str(until)))
        wait_for(mark.exists)
        jobs = [service.submit(of("process_here", x=n)) for n in range(2)]
        ended = service.wait(*jobs, timeout=600)
        assert [(job.state, job.attempt, job.result["lost"]) for job in ended] == [(State.DONE, 1, [])] * 2
        assert service.queue.get(long).state is State.RUNNING
        until.write_text("go on")
        (held,) = service.wait(long, timeout=600)
        assert (held.state, held.attempt, held.result["lost"]) == (State.DONE, 1, [])
        assert service.outputs(long)["y"] not in [service.outputs(job)["y"] for job in jobs]
        after = service.submit(of("process_here", x=5))  # it is of use again
        service.wait(after, timeout=600)
        assert service.outputs(after)["y"] == service.outputs(long)["y"]
    assert told == []


@pytest.mark.process
@pytest.mark.parametrize("on", ["here", "device"])
def test_what_nodes_write_reaches_a_terminal_without_what_it_acts_on(tmp_path: Path, on: str) -> None:
    file, shown, log = tmp_path / "q.sqlite", tmp_path / "shown", tmp_path / "log"
    queue = Queue(file)
    job = submit(queue, of(f"writes_{on}", x=1))
    arguments = ("worker", "--queue", file, "--packs", STUCK, "--workers", 1, "--threads", 1, "--log", log)
    with shown.open("wb") as target:
        process = subprocess.Popen(
            command(*arguments), cwd=tmp_path, env=environment(tmp_path), stdout=target, stderr=target
        )
    try:
        assert queue.wait(job, timeout=600)[0].state is State.DONE
    finally:
        process.terminate()
        process.wait(60)
    text, logged = shown.read_text(), log.read_text()
    messages = [json.loads(line)["message"].partition(": ")[2] for line in logged.splitlines()]
    for said in (
        "printed \\x1b[31m and more", "written \\x1b]0;title\\x07", "an error \\x1b[2J", "of a child \\x1b[H",
        "logged \\x1b[5m", "without an end \\x9b",
    ):  # fmt: skip
        assert said in text
        assert said in messages
    assert not set(text) & {*map(chr, (*range(9), *range(11, 32), *range(127, 160)))}


def is_gone(pid: int) -> bool:
    """Whether a process has ended."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.process
@pytest.mark.parametrize(("on", "how"), [("here", "child"), ("device", "child"), ("device", "grandchild")])
def test_what_a_cancelled_node_has_started_in_another_session_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: str, how: str
) -> None:
    monkeypatch.setattr(worker_state, "CALL_GRACE", 0.3)
    mark = tmp_path / "mark"
    with served(tmp_path) as service:
        job = service.submit(of(f"sessions_{on}", how=how, mark=str(mark)))
        wait_for(lambda: mark.exists() and mark.read_text().endswith(" "))
        service.cancel(job)
        assert service.wait(job, timeout=600)[0].state is State.CANCELLED
        wait_for(lambda: is_gone(int(mark.read_text())))


@pytest.mark.process
def test_what_a_process_of_a_dead_worker_s_group_has_started_ends_too(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with served(tmp_path) as service:
        service.wait(service.submit(of("sessions_device", how="of its group", mark=str(mark)), attempts=1), timeout=600)
        wait_for(lambda: is_gone(int(mark.read_text())))


@pytest.mark.process
def test_one_sigterm_ends_a_service_in_time_and_puts_its_jobs_back(tmp_path: Path) -> None:
    file = tmp_path / "q.sqlite"
    queue = Queue(file)
    marks = [tmp_path / f"mark {on}" for on in PLACES]
    jobs = [
        submit(queue, of(f"stuck_{on}", how=how, mark=str(mark)))
        for (on, how), mark in zip((("here", "read"), ("thread", "gil"), ("device", "gil")), marks, strict=True)
    ]
    arguments = ("worker", "--queue", file, "--packs", STUCK, "--workers", 1, "--threads", 1)
    process = subprocess.Popen(command(*arguments), cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: all(mark.exists() for mark in marks[1:]))  # where one holds the lock, another may not begin
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert time.monotonic() - start < LONGEST
    finally:
        process.kill()
        process.wait()
    assert [queue.get(job).state for job in jobs] == [State.QUEUED] * 3
    assert {queue.attempts(job)[-1].outcome for job in jobs} == {"left"}


def test_a_service_without_workers_leaves_what_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphengine.execution import runner

    monkeypatch.setattr(runner, "CALL_GRACE", 0.3)
    with Service(tmp_path / "q.sqlite", InlineRunner()) as service:
        for on in PLACES:
            assert next_start(service, tmp_path, on, "read") < LONGEST


# --- what the service itself lacks ------------------------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service tries again soon."""
    monkeypatch.setattr(retry, "SHORTAGE_PAUSES", retry.Backoff(0.05, 0.1))


def test_without_a_thread_for_a_job_it_is_put_back(
    tmp_path: Path, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, refused = threading.Thread.start, list[str]()

    def lacking(thread: threading.Thread) -> None:
        if thread.name.removeprefix("graphengine-").removesuffix("-run").isdigit() and len(refused) < 5:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    with Service(tmp_path / "q.sqlite", InlineRunner()) as service, monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lacking)
        jobs = [service.submit(of("process_here", x=n)) for n in range(4)]
        assert {job.state for job in service.wait(*jobs, timeout=600)} == {State.DONE}
        outcomes = [attempt.outcome for job in jobs for attempt in service.queue.attempts(job)]
    assert (outcomes.count("left"), set(outcomes)) == (5, {"left", "done"})


@pytest.mark.parametrize("lack", [OSError(errno.EMFILE, "Too many open files"), MemoryError()])
def test_what_a_service_lacks_for_a_while_fails_no_job(
    tmp_path: Path, hasty: None, monkeypatch: pytest.MonkeyPatch, lack: Exception
) -> None:
    left = threading.Semaphore(12)

    def lacking(*arguments: Any) -> Any:
        if left.acquire(blocking=False):
            raise lack
        return request_of(*arguments)

    from graphengine.service import job_run

    request_of = job_run.request_of
    monkeypatch.setattr(job_run, "request_of", lacking)
    monkeypatch.setattr(shortages, "is_well", lambda: False)
    with Service(tmp_path / "q.sqlite", InlineRunner()) as service:
        jobs = [service.submit(of("process_here", x=n)) for n in range(8)]
        assert {job.state for job in service.wait(*jobs, timeout=600)} == {State.DONE}


def test_a_job_that_takes_more_than_there_is_fails_in_the_end(
    tmp_path: Path, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphengine.service import job_run

    def lacking(*_: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    with Service(tmp_path / "q.sqlite", InlineRunner()) as service:
        with monkeypatch.context() as patch:
            patch.setattr(job_run, "request_of", lacking)
            (job,) = service.wait(service.submit(of("process_here", x=1)), timeout=600)
        assert (job.state, job.attempt) == (State.FAILED, retry.SHORTAGES)
        assert "Too many open files" in str(job.error)
        assert service.wait(service.submit(of("process_here", x=2)), timeout=600)[0].state is State.DONE


def test_a_service_that_lacks_memory_for_its_queue_says_so_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from graphengine.service.jobs.lease import Lease

    claim, lacks = Lease.claim, iter([True] * 3)

    def lacking(*arguments: Any) -> Any:
        if next(lacks, False):
            raise MemoryError
        return claim(*arguments)

    monkeypatch.setattr(Lease, "claim", lacking)
    with Service(tmp_path / "q.sqlite", InlineRunner()) as service:
        (job,) = service.wait(service.submit(of("process_here", x=1)), timeout=600)
        assert job.state is State.DONE
    said = [record for record in caplog.records if record.levelname == "ERROR"]
    sentence = "the service lacks what it needs: it lacks memory; retrying every 0.5 s"
    assert [(record.getMessage(), record.exc_info) for record in said] == [(sentence, None)]


def test_a_service_has_imported_what_its_jobs_need_of_the_engine(tmp_path: Path) -> None:
    program = f"""
import sys
from graphengine import Graph
from graphengine.declare import registry
from graphengine.service.workers.inline import InlineRunner
from graphengine.service.service import Service
assert registry.load_folder({str(STUCK)!r}) == []
graph = Graph()
graph.output("y", graph.add("stuck.process_here", "n", x=1))
with Service("q.sqlite", InlineRunner()) as service:
    before = set(sys.modules)
    (job,) = service.wait(service.submit(graph, out="out"), timeout=600)
    print(job.state, sorted(name for name in set(sys.modules) - before if name.startswith("graphengine.")))
"""
    options: dict[str, Any] = {"cwd": tmp_path, "env": environment(tmp_path), "timeout": 60}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, **options)
    assert (done.stdout, done.stderr) == ("done []\n", "")


def test_an_end_that_cannot_be_written_is_no_fault_of_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphengine.service.jobs.database import QueueFileError
    from graphengine.service.jobs.lease import Lease

    done, count = Lease.done, 0

    def failing(*arguments: Any) -> bool:
        nonlocal count
        count += 1
        if count < 15:
            raise QueueFileError("it cannot be opened: Too many open files")
        return done(*arguments)

    monkeypatch.setattr(Lease, "done", failing)
    with Service(tmp_path / "q.sqlite", InlineRunner()) as service:
        (job,) = service.wait(service.submit(of("process_here", x=1)), timeout=600)
        assert job.state is State.DONE


# --- whatever raises around a node ------------------------------------------------------------------------------------


@pytest.fixture
def runner() -> Iterator[WorkerRunner]:
    made = WorkerRunner([FakeWorker("w")], on_warning=lambda line: None)
    yield made
    made.close()


def result(runner: WorkerRunner, node: str, **inputs: Any) -> Any:
    """What a node gives, or raises; it must not hang."""
    (found,) = ended(lambda: run(of(node, **inputs), store=Store(), runner=runner.of(JobPolicy()))["y"])
    return found


def ended(*calls: Callable[[], Any]) -> list[Any]:
    """What calls give or raise within a minute."""
    found: list[list[Any]] = []
    thread = threading.Thread(target=lambda: found.append(at_once(*calls)), daemon=True)
    thread.start()
    thread.join(60)
    assert found, "it hangs"
    return found[0]


@pytest.mark.parametrize(
    ("node", "inputs", "text"),
    [
        ("makes_thorny", {"where": "encode"}, "ZeroDivisionError: while it was encoded"),
        ("makes_thorny", {"where": "decode"}, "ZeroDivisionError: while it was decoded"),
        ("raises_speechless", {"x": 1}, "Speechless"),
        ("notes_an_object", {"x": 1}, "object is not JSON serializable"),
    ],
)
def test_a_node_ends_around_which_something_raises(
    runner: WorkerRunner, node: str, inputs: dict[str, Any], text: str
) -> None:
    error = result(runner, node, **inputs)
    assert isinstance(error, NodeError)
    assert text in str(error)
    assert result(runner, "takes_thorny", value="") or result(runner, "process_device", x=1) == os.getpid()
    assert [status.deaths for status in runner.status()] == [0]


@pytest.mark.parametrize(("where", "text"), [("encode", "encoded"), ("decode", "decoded"), ("needs", "asked what")])
def test_a_node_ends_whose_inputs_raise(runner: WorkerRunner, where: str, text: str) -> None:
    graph = Graph()
    graph.output("y", graph.add("stuck.takes_thorny", "n", value=graph.add("stuck.thorny_here", "v", where=where)))
    (error,) = ended(lambda: run(graph, store=Store(), runner=runner.of(JobPolicy())))
    assert isinstance(error, NodeError)
    assert (error.node, f"while it was {text}" in str(error)) == ("n", True)
    assert result(runner, "process_device", x=1) == os.getpid()
    assert [status.deaths for status in runner.status()] == [0]


def test_groups_that_cannot_be_compared_hang_nobody(runner: WorkerRunner) -> None:
    calls = [lambda n=n: result(runner, "grouped_by_arrays", x=n) for n in range(4)]
    assert ended(*calls) == [0, 1, 2, 3]


def test_a_pack_that_raises_when_it_is_asked_what_it_holds(
    runner: WorkerRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runner.wait_until_ready(60)
    definition = registry.find("stuck.makes_thorny")
    assert definition is not None

    def held(device: str) -> frozenset[str]:
        raise ZeroDivisionError("who knows")

    with monkeypatch.context() as patch:
        patch.setitem(definition.fn.__globals__, "__pack__", Pack("stuck", held=held))
        assert "who knows" in str(result(runner, "process_device", x=1))
    assert result(runner, "process_device", x=1) == os.getpid()
    assert [status.deaths for status in runner.status()] == [0]


def test_an_exact_job_ends_where_no_worker_can_say_how_it_computes(
    runner: WorkerRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = registry.find("stuck.makes_thorny")
    assert definition is not None

    def environment() -> dict[str, Any]:
        raise ImportError("libsomething.so: cannot open shared object file")

    monkeypatch.setitem(definition.fn.__globals__, "__pack__", Pack("stuck", environment=environment))
    (error,) = ended(lambda: runner.of(JobPolicy(exact=True)))
    assert isinstance(error, WorkerError)
    assert "libsomething.so" in str(error)


def test_who_listens_badly_hangs_nobody() -> None:
    def fails(*_: Any) -> None:
        raise BrokenPipeError("nobody reads this")

    workers = [FakeWorker("w")]
    runner = WorkerRunner(workers, on_warning=fails)
    claims = JobPolicy(on_lost=fails, on_computed=fails, node_attempts=3)

    def kill() -> None:
        wait_for(lambda: bool(runner.status()[0].computing))
        workers[0].kill()

    long = of("process_device", x=1, seconds=0.5)
    found, _ = ended(lambda: run(long, store=Store(), runner=runner.of(claims))["y"], kill)
    assert found == os.getpid()
    runner.close()


def test_a_worker_for_which_there_is_no_thread_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    start, told = threading.Thread.start, list[str]()

    def lacking(thread: threading.Thread) -> None:
        if thread.name == "graphengine-w" and not told:
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lacking)
        runner = WorkerRunner([LocalWorker("w", threads=1, packs=(str(STUCK),))], on_warning=told.append)
        assert result(runner, "process_device", x=1) != os.getpid()
    runner.close()
    assert told == [
        "worker w was lost while it computed nothing: it cannot be started: this process cannot start a thread: "
        "can't start new thread"
    ]


def test_a_keeper_outlives_what_raises(runner: WorkerRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, raised = runner._is_due, threading.Event()

    def fails(*arguments: Any) -> bool:
        if not raised.is_set():
            raised.set()
            raise MemoryError
        return looked(*arguments)

    monkeypatch.setattr(runner, "_is_due", fails)
    assert raised.wait(60)
    job = JobPolicy()
    graph = of("stuck_device", how="none", mark=os.devnull)
    assert ended(lambda: run(graph, store=Store(), runner=runner.of(job))["y"]) == ["none"]
    assert runner._keeper.is_alive()


def test_events_of_jobs_that_are_put_back_are_told(
    tmp_path: Path, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphengine.service import job_run

    request_of, first, told = job_run.request_of, threading.Event(), list[JobEvent]()

    def lacking(*arguments: Any) -> Any:
        if not first.is_set():
            first.set()
            raise OSError(errno.ENFILE, "Too many open files in system")
        return request_of(*arguments)

    monkeypatch.setattr(job_run, "request_of", lacking)
    with Service(tmp_path / "q.sqlite", InlineRunner()) as service:
        service.subscribe(told.append)
        service.wait(service.submit(of("process_here", x=1)), timeout=600)
    kinds = [event.kind for event in told if event.kind in ("running", "left", "done")]
    assert kinds == ["running", "left", "running", "done"]
    (error,) = [event.facts["error"] for event in told if event.kind == "left"]
    assert error == "the service lacked what it needs: Too many open files in system"


# --- in which order ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["here", "thread", "device"])
@pytest.mark.parametrize("inline", [False, True])
def test_jobs_of_a_user_begin_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: str, inline: bool
) -> None:
    from graphengine.service import job_run

    request_of, first, overtaken = job_run.request_of, threading.Event(), threading.Event()
    begun: list[int] = []

    def late(*arguments: Any) -> Any:
        if not first.is_set():  # the first job takes long to be read
            first.set()
            overtaken.wait(0.5)
        return request_of(*arguments)

    def listen(event: JobEvent) -> None:
        if event.kind == "node_started":
            begun.append(event.job)
            overtaken.set()

    monkeypatch.setattr(job_run, "request_of", late)
    backend = InlineRunner() if inline else WorkerRunner([FakeWorker("w")], on_warning=lambda line: None)
    queue = Queue(tmp_path / "q.sqlite")
    jobs = submit_all(queue, [{"graph": of(f"process_{on}", x=n)} for n in range(4)])
    service = Service(queue, backend)
    service.subscribe(listen)
    with service:
        service.wait(*jobs, timeout=600)
    assert begun == jobs


# --- who gives no sign ------------------------------------------------------------------------------------------------


def test_a_silent_job_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from rich.console import Console

    from graphengine.cli import job_rows
    from graphengine.service import job_activity

    monkeypatch.setattr(job_activity, "SILENT", 0.2)
    monkeypatch.setattr(job_rows, "SILENT", 0.2)
    told: list[JobEvent] = []
    with Service(tmp_path / "q.sqlite", InlineRunner()) as service:
        service.subscribe(told.append)
        job = hung(service, tmp_path, "here", "sleep")
        waiting = service.submit(of("process_here", x=1))
        wait_for(lambda: any(event.kind == "silent" for event in told))
        facts = service.doing()
        sentence = job_activity.silence(job, facts[job])
        assert sentence is not None
        assert f"job {job} has given no sign for 0 s while it computes n" in sentence
        assert f"`graphengine queue cancel {job}` ends it" in sentence
        console = Console(width=400, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
        console.print(job_rows.table([service.queue.get(job)], facts))
        shown = console.export_text()
        assert "silent for 0 s" in shown
        assert f"`graphengine queue cancel {job}` ends it" in shown
        [file.unlink() for file in tmp_path.glob("here sleep *")]
        service.wait(job, waiting, timeout=600)
        assert [event.job for event in told if event.kind == "silent"].count(job) == 1
    assert any(f"job {job} has given no sign" in record.message for record in caplog.records)
    assert job_activity.silence(job, {"state": "running", "waits": True, "silent": 99.0}) is None
