"""ServiceThread in scripts: without a main guard, ended by Ctrl-C or killed; another process takes over the jobs."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from graphengine.service.jobs.lease import holder
from graphengine.service.jobs.queue import Queue
from multigen.worker import ServiceThread
from tests.multigen.serving import PATIENCE, SMALL, opened, prepare, queued, read_until, start, wait_for

OVER = "lambda *_: print('over', flush=True)"
"""A callback that stops nothing."""
LONG = 400
"""Steps that are still going on when a process is killed."""
NAMES = ["00000.png", "00001.png", "00002.png"]


def names(lines: list[str]) -> list[str]:
    """The files in what a script printed of its pictures."""
    return [line.split("/")[-1][:9] for line in lines if line.startswith("(")]


def children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    return psutil.wait_procs(processes, PATIENCE)[1] == []


def test_a_script_whose_main_thread_ends_gets_its_pictures_and_lives_until_ctrl_c(tmp_path: Path) -> None:
    script = start(prepare(tmp_path), OVER, stderr=subprocess.PIPE)
    assert names(read_until(script, "over")) == NAMES
    workers = children(script.pid)
    assert workers
    script.send_signal(signal.SIGINT)  # it never stops by itself
    _, told = script.communicate(timeout=PATIENCE)
    assert "Exception ignored" not in told
    assert gone(workers)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_the_example_twice_and_no_process_is_left(tmp_path: Path, how: signal.Signals) -> None:
    config = prepare(tmp_path)
    out, _ = start(config, "worker.stop").communicate(timeout=PATIENCE)
    assert names(out.splitlines()) == NAMES
    second = start(config, OVER)
    assert names(read_until(second, "over")) == ["00003.png", "00004.png", "00005.png"]
    workers = children(second.pid)
    second.send_signal(how)
    second.wait(PATIENCE)
    assert gone(workers)
    assert len(list((tmp_path / "_projects" / "test" / "results").glob("*.png"))) == 6


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", "import time\ntime.sleep(10_000)\n"], ids=["it has ended", "it runs"])
def test_ctrl_c_in_the_middle_of_jobs_leaves_them_on_disk(tmp_path: Path, more: str) -> None:
    """While the main thread still runs, and when it has ended."""
    config = prepare(tmp_path)
    script = start(config, OVER, steps=LONG, more=more)
    read_until(script, "queued")
    queue = Queue(tmp_path / ".multigen" / "queue.sqlite")
    wait_for(lambda: len(queue.running()) == 3)
    workers = children(script.pid)
    script.send_signal(signal.SIGINT)
    script.wait(PATIENCE)
    assert gone(workers)
    counts = queue.counts()
    assert (counts["queued"] + counts["running"], counts["failed"], counts["cancelled"]) == (3, 0, 0)


@pytest.mark.slow
def test_stop_lets_running_jobs_end_and_leaves_waiting_ones(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    more = "worker.queue_gen(session_id=sess_id, prompt='a', steps=2, width=64, height=64, count=20, {})\n"
    start(config, OVER, steps=20, more=more.format("start_callback=worker.stop") + more.format("") * 3).wait(PATIENCE)
    counts = Queue(tmp_path / ".multigen" / "queue.sqlite").counts()
    assert counts["running"] == counts["failed"] == counts["cancelled"] == 0
    assert counts["queued"] + counts["done"] == 83
    assert counts["queued"] > 0
    assert len(list((tmp_path / "_projects" / "test" / "results").glob("*.png"))) == counts["done"]


@pytest.mark.slow
def test_another_process_takes_over_when_the_first_is_killed(tmp_path: Path) -> None:
    """Both live at first; each calls back its own; the lost one's jobs are done after those that are new."""
    config = prepare(tmp_path)
    second = ServiceThread(config)
    id = opened(second, "ours")
    first = start(config, OVER, steps=LONG)
    read_until(first, "queued")
    wait_for(lambda: len(second.queue.running()) == 3)
    lost = sorted(job.id for job in second.queue.running())
    held_by = holder(second.queue)
    second.start()
    ours = queued(second, id, count=2)
    wait_for(lambda: len(second.queue.running()) == 5)  # in the first's worker, for the second
    assert holder(second.queue) == held_by
    workers = children(first.pid)
    first.kill()
    first.wait()
    assert gone(workers)
    for job in lost[1:]:  # one is enough to wait for
        second.queue.cancel(job)
    ours.wait()
    assert ours.kinds == ["start", "image", "image", "finish"]
    assert holder(second.queue) not in (None, held_by)
    jobs = second.queue.wait(*lost, timeout=PATIENCE)
    assert [job.state for job in jobs] == ["done", "cancelled", "cancelled"]
    assert [Path(file).name for file in jobs[0].result["files"]] == NAMES[:1]
    wait_for(lambda: "its callbacks are lost" in (tmp_path / "logs" / "multigen.log").read_text())
    second.stop()
    second.join(PATIENCE)
    assert "over" not in (first.stdout.read() if first.stdout else "")


@pytest.mark.slow
def test_what_an_earlier_process_left_is_done_after_new_jobs(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    left = ServiceThread(config)  # lives, and was not started: its jobs are run, in their order
    id = opened(left, "test")  # the script's user: between users it is fairness that decides
    left.queue_gen(session_id=id, **{**SMALL, "prompt": "a blue house"}, count=2, gen_dir=tmp_path / "left")
    script = start(config, OVER, steps=LONG)
    read_until(script, "queued")
    wait_for(lambda: len(left.queue.running()) == 3 and left.queue.counts()["done"] == 2)
    script.kill()
    script.wait()
    left.queue.cancel(4)
    left.queue.cancel(5)
    taking = ServiceThread(config)
    before = taking.queue.last_change()
    ours = queued(taking, opened(taking, "ours"))
    taking.start()
    ours.wait()
    jobs = taking.queue.wait(3, 4, 5, timeout=PATIENCE)
    assert [job.state for job in jobs] == ["done", "cancelled", "cancelled"]
    assert [change.job for change in taking.queue.changes(before) if change.kind == "running"] == [6, 3]
    assert [Path(file).name for file in jobs[0].result["files"]] == NAMES[:1]
    taking.stop()
    taking.join(PATIENCE)
