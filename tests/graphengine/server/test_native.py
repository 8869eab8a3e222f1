"""The native API: workflows by name, graphs, events, files, lists, the queue, and the document that describes it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import re
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import PIL.Image
import pytest
from aiohttp.test_utils import TestClient, TestServer

from graphengine.server.http import Door
from graphengine.server.job_api import JobApi, JobView, Order
from graphengine.server.serving import application
from graphengine.server.tokens import Caller, Tokens
from graphengine.service.jobs.job import State
from graphengine.service.metrics import Metrics
from graphengine.service.workers.wire import unpack
from tests.graphengine.sample import until

from .conftest import PIXEL, Answer, Sent, Server, api_in_process

GREETING = {"version": 1, "inputs": {"text": {"type": "str"}}, "nodes": {
    "sheet": {"node": "door.sheet", "from": {"text": "inputs.text"}}}, "outputs": {"sheet": "sheet"}}  # fmt: skip


GRAPH = {"version": 1, "nodes": {"n": {"node": "flow.collect", "with": {"items": [1]}}}, "outputs": {"n": "n"}}


def submit(server: Server, workflow: str, inputs: dict[str, Any], **headers: str) -> dict[str, Any]:
    answer = server.ask("POST", f"/v1/workflows/{workflow}/jobs", {"inputs": inputs}, **headers)
    assert answer.status == 202, answer.body
    found: dict[str, Any] = answer.data
    assert answer.headers["location"] == found["urls"]["self"]
    return found


def gate(server: Server, name: str) -> str:
    """A file that lets a job through once it is made."""
    file = server.folder / name
    assert not file.exists()
    return str(file)


def open_gate(file: str) -> None:
    with open(file, "x"):
        pass


def until_unwatched(server: Server, job: dict[str, Any], file: str) -> int:
    """Wait until a job of `shows` makes no more previews: nobody watches it. How many it has made."""
    until(Path(f"{file}.unwatched").exists)
    step: int = server.ask("GET", job["urls"]["self"]).data["progress"]["step"]
    return step


def test_a_workflow_is_run_by_its_name(server: Server) -> None:
    job = server.run("greet", {"text": "good morning"})
    assert (job["state"], job["workflow"], job["inputs"]) == ("done", "greet", {"text": "good morning"})
    assert uuid.UUID(job["id"]).version == 4
    (file,) = job["outputs"]["sheet"]["files"]
    assert server.ask("GET", file["url"]).body == b"good morning"
    assert (server.folder / "out" / file["name"]).read_text() == "good morning"
    assert server.ask("GET", job["urls"]["self"]).data == job


def test_a_graph_is_run(server: Server) -> None:
    order = {"workflow": GREETING, "inputs": {"text": "hello"}, "labels": {"run": "one"}}
    job = server.ask("POST", "/v1/jobs", order, Prefer="respond-async, wait=9999999999").data
    assert job["state"] == "done", job
    assert server.ask("GET", job["outputs"]["sheet"]["files"][0]["url"]).body == b"hello"


def test_plain_values_are_in_the_job(server: Server) -> None:
    (server.folder / "in" / "words.txt").write_text("words")
    job = server.run("digest", {"file": "words.txt"})
    assert job["outputs"] == {
        "digest": {"value": hashlib.sha256(b"words").hexdigest()}, "model": {"value": "tiny"}
    }  # fmt: skip


def test_models_are_named_by_their_place_in_the_folder_of_models(server: Server) -> None:
    (server.folder / "models" / "house.safetensors").write_text("weights")
    (server.folder / "in" / "words.txt").write_text("words")
    assert server.run("digest", {"file": "words.txt", "model": "house.safetensors"})["outputs"]["model"] == {
        "value": "weights"
    }


def test_a_file_is_uploaded_by_its_hash_and_given_to_a_job(server: Server) -> None:
    content = b"first\r\nsecond\0\xff"
    name = f"sha256:{hashlib.sha256(content).hexdigest()}"
    first = server.ask("POST", "/v1/files", content)
    assert (first.status, first.data["id"], first.data["size"]) == (201, name, len(content))
    assert server.ask("POST", "/v1/files", content).status == 200
    back = server.ask("GET", f"/v1/files/{name}")
    assert (back.body, back.headers["content-type"]) == (content, "application/octet-stream")
    assert server.run("digest", {"file": name})["outputs"]["digest"]["value"] == name.removeprefix("sha256:")
    assert server.ask("DELETE", f"/v1/files/{name}").status == 204
    assert server.ask("GET", f"/v1/files/{name}").problem["code"] == "not_found"
    wrong = server.ask("POST", "/v1/files?expected=sha256:00", content)
    assert name in wrong.problem["detail"]
    assert server.ask("GET", f"/v1/files/{name}").status == 404


def test_a_file_is_given_as_a_data_url(server: Server) -> None:
    url = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
    assert server.run("digest", {"file": url})["outputs"]["digest"]["value"] == hashlib.sha256(PIXEL).hexdigest()


def test_limits_and_pauses_of_users_are_set_by_admins(tokens: tuple[Server, dict[str, str]]) -> None:
    server, token = tokens
    server.token = token["root"]
    facts = server.ask("PUT", "/v1/queue/limit", {"limit": 5}).data
    assert (facts["limit"], facts["limits"]) == (5, {"": 5})
    assert server.ask("PUT", "/v1/queue/limit", {"limit": 0, "user": "ann"}).data["limits"] == {"": 5, "ann": 0}
    assert server.ask("POST", "/v1/queue/pause", {"user": "ben"}).data["paused"] is False  # not of all
    for wrong in ({}, {"limit": -1}, {"limit": 2**70}, {"limit": "5"}, {"limit": 5, "usr": "ann"}, {"limit": True}):
        assert server.ask("PUT", "/v1/queue/limit", wrong).problem["status"] == 400, wrong
    server.token = token["ann"]
    assert server.ask("PUT", "/v1/queue/limit", {"limit": None, "user": "ann"}).problem["code"] == "forbidden"
    assert server.ask("POST", "/v1/queue/resume", {"user": "ben"}).problem["code"] == "forbidden"
    facts = server.ask("GET", "/v1/queue").data
    assert (facts["limit"], "limits" in facts) == (0, False)
    full = server.ask("POST", "/v1/workflows/greet/jobs", {"inputs": {"text": "x"}})
    assert (full.problem["code"], full.headers["retry-after"]) == ("queue_full", "5")
    server.token = token["ben"]
    assert server.ask("GET", "/v1/queue").data["paused"] is True
    assert server.ask("POST", "/v1/queue/resume").data["paused"] is False  # his own


def test_the_value_of_an_output(server: Server) -> None:
    job = server.run("greet", {"text": "whole"})
    found = server.ask("GET", f"/v1/jobs/{job['id']}/values/sheet")
    tree, blobs = unpack(found.body)
    assert (tree["type"], blobs) == ("Sheet", {tree["blob"]: b"html\nwhole"})
    assert "did you mean sheet?" in server.ask("GET", f"/v1/jobs/{job['id']}/values/shet").problem["detail"]
    failed = submit(server, "fails", {})
    server.events(failed["id"]).until("failed")
    assert server.ask("GET", f"/v1/jobs/{failed['id']}/values/text").problem["code"] == "not_found"


def test_previews_are_made_for_those_who_watch_and_not_too_many(server: Server) -> None:
    file = gate(server, "go-shows")
    job = submit(server, "shows", {"file": file})
    quiet = server.events(job["id"], previews="false")
    quiet.until("running")
    until(lambda: server.ask("GET", job["urls"]["self"]).data["state"] == "running")  # its node has begun
    assert server.ask("GET", job["urls"]["self"]).data["progress"]["step"] is None  # it has made none
    begin, stream, seen = time.monotonic(), server.events(job["id"]), list[Sent]()
    for event in stream:
        if event.kind == "preview":
            seen.append(event)
            if len(seen) == 4:
                break
    assert time.monotonic() - begin > 1.4  # two a second, of a hundred
    first = seen[0].data
    assert (seen[0].id, first["node"], first["type"], first["total"]) == ("", "shows", "image/png", 1_000_000)
    assert base64.b64decode(first["data"]) == PIXEL
    assert [event.data["step"] for event in seen] == sorted({event.data["step"] for event in seen})
    stream.close()
    step = until_unwatched(server, job, file)
    open_gate(file)
    ended = quiet.until("done")
    assert "progress" in {event.kind for event in ended}
    assert "preview" not in {event.kind for event in ended}
    made = server.ask("GET", job["urls"]["self"]).data["outputs"]["made"]["value"]
    assert made == step > 0


def test_previews_of_a_model_in_a_worker(serve: Callable[..., Server]) -> None:
    server = serve("--backend", "local", "--workers", 1, "--threads", 1)
    inputs = {"prompt": "a red circle", "steps": 60, "seed": 1}
    server.ask("POST", "/v1/queue/pause")
    job = submit(server, "text_to_image", inputs)
    stream = server.events(job["id"])
    stream.until("queued")  # it is watched from its beginning on
    server.ask("POST", "/v1/queue/resume")
    events = stream.until("done")
    previews = [event.data for event in events if event.kind == "preview"]
    assert previews
    for preview in previews:
        with PIL.Image.open(io.BytesIO(base64.b64decode(preview["data"]))) as picture:
            assert PIL.Image.MIME[str(picture.format)] == preview["type"]
            assert max(picture.size) <= 128
    assert previews[0]["total"] == 60


def test_events_come_from_the_log_and_go_on_where_a_client_left(server: Server) -> None:
    file = gate(server, "go-1")
    job = submit(server, "gate", {"file": file})
    stream = server.events(job["id"])
    seen = stream.until("progress")
    assert [event.kind for event in seen if event.id] == ["queued", "running"]
    assert (seen[-1].data["step"], seen[-1].data["total"], seen[-1].data["node"]) == (1, 2, "gate")
    stream.close()
    known = [event.id for event in seen if event.id]
    open_gate(file)
    again = list(server.events(job["id"], Last_Event_ID=known[0]))
    assert [event.kind for event in again if event.id] == ["running", "done"]
    assert again[-1].kind == "done"
    connection, answer = server.send("GET", f"/v1/jobs/{job['id']}/events", Last_Event_ID=again[-1].id)
    assert answer.status == 204
    connection.close()
    assert [event.kind for event in server.events(job["id"])] == ["queued", "running", "done"]


def test_a_running_job_tells_its_progress_and_is_cancelled(server: Server) -> None:
    job = submit(server, "gate", {"file": gate(server, "never")})
    stream = server.events(job["id"])
    stream.until("progress")
    now = server.ask("GET", job["urls"]["self"]).data
    assert now["state"] == "running"
    assert (now["progress"]["node"], now["progress"]["step"]) == ("gate", 1)
    early = server.ask("DELETE", job["urls"]["self"])
    assert (early.status, early.problem["code"]) == (409, "conflict")
    server.ask("POST", job["urls"]["cancel"])
    assert [event.kind for event in stream][-1] == "cancelled"
    assert server.ask("POST", job["urls"]["cancel"]).data["state"] == "cancelled"
    assert server.ask("DELETE", job["urls"]["self"]).status == 204
    assert server.ask("GET", job["urls"]["self"]).status == 404


def test_a_failed_job_says_why(server: Server) -> None:
    job = server.run("fails", {})
    assert job["state"] == "failed"
    assert job["error"]["node"] == "fails"
    assert "four is not lucky" in job["error"]["message"]


def test_waiting_ends_with_the_time_that_was_asked_for(server: Server) -> None:
    file = gate(server, "go-2")
    answer = server.ask("POST", "/v1/workflows/gate/jobs", {"inputs": {"file": file}}, Prefer="wait=0")
    assert answer.status == 202
    answer = server.ask("POST", "/v1/workflows/gate/jobs", {"inputs": {"file": file}}, Prefer="wait=1")
    assert (answer.status, answer.headers["preference-applied"]) == (202, "wait=1")
    open_gate(file)
    assert [event.kind for event in server.events(answer.data["id"])][-1] == "done"


def test_a_client_that_leaves_while_its_job_is_submitted_has_it_cancelled(tmp_path: Path) -> None:
    submitted, gate = threading.Event(), threading.Event()

    class SlowApi(JobApi):
        def submit(self, caller: Caller, order: Order) -> JobView:
            view = super().submit(caller, order)
            submitted.set()
            assert gate.wait(60)
            return view

    api = api_in_process(tmp_path, SlowApi)
    app = application(api, Door(Tokens(tmp_path / "tokens.json")), Metrics(api.service), None)

    async def leave() -> None:
        async with TestClient(TestServer(app)) as client:
            asking = asyncio.ensure_future(
                client.post("/v1/jobs", json={"workflow": GRAPH}, headers={"Prefer": "wait=60"})
            )
            assert await asyncio.to_thread(submitted.wait, 60)
            asking.cancel()
            runner = client.server.runner
            assert runner is not None
            while runner.server is not None and runner.server.connections:
                await asyncio.sleep(0.01)
            gate.set()
            await asyncio.to_thread(until, lambda: api.queue.get(1).state is State.CANCELLED)

    asyncio.run(leave())


def test_a_key_makes_one_job_and_is_answered_again(server: Server) -> None:
    answers: list[Answer] = []

    def ask() -> None:
        body = {"inputs": {"text": "once"}}
        answers.append(server.ask("POST", "/v1/workflows/greet/jobs", body, Idempotency_Key="k1"))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [202] * 4
    assert len({answer.data["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 3
    other = server.ask("POST", "/v1/workflows/greet/jobs", {"inputs": {"text": "twice"}}, Idempotency_Key="k1")
    assert (other.status, other.problem["code"]) == (422, "key_reused")
    # A request that made no job leaves its key free.
    assert server.ask("POST", "/v1/workflows/greet/jobs", {"inputs": {}}, Idempotency_Key="k2").status == 422
    assert submit(server, "greet", {"text": "now"}, Idempotency_Key="k2")["workflow"] == "greet"


def test_jobs_are_listed_page_by_page_and_by_label(server: Server) -> None:
    made = []
    for number in range(3):
        order = {"inputs": {"text": "listed"}, "labels": {"set": "pages", "number": str(number)}}
        made.append(server.ask("POST", "/v1/workflows/greet/jobs", order, Prefer="wait=60").data["id"])
    found, path = [], "/v1/jobs?label.set=pages&limit=2&state=done,failed"
    first = server.ask("GET", path).data
    found += [job["id"] for job in first["jobs"]]
    second = server.ask("GET", f"/v1/jobs?limit=2&cursor={first['next_cursor']}").data
    found += [job["id"] for job in second["jobs"]]
    assert found == made[::-1]
    assert "next_cursor" not in second
    assert [j["id"] for j in server.ask("GET", "/v1/jobs?label.set=pages&label.number=1").data["jobs"]] == [made[1]]
    assert server.ask("GET", "/v1/jobs?label.set=pages&state=failed").data == {"jobs": []}
    for wrong in ("limit=0", "limit=x", "limit=1000", "state=dome", "cursor=zz", "nonsense=1", "label.%22=1",
                  f"cursor={first['next_cursor']}&state=failed"):  # fmt: skip
        assert server.ask("GET", f"/v1/jobs?{wrong}").problem["code"] == "bad_request", wrong
    assert "did you mean done" in server.ask("GET", "/v1/jobs?state=dome").problem["detail"]


def test_the_queue_is_paused_and_moved(server: Server) -> None:
    until(lambda: not server.ask("GET", "/v1/jobs?state=queued,running").data["jobs"])  # of other tests
    assert server.ask("POST", "/v1/queue/pause").data["paused"]
    first, second = (submit(server, "greet", {"text": text}) for text in ("a", "b"))
    assert (first["ahead"], second["ahead"]) == (0, 1)
    moved = server.ask("POST", f"{second['urls']['self']}/move", {"before": first["id"]}).data
    assert moved["ahead"] == 0
    waiting = server.ask("GET", "/v1/queue").data["waiting"]  # paused ones too
    assert [job["id"] for job in waiting] == [second["id"], first["id"]]
    assert not server.ask("POST", "/v1/queue/resume").data["paused"]
    for job in (first, second):
        assert [event.kind for event in server.events(job["id"])][-1] == "done"
    late = server.ask("POST", f"{second['urls']['self']}/move")
    assert (late.status, late.problem["code"]) == (409, "conflict")


def test_workflows_and_nodes_are_described(server: Server) -> None:
    names = [one["name"] for one in server.ask("GET", "/v1/workflows").data["workflows"]]
    assert {"greet", "digest", "text_to_image"} <= {*names}
    greet = server.ask("GET", "/v1/workflows/greet").data
    assert greet["inputs"]["required"] == ["text"]
    assert greet["inputs"]["properties"]["ending"]["default"] == "html"
    assert greet["outputs"] == {"sheet": "Sheet"}
    assert "did you mean greet" in server.ask("GET", "/v1/workflows/gret").problem["detail"]
    assert "door.sheet" in [node["name"] for node in server.ask("GET", "/v1/nodes").data["nodes"]]
    assert server.ask("GET", "/v1/nodes/door.sheet").data["help"].startswith("A text as a file")
    assert "did you mean door.sheet" in server.ask("GET", "/v1/nodes/door.shet").problem["detail"]


def test_a_workflow_that_is_wrong_on_disk_is_named(server: Server) -> None:
    (server.folder / "flows" / "broken.yaml").write_text("version: 1\nnodes: {a: {node: door.shet}}\n")
    try:
        listed = {one["name"]: one for one in server.ask("GET", "/v1/workflows").data["workflows"]}
        assert "greet" in listed
        answer = server.ask("POST", "/v1/workflows/broken/jobs", {"inputs": {}})
        assert answer.status in (422, 503)
        assert "door.shet" in json.dumps(answer.problem["problems"])
    finally:
        (server.folder / "flows" / "broken.yaml").unlink()


def test_the_document_of_the_api_tells_the_truth(server: Server) -> None:
    document = server.ask("GET", "/v1/openapi.json").data
    assert document["openapi"] == "3.1.0"
    named = document["paths"]["/v1/workflows/greet/jobs"]["post"]
    order = named["requestBody"]["content"]["application/json"]["schema"]
    assert order["properties"]["inputs"]["required"] == ["text"]
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(ids) == len({*ids})
    job = server.run("greet", {"text": "checked"})
    answers = {
        ("/v1/jobs/{id}", "get"): server.ask("GET", job["urls"]["self"]),
        ("/v1/jobs", "get"): server.ask("GET", "/v1/jobs"),
        ("/v1/queue", "get"): server.ask("GET", "/v1/queue"),
        ("/v1/nodes", "get"): server.ask("GET", "/v1/nodes"),
        ("/v1/workflows", "get"): server.ask("GET", "/v1/workflows"),
        ("/v1/workflows/{name}", "get"): server.ask("GET", "/v1/workflows/greet"),
        ("/v1/files", "post"): server.ask("POST", "/v1/files", b"x"),
        ("/v1/jobs", "post"): server.ask("POST", "/v1/jobs", {"workflow": GREETING, "inputs": {"text": "x"}}),
    }
    for (path, method), answer in answers.items():
        described = document["paths"][path][method]["responses"][str(answer.status)]["content"]
        (schema,) = [content["schema"] for content in described.values()]
        jsonschema.validate(answer.data, {**schema, "components": document["components"]})
    problem = {"$ref": "#/components/schemas/Problem", "components": document["components"]}
    jsonschema.validate(server.ask("GET", "/v1/jobs/x").problem, problem)
    assert all(re.fullmatch(r"\w+", one) for one in ids)


@pytest.mark.parametrize("path", ["/v1/jobs/x", "/v1/files/x", "/v1/workflows/x", "/v1/nodes/x", "/x", "/v1"])
def test_what_is_not_there(server: Server, path: str) -> None:
    assert server.ask("GET", path).problem["code"] == "not_found"
    assert server.ask("HEAD", path).status == 404


def test_a_method_that_a_path_does_not_take(server: Server) -> None:
    answer = server.ask("PUT", "/v1/jobs")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert "takes GET, HEAD, POST" in answer.problem["detail"]


def test_a_part_of_a_file_is_sent(server: Server) -> None:
    """Players of videos ask for parts."""
    job = server.run("greet", {"text": "0123456789" * 10, "ending": "txt"})
    url = job["outputs"]["sheet"]["files"][0]["url"]
    whole = server.ask("GET", url).body
    size = len(whole)
    for asked, part, sent in (
        ("bytes=0-3", whole[:4], f"0-3/{size}"), ("bytes=5-", whole[5:], f"5-{size - 1}/{size}"),
        ("bytes=-4", whole[-4:], f"{size - 4}-{size - 1}/{size}"), ("bytes=2-9999", whole[2:], f"2-{size - 1}/{size}"),
    ):  # fmt: skip
        answer = server.ask("GET", url, Range=asked)
        assert (answer.status, answer.body, answer.headers["content-range"]) == (206, part, f"bytes {sent}"), asked
    for asked in ("bytes=0-1,3-4", "lines=1-2", "bytes=3-1", "bytes=a-b"):
        answer = server.ask("GET", url, Range=asked)
        assert (answer.status, answer.body) == (200, whole), asked
    beyond = server.ask("GET", url, Range="bytes=9999-")
    assert (beyond.status, beyond.problem["code"]) == (416, "bad_range")
    assert beyond.headers["content-range"] == f"bytes */{size}"


def test_lists_of_jobs_hold_the_beginnings_of_long_texts(server: Server) -> None:
    prompt = {"1": {"class_type": "door.tell", "inputs": {"text": "long " * 10_000}}}
    id = server.ask("POST", "/prompt", {"prompt": prompt}).data["prompt_id"]
    server.events(id).until("done")
    (value,) = server.ask("GET", f"/v1/jobs/{id}").data["outputs"].values()
    assert value == {"value": "long " * 10_000}
    (listed,) = (job for job in server.ask("GET", "/v1/jobs").data["jobs"] if job["id"] == id)
    (value,) = listed["outputs"].values()
    assert value["value"].endswith("…")
    assert len(value["value"]) < 3000
