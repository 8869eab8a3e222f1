"""Bytes that were damaged, cut or taken away: computed again, or an error, never an answer; and the disk's budget."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest

from graphengine import FileError, Graph
from graphengine.cache import DiskStore
from graphengine.service.jobs.job import State
from graphengine.service.jobs.queue import Queue
from graphengine.service.jobs.submit import submit
from graphengine.service.service import Service
from graphengine.service.workers.inline import InlineRunner
from graphengine.service.workers.pool import WorkerRunner
from graphengine.values.socket_types import type_called
from tests.graphengine.service.conftest import fake
from tests.graphengine.service.test_service import of

LENGTH = 50_000
"""Of a page whose bytes go through the folder of the store."""
HOW = ("", "one bit", "cut short", "emptied", "gone")


@pytest.fixture(autouse=True)
def _all_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphengine.cache.store.WORTH_WRITING", 0.0)


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    match how:
        case "one bit":
            file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "cut short":
            file.write_bytes(content[: len(content) // 2])
        case "emptied":
            file.write_bytes(b"")
        case "gone":
            file.unlink()


def files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


def test_a_damaged_store_costs_a_job_nothing_but_time(tmp_path: Path) -> None:
    """Every way in which keys and blobs can be wrong, alone and together; nothing is kept in memory."""
    store = tmp_path / "store"
    runner = WorkerRunner(fake(1, str(store)), DiskStore(store))
    with Service(tmp_path / "q.sqlite", runner, DiskStore(store), memory=0) as service:

        def reuse() -> str:
            number = service.submit(of("page", length=LENGTH), {"x": 7})
            (job,) = service.wait(number, timeout=600)
            assert (job.state, job.error) == (State.DONE, None)
            assert service.outputs(number)["y"].text == "7\n" * LENGTH
            return str(job.result["reuse"]["n"])

        assert [reuse(), reuse()] == ["computed", "disk"]
        for keys, blobs in itertools.product(HOW, HOW):
            for part, how in (("keys", keys), ("blobs", blobs)):
                found = files(store / part)
                assert found
                [damage(file, how) for file in found]
            assert reuse() == ("computed" if keys or blobs else "disk"), (keys, blobs)


def test_jobs_end_while_the_store_is_cleared(tmp_path: Path) -> None:
    store, stop = tmp_path / "store", threading.Event()

    def clear() -> None:
        while not stop.is_set():
            DiskStore(store).clear()

    runner = WorkerRunner(fake(2, str(store)), DiskStore(store))
    thread = threading.Thread(target=clear)
    thread.start()
    try:
        with Service(tmp_path / "q.sqlite", runner, DiskStore(store)) as service:
            jobs = [service.submit(of("page", length=LENGTH), {"x": x}) for x in range(30)]
            assert [(job.state, job.error) for job in service.wait(*jobs, timeout=600)] == [(State.DONE, None)] * 30
            assert [service.outputs(job)["y"].text[:3] for job in jobs[:3]] == ["0\n0", "1\n1", "2\n2"]
    finally:
        stop.set()
        thread.join()


def test_workers_keep_the_budget(tmp_path: Path) -> None:
    disk = DiskStore(tmp_path / "store")
    disk.set_budget(2_000_000)
    runner = WorkerRunner(fake(2, str(disk.folder)), DiskStore(disk.folder))
    with Service(tmp_path / "q.sqlite", runner, DiskStore(disk.folder)) as service:
        jobs = [service.submit(of("page", length=length), {"x": 7}) for length in range(40_000, 40_060)]
        assert {job.state for job in service.wait(*jobs, timeout=600)} == {State.DONE}
    assert disk.usage()[1] <= 2_000_000
    assert disk.usage()[0] >= 10


@pytest.mark.parametrize("how", ["one bit", "cut short", "emptied", "gone"])
def test_damaged_bytes_of_a_waiting_job_fail_it_with_a_sentence(tmp_path: Path, how: str) -> None:
    page = type_called("Page")
    assert page is not None
    graph = Graph()
    graph.add("pack.echo", "n", value=graph.input("page", page.type))
    graph.output("y", graph["n"])
    queue = Queue(tmp_path / "q.sqlite")
    number = submit(queue, graph, {"page": page.type("kept")})
    (file,) = files(tmp_path / "q.sqlite-files")
    damage(file, how)
    with Service(queue, InlineRunner()) as service:
        (job,) = service.wait(number, timeout=600)
    assert job.state is State.FAILED
    assert job.error is not None
    assert ("is damaged" in job.error) != (how == "gone")
    assert ("are gone" in job.error) == (how == "gone")


@pytest.mark.parametrize("how", ["one bit", "cut short", "emptied", "gone"])
def test_damaged_bytes_of_a_result_are_an_error(tmp_path: Path, how: str) -> None:
    with Service(tmp_path / "q.sqlite", InlineRunner()) as service:
        number = service.submit(of("page", length=100), {"x": 7})
        service.wait(number, timeout=600)
        assert service.outputs(number)["y"].text == "7\n" * 100
        (file,) = files(tmp_path / "q.sqlite-files")
        damage(file, how)
        with pytest.raises(FileError, match="is gone" if how == "gone" else "is damaged"):
            service.outputs(number)
