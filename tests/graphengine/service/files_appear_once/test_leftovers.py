"""A job that is not done delivers nothing, a run only whole outputs; what killed processes left is swept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from graphengine import Graph, Store, run
from graphengine.cache import DiskStore, Entry
from graphengine.declare.registry import find
from graphengine.errors import FileError
from graphengine.results.outputs import HIDDEN, OutputWriter, remove_marked, write_outputs
from graphengine.service.cleaning import clean
from graphengine.service.jobs.job import Job, State
from graphengine.service.jobs.lease import take
from graphengine.service.jobs.queue import Queue
from graphengine.service.jobs.submit import files_of, submit, submit_all
from graphengine.service.service import Service
from graphengine.service.workers.inline import InlineRunner
from graphengine.system.staging import PREFIX, hidden_folder, hold_file, sweep
from tests.graphengine.service.files_appear_once.test_files import killed_between, names, serve
from tests.graphengine.service.test_service import of

__all__ = ["serve"]  # a fixture


def page(text: str) -> Any:
    return type(find("pack.page").fn(0))(text)  # type: ignore[union-attr]


def torn() -> Graph:
    """A graph whose first output is written, and whose second cannot be."""
    graph = Graph()
    x = graph.input("x", int)
    for name, kind in (("a", "page"), ("b", "torn")):
        graph.add(f"pack.{kind}", name, x=x)
        graph.output(name, graph[name])
    return graph


def save(value: Any, path: Path, text: Mapping[str, str]) -> list[Path]:
    file = path.with_name(f"{path.name}.txt")
    file.write_text(value)
    return [file]


def test_a_failed_job_delivers_nothing(tmp_path: Path) -> None:
    with Service(tmp_path / "q.sqlite", InlineRunner()) as service:
        (job,) = service.wait(service.submit(torn(), {"x": 7}, out=tmp_path / "out"), timeout=600)
    assert (job.state, str(job.error).endswith("No space left on device")) == (State.FAILED, True)
    assert names(tmp_path) == []


def test_a_job_that_its_finisher_fails_delivers_nothing(tmp_path: Path) -> None:
    def refuse(data: object, outputs: object) -> list[str]:
        assert names(tmp_path) == ["job_y_00000.txt"]
        raise ValueError("not to its taste")

    with Service(tmp_path / "q.sqlite", InlineRunner(), finishers={"refuse": refuse}) as service:
        number = service.submit(of("page"), {"x": 7}, out=tmp_path / "out", finish=("refuse", None))
        (job,) = service.wait(number, timeout=600)
    assert (job.state, job.error) == (State.FAILED, "ValueError: not to its taste")
    assert names(tmp_path) == []


def test_a_run_that_cannot_write_an_output_leaves_the_whole_ones(tmp_path: Path) -> None:
    graph = torn()
    result = run(graph, inputs={"x": 7}, store=Store())
    with pytest.raises(FileError, match=r"job_b cannot be written: No space left on device"):
        write_outputs(graph, {"x": 7}, result, OutputWriter(tmp_path / "out", "job"))
    assert names(tmp_path) == ["job_a_00000.txt"]


def test_a_list_of_which_an_item_cannot_be_written_is_not_written(tmp_path: Path) -> None:
    tear = find("pack.torn").fn(1)  # type: ignore[union-attr]
    writer = OutputWriter(tmp_path / "out", "job")
    with pytest.raises(FileError):
        writer.write("a", [page("1"), page("2"), tear], lambda *_: {})
    assert (names(tmp_path), writer.files) == ([], [])


def test_a_job_cancelled_while_its_service_is_dead_leaves_no_file(
    tmp_path: Path, serve: Callable[[], subprocess.Popen[bytes]]
) -> None:
    queue, number = killed_between(tmp_path, serve)
    queue.cancel(number)
    serve()
    (job,) = queue.wait(number, timeout=600)
    assert job.state is State.CANCELLED
    assert names(tmp_path) == []


def test_who_was_taken_for_dead_lets_no_file_appear_and_removes_none_of_others(tmp_path: Path) -> None:
    """It slept between saying which files come and letting them appear; meanwhile the job was done by another."""
    other = OutputWriter(tmp_path / "out", "job")

    def sleep(marks: Mapping[str, str]) -> None:
        assert HIDDEN in marks.values()
        remove_marked(marks)  # as whoever takes over does first
        other.save("a", "of the other", save, {})

    stale = OutputWriter(tmp_path / "out", "job", sleep)
    with pytest.raises(FileError, match=r"job_a cannot be written: No such file"):
        stale.save("a", "of the stale", save, {})
    assert names(tmp_path) == ["job_a_00000.txt"]
    assert (tmp_path / "out" / "job_a_00000.txt").read_text() == "of the other"


def test_who_was_taken_for_dead_after_its_file_appeared_removes_none_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphengine.results import outputs

    coming: dict[str, str] = {}
    place, other = outputs.place, OutputWriter(tmp_path / "out", "job")

    def sleep(file: Path, final: Path) -> None:
        if final.suffix == ".second" and coming:
            remove_marked(coming)
            coming.clear()
            other.save("a", "of the other", save, {})
        place(file, final)

    def both(value: Any, path: Path, text: Mapping[str, str]) -> list[Path]:
        second = path.with_name("value.second")
        second.write_text("second")
        return [*save(value, path, text), second]

    monkeypatch.setattr(outputs, "place", sleep)
    with pytest.raises(FileError):
        OutputWriter(tmp_path / "out", "job", coming.update).save("a", "of the stale", both, {})
    assert names(tmp_path) == ["job_a_00000.txt"]
    assert (tmp_path / "out" / "job_a_00000.txt").read_text() == "of the other"


HELD = """
import sys, time
from pathlib import Path
from graphengine.service.jobs.queue import Queue
from graphengine.service.jobs.submit import files_of
from graphengine.system.staging import hidden_folder
files = files_of(Queue(sys.argv[1]))
name = files.new()
files.put(name, "ab", b"of a submitter")
with hidden_folder(Path(sys.argv[2])) as hidden:
    (hidden / "half").write_text("ha")
    print(files.folder / name, hidden, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_is_swept_and_what_lives_stays(tmp_path: Path) -> None:
    queue, out = Queue(tmp_path / "q.sqlite"), tmp_path / "out"
    graph = Graph()
    graph.add("pack.echo", "n", value=graph.input("value", Any))
    graph.output("a", graph["n"])
    number = submit(queue, graph, {"value": page("of a job")}, out=out)
    out.mkdir()
    (out / "mine.txt").touch()
    (out / ".mine").mkdir()
    command = [sys.executable, "-c", HELD, str(queue.file), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = {Path(text) for text in process.stdout.readline().split()}
        assert len(left) == 2
        try:
            assert list(clean(queue)) == []
            assert all(path.is_dir() for path in left)
        finally:
            process.send_signal(signal.SIGKILL)
    with hidden_folder(out) as mine:
        folder = files_of(queue).folder / queue.body(number)["files"]
        (folder / ".half").write_text("ha")
        assert {path for path, _ in clean(queue)} == {*left, folder / ".half"}
        assert mine.is_dir()
        assert list(clean(queue)) == []
    assert sorted(file.name for file in out.iterdir()) == [".mine", "mine.txt"]
    assert [file.name for file in files_of(queue).folder.iterdir()] == [folder.name]
    assert len(list(folder.iterdir())) == 1


def test_what_a_job_writes_that_begins_while_leftovers_are_removed_stays(tmp_path: Path) -> None:
    class Begins(Queue):
        """A queue whose job begins, and writes, right after it was asked which jobs run."""

        def running(self) -> list[Job]:
            found = super().running()
            lease = take(self, "service", 15)
            assert lease is not None
            assert lease.claim(number, "service") is not None
            (folder / ".live").touch()
            return found

    queue = Begins(tmp_path / "q.sqlite")
    graph = Graph()
    graph.add("pack.echo", "n", value=graph.input("value", Any))
    graph.output("a", graph["n"])
    number = submit(queue, graph, {"value": page("of a job")})
    folder = files_of(queue).folder / queue.body(number)["files"]
    (folder / ".half").touch()
    assert [path for path, _ in clean(queue)] == [folder / ".half"]
    assert sorted(file.name for file in folder.glob(".*")) == [".live"]


def test_a_service_sweeps_when_it_takes_over(tmp_path: Path) -> None:
    queue, out = Queue(tmp_path / "q.sqlite"), tmp_path / "out"
    submit(queue, of("page"), {"x": 7}, out=out)
    left = [out / f"{PREFIX}left", files_of(queue).folder / "0123abc"]
    for folder in left:
        folder.mkdir(parents=True)
        (folder / "half").touch()
    end = time.monotonic() + 60
    queue.pause()
    with Service(queue, InlineRunner()):
        while any(folder.exists() for folder in left) and time.monotonic() < end:
            time.sleep(0.01)
    assert not any(folder.exists() for folder in left)


def test_who_writes_into_a_folder_sweeps_it(tmp_path: Path) -> None:
    left = tmp_path / "out" / f"{PREFIX}left"
    left.mkdir(parents=True)
    OutputWriter(tmp_path / "out", "job").save("a", "text", save, {})
    assert names(tmp_path) == ["job_a_00000.txt"]


def test_a_file_system_without_locks_loses_only_what_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphengine.system import staging

    def refuse(*_: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(staging.fcntl, "flock", refuse)
    fresh, old = tmp_path / f"{PREFIX}fresh", tmp_path / f"{PREFIX}old"
    for folder in (fresh, old):
        folder.mkdir()
    os.utime(old, (0, 0))
    assert list(sweep(tmp_path)) == [old]
    assert fresh.is_dir()
    with hidden_folder(tmp_path) as hidden:
        assert hidden.is_dir()


def test_bytes_of_a_job_that_is_not_taken_are_removed(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q.sqlite")
    queue.set_limit(0)
    graph = Graph()
    graph.add("pack.echo", "n", value=graph.input("value", Any))
    with pytest.raises(Exception, match="over the limit of 0"):
        submit_all(queue, [{"graph": graph, "inputs": {"value": page(text)}} for text in ("a", "b")])
    assert list(files_of(queue).folder.iterdir()) == []


def test_half_written_values_of_the_store_are_swept_unless_they_are_being_written(tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "store")
    assert store.put(b"k" * 20, Entry(page("text"), {}, 1.0))
    folder = next((tmp_path / "store" / "blobs").iterdir())
    left, live = folder / ".left.tmp", folder / ".live.tmp"
    left.write_text("ha")
    with open(live, "w") as writing:
        hold_file(writing.fileno())
        assert [path for path, _ in clean(Queue(tmp_path / "q.sqlite"), store)] == [left]
        store.usage()
        assert live.exists()
    assert store.usage()[0] == 1
    assert [file.name for file in folder.glob(".*")] == []
