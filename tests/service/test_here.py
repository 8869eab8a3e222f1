"""The socket: only its owner may open it, it says who runs the jobs, and tells what happens to them."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from pathlib import Path

from graphengine.cache import DiskStore
from graphengine.service.here import Announcer, hello, identity, socket_file, watch
from graphengine.service.service import Service

from .conftest import Runners
from .test_service import of


def test_hello_and_watch(backend: Runners, tmp_path: Path) -> None:
    file = tmp_path / "q.sqlite"
    assert hello(file) is None
    with Service(file, backend(1), DiskStore(tmp_path / "store")) as service:
        announcer = Announcer(service, identity([tmp_path]))
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
            for line in watch(file):
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
        announcer.close()
    assert hello(file) is None
    assert not socket_file(file).exists()


def test_nonsense_harms_nobody(backend: Runners, tmp_path: Path) -> None:
    file = tmp_path / "q.sqlite"
    with Service(file, backend(1), DiskStore(tmp_path / "store")) as service:
        announcer = Announcer(service, identity())
        for line in (b"\n", b"{}\n", b"[1]\n", b'{"op": 3}\n', b"\xff\xfe\n", b"x" * 200_000 + b"\n", b'{"op": "hel'):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(socket_file(file)))
                client.sendall(line)
        assert hello(file) is not None
        announcer.close()


def test_a_socket_that_a_killed_service_left_is_no_service(backend: Runners, tmp_path: Path) -> None:
    file = tmp_path / "q.sqlite"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(socket_file(file)))
    assert hello(file) is None
    with Service(file, backend(1)) as service:
        announcer = Announcer(service, identity())
        assert hello(file) is not None
        announcer.close()


def test_identity_is_data() -> None:
    assert json.loads(json.dumps(identity()))["roots"] is None
