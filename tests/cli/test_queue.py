"""`graphengine worker`, `graphengine queue` and runs that are handed over: real processes, a queue of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graphengine.service.lease import take
from graphengine.service.queue import Queue
from tests.cli.conftest import Done, command, environment

Start = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., Done]
WAIT = "version: 1\ninputs:\n  seconds: {type: float, default: 60}\nnodes:\n  w: {node: toy.wait, from: {seconds: inputs.seconds}}\noutputs: {w: w}\n"  # noqa: E501
FAIL = 'version: 1\nnodes:\n  f: {node: toy.fail, with: {text: "a\\nb"}}\noutputs: {f: f}\n'


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this test's queue."""
    folder = tmp_path / "state"
    monkeypatch.setenv("GRAPHENGINE_STATE", str(folder))
    return folder


@pytest.fixture
def worker(tmp_path: Path, state: Path) -> Iterator[Start]:
    """Starts `graphengine worker`, and waits until it runs or stands by."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command("worker", "--threads", 1, *arguments), cwd=tmp_path, env=environment(tmp_path),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        assert "Ctrl-C" in process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until(true: Callable[[], Any], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def running(state: Path) -> None:
    """Wait until job 1 runs; without a process for each look, which takes as long as the job."""
    queue = Queue(state / "queue.sqlite")
    until(lambda: [job.id for job in queue.running()] == [1])
    queue.close()


def show(cli: Run, job: int) -> dict[str, Any]:
    return dict(json.loads(cli("queue", "show", job, "--json").out))


def test_jobs_without_a_worker(cli: Run, paint: Path, state: Path) -> None:
    assert cli("queue", "submit", "paint.yaml").out == "job 1\n"
    assert cli("queue", "submit", "paint.yaml", "--set", "seed=5", "--user", "ann", "--json").lines == [{"job": 2}]
    assert cli("queue", "submit", "paint.yaml", "--priority", 2).out == "job 3\n"
    listed = cli("queue", "list", "--state", "queued", "--json").lines
    assert [(line["job"], line["user"], line["priority"]) for line in listed] == [(3, "", 2), (2, "ann", 0), (1, "", 0)]
    assert [line["job"] for line in cli("queue", "list", "--before", 3, "--limit", 1, "--json").lines] == [2]
    assert "queued" in cli("queue", "list").out
    assert cli("queue", "move", 1).code == 0
    assert cli("queue", "cancel", 2, 3).out == "job 2 is cancelled\njob 3 is cancelled\n"
    assert cli("queue", "pause").code == cli("queue", "resume").code == 0
    assert cli("queue", "limit", 1).code == 0
    over = cli("queue", "submit", "paint.yaml")
    assert (over.code, over.err.splitlines()[0]) == (2, "this user has 1 waiting; 1 more would be over the limit of 1")
    assert "each: 1" in cli("queue", "stats").out
    assert cli("queue", "limit").code == 0
    assert cli("queue", "wait", 2).code == 1
    assert cli("queue", "wait", 1, "--timeout", 0.1).out == "job 1 is queued\n"
    assert cli("queue", "wait", "--timeout", 0.1).out == "job 1 is queued\n"  # all that have not ended
    assert cli("queue", "delete", 2).code == 0
    stats = json.loads(cli("queue", "stats", "--json").out)
    assert (stats["queued"], stats["cancelled"], stats["service"], stats["workers"]) == (1, 1, False, [])


def test_jobs_that_nothing_runs_are_told(cli: Run, paint: Path, state: Path) -> None:
    assert "nothing runs" not in cli("queue", "list").out
    cli("queue", "submit", "paint.yaml")
    told = "1 job waits and nothing runs it; `graphengine worker` does"
    assert [cli("queue", command).out.splitlines()[-1] for command in ("list", "stats")] == [told] * 2
    assert len(cli("queue", "list", "--json").out.splitlines()) == 1
    cli("queue", "submit", "paint.yaml")
    base = Queue(state / "queue.sqlite")
    lease = take(base, "a service that is killed", 0.5)
    assert lease is not None
    assert lease.claim(1, "worker-0") is not None
    base.close()
    told = f"2 jobs wait and nothing runs them; `graphengine worker --queue {state / 'queue.sqlite'}` does\n"
    until(lambda: cli("queue", "list", "--queue", state / "queue.sqlite").out.endswith(told))


def test_jobs_that_wait_are_not_told_of_where_one_runs_them_or_none_may(cli: Run, paint: Path, state: Path) -> None:
    cli("queue", "submit", "paint.yaml")
    base = Queue(state / "queue.sqlite")
    lease = take(base, "a service", 3600)
    assert lease is not None
    assert "nothing runs" not in cli("queue", "list").out
    lease.release()
    base.pause("")
    assert "nothing runs" not in cli("queue", "stats").out
    base.close()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("queue", "show", 9), "there is no job 9"),
        (("queue", "delete", 1), "job 1 is queued; cancel it first"),
        (("queue", "list", "--state", "quewed"), "did you mean queued?"),
        (("queue", "report", 1), "there is a report of it when it has ended"),
        (("run", "paint.yaml", "--backend", "service"), "start `graphengine worker`"),
        (("queue", "submit", "paint.yaml", "--set", "sede=1"), "did you mean side or seed?"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    cli: Run, paint: Path, state: Path, arguments: tuple[object, ...], sentence: str
) -> None:
    cli("queue", "submit", "paint.yaml")
    done = cli(*arguments)
    assert done.code == 2
    assert sentence in done.err
    assert len(done.err.splitlines()) <= 2


def test_a_run_is_handed_to_the_worker(cli: Run, paint: Path, worker: Start, tmp_path: Path) -> None:
    (tmp_path / "fail.yaml").write_text(FAIL)
    first = worker()
    done = cli("run", "paint.yaml", PYTHONPROFILEIMPORTTIME="1")
    assert (done.code, done.out) == (0, "out/paint_image_00000.png\n")
    assert "job 1 of the service that runs here" in done.err
    assert "| torch\n" not in done.err
    assert (tmp_path / "out" / "paint_image_00000.png").exists()
    lines = cli("run", "paint.yaml", "--set", "seed=1", "--set", "steps=100", "--json").lines
    assert [line["kind"] for line in lines][-1] == "outputs"
    assert {"node_finished", "progress"} <= {line["kind"] for line in lines}

    there, here = cli("run", "fail.yaml"), cli("run", "fail.yaml", "--backend", "inline")
    assert there.code == here.code == 1
    assert there.err.splitlines()[1:] == here.err.splitlines()

    stats = json.loads(cli("queue", "stats", "--json").out)
    assert (stats["done"], stats["failed"], stats["service"]) == (2, 1, True)
    assert stats["workers"][0]["landed"] >= 3
    told = cli("queue", "stats").out
    assert "ready on" in told
    assert "0 models held, 3.0 GiB free, 0 loaded" in told
    assert cli("queue", "report", 1, "--out", "page.html").code == 0
    assert "Workers</h2>" in (tmp_path / "page.html").read_text()

    other = cli("run", "paint.yaml", "--root", tmp_path, "--set", "seed=2")
    assert other.code == 0
    assert "allows other folders; running in this process" in other.err
    packs = cli("run", "paint.yaml", "--backend", "service", "--root", tmp_path)
    assert packs.code == 2
    first.send_signal(signal.SIGINT)
    assert first.wait(600) == 0


def test_ctrl_c_of_a_run_cancels_its_job(cli: Run, worker: Start, state: Path, tmp_path: Path) -> None:
    (tmp_path / "wait.yaml").write_text(WAIT)
    worker()
    process = subprocess.Popen(
        command("run", "wait.yaml"), cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE, text=True
    )
    running(state)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert err.endswith("cancelled\n")
    assert cli("queue", "wait", 1, "--timeout", 600).out == "job 1 is cancelled\n"


def test_ctrl_c_of_the_worker_lets_running_jobs_end(cli: Run, worker: Start, state: Path, tmp_path: Path) -> None:
    (tmp_path / "wait.yaml").write_text(WAIT)
    process = worker()
    cli("queue", "submit", "wait.yaml", "--set", "seconds=3")
    running(state)
    process.send_signal(signal.SIGINT)
    assert process.wait(600) == 0
    assert show(cli, 1)["state"] == "done"


def test_a_second_ctrl_c_of_the_worker_leaves_running_jobs_to_be_begun_again(
    cli: Run, worker: Start, state: Path, tmp_path: Path
) -> None:
    (tmp_path / "wait.yaml").write_text(WAIT)
    process = worker()
    cli("queue", "submit", "wait.yaml")
    running(state)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert "Ctrl-C again" in process.stdout.readline()
    assert show(cli, 1)["state"] == "running"
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    job = show(cli, 1)
    assert (job["state"], job["attempts"][0]["error"]) == ("queued", "the service that ran it was stopped")


def test_another_worker_takes_over(cli: Run, worker: Start, state: Path, tmp_path: Path) -> None:
    (tmp_path / "wait.yaml").write_text(WAIT)
    first = worker()
    worker()
    cli("queue", "submit", "wait.yaml", "--set", "seconds=4")
    running(state)
    os.kill(first.pid, signal.SIGKILL)
    watched = subprocess.run(
        command("queue", "watch", 1, "--json"), cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True,
        timeout=600, check=True,
    ).stdout  # fmt: skip
    kinds = [json.loads(line)["kind"] for line in watched.splitlines()]
    assert "lost" in kinds
    assert kinds[-1] == "done"
    assert [attempt["outcome"] for attempt in show(cli, 1)["attempts"]] == ["lost", "done"]
