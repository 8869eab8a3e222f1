"""A real server process, `graphengine serve`, and a client that speaks plain HTTP to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import subprocess
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from graphengine.server.file_store import FileStore
from graphengine.server.given import Folders
from graphengine.server.job_api import JobApi
from graphengine.service.jobs.queue import Queue
from graphengine.service.service import Service
from graphengine.service.workers.inline import InlineRunner
from tests.graphengine.cli.conftest import command, environment

PACK = Path(__file__).parent / "door"

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100"
    "c9fe92ef0000000049454e44ae426082"
)
"""A picture of one pixel."""

WORKFLOWS = {
    "greet": """\
version: 1
title: Greet
description: A sheet with a text.
inputs:
  text: {type: str, help: What it says.}
  ending: {type: str, default: html, choices: [html, png, txt]}
nodes:
  sheet: {node: door.sheet, from: {text: inputs.text, ending: inputs.ending}}
outputs: {sheet: sheet}
""",
    "digest": """\
version: 1
inputs:
  file: {type: path}
  model: {type: str, default: tiny}
nodes:
  digest: {node: door.digest, from: {path: inputs.file}}
  model: {node: door.model, from: {source: inputs.model}}
outputs: {digest: digest, model: model}
""",
    "misses": """\
version: 1
inputs: {file: {type: path}}
nodes: {misses: {node: door.misses, from: {path: inputs.file}}}
outputs: {text: misses}
""",
    "gate": """\
version: 1
inputs: {file: {type: str}, text: {type: str, default: through}}
nodes:
  gate: {node: door.gate, from: {file: inputs.file, text: inputs.text}}
outputs: {text: gate}
""",
    "shows": """\
version: 1
inputs: {file: {type: str}}
nodes: {shows: {node: door.shows, from: {file: inputs.file}}}
outputs: {made: shows}
""",
    "paces": """\
version: 1
inputs: {steps: {type: int}, seconds: {type: float}}
nodes: {paces: {node: door.paces, from: {steps: inputs.steps, seconds: inputs.seconds}}}
outputs: {steps: paces}
""",
    "fails": """\
version: 1
inputs: {text: {type: str, default: four}}
nodes: {fails: {node: door.fails, from: {text: inputs.text}}}
outputs: {text: fails}
""",
}


@dataclass
class Answer:
    """What the server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> dict[str, Any]:
        """The problem that it is, well formed."""
        assert self.headers["content-type"].startswith("application/problem+json"), self.body
        found: dict[str, Any] = self.data
        assert found["status"] == self.status
        assert found["detail"]
        assert b"Traceback" not in self.body
        return found


@dataclass
class Sent:
    """An event of a stream."""

    kind: str = ""
    id: str = ""
    data: dict[str, Any] = field(default_factory=dict)


class Stream:
    """An open stream of events."""

    def __init__(self, connection: http.client.HTTPConnection, answer: http.client.HTTPResponse) -> None:
        self._connection, self.answer = connection, answer

    def __iter__(self) -> Iterator[Sent]:
        event = Sent()
        for line in self.answer:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            match name:
                case "event":
                    event.kind = value
                case "id":
                    event.id = value
                case "data":
                    event.data = json.loads(value)
                case "" if not value and event.kind:
                    yield event
                    event = Sent()

    def until(self, kind: str) -> list[Sent]:
        """The events up to the first of a kind."""
        found = []
        for event in self:
            found.append(event)
            if event.kind == kind:
                return found
        raise AssertionError(f"the stream ended without {kind}: {found}")

    def close(self) -> None:
        self.answer.close()
        self._connection.close()


class Server:
    """A server process in a folder."""

    def __init__(self, folder: Path, *options: object, **more: str) -> None:
        self.folder = folder
        for name in ("in", "models", "flows"):
            (folder / name).mkdir(exist_ok=True)
        for name, text in WORKFLOWS.items():
            (folder / "flows" / f"{name}.yaml").write_text(text)
        own = {"GRAPHENGINE_STATE": str(folder / "state"), "GRAPHENGINE_PACKS": str(PACK)}
        self.environment = environment(folder, **own, **more)
        self.log = folder / "server.log"
        given = [
            "--port", 0, "--backend", "inline", "--input", "in", "--models", "models", "--workflows", "flows",
            "--output", "out", *options,
        ]  # fmt: skip
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command("serve", *given), cwd=folder, env=self.environment, stdout=subprocess.PIPE, stderr=log,
                text=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("http://"), line + self.log.read_text()
        self.url = line.split()[0]
        self.port = urllib.parse.urlsplit(self.url).port
        self.token: str | None = None

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[Any, http.client.HTTPResponse]:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token is not None:
            given.setdefault("Authorization", f"Bearer {self.token}")
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            given.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request(method, path, body, given)
        return connection, connection.getresponse()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request; a body that is no bytes is sent as JSON."""
        connection, answer = self.send(method, path, body, **headers)
        with contextlib.closing(connection):
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())

    def run(self, workflow: str, inputs: Mapping[str, Any], **headers: str) -> dict[str, Any]:
        """Run a workflow by its name, to its end."""
        answer = self.ask("POST", f"/v1/workflows/{workflow}/jobs", {"inputs": inputs}, Prefer="wait=60", **headers)
        if answer.status == 202:  # it took longer than a server waits
            list(self.events(answer.data["id"], **headers))
            answer = self.ask("GET", answer.data["urls"]["self"], **headers)
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.data
        return found

    def events(self, job: str, previews: str = "", **headers: str) -> Stream:
        """The stream of a job's events."""
        query = f"?previews={previews}" if previews else ""
        connection, answer = self.send("GET", f"/v1/jobs/{job}/events{query}", **headers)
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        return Stream(connection, answer)

    def stop(self) -> int:
        """End it as a supervisor does; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(300)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without tokens, for the tests of a module."""
    made = Server(tmp_path_factory.mktemp("server"))
    yield made
    assert made.stop() == 0
    assert "Traceback" not in made.log.read_text()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers in the test's folder."""
    made: list[Server] = []

    def start(*options: object, **more: str) -> Server:
        made.append(Server(tmp_path, *options, **more))
        return made[-1]

    yield start
    for one in made:
        one.stop()


@pytest.fixture
def tokens(serve: Callable[..., Server], tmp_path: Path) -> tuple[Server, dict[str, str]]:
    """A server with tokens of ann, ben and an admin."""
    from graphengine.server.tokens import Tokens

    known = Tokens(tmp_path / "tokens.json")
    made = {name: known.add(name, admin=name == "root") for name in ("ann", "ben", "root")}
    return serve("--token-file", tmp_path / "tokens.json"), made


def api_in_process(folder: Path, made: type[JobApi] = JobApi) -> JobApi:
    """What a server renders, in this process, so that a test can hold up a part of it; its service begins no job."""
    folders = [folder / name for name in ("in", "out", "models", "flows")]
    for one in folders:
        one.mkdir()
    service = Service(Queue(folder / "queue.sqlite", synchronous="NORMAL"), InlineRunner())
    return made(service, Folders(*folders), FileStore(folder / "files", 1 << 20))
