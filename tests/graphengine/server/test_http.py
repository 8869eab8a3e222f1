"""Who may ask, and what a stranger's request cannot do: each attack is a test."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphengine.server.http import FREE_MESSAGES, Pace
from tests.graphengine.sample import until

from .conftest import PIXEL, Server
from .test_native import gate, open_gate, submit

GREET = "/v1/workflows/greet/jobs"
DEEP = 100_000


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8188", "localhost.evil.example", "127.0.0.1.evil.org"])
def test_a_name_that_leads_here_is_refused(server: Server, host: str) -> None:
    """DNS rebinding: a page of another site whose name leads to this machine."""
    for path in ("/health", "/v1/jobs", "/metrics", "/x"):
        answer = server.ask("GET", path, Host=host)
        assert (answer.status, answer.problem["code"]) == (403, "forbidden"), path


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8188", "192.168.0.5:8188"])
def test_names_and_addresses_of_this_machine_are_taken(server: Server, host: str) -> None:
    assert server.ask("GET", "/v1/jobs", Host=host).status == 200


def test_pages_of_other_sites_are_refused(server: Server) -> None:
    here = f"127.0.0.1:{server.port}"
    body = {"inputs": {"text": "csrf"}}
    for headers in (
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": f"http://{here}.evil.example"},
        {"Origin": "http://127.0.0.1:1"}, {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"},
        {"Origin": f"http://{here}", "Sec_Fetch_Site": "cross-site"},
    ):  # fmt: skip
        answer = server.ask("POST", GREET, body, Host=here, **headers)
        assert (answer.status, answer.problem["code"]) == (403, "forbidden"), headers
        assert "access-control-allow-origin" not in answer.headers
        assert server.ask("GET", "/v1/jobs", Host=here, **headers).status == 403
    own = {"Origin": f"http://{here}", "Sec_Fetch_Site": "same-origin"}
    assert server.ask("POST", GREET, body, Host=here, **own).status == 202


def test_a_form_of_a_page_is_no_request(server: Server) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = server.ask("POST", GREET, b'{"inputs": {"text": "form"}}', Content_Type=kind)
        assert (answer.status, answer.problem["code"]) == (415, "bad_type")


def test_what_is_uploaded_is_not_run_by_a_browser(server: Server) -> None:
    shown = {"image/png": PIXEL, "image/jpeg": b"\xff\xd8\xff\xe0" + bytes(20),
             "image/webp": b"RIFF\0\0\0\0WEBPVP8 " + bytes(9),
             "video/mp4": b"\0\0\0\x18ftypisom" + bytes(20)}  # fmt: skip
    saved = [b"<script>alert(1)</script>", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.4", b"GIF89a<script>",
             b"\x89PNG\r\n\x1a\n<script>", b"MZ"]  # fmt: skip
    for kind, content in [*shown.items(), *(("application/octet-stream", content) for content in saved)]:
        stored = server.ask("POST", "/v1/files?name=../../evil.html", content, Content_Type="text/html").data
        answer = server.ask("GET", stored["url"])
        assert answer.body == content
        assert answer.headers["content-type"] == kind
        assert answer.headers["content-disposition"].startswith("inline" if kind in shown else "attachment")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]
    for ending, how in (("html", "attachment"), ("png", "inline")):
        job = server.run("greet", {"text": "<script>", "ending": ending})
        answer = server.ask("GET", job["outputs"]["sheet"]["files"][0]["url"])
        assert answer.headers["content-disposition"].startswith(how)
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"{", b"[]", b"null", b"7", b'{"inputs": NaN}', b'{"inputs": {"text": Infinity}}', b'{"a": 1e999}',
     b'{"inputs": {"text": "\xff"}}', b'{"inputs": {"text": "\xc3', b'{"inputs": {"text": "\\ud800"}}',
     b'{"\\udfff": 1}', b"[" * DEEP, b'{"a":' * DEEP, b'{"inputs": ' + b"[" * 100 + b"]" * 100 + b"}",
     b'{"priority": ' + b"9" * 5000 + b"}",
     b'{"priority": 9999999999999999999999}', b'{"inputs": []}', b'{"inputs": "x"}', b'{"labels": {"a b": "c"}}',
     b'{"labels": {"a": 1}}', b'{"labels": []}', b'{"want": []}', b'{"want": "x"}', b'{"priority": 1.5}',
     b'{"priority": true}', b'{"exact": 1}', b'{"input": {}}', b"\0", b"<xml/>", b"\xff\xfe{\0}\0"],
)  # fmt: skip
def test_bodies_that_are_no_order(server: Server, body: bytes) -> None:
    answer = server.ask("POST", GREET, body, Content_Type="application/json")
    assert answer.status in (400, 422), answer.body
    assert len(answer.problem["detail"]) < 500
    answer = server.ask("POST", "/v1/jobs", body, Content_Type="application/json")
    assert answer.status in (400, 422), answer.body


def test_all_that_is_wrong_is_said_at_once(server: Server) -> None:
    inputs = {"txt": "a", "ending": "exe", "text": 7}
    problem = server.ask("POST", GREET, {"inputs": inputs}).problem
    assert problem["code"] == "invalid"
    by_socket = {one["where"]["socket"]: one for one in problem["problems"]}
    assert by_socket["txt"]["nearest"] == ["text"]
    assert {"ending", "text"} <= by_socket.keys()
    assert "did you mean inputs" in server.ask("POST", GREET, {"input": {}}).problem["detail"]


def test_bodies_that_are_too_large(server: Server) -> None:
    answer = server.ask("POST", "/v1/files", b"x", Content_Length=str(200 << 20))
    assert (answer.status, answer.problem["code"]) == (413, "too_large")
    answer = server.ask("POST", GREET, b'{"a": 1}', Content_Length=str(200 << 20), Content_Type="application/json")
    assert (answer.status, answer.problem["code"]) == (413, "too_large")
    many = b'{"inputs": {"text": [' + b"1," * 600_000 + b"1]}}"
    assert server.ask("POST", GREET, many, Content_Type="application/json").problem["code"] == "too_large"
    zipped = server.ask("POST", GREET, b"x", Content_Encoding="gzip", Content_Type="application/json")
    assert zipped.status in (400, 415)


def test_a_large_body_of_unknown_length_is_cut_off(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port or 0), timeout=60) as client:
        head = "POST /v1/workflows/greet/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        for _ in range(34):  # the last ones are beyond the limit, and the body has no end
            client.sendall(piece)
        answer = client.recv(1 << 16).decode()
        assert answer.startswith("HTTP/1.1 413 ")
        assert "Connection: close" in answer


def test_idle_and_half_open_connections_keep_nobody_out(server: Server) -> None:
    with contextlib.ExitStack() as idle:
        for number in range(300):
            client = idle.enter_context(socket.create_connection(("127.0.0.1", server.port or 0), timeout=60))
            if number % 2:
                client.sendall(b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf")
        assert server.ask("GET", "/health").status == 200
        assert server.run("greet", {"text": "through"})["state"] == "done"
    files = server.folder / "state" / "server" / "files"
    while list(files.rglob("*.tmp")):  # each is removed when its connection is seen to be gone
        assert server.ask("GET", "/health").status == 200


@pytest.mark.slow  # 20 s without a piece
def test_a_body_that_does_not_arrive_is_refused(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port or 0), timeout=60) as client:
        client.sendall(b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf")
        answer = client.recv(1 << 16).decode()
    assert answer.startswith("HTTP/1.1 408 ")
    assert "did not arrive in time" in answer


def test_outputs_that_are_not_there(server: Server) -> None:
    order = {"inputs": {"text": "x"}, "want": ["sheat"]}
    answer = server.ask("POST", GREET, order)
    assert (answer.status, answer.problem["code"]) == (422, "invalid")


def test_a_graph_of_a_million_nodes_is_refused(server: Server) -> None:
    nodes = ",".join(f'"n{n}":{{"node":"door.sheet"}}' for n in range(1_000_000))
    body = f'{{"workflow": {{"version": 1, "nodes": {{{nodes}}}}}}}'.encode()
    answer = server.ask("POST", "/v1/jobs", body, Content_Type="application/json")
    assert (answer.status, answer.problem["code"]) == (413, "too_large")


def _graph(node: str, **values: Any) -> dict[str, Any]:
    return {"workflow": {"version": 1, "nodes": {"it": {"node": node, "with": values}}, "outputs": {"it": "it"}}}


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../state/queue.sqlite", "~/.ssh/id_rsa", "in/../../state", "a\0b", "link"]
)
def test_paths_lead_nowhere_else(server: Server, path: str) -> None:
    link = server.folder / "in" / "link"
    if not link.is_symlink():
        os.symlink("/etc/passwd", link)
    (server.folder / "in" / "fine.txt").write_text("fine")
    if path != "link":
        answer = server.ask("POST", "/v1/workflows/digest/jobs", {"inputs": {"file": path}})
        assert answer.status == 422, answer.body
    else:
        job = server.run("digest", {"file": path})
        assert job["state"] == "failed"
        assert "outside the allowed folders" in job["error"]["message"]
    answer = server.ask("POST", "/v1/jobs", _graph("door.digest", path=path))
    assert answer.status == 422, answer.body
    assert str(server.folder) not in answer.body.decode()
    answer = server.ask("POST", "/v1/workflows/digest/jobs", {"inputs": {"file": "fine.txt", "model": path}})
    assert answer.status == 422 or path == "link"


def test_files_of_the_server_are_not_named_by_their_place(server: Server) -> None:
    name = server.ask("POST", "/v1/files", b"mine").data["id"].removeprefix("sha256:")
    for path in (f"/v1/files/{name}", "/v1/files/..%2F..%2Fqueue.sqlite", "/v1/files/sha256:..%2F..", "/v1/files/%00",
                 "/v1/files/%ff%fe", f"/v1/files/sha256:{name.upper()}"):  # fmt: skip
        assert server.ask("GET", path).status == 404, path
    job = server.run("greet", {"text": "x"})
    for path in ("..%2F..%2Fin%2Ffine.txt", "%2Fetc%2Fpasswd", "..", "%00", "%ff"):
        assert server.ask("GET", f"{job['urls']['self']}/files/{path}").status == 404, path
    made = server.folder / "out" / job["outputs"]["sheet"]["files"][0]["name"]
    made.unlink()
    os.symlink("/etc/passwd", made)
    assert server.ask("GET", job["outputs"]["sheet"]["files"][0]["url"]).status == 404


def test_a_job_writes_no_file_where_it_likes(server: Server) -> None:
    answer = server.ask("POST", "/v1/jobs", _graph("door.store", text="x", path="mine.txt"))
    assert (answer.status, answer.problem["problems"][0]["kind"]) == (422, "writes files")
    inside = {"version": 1, "nodes": {"part": {"workflow": _graph("door.store", text="x", path="a")["workflow"]}}}
    assert server.ask("POST", "/v1/jobs", {"workflow": inside}).status == 422
    assert not (server.folder / "in" / "mine.txt").exists()


@pytest.mark.parametrize(
    "workflow",
    [{}, {"version": 99}, {"version": 1, "nodes": []}, {"version": 1, "nodes": {"a": 1}},
     {"version": 1, "nodes": {"a": {"node": "door.shet"}}}, {"version": 1, "nodes": {"a": {"workflow": "/etc/passwd"}}},
     {"version": 1, "nodes": {"a": {"workflow": "../state/queue.sqlite"}}},
     {"version": 1, "nodes": {"a": {"node": "door.sheet", "from": {"text": "a"}}}}],
)  # fmt: skip
def test_graphs_that_are_wrong(server: Server, workflow: dict[str, Any]) -> None:
    answer = server.ask("POST", "/v1/jobs", {"workflow": workflow})
    assert (answer.status, answer.problem["code"]) == (422, "invalid")
    assert answer.problem["problems"]


@pytest.mark.parametrize("url", ["data:,x", "data:image/png;base64,***", "data:image/png;base64,QQ", "data:"])
def test_data_urls_that_are_none(server: Server, url: str) -> None:
    assert server.ask("POST", "/v1/workflows/digest/jobs", {"inputs": {"file": url}}).problem["code"] == "invalid"


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_what_is_somebody_elses_is_not_there(tokens: tuple[Server, dict[str, str]], tmp_path: Path) -> None:
    server, token = tokens
    for wrong in (None, "", "x", token["ann"][:-1], token["ann"] + "x", "ge_ü"):
        server.token = wrong
        for path in ("/v1/jobs", "/metrics", "/v1/openapi.json", "/v1/nodes"):
            answer = server.ask("GET", path)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer"), (wrong, path)
        assert server.ask("GET", "/health").status == 200
    server.token = token["ann"]
    job, file = server.run("greet", {"text": "of ann"}), server.ask("POST", "/v1/files", b"of ann").data
    assert job["user"] == "ann"
    server.token = token["ben"]
    base, made = job["urls"]["self"], job["outputs"]["sheet"]["files"][0]["url"]
    tries = [("GET", base), ("DELETE", base), ("POST", f"{base}/cancel"), ("POST", f"{base}/move"),
             ("GET", f"{base}/events"), ("GET", made), ("GET", file["url"]), ("DELETE", file["url"])]  # fmt: skip
    for method, path in tries:
        answer = server.ask(method, path)
        assert (answer.status, answer.problem["code"]) == (404, "not_found"), path
    assert server.ask("GET", "/v1/jobs").data == {"jobs": []}
    answer = server.ask("POST", "/v1/workflows/digest/jobs", {"inputs": {"file": file["id"]}})
    assert answer.problem["problems"][0]["what"].startswith("there is no file sha256:")
    own = tmp_path / "state" / "server" / "files"
    (theirs,) = own.glob("*/*")
    for path in (str(theirs), os.path.relpath(theirs, tmp_path / "in")):
        assert server.ask("POST", "/v1/jobs", _graph("door.digest", path=path)).status == 422
    assert server.ask("GET", "/metrics").status == 403
    # Both use the same key, and each has a job of their own.
    mine = server.ask("POST", GREET, {"inputs": {"text": "k"}}, Idempotency_Key="k").data
    server.token = token["ann"]
    theirs_too = server.ask("POST", GREET, {"inputs": {"text": "k"}}, Idempotency_Key="k").data
    assert mine["id"] != theirs_too["id"]
    server.token = token["root"]
    assert {one["user"] for one in server.ask("GET", "/v1/jobs").data["jobs"]} == {"ann", "ben"}
    assert server.ask("GET", "/metrics").status == 200


def test_a_token_is_kept_and_told_nowhere(tokens: tuple[Server, dict[str, str]], tmp_path: Path) -> None:
    server, token = tokens
    server.token = token["ann"]
    server.run("fails", {})
    server.ask("POST", GREET, b"{", Content_Type="application/json")
    server.ask("GET", f"/v1/jobs/{token['ann']}")
    assert server.stop() == 0
    kept = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert kept
    assert not any(text.encode() in content for content in kept for text in token.values())
    assert (tmp_path / "tokens.json").stat().st_mode & 0o077 == 0


def test_a_token_that_is_taken_away_opens_nothing(tokens: tuple[Server, dict[str, str]], tmp_path: Path) -> None:
    from graphengine.server.tokens import Tokens

    server, token = tokens
    server.token = token["ann"]
    assert server.ask("GET", "/v1/jobs").status == 200
    Tokens(tmp_path / "tokens.json").remove("ann")
    assert server.ask("GET", "/v1/jobs").status == 401


def test_a_queue_limit_is_told_with_when_to_ask_again(tokens: tuple[Server, dict[str, str]], tmp_path: Path) -> None:
    from graphengine.service.jobs.queue import Queue

    server, token = tokens
    server.token = token["ann"]
    assert server.ask("POST", "/v1/queue/pause").data["paused"]
    Queue(tmp_path / "state" / "queue.sqlite").set_limit(1, "ann")
    order = {"inputs": {"text": "x"}}
    assert server.ask("POST", GREET, order, Idempotency_Key="a").status == 202
    answer = server.ask("POST", GREET, order, Idempotency_Key="b")
    assert (answer.status, answer.problem["code"]) == (429, "queue_full")
    assert int(answer.headers["retry-after"]) > 0
    assert server.ask("POST", GREET, order, Idempotency_Key="a").status == 202  # replayed
    server.ask("POST", "/v1/queue/resume")
    server.token = token["ben"]
    assert server.ask("POST", GREET, order).status == 202
    assert json.loads(server.ask("GET", "/v1/queue").body)["limit"] is None


def test_a_token_has_no_more_rights_than_it_was_made_with(serve: Callable[..., Server], tmp_path: Path) -> None:
    from graphengine.server.tokens import Tokens

    known = Tokens(tmp_path / "tokens.json")
    reads, greets = known.add("reads", read_only=True), known.add("greets", workflows=["greet"])
    server, order = serve("--token-file", tmp_path / "tokens.json"), {"inputs": {"text": "x"}}
    prompt = {"1": {"class_type": "door.tell", "inputs": {"text": "x"}}}
    server.token = reads
    assert server.ask("GET", "/v1/jobs").status == server.ask("GET", "/queue").status == 200
    for method, path, body in (
        ("POST", GREET, order), ("POST", "/prompt", {"prompt": prompt}), ("POST", "/api/v2/jobs", {"workflow": prompt}),
        ("POST", "/v1/files", b"x"), ("DELETE", f"/v1/files/sha256:{'0' * 64}", None), ("PUT", "/v1/queue/limit", {}),
        ("POST", "/interrupt", None), ("POST", "/v1/queue/pause", None),
    ):  # fmt: skip
        answer = server.ask(method, path, body)
        assert (answer.status, b"may read and change nothing" in answer.body) == (403, True), path
    server.token = greets
    assert server.ask("POST", GREET, order).status == 202
    for path, body in (
        ("/v1/workflows/fails/jobs", {}), ("/v1/jobs", _graph("door.sheet", text="x")), ("/prompt", {"prompt": prompt}),
        ("/api/v2/jobs", {"workflow": prompt}),
    ):  # fmt: skip
        answer = server.ask("POST", path, body)
        assert (answer.status, b"these workflows" in answer.body) == (403, True), path


def test_a_user_keeps_no_more_files_than_may_be(serve: Callable[..., Server]) -> None:
    server = serve("--upload-limit", 1)
    first = server.ask("POST", "/v1/files", b"a" * 700_000).data
    answer = server.ask("POST", "/v1/files", b"b" * 700_000)
    assert (answer.status, answer.problem["code"]) == (413, "too_large")
    assert "delete some" in answer.problem["detail"]
    assert server.ask("POST", "/v1/files", b"a" * 700_000).status == 200  # it is there already
    url = "data:text/plain;base64," + base64.b64encode(b"c" * 700_000).decode()
    refused = server.ask("POST", "/v1/workflows/digest/jobs", {"inputs": {"file": url}})
    assert "delete some" in refused.problem["problems"][0]["what"]
    assert server.ask("DELETE", first["url"]).status == 204
    assert server.ask("POST", "/v1/files", b"b" * 700_000).status == 201
    assert len(list((server.folder / "state" / "server" / "files").glob("*/*"))) == 1  # no halves are left


def test_what_jobs_keep_is_bounded(server: Server) -> None:
    prompt = {"1": {"class_type": "door.tell", "inputs": {"text": "y" * (5 << 20)}}}
    for path, body in (("/prompt", {"prompt": prompt}), ("/api/v2/jobs", {"workflow": prompt})):
        assert server.ask("POST", path, body).status == 413, path


def test_a_client_that_leaves_cancels_what_only_it_wanted(server: Server) -> None:
    def left(**headers: str) -> str:
        """A job whose client has left while it waited for the end."""
        label = f"label.client={'-'.join(headers) or 'leaves'}"
        order = {"inputs": {"file": str(server.folder / "never")}, "labels": {"client": label.partition("=")[2]}}
        body = json.dumps(order).encode()
        lines = [f"Host: 127.0.0.1:{server.port}", "Content-Type: application/json", f"Content-Length: {len(body)}",
                 "Prefer: wait=60", *(f"{name.replace('_', '-')}: {text}" for name, text in headers.items())]
        head = "POST /v1/workflows/gate/jobs HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head.encode() + body)
            until(lambda: server.ask("GET", f"/v1/jobs?{label}").data["jobs"])
            job: str = server.ask("GET", f"/v1/jobs?{label}").data["jobs"][0]["id"]
            if headers:
                until(lambda: server.ask("GET", f"/v1/jobs/{job}").data["state"] == "running")
                return job
        until(lambda: server.ask("GET", f"/v1/jobs/{job}").data["state"] == "cancelled")
        return job

    left()
    kept = left(Idempotency_Key="leaves")  # the client can ask for it again
    other = server.ask("POST", "/v1/workflows/greet/jobs", {"inputs": {"text": "y"}}, Prefer="wait=60").data
    assert other["state"] == "done"
    assert server.ask("GET", f"/v1/jobs/{kept}").data["state"] == "running"
    server.ask("POST", f"/v1/jobs/{kept}/cancel")
    until(lambda: not server.ask("GET", "/v1/queue").data["running"])


def test_watchers_that_leave_are_no_failure_of_the_server(server: Server) -> None:
    """Also when they leave while they are written to: the last events come just then."""
    file = gate(server, "left")
    job = submit(server, "gate", {"file": file})
    watching = [server.events(job["id"]) for _ in range(120)]
    for events in watching:
        events.until("progress")
    open_gate(file)
    for events in watching:
        events.close()
    with contextlib.closing(server.events(job["id"])) as events:
        events.until("done")
    assert server.log.read_text() == ""


@pytest.mark.slow
def test_connections_that_send_no_request_are_ended(server: Server) -> None:
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(200)]
    for connection in silent[::2]:
        connection.sendall(b"GET /v1/jobs HTTP/1.1\r\nHost: ")
    asking, answer = server.send("GET", "/health")
    answer.read()
    for connection in silent:
        connection.settimeout(40)
        assert connection.recv(1) == b""
        connection.close()
    asking.request("GET", "/health")
    assert asking.getresponse().status == 200
    asking.close()


def test_what_is_no_http_is_not_in_the_log(server: Server) -> None:
    for content in (b"GARBAGE\r\n\r\n", b"\x16\x03\x01\x02", b"GET /secret HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(content)
            connection.settimeout(60)
            assert connection.recv(400).startswith(b"HTTP/1.0 400")
    assert server.log.read_text() == ""


def test_many_messages_of_a_socket_are_taken_slowly() -> None:
    async def take() -> None:
        pace = Pace()
        for _ in range(FREE_MESSAGES):
            with pytest.raises(StopIteration):
                pace.keep().send(None)  # it waits for nothing
        waiting = asyncio.ensure_future(pace.keep())
        await asyncio.sleep(0)
        assert not waiting.done()
        await waiting

    asyncio.run(take())
