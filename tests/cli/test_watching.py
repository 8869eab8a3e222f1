"""Following a job: all its steps, and its end last, however short it is."""

from __future__ import annotations

from pathlib import Path

from graphengine import DiskStore, Graph
from graphengine.cli.watching import Following
from graphengine.service.inline import InlineRunner
from graphengine.service.queue import Queue
from graphengine.service.start import serving
from tests.service.conftest import light_nodes as light_nodes


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
            assert [line["kind"] for line in Following(queue, job).lines()] == ["done"]
        later = service.submit(graph, {"x": 10})
        assert [line["kind"] for line in Following(queue, later).lines()][-1] == "done"
