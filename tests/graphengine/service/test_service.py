"""The service whole: jobs from the queue through real workers to their results, through deaths of everything."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graphengine import Graph, WorkflowError
from graphengine.cache import DiskStore
from graphengine.service.job_events import JobEvent
from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.job import NewJob, State
from graphengine.service.jobs.lease import take
from graphengine.service.jobs.queue import Queue
from graphengine.service.jobs.submit import submit
from graphengine.service.retry import SERVICES, SUSPECT
from graphengine.service.service import Service
from graphengine.service.start import serving
from graphengine.service.workers.inline import InlineRunner
from graphengine.service.workers.pool import WorkerRunner
from graphengine.service.workers.process import LocalWorker
from graphengine.testing import FakeWorker
from tests.graphengine.sample import until
from tests.graphengine.service.conftest import LOST, PACK, RAY, Runners


def of(node: str, **inputs: Any) -> Graph:
    """A graph of one node of `pack/light.py`, with the input `x`."""
    graph = Graph()
    graph.add(f"pack.{node}", "n", x=graph.input("x", int), **inputs)
    graph.output("y", graph["n"])
    return graph


@pytest.fixture(params=["workers"] if RAY else ["inline", "workers"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    made = InlineRunner() if request.param == "inline" else request.getfixturevalue("backend")()
    with Service(Queue(tmp_path / "queue.sqlite", synchronous="NORMAL"), made, DiskStore(tmp_path / "store")) as it:
        yield it


def test_a_job_is_run_and_its_result_is_kept(service: Service) -> None:
    number = service.submit(of("double"), {"x": 21})
    (job,) = service.wait(number, timeout=600)
    assert (job.state, job.attempt) == (State.DONE, 1)
    assert service.outputs(number) == {"y": 42}
    assert job.result["reuse"] == {"n": "computed"}
    other = Queue(service.queue.file)
    assert other.get(number).state is State.DONE


def test_what_is_wanted(service: Service) -> None:
    graph = of("double")
    graph.add("double", "m", x=graph["n"])
    number = service.submit(graph, {"x": 1}, want=["m", "y"])
    service.wait(number, timeout=600)
    assert service.outputs(number) == {"m": 4, "y": 2}


def test_a_failing_job_says_why_and_the_next_goes_on(service: Service) -> None:
    bad, good = service.submit(of("fail"), {"x": 3}), service.submit(of("double"), {"x": 3})
    failed, done = service.wait(bad, good, timeout=600)
    assert (failed.state, done.state) == (State.FAILED, State.DONE)
    assert failed.error is not None
    assert "3 is not to its taste" in failed.error
    with pytest.raises(QueueError, match="is failed: node n"):
        service.outputs(bad)


def test_what_is_no_job_is_refused_at_once(service: Service) -> None:
    with pytest.raises(WorkflowError, match="has no input z"):
        service.submit(of("double"), {"x": 1, "z": 1})
    with pytest.raises(WorkflowError, match="no installed pack"):
        service.submit(of("no_such_node"), {"x": 1})
    graph = Graph()
    graph.add("echo", "n", value=object())
    with pytest.raises(WorkflowError, match=r"n\.value"):
        service.submit(graph)
    assert service.queue.counts()[State.QUEUED] == 0


def test_events_of_a_job_in_order(service: Service) -> None:
    told: list[JobEvent] = []
    end = service.subscribe(told.append)
    number = service.submit(of("nap", seconds=0.1), {"x": 1})
    service.wait(number, timeout=600)
    until(lambda: "done" in [event.kind for event in told])  # told after it was written
    end()
    kinds = [event.kind for event in told if event.job == number]
    kinds.remove("queued")  # whoever submits tells that, when the job may have begun
    assert kinds[:2] == ["running", "node_started"]
    assert kinds.count("progress") == 10
    assert kinds[-2:] == ["node_finished", "done"]


def test_cancelling_a_waiting_and_a_running_job(service: Service) -> None:
    running = service.submit(of("nap", seconds=3600.0), {"x": 1})
    while service.queue.get(running).state is not State.RUNNING:
        time.sleep(0.01)
    service.queue.pause()
    waiting = service.submit(of("double"), {"x": 1})
    assert service.cancel(waiting) is State.CANCELLED
    Queue(service.queue.file).cancel(running)  # by another process
    (job,) = service.wait(running, timeout=600)
    assert job.state is State.CANCELLED


def test_equal_jobs_are_computed_once(backend: Runners, tmp_path: Path) -> None:
    with Service(tmp_path / "q.sqlite", backend(), DiskStore(tmp_path / "store")) as service:
        numbers = [service.submit(of("whose"), {"x": n % 2}) for n in range(12)]
        jobs = service.wait(*numbers, timeout=600)
        assert {job.state for job in jobs} == {State.DONE}
        assert len({service.outputs(n)["y"] for n in numbers[::2]}) == 1
        reuse = Counter(job.result["reuse"]["n"] for job in jobs)
        assert reuse["computed"] == 2


def test_priorities_and_users(backend: Runners, tmp_path: Path) -> None:
    order: list[int] = []
    queue = Queue(tmp_path / "q.sqlite")
    queue.pause()
    with Service(queue, backend(1, batch=1), concurrency=1) as service:
        many = [service.submit(of("nap", seconds=0.02), {"x": n}, user="ann") for n in range(6)]
        few = [service.submit(of("nap", seconds=0.02), {"x": 100 + n}, user="bob") for n in range(2)]
        urgent = service.submit(of("nap", seconds=0.02), {"x": 1000}, user="ann", priority=5)
        service.subscribe(lambda event: order.append(event.job) if event.kind == "done" else None)
        queue.resume()
        service.wait(*many, *few, urgent, timeout=600)
    assert order[0] == urgent
    assert max(order.index(n) for n in few) < max(order.index(n) for n in many)


def test_a_queue_that_cannot_be_written_is_told_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tries = Counter[str]()

    class Counting(Queue):
        def write(self) -> Any:
            tries["write"] += 1
            return super().write()

    queue = Counting(tmp_path / "q.sqlite", patience=0.0)
    queue.submit(NewJob({"nonsense": 1}))
    other = sqlite3.connect(tmp_path / "q.sqlite", isolation_level=None)
    other.execute("begin immediate")

    def told() -> list[str]:
        return [record.message for record in caplog.records if "retrying" in record.message]

    with Service(queue, InlineRunner(), seconds=1) as service:
        before = tries["write"]
        until(lambda: told() and tries["write"] >= before + 3)
        other.execute("rollback")
        service.wait(1, timeout=600)
    assert told() == [f"{tmp_path / 'q.sqlite'} cannot be written: database is locked; retrying every 0.5 s"]


def test_users_of_whom_nothing_waits_or_runs_are_forgotten(tmp_path: Path) -> None:
    with Service(tmp_path / "q.sqlite", InlineRunner()) as service:
        service.wait(*[service.submit(of("double"), {"x": n}, user=f"once {n}") for n in range(10)], timeout=600)
        service.wait(service.submit(of("nap", seconds=1.0), {"x": 1}, user="last"), timeout=600)
        assert set(service._turns) <= {"last"}


def test_poison_ends_after_its_attempts_and_the_queue_goes_on(backend: Runners, tmp_path: Path) -> None:
    made = backend(on_warning=lambda sentence: None)
    with Service(tmp_path / "q.sqlite", made, DiskStore(tmp_path / "store")) as service:
        bad = service.submit(of("poison"), {"x": 1})
        good = [service.submit(of("nap", seconds=0.1), {"x": n}) for n in range(6)]
        jobs = service.wait(bad, *good, timeout=600)
    assert [job.state for job in jobs] == [State.FAILED] + [State.DONE] * 6
    assert f"{LOST} workers were lost" in str(jobs[0].error)


def test_stopping_lets_running_jobs_end_and_leaves_waiting_ones(backend: Runners, tmp_path: Path) -> None:
    with Service(tmp_path / "q.sqlite", backend(1), concurrency=1) as service:
        first = service.submit(of("gate", file=str(tmp_path / "go")), {"x": 1})
        second = service.submit(of("double"), {"x": 2})
        until(lambda: service.queue.get(first).state is State.RUNNING)
        service.drain()
        (tmp_path / "go").touch()
    queue = Queue(tmp_path / "q.sqlite")
    assert [queue.get(n).state for n in (first, second)] == [State.DONE, State.QUEUED]


def test_a_user_of_whom_nothing_runs_has_a_place_though_another_has_filled_all(tmp_path: Path) -> None:
    graph = Graph()
    graph.output("y", graph.add("pack.until", "n", x=graph.input("x", int), file=graph.input("file", str)))
    backend = WorkerRunner([FakeWorker(name) for name in "ab"], on_warning=lambda sentence: None)
    with Service(tmp_path / "q.sqlite", backend, concurrency=1) as service:
        asked = {"x": 1, "file": str(tmp_path / "never")}
        first, second = (service.submit(graph, asked | {"x": x}, user="ann") for x in range(2))
        while service.queue.get(first).state is not State.RUNNING:
            time.sleep(0.01)
        (tmp_path / "at once").touch()
        few = service.submit(graph, asked | {"file": str(tmp_path / "at once")}, user="bob")
        assert service.wait(few, timeout=600)[0].state is State.DONE
        assert [service.queue.get(n).state for n in (first, second)] == [State.RUNNING, State.QUEUED]
        for job in (second, first):
            service.cancel(job)


SERVE = """
import contextlib, sys, threading
from pathlib import Path
from graphengine.declare import registry
from graphengine.cache import DiskStore
from graphengine.service.workers.process import LocalWorker
from graphengine.service.service import Service
from graphengine.service.workers.pool import WorkerRunner
folder, pack, address, seconds = Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
registry.load_folder(pack)
common = {"threads": 1, "store": str(folder / "store"), "packs": (pack,)}
if address:
    from graphengine.service.workers.ray_cluster import joined
    from graphengine.service.workers.ray_workers import ray_workers
    cluster = contextlib.ExitStack()
    cluster.enter_context(joined(address))
    made = ray_workers(2, **common)
else:
    made = [LocalWorker(f"w{n}", **common) for n in range(2)]
disk = DiskStore(folder / "store")
service = Service(folder / "q.sqlite", WorkerRunner(made, disk), disk, seconds=seconds)
service.start()
print("up", flush=True)
threading.Event().wait()
"""


@pytest.fixture
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts services in processes of their own."""
    started: list[subprocess.Popen[str]] = []
    address = request.getfixturevalue("cluster").address if RAY else ""

    def start(seconds: float = 1) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(tmp_path), str(PACK), address, str(seconds)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_killed_service_loses_nothing(tmp_path: Path, serve: Callable[..., subprocess.Popen[str]]) -> None:
    queue = Queue(tmp_path / "q.sqlite")
    submitter = Service(queue, InlineRunner())  # it only submits
    numbers = [submitter.submit(of("nap", seconds=0.05), {"x": n}) for n in range(60)]
    for _ in range(3):
        process = serve()
        before = queue.counts()[State.DONE]
        until(lambda: queue.counts()[State.DONE] >= min(before + 8, 60))  # noqa: B023
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    serve()
    jobs = queue.wait(*numbers, timeout=600)
    assert Counter(job.state for job in jobs) == {State.DONE: 60}
    assert [submitter.outputs(n)["y"] for n in numbers] == list(range(60))
    assert all(attempt.outcome in ("done", "lost") for n in numbers for attempt in queue.attempts(n))


def test_another_service_takes_over(tmp_path: Path, serve: Callable[..., subprocess.Popen[str]]) -> None:
    queue = Queue(tmp_path / "q.sqlite")
    first = serve(3600)
    serve(3600)
    submitter = Service(queue, InlineRunner())
    number = submitter.submit(of("gate", file=str(tmp_path / "go")), {"x": 7})
    until(lambda: queue.get(number).state is State.RUNNING)
    holder = queue.get(number).worker
    assert holder is not None
    assert f":{first.pid}:" in holder
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    with queue.write() as base:  # as if an hour had passed
        base.execute("update lease set until = 0")
    (tmp_path / "go").touch()
    (job,) = queue.wait(number, timeout=600)
    assert (job.state, job.attempt) == (State.DONE, 2)
    assert job.worker != holder


def test_what_a_killed_job_computed_is_not_computed_again(
    tmp_path: Path, serve: Callable[..., subprocess.Popen[str]]
) -> None:
    queue = Queue(tmp_path / "q.sqlite")
    submitter = Service(queue, InlineRunner())
    graph = of("nap", seconds=0.3)
    graph.add("gate", "m", x=graph["n"], file=str(tmp_path / "go"))
    number = submitter.submit(graph, {"x": 5}, want="m")
    first = serve()
    while (
        not [  # n is in the disk store
            file for file in (tmp_path / "store" / "keys").rglob("*") if file.is_file() and file.suffix != ".tmp"
        ]
    ):
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    (tmp_path / "go").touch()
    serve()
    (job,) = queue.wait(number, timeout=600)
    assert job.result["reuse"] == {"n": "disk", "m": "computed"}
    assert submitter.outputs(number) == {"m": 5}


def test_threads_that_submit_and_cancel_at_once(backend: Runners, tmp_path: Path) -> None:
    with Service(tmp_path / "q.sqlite", backend(), DiskStore(tmp_path / "store")) as service:
        found: list[tuple[int, bool]] = []

        def submits(part: int) -> None:
            for n in range(10):
                number = service.submit(of("nap", seconds=0.05), {"x": 10 * part + n}, user=f"u{part}")
                cancel = n % 3 == 0
                if cancel:
                    service.cancel(number)
                found.append((number, cancel))

        threads = [threading.Thread(target=submits, args=(part,)) for part in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        jobs = {job.id: job for job in service.wait(*[number for number, _ in found], timeout=600)}
        for number, cancelled in found:
            assert jobs[number].state in ((State.CANCELLED, State.DONE) if cancelled else (State.DONE,))


def test_one_that_stops_keeps_its_lease_until_its_jobs_have_ended(backend: Runners, tmp_path: Path) -> None:
    """Another one that stands by must not take them for lost."""
    file, now = tmp_path / "q.sqlite", [time.time()]
    queues = [Queue(file, lambda: now[0]) for _ in range(2)]
    first = Service(queues[0], backend(1), DiskStore(tmp_path / "store"), seconds=0.6)
    with first, Service(queues[1], InlineRunner(), DiskStore(tmp_path / "store"), seconds=0.6):
        job = first.submit(of("gate", file=str(tmp_path / "go")), {"x": 1})
        until(lambda: first.queue.get(job).state is State.RUNNING)
        stopping = threading.Thread(target=first.stop)
        stopping.start()
        for _ in range(5):
            now[0] += 0.4
            until(lambda: first.queue.read("select until from lease")[0][0] > now[0] + 0.5)  # it is renewed
        (tmp_path / "go").touch()
        stopping.join()
        assert first.queue.get(job).state is State.DONE
    assert [attempt.outcome for attempt in first.queue.attempts(job)] == ["done"]


def test_a_running_job_is_cancelled_while_its_service_stops(backend: Runners, tmp_path: Path) -> None:
    with Service(tmp_path / "q.sqlite", backend(1), DiskStore(tmp_path / "store")) as service:
        job = service.submit(of("nap", seconds=3600.0), {"x": 1})
        until(lambda: any(status.computing for status in service.backend.status()))
        service.drain()
        Queue(tmp_path / "q.sqlite").cancel(job)  # another process
        service.stop()
        assert service.queue.get(job).state is State.CANCELLED


def test_what_only_waits_for_a_worker_is_put_back_where_it_stood(backend: Runners, tmp_path: Path) -> None:
    with Service(tmp_path / "q.sqlite", backend(1), DiskStore(tmp_path / "store")) as service:
        graph = of("gate", file=str(tmp_path / "go"))
        first, *others = [service.submit(graph, {"x": n}, user="u") for n in range(3)]
        while not any(status.computing for status in service.backend.status()):
            time.sleep(0.01)
        service.queue.pause("u")
        while any(service.queue.get(job).state is not State.QUEUED for job in others):
            time.sleep(0.01)
        assert service.queue.get(first).state is State.RUNNING
        service.queue.resume("u")
        while any(service.queue.get(job).state is not State.RUNNING for job in others):
            time.sleep(0.01)
        service.drain(put_back=True)
        until(lambda: all(service.queue.get(job).state is State.QUEUED for job in others))
        (tmp_path / "go").touch()
        service.stop()
        assert [service.queue.get(job).state for job in (first, *others)] == [State.DONE, State.QUEUED, State.QUEUED]
        left = service.queue.attempts(others[0])
    assert [(attempt.outcome, attempt.error) for attempt in left] == [
        ("left", "it was paused before it began"), ("left", "the service that ran it was stopped"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"graph": "text_to_image"}, "a job is made of a Graph, not of 'text_to_image'"),
        ({"inputs": [1]}, r"inputs are a dictionary of names and values, not \[1\]"),
        ({"want": "nope"}, "nope"),
        ({"inputs": {"x": "y"}}, "x"),
    ],
)
def test_what_is_no_job_is_told_when_it_is_submitted(tmp_path: Path, given: dict[str, Any], what: str) -> None:
    queue = Queue(tmp_path / "q.sqlite")
    with pytest.raises(WorkflowError, match=what):
        submit(queue, **{"graph": of("double"), "inputs": {"x": 1}, **given})
    assert sum(queue.counts().values()) == 0


@pytest.mark.parametrize("opened", [Service, serving])
def test_who_leaves_by_an_error_waits_for_no_job(opened: Any, tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q.sqlite")
    runner = WorkerRunner([LocalWorker("w", "cuda:99", threads=1, packs=(str(PACK),))], on_warning=lambda _: None)
    jobs: list[int] = []

    def leave() -> None:
        with opened(queue.file, runner, DiskStore(tmp_path / "store")) as service:
            jobs.append(service.submit(of("double"), {"x": 1}))
            until(lambda: queue.get(jobs[0]).state is State.RUNNING)  # no worker will ever take it
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        leave()
    assert queue.get(jobs[0]).state is State.QUEUED


def test_a_job_that_is_claimed_while_its_service_lets_go_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(tmp_path / "q.sqlite", InlineRunner(), DiskStore(tmp_path / "store"))
    service.start()
    lease = service._lease
    assert lease is not None
    claim = lease.claim

    def claim_and_let_go(*job: Any) -> Any:
        claimed = claim(*job)
        service.let_go()
        return claimed

    monkeypatch.setattr(lease, "claim", claim_and_let_go)
    job = service.submit(of("nap", seconds=600.0), {"x": 1})
    until(lambda: bool(service.queue.attempts(job)))
    service.stop()
    assert service.queue.get(job).state is State.QUEUED


def test_a_job_that_is_claimed_has_an_activity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for who asks when the queue's file says already that it runs, and its service goes on with that later."""
    claimed, gate = threading.Event(), threading.Event()
    with Service(tmp_path / "q.sqlite", InlineRunner(), DiskStore(tmp_path / "store")) as service:
        lease = service._lease
        assert lease is not None
        claim = lease.claim

        def claim_late(*job: Any) -> Any:
            found = claim(*job)
            claimed.set()
            assert gate.wait(60)
            return found

        monkeypatch.setattr(lease, "claim", claim_late)
        job = service.submit(of("gate", file=str(tmp_path / "go")), {"x": 1})
        assert claimed.wait(60)
        assert service.queue.get(job).state is State.RUNNING
        assert service.doing()[job]["state"] == "queued"
        gate.set()
        until(lambda: service.busy)
        assert list(service.doing()) == [job]
        (tmp_path / "go").touch()
    assert service.doing() == {}


def test_a_job_is_told_to_be_cancelled_once(tmp_path: Path) -> None:
    with Service(tmp_path / "q.sqlite", InlineRunner()) as service:
        told: list[str] = []
        service.subscribe(lambda event: told.append(event.kind))
        service.queue.pause()
        job = service.submit(of("double"), {"x": 1})
        assert [service.cancel(job) for _ in range(2)] == [State.CANCELLED] * 2
    assert told == ["queued", "cancelled"]


def test_stopping_waits_until_all_is_told(tmp_path: Path) -> None:
    told = []

    def slow(event: JobEvent) -> None:
        if event.kind == "done":
            time.sleep(0.3)
            told.append(event.job)

    with Service(tmp_path / "q.sqlite", InlineRunner()) as service:
        service.subscribe(slow)
        jobs = [service.submit(of("double"), {"x": n}) for n in range(5)]
        service.wait(*jobs, timeout=600)
    assert sorted(told) == jobs


def test_a_listener_may_stop_it(tmp_path: Path) -> None:
    service, stopped = Service(tmp_path / "q.sqlite", InlineRunner()), threading.Event()

    def end(event: JobEvent) -> None:
        if event.kind == "done":
            service.stop()
            stopped.set()

    service.subscribe(end)
    service.start()
    service.submit(of("double"), {"x": 1})
    assert stopped.wait(60)


def test_each_life_of_a_service_has_a_name_of_its_own(tmp_path: Path) -> None:
    """Deaths are counted by it, and in a container each start of a service may have the same process id."""
    names = {Service(tmp_path / "q.sqlite", InlineRunner()).name for _ in range(20)}
    assert len(names) == 20


def test_a_job_is_run_alone_only_after_deaths_of_several_services(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q.sqlite")
    service, jobs = Service(queue, InlineRunner()), [submit(queue, of("double"), {"x": n}) for n in range(2)]
    lease = take(queue, "test")
    assert lease is not None
    for n in range(SUSPECT):
        for job, name in zip(jobs, (f"service {n}", "the same"), strict=True):
            lease.claim(job, name)
            lease.lost(job, n + 1, "gone")
    assert [service._is_suspect(queue.get(job)) for job in jobs] == [True, False]


DEADLY = """
import sys, time
from graphengine.declare import registry
from graphengine.service.workers.inline import InlineRunner
from graphengine.service.jobs.queue import Queue
from graphengine.service.service import Service
registry.load_folder(sys.argv[2])
ahead = float(sys.argv[3])
queue = Queue(sys.argv[1], clock=lambda: time.time() + ahead)
with Service(queue, InlineRunner()) as service:
    service.wait(*service.queue.unfinished())
"""


def test_no_job_pays_for_one_that_ends_the_service_every_time(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q.sqlite")
    bad = submit(queue, of("dies_here"), {"x": 1})
    good = [submit(queue, of("nap", seconds=1.0), {"x": n}) for n in range(3)]
    for n in range(SERVICES + 5):  # the clock of each is an hour ahead: the lease of the dead one before it has ended
        subprocess.run([sys.executable, "-c", DEADLY, str(queue.file), str(PACK), str(n * 3600)], timeout=600)
    assert [queue.get(job).state for job in (bad, *good)] == [State.FAILED, *[State.DONE] * 3]
    assert queue.get(bad).error == f"the service that ran it ended (given up after {SERVICES} services)"
