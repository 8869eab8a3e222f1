"""How workers end, and whom that is counted against."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphengine import Graph, NodeError, Store, run
from graphengine.execution.launcher import Cancellation
from graphengine.service.retry import KILLS_PER_CRASH, Fault
from graphengine.service.workers.calls import JobPolicy, WorkerError
from graphengine.service.workers.deaths import End, MemoryKills, end_of_process
from graphengine.service.workers.pool import WorkerRunner
from tests.graphengine.service.conftest import RAY, local
from tests.graphengine.service.workers.test_contract import at_once, wait_for

OUT_OF_MEMORY = "the machine, or its container, was out of memory"

pytestmark = pytest.mark.skipif(RAY, reason="Ray does not tell how an actor ended")


@pytest.mark.parametrize(
    ("code", "memory_kills", "end"),
    [
        (0, 0, End("it ended with exit code 0", Fault.CALL)),
        (7, 0, End("it ended with exit code 7", Fault.CALL)),
        (-signal.SIGSEGV, 0, End("it was ended by SIGSEGV", Fault.CALL)),
        (-signal.SIGFPE, 0, End("it was ended by SIGFPE", Fault.CALL)),
        (-signal.SIGTERM, 0, End("it was ended by SIGTERM", Fault.UNKNOWN)),
        (-signal.SIGTERM, 1, End("it was ended by SIGTERM", Fault.UNKNOWN)),
        (-signal.SIGKILL, 0, End("it was ended by SIGKILL", Fault.UNKNOWN)),
        (-signal.SIGKILL, 2, End(f"it was ended by SIGKILL: {OUT_OF_MEMORY}", Fault.CALL)),
        (-200, 0, End("it was ended by signal 200", Fault.CALL)),
    ],
)  # fmt: skip
def test_an_end_says_why_and_whose_fault_it_is(code: int, memory_kills: int, end: End) -> None:
    assert end_of_process(code, memory_kills) == end


@pytest.mark.parametrize(
    ("groups", "file"),
    [
        ("0::/a/b", "sys/fs/cgroup/a/b/memory.events"),
        ("0::/outside/of/the/container", "sys/fs/cgroup/memory.events"),
        ("9:cpu,cpuacct:/x\n4:memory:/a\n0::/", "sys/fs/cgroup/memory/a/memory.oom_control"),
        ("4:memory:/outside", "sys/fs/cgroup/memory/memory.oom_control"),
        ("0::/", "proc/vmstat"),
        (None, "proc/vmstat"),
    ],
)
def test_the_kernel_s_count_is_found_where_it_stands(tmp_path: Path, groups: str | None, file: str) -> None:
    if groups is not None:
        (tmp_path / "proc" / "3").mkdir(parents=True)
        (tmp_path / "proc" / "3" / "cgroup").write_text(groups)
    place = tmp_path / file
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("low 1\noom_kill_disable 5\noom_kill 2\n")
    kills = MemoryKills(3, tmp_path)
    assert kills.count() == 2
    place.write_text("low 1\noom_kill 4\n")
    assert kills.count() == 4
    place.unlink()
    assert kills.count() == 0
    assert MemoryKills(3, tmp_path).count() == 0, "where nothing counts"


@pytest.fixture
def runner() -> Iterator[WorkerRunner]:
    found = WorkerRunner(local(1, None), on_warning=lambda sentence: None)
    assert found.wait_until_ready(60)
    yield found
    found.close()


def deadly(runner: WorkerRunner, attempts: int, **inputs: object) -> int:
    """Compute the node of that name for a job of so many attempts."""
    graph = Graph()
    graph.add("pack.deadly", "n", **inputs)
    return int(run(graph, store=Store(), runner=runner.of(JobPolicy(node_attempts=attempts)))["n"])


def test_a_call_whose_processes_end_themselves_fails_after_its_attempts(runner: WorkerRunner, tmp_path: Path) -> None:
    for how, why in (
        (signal.SIGSEGV, "was ended by SIGSEGV"),
        (signal.SIGABRT, "was ended by SIGABRT"),
        (signal.SIGBUS, "was ended by SIGBUS"),
        (-3, "ended with exit code 3"),
    ):
        (mark := tmp_path / str(how)).touch()
        with pytest.raises(NodeError, match=f"2 workers were lost while they computed pack.deadly: it {why}") as caught:
            deadly(runner, 2, x=1, how=int(how), mark=str(mark))
        assert isinstance(caught.value.__cause__, WorkerError)
        assert mark.read_text() == "1\n1\n"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_call_outlives_more_kills_than_deaths(runner: WorkerRunner, tmp_path: Path, how: int) -> None:
    (mark := tmp_path / "mark").touch()
    assert deadly(runner, 1, x=5, how=int(how), mark=str(mark), deaths=KILLS_PER_CRASH - 1) == 5
    assert len(mark.read_text().splitlines()) == KILLS_PER_CRASH - 1


def test_kills_that_nobody_owes_have_a_limit_too(runner: WorkerRunner) -> None:
    many = f"{KILLS_PER_CRASH} workers were lost while they computed"
    with pytest.raises(NodeError, match=f"{many} .*: it was ended by SIGKILL"):
        deadly(runner, 1, x=5, how=int(signal.SIGKILL))


@pytest.mark.parametrize("how", [-3, signal.SIGKILL])
def test_of_a_batch_only_the_call_that_dies_alone_is_counted(runner: WorkerRunner, tmp_path: Path, how: int) -> None:
    (mark := tmp_path / "mark").touch()
    graph, release = Graph(), Cancellation()
    graph.add("pack.nap", "n", x=1, seconds=600.0)  # occupies the worker until all the others wait for it

    def nap() -> None:
        run(graph, store=Store(), runner=runner.of(JobPolicy()), cancellation=release)

    blocker = threading.Thread(target=at_once, args=(nap,))
    blocker.start()
    wait_for(lambda: bool(runner.status()[0].computing))
    _, *results = at_once(
        lambda: (wait_for(lambda: runner.waiting() == 4), release.cancel()),
        *[lambda n=n: deadly(runner, 1, x=n, how=int(how), mark=str(mark), worst=3) for n in range(1, 5)],
    )
    blocker.join()
    assert [results[0], results[1], results[3]] == [1, 2, 4]
    assert isinstance(results[2], NodeError)
    first, *others = mark.read_text().splitlines()
    assert (first, others) == ("4", ["1"] * (KILLS_PER_CRASH if how == signal.SIGKILL else 1))
