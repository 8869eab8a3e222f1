"""A failed job delivers nothing; one that keeps going delivers its whole outputs, and ends failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphengine import Graph
from graphengine.cache import DiskStore
from graphengine.service.inline import InlineRunner
from graphengine.service.jobs import State
from graphengine.service.queue import Queue
from graphengine.service.service import Service


@pytest.mark.parametrize("keep_going", [False, True])
def test_what_a_failed_job_delivers(tmp_path: Path, keep_going: bool) -> None:
    graph = Graph()
    graph.add("pack.fail", "bad", x=1)
    graph.add("pack.page", "page", x=2)
    graph.add("pack.double", "later", x=graph["bad"])
    graph.output("page", graph["page"])
    graph.output("later", graph["later"])
    out = tmp_path / "out"
    with Service(Queue(tmp_path / "queue.sqlite"), InlineRunner(), DiskStore(tmp_path / "store")) as service:
        number = service.submit(graph, out=out, keep_going=keep_going, whole=keep_going)
        (job,) = service.wait(number, timeout=120)
    assert job.state is State.FAILED
    assert "1 is not to its taste" in (job.error or "")
    assert len(list(out.glob("*"))) == keep_going
    if keep_going:
        assert [Path(file).parent for file in job.result["files"]] == [out]
        assert list(job.result["told"]) == ["page"]
