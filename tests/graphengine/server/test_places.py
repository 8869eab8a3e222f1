"""No answer tells where the server keeps files: neither an upload, nor a file that a node has asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graphengine.server.file_store import FileStore
from graphengine.server.given import Folders
from graphengine.server.job_api import JobApi
from graphengine.server.places import Places
from graphengine.server.tokens import Caller
from graphengine.service.jobs.job import NewJob
from graphengine.service.jobs.lease import take
from graphengine.service.service import Service
from graphengine.service.workers.inline import InlineRunner

from .conftest import PIXEL, Server


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("'/srv/in/a/b.png' is no picture", "'a/b.png' is no picture"),
        ("/srv/in-other/b.png", "b.png"),
        (f"/state/files/{'0' * 32}/{'a' * 64} is gone", f"sha256:{'a' * 64} is gone"),
        ("[Errno 2] No such file: '/usr/lib/python3/x.py' (see https://a.example/b/c)",
         "[Errno 2] No such file: 'x.py' (see https://a.example/b/c)"),
        ("1/2 and a/b/c and 3 / 4 and s/step and in /srv/in", "1/2 and a/b/c and 3 / 4 and s/step and in "),
    ],
)  # fmt: skip
def test_sentences_tell_no_places(sentence: str, shown: str) -> None:
    assert Places(Path("/state/files"), [Path("/srv/in"), None]).without_places(sentence) == shown


def test_a_workflow_that_cannot_be_run_says_so_without_its_place(server: Server) -> None:
    (server.folder / "flows" / "broken.yaml").write_text("version: 1\nnodes: {a: {node: nowhere}}\noutputs: {a: a}\n")
    refused = server.ask("POST", "/v1/workflows/broken/jobs", {"inputs": {}})
    assert refused.problem["problems"][0]["where"] == {"file": "broken.yaml", "line": 2, "node": "a"}
    one = server.ask("GET", "/v1/workflows/broken")
    known = server.ask("GET", "/v1/workflows")
    (listed,) = (workflow for workflow in known.data["workflows"] if workflow["name"] == "broken")
    assert one.data["error"] == listed["error"]
    assert "no installed pack has a node called nowhere" in listed["error"]
    for answer in (refused, one, known):
        assert str(server.folder).encode() not in answer.body


def test_no_contract_tells_where_files_are(server: Server) -> None:
    file = server.ask("POST", "/v1/files", PIXEL).data["id"]
    job = server.run("misses", {"file": file})
    assert f"no such file: {file}, asked at nodes.py, see https://a.example/b/c" in job["error"]["message"]
    id = job["id"]
    (server.folder / "in" / "note.txt").write_text("here")
    prompt = {"1": {"class_type": "door.misses", "inputs": {"path": "note.txt"}},
              "2": {"class_type": "door.tell", "inputs": {"text": ["1", 0]}}}  # fmt: skip
    classic = server.ask("POST", "/prompt", {"prompt": prompt}).data["prompt_id"]
    for name in (id, classic):
        events = [event.data for event in server.events(name)]
        assert events[-1]["kind"] == "failed"
        told = json.dumps(events)
        for path in (f"/v1/jobs/{name}", f"/v1/jobs/{name}/report", f"/history/{name}", f"/api/jobs/{name}",
                     f"/api/v2/jobs/{name}", "/v1/jobs", "/api/jobs", "/api/v2/jobs"):  # fmt: skip
            answer = server.ask("GET", path)
            assert answer.status == 200, path
            told += answer.body.decode()
        assert "no such file" in told
        assert str(server.folder) not in told
        assert str(Path(__file__).parent) not in told


def test_the_queue_does_not_tell_where_files_are(tmp_path: Path) -> None:
    service = Service(tmp_path / "queue.sqlite", InlineRunner())
    api = JobApi(service, Folders(tmp_path / "in", tmp_path / "out"), FileStore(tmp_path / "files"))
    lease = take(service.queue, "test")
    assert lease is not None
    (number,) = service.queue.submit(NewJob({}))
    lease.claim(number, "test")
    lease.left(number, 1, f"no space left: {tmp_path / 'out' / 'a.png'}")  # it waits again
    (view,) = api.queue_facts(Caller(""))["waiting"]
    (job,) = api.unfinished(Caller(""))
    assert view.job.error == job.error == "no space left: a.png"
