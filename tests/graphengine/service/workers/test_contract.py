"""What every kind of worker must do: compute, tell, stop, die, be replaced; and what their runner makes of it.

Each test is of processes and of threads (`graphengine.testing.FakeWorker`), but for those marked `process`: they ask
which process computes, end it, or count what it alone holds.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from graphengine import Cancelled, Graph, NodeError, Result, Store, run
from graphengine.cache import DiskStore
from graphengine.declare import registry
from graphengine.errors import NotStorable
from graphengine.events import Event, Kind
from graphengine.execution.launcher import Cancellation
from graphengine.service import retry
from graphengine.service.workers import pool
from graphengine.service.workers.calls import JobPolicy, WorkerError
from graphengine.service.workers.pool import WorkerRunner
from graphengine.service.workers.process import LocalWorker
from tests.graphengine.service.conftest import LOST, PACK, RAY, Workers, fake, local

Sentences = list[str]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of workers on threads as well."""
    if "workers" in metafunc.fixturenames and not RAY:
        kinds = [local] if metafunc.definition.get_closest_marker("process") else [local, fake]
        metafunc.parametrize("workers", kinds, indirect=True, ids=lambda kind: kind.__name__)


@pytest.fixture
def told() -> Sentences:
    return []


@pytest.fixture
def runners(workers: Workers, told: Sentences, tmp_path: Path) -> Iterator[Callable[..., WorkerRunner]]:
    """Makes runners of workers and stops them."""
    made: list[WorkerRunner] = []

    def make(count: int = 2, shared: bool = True, **options: Any) -> WorkerRunner:
        store = str(tmp_path / "store") if shared else None
        disk = DiskStore(store) if store else None
        runner = WorkerRunner(workers(count, store), disk, **{"on_warning": told.append, **options})
        made.append(runner)
        assert runner.wait_until_ready(600)
        return runner

    yield make
    for runner in made:
        runner.close()


def go(
    runner: WorkerRunner, node: str, store: Store | None = None, listeners: Any = (),
    cancellation: Cancellation | None = None, **inputs: Any,
) -> Result:  # fmt: skip
    """Run one node of `pack/light.py`; other tests may have made nodes of its name."""
    graph = Graph()
    graph.add(f"pack.{node}", "n", **inputs)
    options: dict[str, Any] = {"listeners": listeners, "cancellation": cancellation}
    return run(graph, store=store or Store(), runner=runner.of(JobPolicy()), **options)


def at_progress(cancellation: Cancellation) -> Callable[[Event], None]:
    """A listener that cancels at the first step."""

    def listen(event: Event) -> None:
        if event.kind is Kind.PROGRESS:
            threading.Thread(target=cancellation.cancel).start()

    return listen


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What calls on threads of their own give, or raise."""
    found: list[Any] = [None] * len(calls)

    def one(index: int) -> None:
        try:
            found[index] = calls[index]()
        except Exception as error:
            found[index] = error

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(calls))]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return found


@pytest.mark.process
def test_a_call_is_computed_by_another_process(runners: Callable[..., WorkerRunner]) -> None:
    result = go(runners(1), "whose", x=1)
    assert result["n"] != os.getpid()
    assert result.made["n"]["worker"] == "w0"


def test_progress_comes_in_order_before_the_end(runners: Callable[..., WorkerRunner]) -> None:
    events: list[Event] = []
    go(runners(1), "nap", x=1, seconds=0.1, listeners=[events.append])
    steps = [(event.step, event.total) for event in events if event.kind is Kind.PROGRESS]
    assert steps == [(n, 10) for n in range(1, 11)]
    assert [event.kind for event in events][-2:] == [Kind.NODE_FINISHED, Kind.RUN_FINISHED]


def test_a_worker_knows_whether_anybody_looks(runners: Callable[..., WorkerRunner]) -> None:
    runner = runners(1)
    assert go(runner, "looked_at")["n"] is False
    assert go(runner, "looked_at", listeners=[lambda event: None])["n"] is True


def test_an_error_crosses_with_its_class_and_its_traceback(runners: Callable[..., WorkerRunner]) -> None:
    with pytest.raises(NodeError, match="3 is not to its taste") as caught:
        go(runners(1), "fail", x=3)
    cause = caught.value.__cause__
    assert isinstance(cause, ValueError)
    assert "light.py" in "".join(cause.__notes__)


@pytest.mark.parametrize("shared", [True, False], ids=["a folder", "no folder"])
def test_large_values_come_and_go(runners: Callable[..., WorkerRunner], shared: bool) -> None:
    text = "ä" * 2_000_000
    assert go(runners(1, shared=shared), "echo", value={"text": [text]})["n"] == {"text": [text]}


def test_what_the_shared_folder_does_not_take_goes_through_the_pipe(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    disk = DiskStore(tmp_path / "file" / "store")  # no folder can be made in a file
    runner = WorkerRunner([LocalWorker("w", threads=1, store=str(disk.folder), packs=(str(PACK),))], disk)
    try:
        assert len(go(runner, "page", x=1, length=100_000)["n"].text) == 200_000
        assert len(go(runner, "echo", value="x" * 100_000)["n"]) == 100_000
    finally:
        runner.close()


def test_what_is_lost_in_the_shared_folder_is_sent_again_with_the_messages(
    workers: Workers, tmp_path: Path, told: Sentences
) -> None:
    """Worker and service each look into another folder: what either puts there is gone for the other."""
    runner = WorkerRunner(workers(1, str(tmp_path / "a")), DiskStore(tmp_path / "b"), on_warning=told.append)
    try:
        assert len(go(runner, "page", x=1, length=100_000)["n"].text) == 200_000
        graph = Graph()
        graph.add("pack.page", "p", x=2, length=50_000)
        graph.add("pack.echo", "n", value=graph["p"])
        result = run(graph, store=Store(), runner=runner.of(JobPolicy()))
        assert len(result["n"].text) == 100_000
        assert told == []
        assert runner.status()[0].deaths == 0
        assert runner.waiting() == 0
    finally:
        runner.close()


def test_two_workers_compute_at_the_same_time(runners: Callable[..., WorkerRunner]) -> None:
    runner = runners(2)
    events: list[Event] = []
    results = at_once(*[lambda n=n: go(runner, "nap", x=n, seconds=2.0, listeners=[events.append]) for n in range(2)])
    assert {result.made["n"]["worker"] for result in results} == {"w0", "w1"}
    steps = [event.run for event in events if event.kind is Kind.PROGRESS]
    one, other = set(steps)
    assert steps.index(one) < len(steps) - 1 - steps[::-1].index(other)
    assert steps.index(other) < len(steps) - 1 - steps[::-1].index(one)


def test_branches_of_one_graph_are_spread(runners: Callable[..., WorkerRunner]) -> None:
    runner, graph = runners(2), Graph()
    for n in range(4):
        graph.add("nap", f"n{n}", x=n, seconds=0.3)
    result = run(graph, store=Store(), runner=runner.of(JobPolicy()))
    assert dict(result) == {f"n{n}": n for n in range(4)}
    assert {made["worker"] for made in result.made.values()} == {"w0", "w1"}


def test_equal_calls_in_flight_are_computed_once(runners: Callable[..., WorkerRunner]) -> None:
    runner, store = runners(2), Store()
    results = at_once(*[lambda: go(runner, "whose", store, x=1) for _ in range(6)])
    assert len({result["n"] for result in results}) == 1
    assert sum(status.landed for status in runner.status()) == 1


def test_calls_of_many_runs_are_joined_and_say_so(runners: Callable[..., WorkerRunner]) -> None:
    runner = runners(1)
    results = at_once(*[lambda n=n: go(runner, "together", x=n) for n in range(20)])
    assert [result["n"] for result in results] == list(range(20))
    sizes = [result.made["n"].get("batch", 1) for result in results]
    assert max(sizes) >= 8
    assert all(result.made["n"]["together"] == size for result, size in zip(results, sizes, strict=True))


def test_a_running_call_is_cancelled(runners: Callable[..., WorkerRunner]) -> None:
    runner, cancellation = runners(1), Cancellation()
    with pytest.raises(Cancelled):
        go(runner, "nap", x=1, seconds=3600.0, cancellation=cancellation, listeners=[at_progress(cancellation)])
    assert go(runner, "double", x=4)["n"] == 8  # the worker is free
    assert runner.status()[0].deaths == 0


def test_a_member_of_a_batch_is_cancelled_without_harm_to_the_others(runners: Callable[..., WorkerRunner]) -> None:
    runner, blocked, cancellation = runners(1), Cancellation(), Cancellation()
    blocker = threading.Thread(
        target=at_once, args=[lambda: go(runner, "nap", x=1, seconds=3600.0, cancellation=blocked)]
    )
    blocker.start()
    while runner.status()[0].state != "computing":
        time.sleep(0.01)

    def unblock() -> None:
        while runner.waiting() < 4:
            time.sleep(0.01)
        blocked.cancel()

    alone = {"cancellation": cancellation, "listeners": [at_progress(cancellation)]}
    one, *others, _ = at_once(
        lambda: go(runner, "together", x=100, seconds=5.0, **alone),
        *[lambda n=n: go(runner, "together", x=n, seconds=5.0) for n in range(3)],
        unblock,
    )
    blocker.join()
    assert isinstance(one, Cancelled)
    assert [result["n"] for result in others] == [0, 1, 2]
    assert {result.made["n"]["batch"] for result in others} == {4}


@pytest.mark.process
def test_a_killed_worker_is_replaced_and_its_call_computed_again(
    runners: Callable[..., WorkerRunner], told: Sentences, tmp_path: Path
) -> None:
    runner = runners(1)
    assert go(runner, "deadly_once", x=5, mark=str(tmp_path / "mark"))["n"] == 5
    (sentence,) = told
    assert sentence.startswith("worker w0 was lost while it computed pack.deadly_once: ")
    assert sentence.endswith(("it was ended by SIGKILL", "exits with a connection error code 2. End of file"))
    assert runner.status()[0].deaths == 1


def test_a_death_is_seen_though_a_forked_process_holds_the_pipe_and_ends_that_too(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    runner = WorkerRunner([LocalWorker("w", threads=1, packs=(str(PACK),))])
    try:
        assert go(runner, "fork_and_die", x=5, mark=str(mark))["n"] == 5
        assert runner.status()[0].deaths == 1
        forked, end = int(mark.read_text()), time.monotonic() + 300
        while psutil.pid_exists(forked) and psutil.Process(forked).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end, "it goes on"
            time.sleep(0.05)
    finally:
        runner.close()


def test_a_worker_imports_nothing_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('not the one that was meant')")
    monkeypatch.chdir(tmp_path)
    runner = WorkerRunner([LocalWorker("w", threads=1, packs=(str(PACK),))])
    try:
        assert go(runner, "double", x=4)["n"] == 8
    finally:
        runner.close()


def cancelled_after(seconds: float) -> Cancellation:
    """A cancellation for what would never end."""
    found = Cancellation()
    timer = threading.Timer(seconds, found.cancel)
    timer.daemon = True
    timer.start()
    return found


@pytest.fixture
def changing(tmp_path: Path) -> Iterator[Path]:
    """The file of a pack that is loaded here; tests change it."""
    folder = tmp_path / "changing"
    folder.mkdir()
    (folder / "changing.py").write_text("from graphengine import node\n@node\ndef x() -> int:\n    return 1\n")
    assert registry.load_folder(folder) == []
    yield folder / "changing.py"
    registry._registry.folders.pop(folder.stem)  # no other test's workers would have the same code of it
    registry._forget(f"{registry.FOLDERS}.{folder.stem}")


def other_code(file: Path) -> str:
    """Change the code of a pack; what is then said of a worker that reads it."""
    file.write_text(file.read_text().replace("return 1", "return 2"))
    return (
        f"its code of changing ({file}) is not that of this process; it was changed since this process read it: "
        "start the service, or the program, again"
    )


def test_a_worker_with_other_code_than_the_service_is_not_used(changing: Path, told: Sentences) -> None:
    worker = LocalWorker("w", threads=1, packs=(str(PACK), str(changing.parent)))
    runner = WorkerRunner([worker], on_warning=told.append)
    try:
        assert runner.wait_until_ready(60)
        why = other_code(changing)
        worker.kill()
        wait_for(lambda: len(told) == 2)
        assert told[1] == f"worker w was lost while it computed nothing: {why}"
        assert runner.status()[0].state != "ready"
    finally:
        runner.close()


@pytest.mark.parametrize("exact", [False, True])
def test_a_run_ends_whose_workers_all_have_other_code(
    changing: Path, told: Sentences, monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    monkeypatch.setattr(retry, "UNUSABLE", 0.2)
    why = other_code(changing)
    worker = LocalWorker("w", threads=1, packs=(str(PACK), str(changing.parent)))
    runner = WorkerRunner([worker], on_warning=told.append)
    graph, cancellation = Graph(), cancelled_after(60)
    graph.add("pack.nap", "n", x=1, seconds=0.0)
    claims = JobPolicy(exact=exact, is_cancelled=lambda: cancellation.cancelled)
    try:
        with pytest.raises(NodeError if not exact else WorkerError) as caught:
            run(graph, store=Store(), runner=runner.of(claims), cancellation=cancellation)
        assert f"no worker can be used: w: {why}" in str(caught.value)
    finally:
        runner.close()


def test_a_run_ends_whose_workers_all_end_before_they_are_ready(
    tmp_path: Path, told: Sentences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "UNUSABLE", 0.2)
    (tmp_path / "leaving.py").write_text("import os\nos._exit(7)\n")
    runner = WorkerRunner([LocalWorker("w", threads=1, packs=(str(PACK), str(tmp_path)))], on_warning=told.append)
    try:
        with pytest.raises(NodeError, match="no worker can be used: w: it ended with exit code 7"):
            go(runner, "double", x=1, cancellation=cancelled_after(60))
    finally:
        runner.close()


def test_a_job_whose_workers_all_have_other_code_waits_and_is_listed_with_why(
    changing: Path, tmp_path: Path, told: Sentences, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    from graphengine.cli import job_rows
    from graphengine.service.jobs.job import State
    from graphengine.service.service import Service

    monkeypatch.setattr(retry, "UNUSABLE", 0.2)
    why = other_code(changing)
    worker = LocalWorker("w", threads=1, packs=(str(PACK), str(changing.parent)))
    runner = WorkerRunner([worker], on_warning=told.append)
    graph = Graph()
    graph.add("pack.nap", "n", x=1, seconds=0.0)
    with Service(tmp_path / "q.sqlite", runner) as service:
        job = service.submit(graph)
        wait_for(lambda: (service.doing().get(job) or {}).get("lacks") is not None)
        doing, found = service.doing(), service.queue.get(job)
        assert (found.state, job_rows.state_of(found, doing)) == (State.RUNNING, "queued")
        console = Console(width=800, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
        console.print(job_rows.table([found], doing))
        assert f"waits: no worker can be used: w: {why}" in console.export_text()
        service.cancel(job)
        assert service.wait(job, timeout=600)[0].state is State.CANCELLED


def test_a_worker_without_its_device_takes_no_call(tmp_path: Path) -> None:
    told: list[str] = []
    workers = [LocalWorker(device, device, threads=1, packs=(str(PACK),)) for device in ("cuda:99", "cpu")]
    runner = WorkerRunner(workers, on_warning=told.append)
    try:
        while not told:
            time.sleep(0.05)
        for n in range(3):
            assert go(runner, "where", x=n)["n"] == "cpu"
        (sentence,) = told
        start = "worker cuda:99 was lost while it computed nothing: there is no cuda:99 here, only "
        assert sentence.startswith(start)
    finally:
        runner.close()


@pytest.mark.process
def test_what_kills_every_worker_fails_and_the_others_go_on(
    runners: Callable[..., WorkerRunner], told: Sentences
) -> None:
    runner = runners(2)
    poisoned, *others = at_once(
        lambda: go(runner, "poison", x=1), *[lambda n=n: go(runner, "nap", x=n, seconds=0.2) for n in range(8)]
    )
    assert isinstance(poisoned, NodeError)
    assert isinstance(poisoned.__cause__, WorkerError)
    assert f"{LOST} workers were lost while they computed pack.poison" in str(poisoned)
    assert [result["n"] for result in others] == list(range(8))
    assert len(told) == LOST


def test_a_node_that_hangs_is_ended(runners: Callable[..., WorkerRunner]) -> None:
    runner = runners(1, timeout=2.0)
    with pytest.raises(NodeError, match="gave no sign for 2 s and was ended"):
        go(runner, "hang", x=1)
    assert go(runner, "double", x=4)["n"] == 8


@pytest.mark.process
def test_a_worker_does_not_wait_for_one_that_takes_longer_than_was_expected(
    runners: Callable[..., WorkerRunner],
) -> None:
    def read(seconds: float) -> None:
        graph = Graph()
        graph.add("pack.read", "r", book=graph.add("pack.book", "b", title="a"), seconds=seconds)
        run(graph, store=Store(), runner=runner.of(JobPolicy()), cancellation=cancellation if seconds else None)

    def read_long() -> None:
        with pytest.raises(Cancelled):
            read(3600.0)

    runner, cancellation = runners(2), Cancellation()
    read(0.0)  # one worker holds it now, and took no time
    runner.durations.load = 0.3
    long = threading.Thread(target=read_long)
    long.start()
    wait_for(lambda: any(status.computing for status in runner.status()))
    read(0.0)
    assert long.is_alive()
    assert sum(status.loads for status in runner.status()) == 2
    cancellation.cancel()
    long.join()


def test_what_is_left_of_a_job_is_done_before_a_later_job_s_long_call(
    runners: Callable[..., WorkerRunner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "FOLLOWERS", 2.0)  # on a machine that is slow, the calls that follow come late
    runner, done = runners(1), list[str]()
    go(runner, "nap", x=0, seconds=1.2)
    go(runner, "double", x=0)  # how long each takes is known

    def heard(job: int, event: Event) -> None:
        if event.kind is Kind.NODE_FINISHED:
            done.append(f"{event.node} {job}")

    def work(job: int) -> None:
        graph = Graph()
        graph.add("pack.double", "short", x=graph.add("pack.nap", "long", x=job, seconds=1.2))
        run(graph, store=Store(), runner=runner.of(JobPolicy()), listeners=[functools.partial(heard, job)])

    first = threading.Thread(target=lambda: go(runner, "gate", x=0, file=str(tmp_path / "go")))
    first.start()
    wait_for(lambda: bool(runner.status()[0].computing))
    threads = [threading.Thread(target=work, args=(job,)) for job in range(3)]
    for waiting, thread in enumerate(threads, 1):
        thread.start()
        wait_for(lambda waiting=waiting: runner.waiting() == waiting)
    (tmp_path / "go").touch()
    for thread in (first, *threads):
        thread.join()
    assert done == [f"{call} {job}" for job in range(3) for call in ("long", "short")]


def test_a_lack_of_memory_makes_batches_smaller(runners: Callable[..., WorkerRunner]) -> None:
    runner = runners(1)
    graph, release = Graph(), Cancellation()
    graph.add("nap", "n", x=1, seconds=100.0)  # occupies the worker until all the others wait for it

    def nap() -> Result:
        return run(graph, store=Store(), runner=runner.of(JobPolicy()), cancellation=release)

    blocker = threading.Thread(target=at_once, args=(nap,))
    blocker.start()
    wait_for(lambda: bool(runner.status()[0].computing))
    _, *results = at_once(
        lambda: (wait_for(lambda: runner.waiting() == 9), release.cancel()),
        *[lambda n=n: go(runner, "greedy", x=n) for n in range(1, 10)],
    )
    blocker.join()
    assert [result["n"] for result in results] == [10 * n for n in range(1, 10)]
    assert max(result.made["n"]["together"] for result in results) == 2


@pytest.mark.process
@pytest.mark.parametrize("eaten", [0, 1, 2])
def test_a_call_that_lacks_memory_is_computed_with_less_of_it(runners: Callable[..., WorkerRunner], eaten: int) -> None:
    runner = runners(1)
    found, freed, process = go(runner, "hungry", eaten=eaten)["n"]
    assert (found, freed) == (0, ["cpu"])
    assert process != os.getpid()
    (status,) = runner.status()
    assert (status.landed, status.deaths) == (1, 0)


def test_what_needs_more_in_every_way_fails_with_advice(runners: Callable[..., WorkerRunner]) -> None:
    runner = runners(2)
    with pytest.raises(NodeError, match=r"needs more memory than any worker has \(no room for \d\); make smaller"):
        go(runner, "hungry", eaten=3)  # what the last pack that is loaded gives in place of 3 is said
    assert [status.deaths for status in runner.status()] == [0, 0]


def test_what_fits_no_worker_fails_with_advice(runners: Callable[..., WorkerRunner]) -> None:
    runner = runners(2)
    with pytest.raises(NodeError, match=r"needs more memory than any worker has .*; make smaller pictures"):
        go(runner, "greedy", x=101)
    assert [status.deaths for status in runner.status()] == [0, 0]


def test_a_worker_that_cannot_be_started_is_told_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, told: Sentences
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/no/such/python")
        runner = WorkerRunner(local(1, None), on_warning=told.append)
        while runner.status()[0].deaths < 2:  # by the keeper, too
            time.sleep(0.02)
    try:
        assert go(runner, "double", x=4)["n"] == 8
    finally:
        runner.close()
    lacking = "worker w0 was lost while it computed nothing: it cannot be started: No such file or directory"
    assert told == [lacking]


class Unknown:
    """A class that no pack has registered."""


def test_what_cannot_leave_a_process_is_told_with_what_to_do(runners: Callable[..., WorkerRunner]) -> None:
    runner = runners(1)
    dataclass = "has no form in .*: make it a dataclass .*"
    advice = rf'Unknown {dataclass}register_type\(SocketType\(Unknown, "Unknown", encode=.*, decode=.*\)\)'
    with pytest.raises(NodeError, match=rf"its input value cannot go to a worker; a value of type \S*{advice}"):
        go(runner, "echo", value=[Unknown()])
    told = rf"what it gave cannot leave its worker; a value of type \S*{advice}"
    with pytest.raises(NodeError, match=told) as caught:
        go(runner, "unknown")
    assert isinstance(caught.value.__cause__, NotStorable)
    assert go(runner, "double", x=4)["n"] == 8
