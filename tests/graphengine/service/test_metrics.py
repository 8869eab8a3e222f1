"""Metrics and logs: their totals are the queue's own counts."""

from __future__ import annotations

import json
import logging
import re
import socket
import urllib.request
from collections import Counter
from pathlib import Path

from prometheus_client import generate_latest

from graphengine import Graph
from graphengine.cache import DiskStore
from graphengine.service.job_events import JobEvent
from graphengine.service.job_report import job_page
from graphengine.service.jobs.job import State
from graphengine.service.jobs.queue import Queue
from graphengine.service.jobs.submit import submit
from graphengine.service.logs import log_event, log_to
from graphengine.service.metrics import Metrics
from graphengine.service.service import Service
from graphengine.service.start import serving
from graphengine.service.workers.inline import InlineRunner
from graphengine.service.workers.pool import WorkerRunner
from graphengine.testing import FakeWorker
from tests.graphengine.service.conftest import LOST, Runners
from tests.graphengine.service.test_service import of


def parsed(text: str) -> dict[str, float]:
    """Samples by name and labels."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def summed(found: dict[str, float], name: str, *labels: str) -> float:
    """All samples of a name that have these labels."""
    return sum(v for k, v in found.items() if k.split("{")[0] == name and all(label in k for label in labels))


def test_totals_are_the_queue_s_own(backend: Runners, tmp_path: Path) -> None:
    file = tmp_path / "log" / "service.jsonl"
    handler = log_to(file)
    with Service(tmp_path / "q.sqlite", backend(), DiskStore(tmp_path / "store")) as service:
        metrics = Metrics(service)
        service.subscribe(log_event)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        metrics.serve(port)
        service.queue.pause()  # until all wait: what waits is taken together
        numbers = [service.submit(of("nap", seconds=0.05), {"x": n % 8}) for n in range(12)]
        numbers += [service.submit(of("together"), {"x": n}) for n in range(8)]
        bad = service.submit(of("fail"), {"x": 1})
        deadly = service.submit(of("deadly_once", mark=str(tmp_path / "mark")), {"x": 1})
        service.queue.resume()
        jobs = service.wait(*numbers, bad, deadly, timeout=600)
        service.queue.pause()
        waiting = service.submit(of("double"), {"x": 1})
        service.cancel(service.submit(of("double"), {"x": 2}))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        found = parsed(answer.read().decode())
    for state, count in service.queue.counts().items():
        assert found[f'graphengine_jobs{{state="{state}"}}'] == count
        if state.ended:
            assert summed(found, "graphengine_jobs_ended_total", f'state="{state}"') == count
    reuse = Counter(how for job in jobs if job.state is State.DONE for how in job.result["reuse"].values())
    for how, count in reuse.items():
        assert found[f'graphengine_values_total{{reuse="{how}"}}'] == count
    calls = [call for job in jobs for call in job.result["calls"]]
    assert summed(found, "graphengine_node_calls_total") == len(calls) == reuse["computed"] + 1
    seconds = sum(call["seconds"] for call in calls)
    assert abs(summed(found, "graphengine_node_seconds_total") - seconds) < 1e-6
    assert found["graphengine_batch_size_count"] == len(calls)
    assert found["graphengine_batch_size_sum"] == sum(call["together"] for call in calls) > len(calls)
    assert found["graphengine_job_wait_seconds_count"] == sum(job.attempt for job in jobs)

    logging.getLogger("graphengine").removeHandler(handler)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    ended = Counter(line["event"] for line in lines if line.get("event") in ("done", "failed", "cancelled"))
    assert ended == {"done": 21, "failed": 1, "cancelled": 1}
    (failure,) = [line for line in lines if line.get("event") == "node_failed"]
    assert (failure["job"], failure["node"], failure["level"]) == (bad, "n", "WARNING")
    assert "3 is" not in failure["facts"]["error"]
    assert "1 is not to its taste" in failure["facts"]["error"]
    assert any(line["event"] == "worker_lost" and line["job"] == deadly for line in lines if "event" in line)
    assert service.queue.get(waiting).state is State.QUEUED


def test_every_line_about_a_job_names_it(tmp_path: Path) -> None:
    """Also those of whoever logs on a job's thread."""
    handler = log_to(tmp_path / "service.jsonl")
    other = logging.getLogger("graphengine.of_another")

    def bad(event: JobEvent) -> None:
        if event.kind == "node_finished":
            raise RuntimeError("a bad listener")

    def odd(data: int, outputs: object) -> list[str]:
        other.warning("a line that knows of no job")
        return [] if data % 2 else [str(1 // 0)]

    with Service(tmp_path / "q.sqlite", InlineRunner(), finishers={"odd": odd}) as service:
        service.subscribe(log_event)
        service.subscribe(bad)
        numbers = [service.submit(of("double"), {"x": n}, finish=("odd", n)) for n in range(6)]
        service.wait(*numbers, timeout=600)
        counts = service.queue.counts()
    logging.getLogger("graphengine").removeHandler(handler)
    lines = [json.loads(line) for line in (tmp_path / "service.jsonl").read_text().splitlines()]
    assert {line["job"] for line in lines} == set(numbers)
    by_message = Counter(re.sub(r"\d+", "N", line["message"]) for line in lines)
    assert by_message["a line that knows of no job"] == by_message["job N: queued"] == 6
    assert by_message["a listener failed on node_finished of job N"] == 6
    assert by_message["job N failed"] == by_message["job N: failed"] == counts[State.FAILED] == 3
    assert by_message["job N: done"] == counts[State.DONE] == 3
    for line in lines:
        assert (found := re.search(r"job (\d+)", line["message"])) is None or int(found[1]) == line["job"]
        assert ("traceback" in line) == (line["level"] == "ERROR")


def test_deaths_are_counted_while_the_service_runs(backend: Runners, tmp_path: Path) -> None:
    backend = backend(on_warning=lambda sentence: None)
    with Service(tmp_path / "q.sqlite", backend, DiskStore(tmp_path / "store")) as service:
        metrics = Metrics(service)
        service.wait(service.submit(of("deadly_once", mark=str(tmp_path / "mark")), {"x": 1}), timeout=600)
        deaths = {m.name: sum(s.value for s in m.samples) for m in metrics.registry.collect()}
        assert deaths["graphengine_worker_deaths"] == sum(status.deaths for status in backend.status()) == 1


def test_what_workers_hold_and_have_room_for_is_told(tmp_path: Path) -> None:
    runner = WorkerRunner([FakeWorker("a", "told:0"), FakeWorker("b", "told:1")])
    graph = Graph()
    graph.add("pack.book", "book", title=graph.input("x", str))
    graph.add("pack.read", "n", book=graph["book"])
    graph.output("y", graph["n"])
    with Service(tmp_path / "q.sqlite", runner) as service:
        metrics = Metrics(service)
        assert runner.wait_until_ready(60)
        for title in "ABCD" * 3:
            service.wait(service.submit(graph, {"x": title}), timeout=600)
        found = parsed(generate_latest(metrics.registry).decode())
    assert [(status.held, status.free, status.loads) for status in runner.status()] == [(2, 0, 2), (2, 0, 2)]
    assert found['graphengine_memory_free_bytes{device="told:0",worker="a"}'] == 0
    assert summed(found, "graphengine_model_loads_total") == 4


def test_a_job_s_report(backend: Runners, tmp_path: Path) -> None:
    with Service(tmp_path / "q.sqlite", backend(1), DiskStore(tmp_path / "store")) as service:
        graph = of("nap", seconds=0.1)
        graph.add("nap", "m", x=graph.input("z", int), seconds=0.1)
        graph.output("w", graph["m"])
        number = service.submit(graph, {"x": 4711, "z": 1})
        bad = service.submit(of("fail"), {"x": 3})
        service.wait(number, bad, timeout=600)
        page = job_page(service.queue, number)
        (first, second) = service.queue.get(number).result["calls"]
        assert second["waited"] > first["waited"] + 0.08  # one worker: the second waits for the first
        for text in ("w0 on cpu", f"{second['waited']:.3f} s", "4711", "attempt 1: done", "computed by"):
            assert text in page
        assert "3 is not to its taste" in job_page(service.queue, bad)


def test_jobs_that_waited_before_the_service_began_are_counted(tmp_path: Path) -> None:
    queue, counted = Queue(tmp_path / "q.sqlite"), list[Metrics]()
    jobs = [submit(queue, of("double"), {"x": n}) for n in range(5)]
    disk = DiskStore(tmp_path / "store")
    with serving(queue.file, InlineRunner(), disk, prepare=lambda made: counted.append(Metrics(made))) as service:
        service.wait(*jobs, timeout=600)
    found = parsed(generate_latest(counted[0].registry).decode())
    assert summed(found, "graphengine_job_wait_seconds_count") == 5
    assert summed(found, "graphengine_jobs_ended_total", 'state="done"') == 5


def test_a_report_of_what_failed_tells_where_and_who_was_lost(backend: Runners, tmp_path: Path) -> None:
    graph = Graph()
    graph.add("poison", "bad", x=1)
    graph.add("double", "after", x=graph["bad"])
    graph.output("y", graph["after"])
    runner = backend(2, on_warning=lambda line: None)
    with Service(tmp_path / "q.sqlite", runner, DiskStore(tmp_path / "store")) as service:
        job = service.submit(graph)
        assert service.wait(job, timeout=600)[0].state is State.FAILED
        page = job_page(service.queue, job)
    assert page.count("<td>worker lost</td>") == LOST
    assert "not needed" not in page
    assert "not reached" in page
    bad = page.index("<h3>bad ")
    assert f"{LOST} workers were lost while they computed pack.poison" in page[bad : page.index("<h3>after ")]
