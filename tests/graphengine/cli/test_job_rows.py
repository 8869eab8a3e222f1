"""What people read of jobs: where they stand, what they were given, what they do, what came out."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console

from graphengine import Graph
from graphengine.cache import DiskStore
from graphengine.cli import job_rows
from graphengine.cli.watching import _rows
from graphengine.service.job_activity import words
from graphengine.service.jobs.job import Job, NewJob, State
from graphengine.service.jobs.queue import Queue
from graphengine.service.jobs.submit import SHORT, in_short, submit
from graphengine.service.socket_client import doing
from graphengine.service.start import serving
from graphengine.service.workers.pool import WorkerRunner
from graphengine.testing import FakeWorker
from tests.graphengine.cli.conftest import Run
from tests.graphengine.service.conftest import light_nodes as light_nodes
from tests.graphengine.service.workers.test_contract import wait_for


def waits_for(*files: Path) -> Graph:
    """A node for each file, one after the other, that waits for it."""
    graph = Graph()
    last: Any = graph.input("x", int)
    graph.input("prompt", str, "a default")
    for n, file in enumerate(files):
        last = graph.add("pack.until", f"n{n}", x=last, file=str(file))
    graph.output("y", last)
    return graph


def text_of(table: Any) -> str:
    console = Console(file=io.StringIO(), width=400)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_job_reads_queued_until_a_node_begins_and_says_when_it_waits_again(tmp_path: Path, cli: Run) -> None:
    file, first, second, third = (tmp_path / name for name in ("queue.sqlite", "first", "second", "third"))
    backend = WorkerRunner([FakeWorker("w0")], on_warning=lambda sentence: None)
    with serving(file, backend, DiskStore(tmp_path / "store")) as service:
        queue = Queue(file)

        def reads(job: int) -> str:
            found = queue.get(job)
            return words(found.state, job_rows.doing_now(queue, [found]).get(job))

        def awaits(job: int, word: str) -> None:
            wait_for(lambda: reads(job) == word)

        one = service.submit(waits_for(first, third), {"x": 1}, name="flow", user="ann")
        awaits(one, "running")
        two = service.submit(waits_for(second), {"x": 2, "prompt": "a red circle"}, priority=5)
        wait_for(lambda: queue.get(two).state is State.RUNNING)
        assert reads(two) == "queued"
        assert [job.id for job in job_rows.page(queue, [State.QUEUED], None, None, 10)[0]] == [two]
        assert [job.id for job in job_rows.page(queue, [State.RUNNING], None, None, 10)[0]] == [one]
        assert (job_rows.counts(queue)["queued"], job_rows.counts(queue)["running"]) == (1, 1)
        listed = {line["job"]: line for line in cli("queue", "list", "--queue", file, "--json").lines}
        assert (listed[two]["state"], listed[two]["node"], listed[one]["state"]) == ("queued", {}, "running")
        assert listed[two]["inputs"] == {"x": 2, "prompt": "a red circle"}
        assert (listed[one]["workflow"], listed[one]["inputs"]) == ("flow", {"x": 1})
        now = listed[one]["node"]
        assert (now["node"], now["worker"], now["step"], now["total"]) == ("n0", "w0", 1, 10)
        assert now["left"] > 0
        line = text_of(job_rows.table([queue.get(one)], doing(file))).splitlines()[1]
        assert "ann" in line
        assert "flow" in line
        assert "n0 [#...........] 1/10, " in line
        assert line.rstrip().endswith(" left, w0")
        moved = cli("queue", "move", two, "--queue", file)
        assert (moved.code, "is with the service already" in moved.err) == (2, True)

        changes = queue.last_change()
        first.touch()  # the worker takes what is more urgent
        awaits(one, "running, waits for a worker")
        awaits(two, "running")
        assert [change for change in queue.changes(changes) if change.job == one] == [], "it wrote that"
        second.touch()
        awaits(one, "running")
        third.touch()
        service.wait(one, two, timeout=60)
        assert doing(file) == {}
        shown = job_rows.facts(queue.get(two), {})
        assert (shown["state"], shown["made"]) == ("done", {"files": [], "values": {"y": 2}})
        assert "y: 2" in text_of(job_rows.table([queue.get(two)], {}))
        queue.close()


def test_ended_jobs_keep_their_line_in_the_live_table(tmp_path: Path) -> None:
    file, first, never = tmp_path / "queue.sqlite", tmp_path / "first", tmp_path / "never"
    backend = WorkerRunner([FakeWorker("w0")], on_warning=lambda sentence: None)
    known: dict[int, Job] = {}
    with serving(file, backend, DiskStore(tmp_path / "store")) as service:
        one = service.submit(waits_for(first), {"x": 7}, name="seven")
        queue = Queue(file)
        wait_for(lambda: doing(file).get(one, {}).get("node") == "n0")
        two = service.submit(waits_for(never), {"x": 8}, name="eight")
        assert {"seven", "eight"} <= {*text_of(_rows(queue, None, known)).split()}
        first.touch()
        service.wait(one, timeout=60)
        lines = text_of(_rows(queue, None, known)).splitlines()
        (line,) = [line for line in lines if "seven" in line]
        assert "done" in line
        assert "y: 7" in line
        assert any("eight" in line for line in lines)
        service.cancel(two)
        service.wait(two, timeout=60)
        service.delete(one)
        assert "seven" in text_of(_rows(queue, None, known)), "what is known of it"
        queue.close()


def test_what_nobody_runs_reads_as_it_stands_in_the_file(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "queue.sqlite")
    job = submit(queue, waits_for(tmp_path / "f"), {"x": 1, "prompt": "a\x1b[31mred\nline" + "x" * 100}, name="w")
    assert job_rows.counts(queue)["queued"] == 1
    found = queue.get(job)
    assert job_rows.given(found).startswith("x=1  prompt=a�[31mred line")
    assert "\x1b" not in "".join(job_rows.lines(found, {}))
    assert len(found.facts["inputs"]["prompt"]) == SHORT


def test_inputs_in_short() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise ValueError

    given = [None, True, 3, 2.5, "text", Path("a/b"), [1, 2], math.inf, math.nan, 10**5000, Odd()]
    short = [in_short(value) for value in given]
    assert short[:7] == [None, True, 3, 2.5, "text", str(Path("a/b")), "[1, 2]"]
    assert short[7:] == ["inf", "nan", "<int>", "<Odd>"]
    json.dumps(short, allow_nan=False)
    assert in_short("x" * 1000) == "x" * (SHORT - 1) + "…"


def test_move_says_when_it_changes_a_priority(cli: Run, tmp_path: Path) -> None:
    queue = Queue(file := tmp_path / "queue.sqlite")
    queue.submit(NewJob({}), NewJob({}), NewJob({}, priority=2))
    assert cli("queue", "move", 2, "--before", 1, "--queue", file).out == "job 2 is run before job 1\n"
    front = cli("queue", "move", 2, "--queue", file)
    assert front.out == "job 2 is run before all others; its priority is 2 now, it was 0\n"
    assert [change.facts for change in queue.changes() if change.kind == "moved"] == [{}, {"priority": 2}]
