"""Every crash point: the story is ended, or a call of it fails, at the n-th change of a file; then all is in order.

All points are tried by the slow tests, which print how many there were; the short ones try a handful.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from graphengine.service.jobs.job import State
from graphengine.service.jobs.submit import files_of, submit
from tests import ROOT
from tests.graphengine.service.acknowledged_jobs_survive.crash.layer import Change, build, changes
from tests.graphengine.service.acknowledged_jobs_survive.crash.story import (
    ROLES,
    Play,
    as_line,
    files,
    job,
    queue,
    serving,
)

MODES = ("kill", "half", "eio", "enospc")
AHEAD = 3600.0
"""Seconds by which the clock of who takes over is ahead: the lease of who was killed is over."""


STORY = "tests.graphengine.service.acknowledged_jobs_survive.crash.story"


class Players:
    """A process under the layer that plays the story, again and again."""

    def __init__(self, folder: Path) -> None:
        environment = os.environ | {"LD_PRELOAD": str(build(folder)), "GRAPHENGINE_CACHE": str(folder / "cache")}
        self.folder, self._number = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", STORY], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], 300)
        assert ready, "the story hangs"
        return self._process.stdout.readline().strip()

    def play(self, role: str, mode: str, at: int) -> tuple[Play, int]:
        """Play a part; returns where, and the status of its process."""
        self._number += 1
        play = Play(role, str(self.folder / f"{role}{self._number}"), mode, at)
        assert self._process.stdin is not None
        self._process.stdin.write(as_line(play))
        self._process.stdin.flush()
        return play, int(self._line())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def players(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Players]:
    made = Players(tmp_path_factory.mktemp("story"))
    yield made
    made.close()


def try_point(players: Players, role: str, mode: str, at: int) -> Change | None:
    """Play the story with harm at a point, let a fresh service take over, and check everything; what was struck."""
    play, status = players.play(role, mode, at)
    struck = next((change for change in changes(play.log) if change.struck), None)
    about = f"{role}: {mode} at {at}: {struck and (struck.kind.name, struck.path, struck.other)} in {play.folder}"
    try:
        killed = struck is not None and mode in ("kill", "half") and role != "worker"
        assert status == (-9 if killed else 0), status
        recover(play)
        check(play)
        after(play)
    except Exception as error:
        raise AssertionError(f"{about}: {error}") from error
    for file in players.folder.glob(f"{play.place.name}*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    return struck


def recover(play: Play) -> None:
    """A fresh service takes over and does what is left to do."""
    play.place.mkdir(exist_ok=True)
    play.place.with_name(f"{play.place.name}.open").touch()
    with serving(play.place, AHEAD, at_once=4) as service:
        service.wait(*service.queue.unfinished(), timeout=600)
        end = time.monotonic() + 30
        while leftovers(play) and time.monotonic() < end:
            time.sleep(0.01)


def acknowledged(play: Play, until: int | None = None) -> list[list[Any]]:
    """What the processes of the story were promised, in its order; until a place in the log."""
    lines = play.acks.read_text().splitlines() if play.acks.exists() else []
    return [ack for size, *ack in map(json.loads, lines) if until is None or size <= until]


def leftovers(play: Play) -> list[str]:
    """What lies where it should not: hidden files, temporary ones, bytes of no job."""
    base, found = queue(play.place), []
    known = {base.body(job.id)["files"] for job in base.history(limit=1000)}
    folder = files_of(base).folder
    for path, folders, names in os.walk(play.place):  # which bears that folders are swept meanwhile
        for name in (*folders, *names):
            orphan = Path(path) == folder and name not in known
            if name.startswith(".") or name.endswith(".tmp") or orphan:
                found.append(str(Path(path) / name))
    base.close()
    return found


def check(play: Play, until: int | None = None) -> None:
    """Every promise holds that was given until a place in the log."""
    base = queue(play.place)
    jobs = {job.id: job for job in base.history(limit=1000)}
    names = {number: base.body(number)["name"] for number in jobs}
    assert len(set(names.values())) == len(names), f"a job is there twice: {names}"
    acks = acknowledged(play, until)
    gone = {number for what, number, *_ in acks if what == "deleted"}
    for what, number, *name in acks:  # nothing that was acknowledged is lost
        if what == "submitted" and number not in gone:
            assert number in jobs or deleting(acks, number), f"job {number} was acknowledged and is gone"
            assert number not in jobs or names[number] == name[0]
        if what == "cancelled" and number in jobs:
            assert jobs[number].state is State.CANCELLED, jobs[number]
    ends: Counter[int] = Counter()
    for change in base.changes(limit=100_000):
        ends[change.job] += change.kind in ("done", "failed", "cancelled")
    lying = {file.name: file.read_text() for file in (play.place / "out").glob("[!.]*")}
    for number, one in jobs.items():
        assert one.state.ended, one
        assert ends[number] == 1, f"job {number} ended {ends[number]} times"
        assert len(base.attempts(number)) == one.attempt
        right = files(names[number]) if one.state is State.DONE else {}
        mine = {name: text for name, text in lying.items() if name.startswith(f"{names[number]}_")}
        assert mine == right, f"job {number} ({names[number]}) is {one.state}, its files are {sorted(mine)}"
        if one.state is State.DONE:
            assert sorted(one.result["files"]) == sorted(str(play.place / "out" / name) for name in right)
            for tree in one.result["outputs"].values():
                if "blob" in tree and not names[number].startswith("finished"):
                    files_of(base).get(base.body(number)["files"], tree["blob"])
        if one.state is State.FAILED:
            allowed = ("No space left on device",) if play.mode not in ("eio",) else ("No space left", "Input/output")
            assert any(text in str(one.error) for text in allowed), one.error
            assert names[number].startswith("torn") or play.mode in ("eio", "enospc"), one
        if one.state is State.CANCELLED:
            assert names[number].startswith("cancelled") or play.role == "submitter", one  # one is wanted to end there
    assert {name.partition("_")[0] for name in lying} <= set(names.values()), sorted(lying)
    assert leftovers(play) == []
    base.close()
    sound = sqlite3.connect(base.file).execute("pragma integrity_check").fetchall()
    assert sound == [("ok",)]


def deleting(acks: Sequence[Sequence[Any]], number: int) -> bool:
    """Whether a job that is gone was about to be deleted when its submitter died: it was cancelled."""
    return ["cancelled", number] in [list(ack[:2]) for ack in acks]


def after(play: Play) -> None:
    """The queue goes on: another job is done."""
    with serving(play.place, 2 * AHEAD) as service:
        number = submit(service.queue, **job(play.place, "pages-99"))
        (one,) = service.wait(number, timeout=600)
        assert one.state is State.DONE, one


def test_a_handful_of_points(players: Players) -> None:
    points = [("submitter", "kill", 30), ("submitter", "enospc", 12), ("service", "half", 40), ("service", "kill", 90)]
    points.append(("worker", "half", 4))
    for role, mode, at in points:
        assert try_point(players, role, mode, at) is not None


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("role", ROLES)
def test_every_point(players: Players, role: str, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    wrong, at = [], 1
    while True:
        try:
            if try_point(players, role, mode, at) is None:
                break
        except AssertionError as error:
            wrong.append(str(error))
        at += 1
    with capsys.disabled():
        print(f"\n{role}: {mode} at each of {at - 1} points: {len(wrong)} wrong")
    assert at > (5 if role == "worker" else 100)
    assert wrong == []
