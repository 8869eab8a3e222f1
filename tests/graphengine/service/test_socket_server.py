"""The socket: only its owner may open it, it says who runs the jobs, and tells what happens to them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import stat
import threading
import time
from pathlib import Path

import pytest

from graphengine.cache import DiskStore
from graphengine.service.identity import identity
from graphengine.service.service import Service
from graphengine.service.socket_client import hello, watch
from graphengine.service.socket_server import SocketServer
from graphengine.service.start import serving
from graphengine.service.workers.inline import InlineRunner
from graphengine.system.channel import Listener, port_file, socket_file
from tests.graphengine.sample import until
from tests.graphengine.service.conftest import Runners
from tests.graphengine.service.test_service import of
from tests.graphengine.service.workers.test_contract import wait_for


def test_hello_and_watch(backend: Runners, tmp_path: Path) -> None:
    file = tmp_path / "q.sqlite"
    assert hello(file) is None
    with Service(file, backend(1), DiskStore(tmp_path / "store")) as service:
        announcer = SocketServer(service, identity([tmp_path]))
        assert stat.S_IMODE(os.stat(socket_file(file)).st_mode) == 0o600
        service.wait(service.submit(of("double"), {"x": 1}), timeout=600)
        told = hello(file)
        assert told is not None
        assert (told["active"], told["pid"], told["roots"]) == (True, os.getpid(), [str(tmp_path)])
        (worker,) = told["workers"]
        assert (worker["name"], worker["device"], worker["landed"], worker["deaths"]) == ("w0", "cpu", 1, 0)

        lines: list[dict[str, object]] = []
        ready, ended = threading.Event(), threading.Event()

        def read() -> None:
            for line in watch(file, after=service.queue.last_change()):
                lines.append(line)
                ready.set()
                if line["kind"] == "done":
                    ended.set()
                    return

        threading.Thread(target=read, daemon=True).start()
        assert ready.wait(600)
        number = service.submit(of("nap", seconds=0.1), {"x": 1})
        assert ended.wait(600)
        assert lines[0] == {"kind": "watching"}
        steps = [line["step"] for line in lines if line["kind"] == "progress" and line["job"] == number]
        assert steps == [*range(1, 11)]
        log = [line["kind"] for line in lines if "number" in line]
        assert log == ["queued", "running", "done"]
        assert [line.get("last") for line in lines][-2:] == [None, True]
        announcer.close()
    assert hello(file) is None
    assert not socket_file(file).exists()


def test_who_watches_no_more_is_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "q.sqlite"
    with Service(file, InlineRunner()) as service:
        announcer = SocketServer(service, identity())
        for _ in range(3):
            lines = watch(file)
            assert next(lines) == {"kind": "watching"}
            lines.close()  # type: ignore[attr-defined]
        end = time.monotonic() + 60
        while any(thread.name.endswith("(process_request_thread)") for thread in threading.enumerate()):
            assert time.monotonic() < end
            time.sleep(0.1)
        announcer.close()


def test_nonsense_harms_nobody(backend: Runners, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, raised, finished = tmp_path / "q.sqlite", list[object](), list[object]()
    shut = Listener.shutdown_request
    monkeypatch.setattr(Listener, "handle_error", lambda self, request, address: raised.append(address))
    monkeypatch.setattr(Listener, "shutdown_request", lambda *given: (finished.append(given), shut(*given)))
    deep = b"[" * 90_000 + b"\n"
    with Service(file, backend(1), DiskStore(tmp_path / "store")) as service:
        announcer = SocketServer(service, identity())
        lines = [b"\n", b"{}\n", b"[1]\n", b'{"op": 3}\n', b"\xff\xfe\n", b"x" * 200_000 + b"\n", b'{"op": "hel', deep]
        lines += [b'{"op": "events", "job": "1"}\n', b'{"op": "events", "after": [1]}\n']
        lines += [b'{"op": "events", "job": %d}\n' % 2**70, b'{"op": "events", "after": %d}\n' % 2**70]
        for line in lines:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(socket_file(file)))
                client.sendall(line)
        assert hello(file) is not None
        wait_for(lambda: len(finished) > len(lines))
        assert raised == []
        announcer.close()


def test_a_socket_that_a_killed_service_left_is_no_service(backend: Runners, tmp_path: Path) -> None:
    file = tmp_path / "q.sqlite"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(socket_file(file)))
    assert hello(file) is None
    with Service(file, backend(1)) as service:
        announcer = SocketServer(service, identity())
        assert hello(file) is not None
        announcer.close()


def test_the_socket_is_of_who_runs_the_jobs(tmp_path: Path) -> None:
    file, disk = tmp_path / "q.sqlite", DiskStore(tmp_path / "store")

    def active() -> bool:
        told = hello(file)
        return told is not None and bool(told["active"])

    with serving(file, InlineRunner(), disk, seconds=600):
        with serving(file, InlineRunner(), disk, seconds=600) as other:
            until(active)
            assert not other.active
        until(active)  # who stood by has not taken it away
        following = serving(file, InlineRunner(), disk, seconds=600)
        other = following.__enter__()
    until(lambda: other.active and active())
    following.__exit__(None, None, None)
    assert hello(file) is None


def test_who_watches_is_let_go_when_another_service_runs_the_jobs(tmp_path: Path) -> None:
    file = tmp_path / "q.sqlite"
    with serving(file, InlineRunner(), DiskStore(tmp_path / "store"), seconds=0.3) as service:
        until(lambda: service.active)
        lines = watch(file)
        assert next(lines) == {"kind": "watching"}
        with service.queue.write() as base:  # as if it had slept, and was taken for dead
            base.execute("update lease set epoch = epoch + 1, holder = 'another', seconds = 600, until = 600 + until")
        assert {line["kind"] for line in itertools.islice(lines, 60)} <= {""}  # signs that nothing happens
        assert next(lines, None) is None
        assert not service.active


def test_a_path_too_long_for_a_unix_socket_has_a_port_and_a_secret(tmp_path: Path) -> None:
    file = tmp_path / ("long" * 30) / "q.sqlite"
    with serving(file, InlineRunner(), DiskStore(tmp_path / "store")) as service:
        told = hello(file)
        assert told is not None
        assert told["active"]
        assert stat.S_IMODE(port_file(file).stat().st_mode) == 0o600
        port = json.loads(port_file(file).read_text())["port"]
        for line in (b"", b"0" * 64 + b"\n", b"x" * 1000 + b"\n"):
            with socket.create_connection(("127.0.0.1", port)) as stranger, stranger.makefile("rwb") as stream:
                stream.write(line + b'{"op": "hello"}\n')
                stream.flush()
                stranger.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):  # it was closed with something unread
                    assert stream.read() == b""
        (job,) = service.wait(service.submit(of("double"), {"x": 1}), timeout=600)
        assert job.state == "done"
        events = watch(file)
        assert next(events) == {"kind": "watching"}
        events.close()  # type: ignore[attr-defined]
    assert hello(file) is None
    assert not port_file(file).exists()


def test_a_socket_that_cannot_be_made_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / ("long" * 30) / "q.sqlite"
    (port_file(file) / "folder").mkdir(parents=True)
    with serving(file, InlineRunner(), DiskStore(tmp_path / "store")) as service:
        (job,) = service.wait(service.submit(of("double"), {"x": 1}), timeout=600)
    assert job.state == "done"
    (told,) = [record.getMessage() for record in caplog.records]
    assert "cannot be made" in told
    assert told.endswith("no run can be handed over, and no job watched")


def test_identity_is_data() -> None:
    assert json.loads(json.dumps(identity()))["roots"] is None
