"""`graphengine worker`, `graphengine queue` and runs that are handed over: real processes, a queue of their own."""

from __future__ import annotations

import json
import os
import signal
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graphengine.service.jobs.lease import take
from graphengine.service.jobs.queue import Queue
from graphengine.service.socket_client import hello
from tests.graphengine.cli.conftest import Done, command, environment

Start = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., Done]
WAIT = "version: 1\ninputs:\n  seconds: {type: float, default: 3600}\nnodes:\n  w: {node: toy.wait, from: {seconds: inputs.seconds}}\noutputs: {w: w}\n"  # noqa: E501
UNTIL = "version: 1\nnodes:\n  u: {node: toy.until, with: {file: FILE}}\noutputs: {u: u}\n"
STUCK = """\
import pathlib, time
from graphengine import node
@node(version=1)
def stuck() -> int:
    pathlib.Path("MARK").touch()
    time.sleep(3600)
    return 1
"""
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


def begun(state: Path) -> None:
    """Wait until a worker computes something."""
    until(lambda: any(w["computing"] for w in (hello(state / "queue.sqlite") or {"workers": []})["workers"]))


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
    cli("queue", "submit", "paint.yaml", "--user", "somebody with a long name " * 3)
    assert [line.split()[0] for line in cli("queue", "list").out.splitlines()[:5]] == ["job", "4", "3", "2", "1"]
    assert cli("queue", "cancel", 4).code == cli("queue", "delete", 4).code == 0
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
    assert cli("queue", "wait", "--queue", state / "empty.sqlite").err.startswith("no job waits or runs; ")
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
    (tmp_path / "until.yaml").write_text(UNTIL.replace("FILE", str(tmp_path / "go")))
    process = worker()
    cli("queue", "submit", "until.yaml")
    begun(state)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert "Ctrl-C again" in process.stdout.readline()
    (tmp_path / "go").touch()
    assert process.wait(600) == 0
    assert show(cli, 1)["state"] == "done"


def test_a_second_ctrl_c_of_the_worker_leaves_running_jobs_to_be_begun_again(
    cli: Run, worker: Start, state: Path, tmp_path: Path
) -> None:
    (tmp_path / "wait.yaml").write_text(WAIT)
    process = worker()
    cli("queue", "submit", "wait.yaml")
    begun(state)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert "Ctrl-C again" in process.stdout.readline()
    assert show(cli, 1)["state"] == "running"
    process.send_signal(signal.SIGINT)
    assert process.wait(600) == 0
    job = show(cli, 1)
    assert (job["state"], job["attempts"][0]["error"]) == ("queued", "the service that ran it was stopped")


def test_a_third_ctrl_c_ends_the_worker_whatever_it_does(cli: Run, worker: Start, state: Path, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "odd.py").write_text(STUCK.replace("MARK", str(tmp_path / "mark")))
    (tmp_path / "stuck.yaml").write_text("version: 1\nnodes:\n  s: {node: odd.stuck}\noutputs: {s: s}\n")
    process = worker("--packs", "odd")
    cli("queue", "submit", "stuck.yaml", "--packs", "odd")
    until((tmp_path / "mark").exists)
    assert process.stdout is not None
    for sentence in ("Ctrl-C again leaves", "Ctrl-C again ends all at once"):
        process.send_signal(signal.SIGINT)
        assert sentence in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(600) == 130


def test_a_job_for_a_pack_that_the_service_lacks_is_refused_with_the_remedy(
    cli: Run, worker: Start, state: Path, tmp_path: Path
) -> None:
    (tmp_path / "lacked.py").write_text(
        "from graphengine import node\n@node(version=1)\ndef plus(x: int) -> int:\n    return x + 1\n"
    )
    (tmp_path / "plus.yaml").write_text("version: 1\nnodes:\n  a: {node: lacked.plus, with: {x: 1}}\noutputs: {a: a}\n")
    submit = ("queue", "submit", "plus.yaml", "--packs", "lacked.py")
    assert cli(*submit).out == "job 1\n"  # no service runs yet: it may be started with that pack
    process = worker()
    done = cli(*submit)
    assert (done.code, done.out) == (2, "")
    assert "has no pack lacked, of which the workflow uses lacked.plus" in done.err
    assert "`graphengine worker --packs`" in done.err
    cli("queue", "wait", 1, "--timeout", 600)
    assert "a pack lacked in a folder or file is loaded by --packs, in a service by" in show(cli, 1)["error"]
    assert "has other packs (lacked); `graphengine worker --packs`" in cli("run", *submit[2:]).err
    process.send_signal(signal.SIGINT)
    assert process.wait(600) == 0
    worker("--packs", "lacked.py")
    assert cli(*submit).out == "job 2\n"
    assert cli("queue", "wait", 2, "--timeout", 600).out == "job 2 is done\n"


def test_another_worker_takes_over(cli: Run, worker: Start, state: Path, tmp_path: Path) -> None:
    (tmp_path / "until.yaml").write_text(UNTIL.replace("FILE", str(tmp_path / "go")))
    (tmp_path / "allowed").mkdir()
    first = worker()
    second = worker("--root", "allowed")
    cli("queue", "submit", "until.yaml")
    running(state)
    os.kill(first.pid, signal.SIGKILL)
    (tmp_path / "go").touch()
    watched = subprocess.run(
        command("queue", "watch", 1, "--json"), cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True,
        timeout=600, check=True,
    ).stdout  # fmt: skip
    kinds = [json.loads(line)["kind"] for line in watched.splitlines()]
    assert "lost" in kinds
    assert kinds[-1] == "done"
    assert [attempt["outcome"] for attempt in show(cli, 1)["attempts"]] == ["lost", "done"]
    assert second.stdout is not None
    assert second.stdout.readline() == f"running the jobs of {state / 'queue.sqlite'} now\n"
    second.kill()
    warning = "warning: the service that runs here allows other folders; jobs that need that will fail once this one"
    assert warning in second.communicate()[1]


def test_who_waits_is_told_that_nothing_runs_the_queue_and_that_something_does_again(
    cli: Run, worker: Start, state: Path, tmp_path: Path
) -> None:
    (tmp_path / "until.yaml").write_text(UNTIL.replace("FILE", str(tmp_path / "go")))
    assert cli("queue", "submit", "until.yaml").code == 0
    waiting = subprocess.Popen(
        command("queue", "wait"), cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert waiting.stderr is not None
    assert waiting.stderr.readline() == "1 job waits and nothing runs it; `graphengine worker` does\n"
    worker()
    assert waiting.stderr.readline() == "something runs the jobs again\n"
    (tmp_path / "go").touch()
    out, _ = waiting.communicate(timeout=600)
    assert out == "job 1 is done\n"


def test_who_waits_is_told_whose_jobs_are_paused(cli: Run, worker: Start, paint: Path, state: Path) -> None:
    worker()
    cli("queue", "pause", "--user", "ann lee")
    assert cli("queue", "submit", "paint.yaml").code == 0
    assert cli("queue", "wait", 1, "--timeout", 60).err == ""
    assert cli("queue", "submit", "paint.yaml", "--user", "ann lee").code == 0
    told = "the jobs of 'ann lee' are paused; `graphengine queue resume --user 'ann lee'` ends that\n"
    assert cli("queue", "wait", "--timeout", 0.1).err == told


@pytest.mark.parametrize("words", [("wait",), ("watch",)])
def test_ctrl_c_of_one_who_looks_says_that_jobs_go_on(
    cli: Run, paint: Path, state: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    cli("queue", "submit", paint)
    looking = subprocess.Popen(
        command("queue", *words), cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert looking.stderr is not None
    assert "nothing runs it" in looking.stderr.readline()
    looking.send_signal(signal.SIGINT)
    _, err = looking.communicate(timeout=600)
    assert (looking.returncode, err) == (130, "the jobs go on\n")


def test_one_unknown_job_keeps_no_other_from_being_cancelled(cli: Run, paint: Path, state: Path) -> None:
    for _ in range(2):
        cli("queue", "submit", paint)
    found = cli("queue", "cancel", 1, 77, 2)
    assert (found.code, found.out) == (2, "job 1 is cancelled\njob 2 is cancelled\n")
    assert "there is no job 77" in found.err
    found = cli("queue", "delete", 1, 77, 2)
    assert found.code == 2
    assert cli("queue", "list", "--json").out == ""


@pytest.mark.parametrize("answer", ["null", "{}", '{"active": true, "version": "9.0", "workers": 5}'])
def test_a_service_of_another_version_is_told_so(
    cli: Run, paint: Path, state: Path, tmp_path: Path, answer: str
) -> None:
    cli("queue", "submit", paint)

    class Other(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(answer.encode() + b"\n")

    with socketserver.ThreadingUnixStreamServer(str(state / "queue.sqlite.sock"), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = cli("run", paint)
        assert found.code == 0
        assert "the service that runs here is of another version" in found.err
        found = cli("queue", "stats")
        assert found.code == 0
        found = cli("queue", "submit", paint)
        assert (found.code, found.out) == (0, "job 2\n")
        assert "is of another version" in found.err
        server.shutdown()


def test_every_combination_is_a_job_or_none_is(cli: Run, worker: Start, paint: Path, tmp_path: Path) -> None:
    found = cli("queue", "submit", paint, "--over", 'prompt=["a", "b"]', "--over", "steps=1..3", "--json")
    assert [json.loads(line)["job"] for line in found.out.splitlines()] == [1, 2, 3, 4, 5, 6]
    found = cli("queue", "submit", paint, "--over", "steps=1,2,five")
    assert found.code == 2
    assert len(cli("queue", "list", "--json").out.splitlines()) == 6
    worker()
    assert cli("queue", "wait", "--timeout", 600).code == 0
