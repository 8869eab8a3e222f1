"""Caches, queues, histories and files of jobs are their user's alone, whatever the umask; another's are refused."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from graphengine import DiskStore
from graphengine.cache import Entry
from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.queue import Queue
from graphengine.system.private import NotPrivate, make_file, make_private, write_private

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no owners and modes")
as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
KEY, NOBODY = bytes(16), 65534


@pytest.fixture(autouse=True)
def _homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRAPHENGINE_CACHE", "GRAPHENGINE_STATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home" / "state"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


PROGRAM = """
from graphengine import DiskStore, Graph, Store, node, run
from graphengine.cache import Entry
from graphengine.keys.files import fingerprint
from graphengine.results.history import record
from graphengine.service.jobs.request import Files
from graphengine.system.folders import cache_folder, queue_file
from graphengine.service.jobs.job import NewJob
from graphengine.service.jobs.queue import Queue
from graphengine.service.jobs.submit import files_of
from graphengine_nodes.weights.files import Location, note
from pathlib import Path

@node(version=1)
def half(x: int) -> float:
    return x / 2

with Graph() as g:
    g.output("y", half(3))
store = DiskStore(cache_folder() / "store")
store.put(bytes(16), Entry(1))
store.set_budget(10_000_000)
store.put_blob("ab" * 20, b"x" * 1000)
result = run(g, store=Store(disk=store))
record(g, {}, result, cache_folder())
Path("large").write_bytes(bytes(5 << 20))
Path("large").chmod(0o600)
fingerprint(Path("large"))
note("cd" * 20, Location(Path("large")))
queue = Queue(queue_file())
queue.submit(NewJob({}))
files_of(queue).put("job", "ab", b"x")
"""


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_whatever_the_umask_ours_is_ours_alone(tmp_path: Path, umask: int) -> None:
    (tmp_path / "work").mkdir()
    command = f"umask {umask:o}; exec {shlex.quote(sys.executable)} -c {shlex.quote(PROGRAM)}"
    subprocess.run(["sh", "-c", command], cwd=tmp_path / "work", check=True, timeout=300)
    found = list((tmp_path / "home").rglob("*"))
    assert {path.name for path in found} >= {"store", "runs", "hashes.sqlite", "queue.sqlite", "weights", "config.json"}
    assert {path: oct(mode(path)) for path in found if mode(path) != (0o700 if path.is_dir() else 0o600)} == {}


def test_folders_of_ours_that_are_open_are_closed(tmp_path: Path) -> None:
    top = tmp_path / "home" / "cache" / "graphengine"
    (top / "store").mkdir(parents=True)
    (tmp_path / "home").chmod(0o777)
    top.chmod(0o777)
    (top / "store").chmod(0o755)
    DiskStore(top / "store").put(KEY, Entry(1))
    assert (mode(top), mode(top / "store"), mode(tmp_path / "home")) == (0o700, 0o700, 0o777)


def test_folders_that_the_user_named_are_left_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = tmp_path / "named"
    named.mkdir()
    named.chmod(0o777)
    monkeypatch.setenv("GRAPHENGINE_CACHE", str(named))
    DiskStore(named / "store").put(KEY, Entry(1))
    queue = Queue(named / "q.sqlite")
    assert (mode(named), mode(named / "store"), mode(queue.file)) == (0o777, 0o700, 0o600)


@as_root
def test_what_another_user_has_put_there_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    top = tmp_path / "home" / "cache" / "graphengine"
    DiskStore(top / "store").put(KEY, Entry("planted"))
    os.chown(top / "store", NOBODY, NOBODY)
    for access in (lambda: DiskStore(top / "store").get(KEY), lambda: DiskStore(top / "store").put(KEY, Entry(1))):
        with pytest.raises(NotPrivate, match=rf"another user.*`sudo chown -R \$\(id -u\) {top / 'store'}` gives it"):
            access()
    file = tmp_path / "home" / "state" / "graphengine" / "queue.sqlite"
    Queue(file).close()
    os.chown(file, NOBODY, NOBODY)
    with pytest.raises(QueueError, match="another user"):
        Queue(file)
    os.chown(file, 0, 0)
    Queue(file).close()
    os.chown(file.parent, NOBODY, NOBODY)
    with pytest.raises(QueueError, match="another user"):
        Queue(file)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    make_private(tmp_path / "a" / "b")
    write_private(tmp_path / "a" / "b" / "f", b"old", durable=True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    try:
        with pytest.raises(OSError, match="large"):
            write_private(tmp_path / "a" / "b" / "f", b"newer")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "a" / "b" / "f").read_bytes() == b"old"
    assert os.listdir(tmp_path / "a" / "b") == ["f"]


def test_a_file_that_is_open_to_others_is_closed(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("kept")
    (tmp_path / "f").chmod(0o666)
    make_file(tmp_path / "f")
    assert (mode(tmp_path / "f"), (tmp_path / "f").read_text()) == (0o600, "kept")
