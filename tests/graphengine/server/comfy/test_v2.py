"""The Comfy API v2: jobs from their submission to their end, refusals, and all answers as the published document has
them."""

from __future__ import annotations

import json
import subprocess
import threading
from datetime import datetime
from typing import Any

import pytest

from tests.graphengine.cli.conftest import command

from ..conftest import Answer, Sent, Server, Stream
from .published_api import check, check_schema

JOBS, JOB = "/api/v2/jobs", "/api/v2/jobs/{id}"


def workflow(node: str, outputs: str = "it", **inputs: Any) -> dict[str, Any]:
    """A workflow of one node."""
    return {"version": 1, "nodes": {"it": {"node": f"door.{node}", "with": inputs}}, "outputs": {outputs: "it"}}


GREETING = {"version": 1, "inputs": {"text": {"type": "str"}}, "nodes": {
    "sheet": {"node": "door.sheet", "from": {"text": "inputs.text"}}}, "outputs": {"page": "sheet"}}  # fmt: skip


def submit(server: Server, given: dict[str, Any], **headers: str) -> dict[str, Any]:
    answer = check(server.ask("POST", JOBS, given, **headers), "POST", JOBS)
    assert answer.status == 201, answer.body
    found: dict[str, Any] = answer.data
    return found


def get(server: Server, job: str) -> dict[str, Any]:
    found: dict[str, Any] = check(server.ask("GET", f"{JOBS}/{job}"), "GET", JOB).data
    return found


def stream(server: Server, job: str) -> Stream:
    connection, answer = server.send("GET", f"{JOBS}/{job}/events")
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    return Stream(connection, answer)


def run(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    job = submit(server, given)["id"]
    list(stream(server, job))
    return get(server, job)


def refusal(answer: Answer, status: int, code: str, method: str = "POST", path: str = JOBS) -> dict[str, Any]:
    """The error that an answer holds."""
    assert (answer.status, answer.data["error"]["code"]) == (status, code), answer.body
    check_schema(answer.data, "ErrorEnvelope")
    assert answer.headers["x-comfy-request-id"]
    assert b"Traceback" not in answer.body
    found: dict[str, Any] = answer.data["error"]
    return found


def of(events: list[Sent], kind: str) -> list[dict[str, Any]]:
    return [event.data for event in events if event.kind == kind]


def test_a_job_is_run_and_its_output_read(server: Server) -> None:
    job = submit(server, {"workflow": workflow("sheet", text="good morning"), "metadata": {"run": "one"}})
    assert {"started_at", "completed_at", "progress", "error", "queue_position"} <= {*job}
    assert job["metadata"] == {"run": "one"}
    events = list(stream(server, job["id"]))
    assert events[-1].data["status"] == "succeeded"
    done = get(server, job["id"])
    assert (done["status"], done["progress"]["value"]) == ("succeeded", 1.0)
    (output,) = done["outputs"]
    assert (output["node_id"], output["type"], output["size_bytes"]) == ("it", "text", 12)
    assert output["url"].startswith(f"{server.url}/api/v2/assets/")
    for name in ("created_at", "started_at", "completed_at", "expires_at"):
        assert datetime.fromisoformat(done[name]).tzinfo is not None
    assert done["urls"]["self"] == f"{server.url}{JOBS}/{job['id']}"
    assert server.ask("GET", f"{JOBS}/{job['id']}/logs").status == 204


def test_outputs_are_told_before_the_end(server: Server) -> None:
    job = submit(server, {"workflow": workflow("gate", text="through", file=str(server.folder / "go"))})
    live = iter(stream(server, job["id"]))
    seen = [next(live)]
    assert seen[0].kind == "status"
    while seen[-1].kind != "progress" or not seen[-1].data["step"]:
        seen.append(next(live))
    assert seen[-1].data | {"message": None} == {
        "value": 0.5, "nodes_done": 0, "nodes_total": 1, "current_node": "it", "current_node_class": "door.gate",
        "step": 1, "steps": 2, "message": None,
    }  # fmt: skip
    now = get(server, job["id"])
    assert (now["status"], now["progress"]["step"]) == ("running", 1)
    (server.folder / "go").touch()
    seen += live
    assert [event.kind for event in seen][-2:] == ["output", "status"]
    assert of(seen, "output") == get(server, job["id"])["outputs"]
    statuses = [data["status"] for data in of(seen, "status")]
    assert statuses[-2:] == ["running", "succeeded"]
    for kind, schema in {"status": "StatusEvent", "progress": "Progress", "output": "Output"}.items():
        for data in of(seen, kind):
            check_schema(data, schema)
    late = list(stream(server, job["id"]))
    assert [event.kind for event in late] == ["output", "status"]


def test_a_prompt_is_run_and_its_nodes_keep_their_names(server: Server) -> None:
    go = str(server.folder / "go-prompt")
    prompt = {
        "3": {"class_type": "door.gate", "inputs": {"text": "through", "file": go}},
        "57:9": {"class_type": "door.show", "inputs": {"text": ["3", 0]}, "_meta": {"title": "Page"}},
        "60": {"class_type": "door.fails", "inputs": {"text": "no output needs it"}},
    }
    job = submit(server, {"workflow": prompt})
    live = iter(stream(server, job["id"]))
    progress = next(event.data for event in live if event.kind == "progress" and event.data["step"])
    assert (progress["current_node"], progress["current_node_class"], progress["nodes_total"]) == ("3", "door.gate", 2)
    (server.folder / "go-prompt").touch()
    assert [data["node_id"] for data in of(list(live), "output")] == ["57:9"]
    assert server.ask("GET", f"{JOBS}/{job['id']}/workflow").data == {"workflow": prompt, "format": "api"}
    prompt["57:9"]["inputs"] = {"text": ["61", 0], "nonsense": 1}
    error = refusal(server.ask("POST", JOBS, {"workflow": prompt}), 422, "invalid_workflow")
    assert {fault["field"] for fault in error["details"]["node_errors"]["57:9"]} == {"text", "nonsense"}
    prompt["4"] = {"class_type": "KSamplr", "inputs": {}}
    error = refusal(server.ask("POST", JOBS, {"workflow": prompt}), 422, "invalid_workflow")
    assert "KSamplr" in error["message"]
    assert "4" in error["details"]["node_errors"]


def test_a_workflow_as_the_editor_saves_it_is_run(server: Server) -> None:
    show = {"id": 9, "type": "door.show", "inputs": [{"name": "text", "type": "STRING", "link": 1}], "outputs": []}
    texts = {"id": 7, "type": "door.digest", "inputs": [], "widgets_values": ["words.txt"],
             "outputs": [{"name": "STRING", "type": "STRING", "links": [1]}]}  # fmt: skip
    saved = {"last_node_id": 9, "last_link_id": 1, "nodes": [texts, show], "links": [[1, 7, 0, 9, 0, "STRING"]]}
    (server.folder / "in" / "words.txt").write_text("words")
    job = run(server, {"workflow": saved})
    assert [output["node_id"] for output in job["outputs"]] == ["9"], job
    assert server.ask("GET", f"{JOBS}/{job['id']}/workflow").data == {"workflow": saved, "format": "save"}
    saved["nodes"][0]["type"] = "Digst"
    error = refusal(server.ask("POST", JOBS, {"workflow": saved}), 422, "invalid_workflow")
    assert "Digst" in error["message"]


def test_inputs_are_given_by_name(server: Server) -> None:
    job = run(server, {"workflow": GREETING, "inputs": {"text": "by name"}})
    assert (job["outputs"][0]["node_id"], job["outputs"][0]["size_bytes"]) == ("sheet", 7)
    wrong = refusal(server.ask("POST", JOBS, {"workflow": GREETING, "inputs": {"txt": "x"}}), 422, "invalid_workflow")
    assert wrong["details"]["node_errors"]["inputs"]


def test_the_workflow_of_a_job_comes_back_as_it_was(server: Server) -> None:
    given = workflow("sheet", text="x")
    job = run(server, {"workflow": given, "extra_data": {"api_key_comfy_org": "secret-key"}})
    answer = check(server.ask("GET", f"{JOBS}/{job['id']}/workflow"), "GET", f"{JOB}/workflow")
    assert answer.data == {"workflow": given, "format": "api"}
    files = [file for file in server.folder.rglob("*") if file.is_file()]
    assert not [file for file in files if b"secret-key" in file.read_bytes()]


def test_cancelling(server: Server) -> None:
    job = submit(server, {"workflow": workflow("gate", text="x", file=str(server.folder / "never"))})
    live = stream(server, job["id"])
    live.until("progress")
    path = f"{JOBS}/{job['id']}/cancel"
    answer = check(server.ask("POST", path), "POST", f"{JOB}/cancel").data
    assert answer["status"] in ("canceling", "canceled")
    assert list(live)[-1].data["status"] == "canceled"
    again = check(server.ask("POST", path), "POST", f"{JOB}/cancel").data
    assert (again["status"], again["error"]) == ("canceled", None)


def test_a_failed_job_says_where(server: Server) -> None:
    job = run(server, {"workflow": workflow("fails", text="four")})
    assert job["status"] == "failed"
    assert (job["error"]["code"], job["error"]["node_id"], job["error"]["class_type"]) == (
        "node_execution_error", "it", "door.fails"
    )  # fmt: skip
    assert "four is not lucky" in job["error"]["message"]


def test_every_error_names_nodes_as_the_prompt_does(server: Server) -> None:
    fails = {"class_type": "door.fails", "inputs": {"text": "four"}}
    prompt = {"57_3": fails, "57:3": fails, "9": {"class_type": "door.show", "inputs": {"text": ["57:3", 0]}}}
    error = run(server, {"workflow": prompt})["error"]
    assert error["node_id"] == "57:3"
    assert error["message"].startswith("node 57:3 (door.fails) failed: ValueError: four is not lucky")
    prompt["57:3"] = {"class_type": "door.fails", "inputs": {"text": "four", "nonsense": 1}}
    error = refusal(server.ask("POST", JOBS, {"workflow": prompt}), 422, "invalid_workflow")
    assert list(error["details"]["node_errors"]) == ["57:3"]
    assert "n57" not in json.dumps(error)


def test_a_key_is_taken_once_and_never_answered_again(server: Server) -> None:
    answers: list[Answer] = []
    body = {"workflow": workflow("sheet", text="once")}

    def ask() -> None:
        answers.append(server.ask("POST", JOBS, body, Idempotency_Key="v1"))

    # A request that made no job leaves its key free.
    refusal(server.ask("POST", JOBS, {"workflow": workflow("shet")}, Idempotency_Key="v1"), 422, "invalid_workflow")
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status for answer in answers) == [201, 422, 422, 422]
    refusal(server.ask("POST", JOBS, {"workflow": {}}, Idempotency_Key="v1"), 422, "idempotency_key_reuse")
    refusal(server.ask("POST", JOBS, body, Idempotency_Key=""), 400, "invalid_request")


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        (b"{", 400, "invalid_request"),
        (b"[]", 400, "invalid_request"),
        ({}, 422, "invalid_request"),
        ({"workflow": []}, 422, "invalid_request"),
        ({"workflow": {}}, 422, "invalid_workflow"),
        ({"workflow": workflow("sheet", text="x"), "webhook_url": "http://x"}, 422, "invalid_request"),
        ({"workflow": workflow("sheet", text="x"), "priority": True}, 422, "invalid_request"),
        ({"workflow": workflow("sheet", text="x"), "wrkflow": 1}, 422, "invalid_request"),
        ({"workflow": workflow("sheet", text="x"), "extra_data": {"other": "x"}}, 422, "invalid_request"),
        ({"workflow": workflow("sheet", text="x"), "metadata": {"a b": "x"}}, 422, "metadata_invalid"),
        ({"workflow": workflow("sheet", text="x"), "metadata": "x" * 1025}, 422, "metadata_invalid"),
    ],
)
def test_wrong_orders(server: Server, given: Any, status: int, code: str) -> None:
    refusal(server.ask("POST", JOBS, given, Content_Type="application/json"), status, code)


def test_a_wrong_workflow_is_told_by_node_and_field(server: Server) -> None:
    given = workflow("sheet", text=5, nonsense=1)
    error = refusal(server.ask("POST", JOBS, {"workflow": given}), 422, "invalid_workflow")
    assert {fault["field"] for fault in error["details"]["node_errors"]["it"]} == {"text", "nonsense"}
    assert all(fault["reason"] for fault in error["details"]["node_errors"]["it"])


def test_jobs_are_listed_by_label_and_status(server: Server) -> None:
    made = []
    for number in range(3):
        labels = {"set": "v2-pages", "number": str(number)}
        made.append(run(server, {"workflow": workflow("sheet", text="listed"), "metadata": labels})["id"])
    path = f"{JOBS}?metadata%5Bset%5D=v2-pages"
    first = server.ask("GET", f"{path}&limit=2&status=succeeded,failed").data
    assert [job["id"] for job in first["jobs"]] == made[:0:-1]
    second = server.ask("GET", f"{path}&limit=2&cursor={first['next_cursor']}&status=failed,succeeded").data
    assert [job["id"] for job in second["jobs"]] == made[:1]
    assert "next_cursor" not in second
    assert first["jobs"][0]["metadata"]["number"] == "2"
    for job in first["jobs"]:
        check_schema(job, "Job")
    assert server.ask("GET", f"{path}&status=expired").data == {"jobs": []}
    assert server.ask("GET", f"{path}&status=canceling").data == {"jobs": []}
    wrong = {"limit=0": "invalid_request", "limit=x": "invalid_request", "cursor=x": "invalid_cursor",
             "status=done": "invalid_request", "metadata[%22]=x": "invalid_metadata_filter", "x=1": "invalid_request",
             "metadata[=1": "invalid_request"}  # fmt: skip
    for query, code in wrong.items():
        refusal(server.ask("GET", f"{JOBS}?{query}"), 400, code)


def test_a_job_that_waits_is_listed(server: Server) -> None:
    server.ask("POST", "/v1/queue/pause")
    try:
        job = submit(server, {"workflow": workflow("sheet", text="x"), "metadata": {"set": "waits"}})["id"]
        path = f"{JOBS}?metadata[set]=waits"
        assert [one["id"] for one in server.ask("GET", f"{path}&status=queued").data["jobs"]] == [job]
        assert server.ask("GET", f"{path}&status=running").data == {"jobs": []}
    finally:
        server.ask("POST", "/v1/queue/resume")
    list(stream(server, job))
    assert server.ask("GET", f"{path}&status=queued").data == {"jobs": []}


def test_links_lead_where_the_client_has_come_from(server: Server) -> None:
    job = run(server, {"workflow": workflow("sheet", text="x")})["id"]
    by_name = server.ask("GET", f"{JOBS}/{job}", Host=f"localhost:{server.port}").data
    assert by_name["urls"]["self"] == f"http://localhost:{server.port}{JOBS}/{job}"
    behind = server.ask("GET", f"{JOBS}/{job}", Host="localhost", X_Forwarded_Proto="https").data
    assert behind["outputs"][0]["url"].startswith("https://localhost/api/v2/assets/")


def test_metadata_that_is_one_text(server: Server) -> None:
    job = submit(server, {"workflow": workflow("sheet", text="x"), "metadata": "my run"})
    assert get(server, job["id"])["metadata"] == "my run"


def test_what_is_not_there(server: Server) -> None:
    for path in (f"{JOBS}/x", f"{JOBS}/x/events", f"{JOBS}/x/workflow", f"{JOBS}/x/logs", "/api/v2/x"):
        refusal(server.ask("GET", path), 404, "not_found")
    refusal(server.ask("POST", f"{JOBS}/x/cancel"), 404, "not_found")
    refusal(server.ask("PUT", JOBS), 405, "method_not_allowed")


def test_jobs_of_others_and_unknown_tokens(serve: Any) -> None:
    server: Server = serve("--token-file", "tokens.json")
    tokens = {}
    for name in ("ann", "ben"):
        made = subprocess.run(command("serve", "token", "add", name, "--token-file", "tokens.json"), cwd=server.folder,
                              env=server.environment, capture_output=True, text=True, check=True)  # fmt: skip
        tokens[name] = made.stdout.strip()
    refusal(server.ask("GET", JOBS), 401, "unauthorized")
    server.token = tokens["ann"]
    job = submit(server, {"workflow": workflow("sheet", text="mine")}, Idempotency_Key="k")
    list(stream(server, job["id"]))
    output = get(server, job["id"])["outputs"][0]["id"]
    server.token = tokens["ben"]
    for path in ("", "/workflow", "/events", "/logs"):
        refusal(server.ask("GET", f"{JOBS}/{job['id']}{path}"), 404, "not_found")
    refusal(server.ask("POST", f"{JOBS}/{job['id']}/cancel"), 404, "not_found")
    for path in ("", "/content"):
        refusal(server.ask("GET", f"/api/v2/assets/{output}{path}"), 404, "not_found")
    theirs = workflow("digest", path={"__type": "core/ASSET", "info": {"id": output}})
    refusal(server.ask("POST", JOBS, {"workflow": theirs}), 422, "missing_asset")
    assert server.ask("GET", JOBS).data == {"jobs": []}
    submit(server, {"workflow": workflow("sheet", text="mine too")}, Idempotency_Key="k")


def test_a_full_queue_lets_a_client_come_again_with_its_key(serve: Any) -> None:
    server: Server = serve()
    server.ask("POST", "/v1/queue/pause")
    subprocess.run(command("queue", "limit", "0"), cwd=server.folder, env=server.environment, check=True)
    body = {"workflow": workflow("sheet", text="x")}
    answer = server.ask("POST", JOBS, body, Idempotency_Key="again")
    refusal(answer, 429, "queue_full")
    assert answer.headers["retry-after"].isdigit()
    subprocess.run(command("queue", "limit"), cwd=server.folder, env=server.environment, check=True)
    job = submit(server, body, Idempotency_Key="again")
    assert (job["status"], job["queue_position"]) == ("queued", 1)
    server.stop()
    again: Server = serve()
    refusal(again.ask("POST", JOBS, body, Idempotency_Key="again"), 422, "idempotency_key_reuse")
    assert json.loads(again.ask("POST", f"{JOBS}/{job['id']}/cancel").body)["status"] == "canceled"
