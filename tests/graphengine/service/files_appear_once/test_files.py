"""Files of a job appear once, wherever its service dies or cannot say that they are there."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graphengine import Graph, load
from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.job import Job, NewJob, State
from graphengine.service.jobs.lease import take
from graphengine.service.jobs.queue import LeaseLost, Queue
from graphengine.service.jobs.submit import submit
from graphengine.service.service import Service
from graphengine.service.workers.inline import InlineRunner
from tests.graphengine.sample import until
from tests.graphengine.service.conftest import PACK
from tests.graphengine.service.test_service import of

SERVE = """
import sys, time
from pathlib import Path
from graphengine.declare import registry
from graphengine.service.workers.inline import InlineRunner
from graphengine.service.service import Service
folder, pack = Path(sys.argv[1]), sys.argv[2]
registry.load_folder(pack)
def hold(data, outputs):
    if not Path(data).exists():
        Path(data).touch()
        time.sleep(600)
    return []
with Service(folder / "q.sqlite", InlineRunner(), seconds=1, finishers={"hold": hold}):
    time.sleep(600)
"""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts services that hold each job once when its files are written and it is not done."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", SERVE, str(tmp_path), str(PACK)]))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def killed_between(tmp_path: Path, serve: Callable[[], subprocess.Popen[bytes]]) -> tuple[Queue, int]:
    """A job whose service was killed after it wrote the job's file and before it said so."""
    queue, mark = Queue(tmp_path / "q.sqlite"), tmp_path / "mark"
    number = submit(queue, of("page"), {"x": 7}, out=tmp_path / "out", finish=("hold", str(mark)))
    first = serve()
    while not mark.exists():
        assert first.poll() is None
        time.sleep(0.02)
    assert names(tmp_path) == ["job_y_00000.txt"]
    assert queue.get(number).state is State.RUNNING
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    return queue, number


def names(tmp_path: Path) -> list[str]:
    return sorted(file.name for file in (tmp_path / "out").iterdir())


def test_a_service_killed_between_writing_and_saying_so_leaves_one_file(
    tmp_path: Path, serve: Callable[[], subprocess.Popen[bytes]]
) -> None:
    queue, number = killed_between(tmp_path, serve)
    serve()
    (job,) = queue.wait(number, timeout=600)
    assert (job.state, job.attempt) == (State.DONE, 2)
    assert names(tmp_path) == ["job_y_00000.txt"]
    assert job.result["files"] == [str(tmp_path / "out" / "job_y_00000.txt")]
    assert (tmp_path / "out" / "job_y_00000.txt").read_text() == "7\n"


def test_what_its_user_has_changed_meanwhile_stays(
    tmp_path: Path, serve: Callable[[], subprocess.Popen[bytes]]
) -> None:
    queue, number = killed_between(tmp_path, serve)
    mine = tmp_path / "out" / "job_y_00000.txt"
    mine.write_text("mine")
    serve()
    (job,) = queue.wait(number, timeout=600)
    assert job.result["files"] == [str(tmp_path / "out" / "job_y_00001.txt")]
    assert mine.read_text() == "mine"


def test_a_job_whose_end_cannot_be_recorded_writes_its_file_once(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q.sqlite", patience=0.05)
    other = sqlite3.connect(queue.file, isolation_level=None, check_same_thread=False)
    told: list[str] = []
    locks = [other]

    def lock(data: object, outputs: object) -> list[str]:
        if locks:
            locks.pop().execute("begin immediate")
        return []

    with Service(queue, InlineRunner(), finishers={"lock": lock}) as service:
        service.subscribe(lambda event: told.append(event.kind))
        number = service.submit(of("page"), {"x": 7}, out=tmp_path / "out", finish=("lock", None))
        while "lost" not in told:
            time.sleep(0.02)
        # Whole, or gone already: the service clears a job whose end it could not record, and begins it again.
        assert set(names(tmp_path)) <= {"job_y_00000.txt"}
        other.execute("commit")
        (job,) = service.wait(number, timeout=600)
    assert (job.state, job.attempt) == (State.DONE, 2)
    assert names(tmp_path) == ["job_y_00000.txt"]


def test_who_lost_the_lease_announces_no_files(tmp_path: Path) -> None:
    now = [1000.0]
    queue = Queue(tmp_path / "q.sqlite", lambda: now[0])
    (number,) = queue.submit(NewJob({}))
    first = take(queue, "first")
    assert first is not None
    first.claim(number, "first")
    first.writes(number, 1, {"a": "1:2"})
    first.writes(number, 1, {"a": "1:2", "b": "3:4"})
    assert queue.attempts(number)[0].files == {"a": "1:2", "b": "3:4"}
    now[0] += 1000
    second = take(queue, "second")
    assert second is not None
    assert second.recover() == [number]
    with pytest.raises(LeaseLost):
        first.writes(number, 1, {"c": "5:6"})
    with pytest.raises(QueueError, match=r"attempt 1 of job \d+ has ended already"):
        second.writes(number, 1, {"c": "5:6"})
    second.claim(number, "second")
    assert [attempt.files for attempt in queue.attempts(number)] == [{"a": "1:2", "b": "3:4"}, {}]


def test_files_of_a_job_stay_that_ends_just_when_its_service_looks_after_it(tmp_path: Path) -> None:
    """The service has read that the job runs, and goes on with that when the job has ended."""
    is_read, ended, looked = threading.Event(), threading.Event(), threading.Event()

    class SlowQueue(Queue):
        def running(self) -> list[Job]:
            found = super().running()
            if is_read.is_set():
                looked.set()
            elif found:
                is_read.set()
                assert ended.wait(60)
            return found

    graph = Graph()
    gate = graph.add("pack.gate", "m", x=graph.input("x", int), file=str(tmp_path / "gate"))
    graph.add("pack.page", "n", x=gate)
    graph.output("y", graph["n"])
    with Service(SlowQueue(tmp_path / "q.sqlite"), InlineRunner()) as service:
        number = service.submit(graph, {"x": 7}, out=tmp_path / "out")
        assert is_read.wait(60)
        (tmp_path / "gate").touch()
        until(lambda: service.queue.get(number).state.ended and not service.busy)
        ended.set()
        assert looked.wait(60)
    assert service.queue.get(number).state is State.DONE
    assert names(tmp_path) == ["job_y_00000.txt"]


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    heard: list[str] = []
    with Service(tmp_path / "q.sqlite", InlineRunner()) as service:
        service.subscribe(lambda event: heard.append(event.kind))
        (job,) = service.wait(service.submit(of("double"), {"x": 1}, out=tmp_path / "file"), timeout=600)
    assert job.error == f"the folder {tmp_path / 'file'} cannot be written: a file is in its place"
    assert job.state is State.FAILED
    assert "node_started" not in heard


def test_relative_paths_of_a_job_start_where_they_did_when_it_was_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In workflow files, in those used as nodes, and in graphs made in Python; wherever the service runs."""
    import graphengine_nodes as std
    from PIL import Image

    for name, size in (("a", 8), ("b", 16), ("c", 24), ("elsewhere", 32)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (size, size)).save(tmp_path / name / "picture.png")
    node = "  i: {node: std.load_image, with: {path: picture.png}}\n"
    (tmp_path / "a" / "flow.yaml").write_text(f"version: 1\nnodes:\n{node}outputs: {{image: i}}\n")
    outer = "version: 1\nnodes:\n  w: {workflow: ../a/flow.yaml}\n" + node + "outputs: {image: w.image, own: i}\n"
    (tmp_path / "b" / "outer.yaml").write_text(outer)
    queue = Queue(tmp_path / "q.sqlite")
    monkeypatch.chdir(tmp_path / "c")
    with Graph() as graph:
        graph.output("image", std.load_image("picture.png"))
    jobs = [submit(queue, one) for one in (load("../a/flow.yaml"), load("../b/outer.yaml"), graph)]
    monkeypatch.chdir(tmp_path / "elsewhere")
    with Service(queue, InlineRunner()) as service:
        assert [job.error for job in service.wait(*jobs, timeout=600)] == [None] * 3
        sizes = [[picture.size[0] for picture in service.outputs(job).values()] for job in jobs]
    assert sizes == [[8], [8, 16], [24]]
