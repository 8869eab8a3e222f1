"""`graphengine run --backend local`: the same pictures, in processes of this one run, which end with it."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import psutil

from tests.graphengine.cli.conftest import Run
from tests.graphengine.cli.test_interrupt import WAIT, started

Write = Callable[..., Path]


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(process.pid).children()
    assert found
    return found


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=60)[1]


def test_pictures_are_those_of_this_process(cli: Run, tmp_path: Path) -> None:
    options = ("sweep", "--set", "seeds=[3, 4]", "--set", "steps=2", "--no-cache")
    pictures = []
    for backend in ("inline", "local"):
        done = cli("run", *options, "--backend", backend, "--out", backend)
        assert done.code == 0, done.err
        files = sorted((tmp_path / backend).glob("*.png"))
        pictures.append([PIL.Image.open(file).convert("RGB").tobytes() for file in files])
    assert len(pictures[0]) == 2
    assert pictures[0] == pictures[1]


def test_values_are_kept_for_other_runs(cli: Run, paint: Path) -> None:
    first, again = (cli("run", "paint.yaml", "--json", "--backend", backend) for backend in ("local", "inline"))
    assert (first.code, again.code) == (0, 0)
    assert {line["step"] for line in first.lines if line["kind"] == "progress"} == {1, 2}
    reuse = [{x["node"]: x["reuse"] for x in done.lines if x["kind"] == "node_finished"} for done in (first, again)]
    assert [found["image"] for found in reuse] == ["computed", "disk"]


def test_ctrl_c_cancels_and_ends_the_workers(workflow: Write, tmp_path: Path) -> None:
    workflow(WAIT)
    process = started(tmp_path, "run", "flow.yaml", "--backend", "local")
    workers = workers_of(process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "cancelled\n")
    assert gone(workers)


def test_workers_end_with_a_run_that_is_killed(workflow: Write, tmp_path: Path) -> None:
    workflow(WAIT)
    process = started(tmp_path, "run", "flow.yaml", "--backend", "local")
    workers = workers_of(process)
    process.kill()
    process.communicate(timeout=60)
    assert gone(workers)


def test_a_worker_that_is_killed_is_replaced(workflow: Write, tmp_path: Path) -> None:
    workflow(WAIT.replace("3600", "5"))
    process = started(tmp_path, "run", "flow.yaml", "--backend", "local")
    workers = workers_of(process)
    workers[0].kill()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1])["outputs"] == {"w": {"value": 5.0}}
    assert err == "worker worker-0 was lost while it computed toy.wait: it was ended by SIGKILL\n"
    assert gone(workers)
