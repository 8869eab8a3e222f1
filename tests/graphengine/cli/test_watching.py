"""Following a job: all its steps, and its end last, however short it is, and whatever becomes of the service."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from graphengine import DiskStore, Graph, __version__
from graphengine.cli import watching
from graphengine.cli.watching import Following, idle
from graphengine.service.jobs.job import NewJob
from graphengine.service.jobs.queue import Queue
from graphengine.service.service import Service
from graphengine.service.socket_server import SocketServer
from graphengine.service.start import serving
from graphengine.service.workers.inline import InlineRunner
from graphengine.system.channel import Listener
from tests.graphengine.service.conftest import light_nodes as light_nodes


def test_a_short_job_is_followed_whole(tmp_path: Path) -> None:
    graph = Graph()
    graph.add("nap", "n", x=graph.input("x", int), seconds=0.1)
    graph.output("y", graph["n"])
    with serving(tmp_path / "queue.sqlite", InlineRunner(), DiskStore(tmp_path / "store")) as service:
        queue = Queue(tmp_path / "queue.sqlite")
        for x in range(10):
            following = Following(queue)
            job = service.submit(graph, {"x": x})
            kinds = [line["kind"] for line in following.lines(job)]
            assert kinds[0] == "queued"
            assert kinds[-1] == "done"
            assert kinds.count("progress") == 10
            assert kinds.count("node_finished") == 1
            assert [line["kind"] for line in Following(queue, job).lines()] == ["queued", "running", "done"]
        later = service.submit(graph, {"x": 10})
        assert [line["kind"] for line in Following(queue, later).lines()][-1] == "done"


def test_a_service_that_cannot_renew_its_lease_is_there_all_the_same(tmp_path: Path) -> None:
    graph = Graph()
    graph.add("nap", "n", x=1, seconds=0.1)
    queue = Queue(tmp_path / "queue.sqlite")
    with Service(queue, InlineRunner(), seconds=3600) as service:
        announcer = SocketServer(service, {"version": __version__})
        with queue.write() as base:
            base.execute("update lease set until = 0")  # as if it could not be written since
        assert idle(queue, None) == ""
        service.drain()
        service.submit(graph)
        told = f"1 job waits; the service that runs it cannot write {queue.file}: is the disk full?\n"
        assert idle(queue, None) == told
        announcer.close()
    assert idle(queue, None).startswith("1 job waits and nothing runs it")


def test_nothing_of_the_log_is_missed_while_services_come_and_go(tmp_path: Path) -> None:
    graph = Graph()
    graph.add("nap", "n", x=1, seconds=0.1)
    queue, disk = Queue(tmp_path / "queue.sqlite"), DiskStore(tmp_path / "store")
    lines = Following(queue).lines()
    told = list[tuple[int, int, str]]()

    def follow(job: int) -> None:
        while not told or told[-1][1:] != (job, "done"):
            line = next(lines)
            if "number" in line:
                told.append((line["number"], line["job"], line["kind"]))

    for _ in range(3):
        with serving(queue.file, InlineRunner(), disk) as service:
            follow(service.submit(graph))
        queue.cancel(*queue.submit(NewJob({})))  # while no service runs
        with serving(queue.file, InlineRunner(), disk) as service:  # before that was read
            follow(service.submit(graph))
    assert told == [(change.number, change.job, change.kind) for change in queue.changes()]


def test_a_service_that_hangs_keeps_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PATIENCE", 0.2)
    monkeypatch.setattr(watching, "LITTLE_PATIENCE", 0.2)
    queue, end = Queue(tmp_path / "queue.sqlite"), threading.Event()
    (job,) = queue.submit(NewJob({}))

    def hang(client: object) -> None:
        end.wait(60)

    hanging = Listener(queue.file, hang)
    threading.Thread(target=hanging.serve_forever, daemon=True).start()
    following = Following(queue, job)
    queue.cancel(job)
    assert [line["kind"] for line in following.lines()] == ["queued", "cancelled"]
    end.set()
    hanging.shutdown()
    hanging.server_close()
