"""A failed job delivers nothing; one that keeps going delivers its whole outputs, and ends failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphengine import Graph
from graphengine.cache import DiskStore
from graphengine.service.jobs.job import State
from graphengine.service.jobs.queue import Queue
from graphengine.service.service import Service
from graphengine.service.workers.inline import InlineRunner


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
        (job,) = service.wait(number, timeout=600)
    assert job.state is State.FAILED
    assert "1 is not to its taste" in (job.error or "")
    assert len(list(out.glob("*"))) == keep_going
    if keep_going:
        assert [Path(file).parent for file in job.result["files"]] == [out]
        assert list(job.result["told"]) == ["page"]


DATA = """
import json, pathlib, threading, time
from graphengine import node
STYLES = json.loads((pathlib.Path(__file__).parent / "styles.json").read_text())
LOCK = threading.Lock()

@node(on="device")
def styled(n: str) -> str:
    time.sleep(0.005)
    return STYLES[n]

@node(on="device")
def locked(n: str) -> str:
    with LOCK:
        time.sleep(0.005)
        return n
"""


def test_what_a_worker_computes_with_other_data_is_not_remembered(tmp_path: Path) -> None:
    from graphengine.declare import registry
    from graphengine.service.workers.pool import WorkerRunner
    from graphengine.service.workers.process import LocalWorker

    pack, store = tmp_path / "worker_data", DiskStore(tmp_path / "store")
    pack.mkdir()
    (pack / "nodes.py").write_text(DATA)

    def kept() -> int:
        return len(list((tmp_path / "store" / "keys").glob("*/*")))

    def styles(text: str) -> None:
        (pack / "styles.json").write_text(f'{{"film": "{text}"}}')

    def run(node: str) -> None:
        graph = Graph()
        graph.add(f"worker_data.{node}", "n", n="film")
        graph.output("o", graph["n"])
        worker = LocalWorker("w", threads=1, store=str(store.folder), packs=(str(pack),))
        with Service(Queue(tmp_path / "q.sqlite"), WorkerRunner([worker], store), store) as service:
            number = service.submit(graph)
            (job,) = service.wait(number, timeout=600)
        assert job.state is State.DONE

    styles("one")
    assert registry.load_folder(pack) == []
    styles("two")  # what a worker reads that is started later
    run("styled")
    run("locked")
    assert kept() == 0
    styles("one")
    run("styled")
    assert kept() == 1
