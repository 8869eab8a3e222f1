"""What goes wrong with jobs, as a user meets it: one sentence, the right exit code, and the worker goes on."""

from __future__ import annotations

import io
import json
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from graphengine.service.jobs.job import NewJob
from graphengine.service.jobs.queue import Queue
from tests.graphengine.cli.conftest import command, environment
from tests.graphengine.cli.test_queue import Run, Start, running, state, worker

__all__ = ["state", "worker"]  # fixtures
Write = Callable[..., Path]
LOAD = "version: 1\ninputs: {path: {type: path}}\nnodes:\n  p: {node: std.load_image, from: {path: inputs.path}}\noutputs: {p: p}\n"  # noqa: E501
HANG = "version: 1\nnodes:\n  h: {node: toy.hang, with: {seconds: 600.0}}\noutputs: {h: h}\n"
WAIT = "version: 1\nnodes:\n  w: {node: toy.wait, with: {seconds: 8.0}}\noutputs: {w: w}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("submit", "missing.yaml"), 2, "missing.yaml: there is no such file"),
        (("submit", "unknown.yaml"), 2, "no installed pack has a node called toy.nothing"),
        (("submit", "newer.yaml"), 2, "the file has format version 9, this graphengine reads up to 1"),
        (("submit", "huge.yaml"), 2, "the file is larger than 10 MB"),
        (("submit", "paint.yaml", "--set", "prompt=a", "--set", "steps=five"), 2, "steps"),
        (("submit", "text_to_image", "--set", "width=1000000"), 2, "inputs.width: 1000000 is outside 8..8192"),
        (("submit", "paint.yaml", "--priority", 10**30), 2, "but must be a whole number from -9"),
        (("show", 10**30), 2, "is beyond 63 bits"),
        (("submit", "paint.yaml", "--queue", "damaged.sqlite"), 3, "opened as a queue: file is not a database"),
        (("list", "--queue", "folder"), 3, "folder cannot be opened as a queue: it is no file"),
        (("submit", "paint.yaml", "--out", "damaged.sqlite"), 3, "damaged.sqlite cannot be written: a file is in its"),
        (("stats", "--queue", "newer.sqlite"), 2, "is of version 99, this program knows 3; update it"),
        (("wait", 1, "--queue", "torn.sqlite"), 3, "torn.sqlite cannot be read: database disk image is malformed"),
    ],
)  # fmt: skip
def test_what_is_refused(
    cli: Run, paint: Path, workflow: Write, state: Path, tmp_path: Path, arguments: tuple[object, ...], code: int,
    sentence: str,
) -> None:  # fmt: skip
    workflow("version: 1\nnodes:\n  n: {node: toy.nothing}\noutputs: {n: n}\n", "unknown.yaml")
    workflow("version: 9\nnodes: {}\n", "newer.yaml")
    if "huge.yaml" in arguments:
        workflow(f"version: 1\nnodes: {{}}\n# {'x' * 11_000_000}\n", "huge.yaml")
    (tmp_path / "folder").mkdir()
    (tmp_path / "damaged.sqlite").write_bytes(b"no queue " * 1000)
    Queue(tmp_path / "newer.sqlite").close()
    sqlite3.connect(tmp_path / "newer.sqlite", isolation_level=None).execute("pragma user_version = 99")
    _tear(tmp_path / "torn.sqlite")
    done = cli("queue", *arguments)
    assert (done.code, done.out) == (code, "")
    assert sentence in done.err
    assert len(done.err.splitlines()) == 1


def _tear(file: Path) -> None:
    """A queue of which everything but the first page is lost."""
    queue = Queue(file)
    queue.submit(NewJob({"x": "x" * 50_000}))
    queue.close()
    content = file.read_bytes()
    file.write_bytes(content[:4096] + bytes(len(content) - 4096))


def test_standard_streams_that_are_closed_or_full(cli: Run, paint: Path, state: Path, tmp_path: Path) -> None:
    cli("queue", "submit", "paint.yaml", "--set", f"prompt={'long ' * 5000}")
    given: dict[str, Any] = {"cwd": tmp_path, "env": environment(tmp_path)}
    closed = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command("queue", "list")], **given)
    assert closed.returncode == 0
    for arguments in (["list"], ["list", "--json"], ["show", 1, "--json"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(command("queue", *arguments), stdout=full, stderr=subprocess.PIPE, text=True, **given)
        assert done.returncode == 3
        assert done.stderr == "standard output, or a file, cannot be written: No space left on device\n"


def test_a_worker_of_a_damaged_queue(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "damaged.sqlite").write_bytes(b"no queue " * 1000)
    done = cli("worker", "--queue", "damaged.sqlite")
    assert (done.code, done.out) == (3, "")
    assert done.err == "damaged.sqlite cannot be opened as a queue: file is not a database\n"


def test_jobs_that_fail_do_so_in_a_sentence_and_the_worker_goes_on(
    cli: Run, paint: Path, workflow: Write, worker: Start, state: Path, tmp_path: Path
) -> None:
    workflow(LOAD, "load.yaml")
    workflow(paint.read_text().replace("a red circle", "red " * 2_400_000), "long.yaml")
    inside, outside = tmp_path / "inside", tmp_path / "outside.png"
    inside.mkdir()
    picture = io.BytesIO()
    PIL.Image.effect_noise((64, 64), 50).save(picture, "PNG")
    outside.write_bytes(picture.getvalue())
    (inside / "cut.png").write_bytes(picture.getvalue()[:-1000])
    expected: list[str | None] = ["there is no file or folder", "is damaged or cut short", "lies outside the allowed"]
    for path in (inside / "none.png", inside / "cut.png", outside):
        assert cli("queue", "submit", "load.yaml", "--set", f"path={path}").code == 0
    assert cli("queue", "submit", "long.yaml").code == 0  # ten megabytes of prompt are as good as any
    expected.append(None)
    queue = Queue(state / "queue.sqlite")
    body = queue.body(1)
    text = json.dumps(body).replace("std.load_image", "std.no_more")
    queue.submit(NewJob({**body, "format": 9}), NewJob({"nonsense": 1}), NewJob(json.loads(text)))
    expected += ["of version 9", "of version None", "no installed pack has a node called std.no_more"]
    assert cli("queue", "submit", "paint.yaml").code == 0
    expected.append(None)
    process = worker("--root", inside)
    done = cli("queue", "wait", *range(1, len(expected) + 1))
    assert done.code == 1
    for number, sentence in enumerate(expected, start=1):
        job = queue.get(number)
        assert (job.state, job.attempt) == ("done" if sentence is None else "failed", 1), job
        assert sentence is None or sentence in str(job.error)
        assert "Traceback" not in str(job.error)
    assert process.poll() is None
    stats = json.loads(cli("queue", "stats", "--json").out)
    assert (stats["done"], stats["failed"], stats["workers"][0]["deaths"]) == (2, 6, 0)


def test_a_node_that_hangs_is_ended_and_the_worker_goes_on(
    cli: Run, paint: Path, workflow: Write, worker: Start
) -> None:
    workflow(HANG, "hang.yaml")
    worker("--timeout", 2, "--workers", 2)
    cli("queue", "submit", "hang.yaml")
    cli("queue", "submit", "paint.yaml")
    assert cli("queue", "wait", 2).code == 0
    done = cli("run", "hang.yaml")
    assert done.code == 1
    assert "3 workers were lost while they computed toy.hang: it gave no sign for 2 s and was ended" in done.err
    assert cli("queue", "wait", 1).out.startswith("job 1 is failed: node h (toy.hang) failed: 3 workers were lost")


@pytest.mark.slow
def test_a_queue_that_another_process_locks_for_longer_than_is_waited(
    cli: Run, paint: Path, workflow: Write, worker: Start, state: Path, tmp_path: Path
) -> None:
    workflow(WAIT, "wait.yaml")
    worker()
    cli("queue", "submit", "wait.yaml")
    running(state)
    other = sqlite3.connect(state / "queue.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("begin immediate")
    done = cli("queue", "submit", "paint.yaml")  # after half a minute
    assert (done.code, done.out) == (3, "")
    assert done.err == f"{state / 'queue.sqlite'} cannot be written: database is locked\n"
    assert cli("queue", "list", "--json").lines[0]["state"] == "running"  # reading goes on
    threading.Timer(5, lambda: other.execute("commit")).start()
    assert cli("queue", "submit", "paint.yaml").out == "job 2\n"
    assert cli("queue", "wait", 1, 2).code == 0
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["paint_image_00000.png"]


def test_what_jobs_hold_is_for_their_owner_alone_and_a_log_keeps_no_warning_to_itself(
    cli: Run, paint: Path, state: Path, tmp_path: Path
) -> None:
    for name in ("queue.sqlite.sock", "queue.sqlite.port"):  # folders: no socket can be made
        (state / name / "folder").mkdir(parents=True)
    process = subprocess.Popen(
        command("worker", "--threads", 1, "--log", tmp_path / "log.jsonl"), cwd=tmp_path, env=environment(tmp_path),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        assert "cannot be made" in process.stderr.readline()
        cli("queue", "submit", paint)
        assert cli("queue", "wait", "--timeout", 600).code == 0
        for made in (state / "queue.sqlite-files", tmp_path / "cache" / "store", tmp_path / "log.jsonl"):
            assert made.stat().st_mode & 0o077 == 0, made
    finally:
        process.kill()
        process.communicate()


def test_what_killed_processes_left_is_removed_by_clean(cli: Run, paint: Path, state: Path, tmp_path: Path) -> None:
    cli("queue", "submit", paint)
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / "mine.png").touch()
    left = [tmp_path / "out" / ".graphengine-left", state / "queue.sqlite-files" / "0123abc"]
    for folder in left:
        folder.mkdir(parents=True)
        (folder / "half").write_bytes(b"x" * 200_000)
    done = cli("queue", "clean")
    assert (done.code, set(done.out.splitlines())) == (0, {str(folder) for folder in left})
    assert done.err == "2 leftovers, 0.4 MB\n"
    done = cli("queue", "clean")
    assert (done.code, done.out, done.err) == (0, "", "nothing was left\n")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.png"]
