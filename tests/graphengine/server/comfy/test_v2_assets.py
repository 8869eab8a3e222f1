"""Assets of the Comfy API v2: uploads with dedup, their bytes and ranges, and references to them in workflows."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import pytest
from blake3 import blake3

from ..conftest import PIXEL, Answer, Server
from .published_api import check
from .test_v2 import JOBS, refusal, run, workflow

ASSETS, ASSET = "/api/v2/assets", "/api/v2/assets/{id}"


def form(content: bytes | None, **fields: str | list[str]) -> tuple[bytes, str]:
    """A form and its type."""
    lines = []
    for name, given in fields.items():
        for value in given if isinstance(given, list) else [given]:
            lines.append(f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    if content is not None:
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"b.png"\r\n\r\n'
        lines.append(head + content + b"\r\n")
    return b"".join([*lines, b"--b--\r\n"]), "multipart/form-data; boundary=b"


def upload(server: Server, content: bytes | None, key: str | None = None, **fields: Any) -> Answer:
    body, type = form(content, **{"content_type": "image/png", "file_path": "photo.png"} | fields)
    more = {} if key is None else {"Idempotency_Key": key}
    return server.ask("POST", ASSETS, body, Content_Type=type, **more)


def hash_of(content: bytes) -> str:
    return f"blake3:{blake3(content).hexdigest()}"


def fresh() -> bytes:
    """Bytes that no test has sent before."""
    return PIXEL + uuid.uuid4().bytes


def reference(**info: str) -> dict[str, Any]:
    return {"__type": "core/ASSET", "info": info}


def test_a_file_is_uploaded_read_and_removed(server: Server) -> None:
    content = fresh()
    by_hash = f"{ASSETS}/by-hash/{hash_of(content)}"
    assert server.ask("HEAD", by_hash).status == 404
    first = check(upload(server, content, expected_hash=hash_of(content), tags=["input", "x"]), "POST", ASSETS)
    asset = first.data
    assert (first.status, asset["created_new"], asset["hash"], asset["size_bytes"]) == (
        201, True, hash_of(content), len(content)
    )  # fmt: skip
    assert (asset["file_path"], asset["content_type"], asset["expires_at"]) == ("photo.png", "image/png", None)
    assert server.ask("HEAD", by_hash).status == 200
    assert server.ask("HEAD", by_hash.replace("blake3:", "blake3%3A")).status == 200
    known = check(server.ask("GET", f"{ASSETS}/{asset['id']}"), "GET", ASSET)
    assert known.data == {name: value for name, value in asset.items() if name != "created_new"}
    assert asset["url"] == f"{server.url}{ASSETS}/{asset['id']}/content"
    assert server.ask("GET", f"{ASSETS}/{asset['id']}/content").body == content
    assert server.ask("DELETE", f"{ASSETS}/{asset['id']}").status == 204
    refusal(server.ask("DELETE", f"{ASSETS}/{asset['id']}"), 404, "not_found")
    refusal(server.ask("GET", f"{ASSETS}/{asset['id']}/content"), 404, "not_found")
    assert server.ask("HEAD", by_hash).status == 404


def test_the_same_bytes_are_kept_once_for_all_who_hold_them(server: Server) -> None:
    content = fresh()
    one = upload(server, content).data
    again = check(upload(server, content), "POST", ASSETS)
    assert (again.status, again.data["created_new"], again.data["id"]) == (200, False, one["id"])
    body = {"hash": one["hash"], "file_path": "other.png"}
    other = check(server.ask("POST", f"{ASSETS}/from-hash", body), "POST", f"{ASSETS}/from-hash")
    assert (other.status, other.data["created_new"], other.data["content_type"]) == (201, False, "image/png")
    same = check(server.ask("POST", f"{ASSETS}/from-hash", body), "POST", f"{ASSETS}/from-hash")
    assert (same.status, same.data["id"]) == (200, other.data["id"])
    assert server.ask("DELETE", f"{ASSETS}/{one['id']}").status == 204
    assert server.ask("GET", f"{ASSETS}/{other.data['id']}/content").body == content
    # The native API's files are of the same store.
    own = server.ask("POST", "/v1/files", content)
    assert own.status == 200
    assert server.ask("DELETE", f"/v1/files/{own.data['id']}").problem["code"] == "conflict"
    assert server.ask("DELETE", f"{ASSETS}/{other.data['id']}").status == 204
    assert server.ask("DELETE", f"/v1/files/{own.data['id']}").status == 204
    refusal(server.ask("POST", f"{ASSETS}/from-hash", body), 404, "blob_not_found")
    digest = hashlib.sha256(content).hexdigest()
    assert not [*(server.folder / "state").rglob(f"{digest}*")]


def test_an_asset_expires_no_earlier_than_it_did(server: Server) -> None:
    content = fresh()
    first = upload(server, content, expires_in="3600").data
    body = {"hash": first["hash"], "file_path": "photo.png", "expires_in": 60}
    assert server.ask("POST", f"{ASSETS}/from-hash", body).data["expires_at"] == first["expires_at"]
    longer = server.ask("POST", f"{ASSETS}/from-hash", body | {"expires_in": 7200}).data
    assert (longer["id"], longer["expires_at"] > first["expires_at"]) == (first["id"], True)
    assert upload(server, content).data["expires_at"] is None


def test_a_range_of_bytes(server: Server) -> None:
    content = fresh()
    path = f"{ASSETS}/{upload(server, content).data['id']}/content"
    part = server.ask("GET", path, Range="bytes=1-3")
    assert (part.status, part.body, part.headers["content-range"]) == (206, content[1:4], f"bytes 1-3/{len(content)}")
    assert server.ask("GET", path, Range="bytes=-5").body == content[-5:]
    assert server.ask("GET", path, Range=f"bytes=10-{10**9}").body == content[10:]
    over = server.ask("GET", path, Range=f"bytes={len(content)}-")
    refusal(over, 416, "range_not_satisfiable")
    assert over.headers["content-range"] == f"bytes */{len(content)}"
    for ignored in ("bytes=5-1", "lines=1-2", "bytes=1-2,4-5", "bytes=-"):
        whole = server.ask("GET", path, Range=ignored)
        assert (whole.status, whole.body) == (200, content)
    assert server.ask("GET", path, Range="bytes=0-0", If_Range='"x"').status == 200


def test_a_job_reads_an_asset(server: Server) -> None:
    content = fresh()
    asset = upload(server, content).data
    digest = hashlib.sha256(content).hexdigest()
    given = workflow("digest", path=reference(id=asset["id"], file_path="photo.png"))
    job = run(server, {"workflow": given})
    (output,) = job["outputs"]
    assert (output["type"], output["content_type"]) == ("text", "text/plain")
    assert server.ask("GET", f"{ASSETS}/{output['id']}/content").body.decode() == digest
    assert server.ask("GET", f"{JOBS}/{job['id']}/workflow").data["workflow"] == given
    # An id that is not known falls back to the hash.
    known = run(server, {"workflow": workflow("digest", path=reference(id="gone", hash=asset["hash"]))})
    assert known["status"] == "succeeded"
    by_name = {"version": 1, "inputs": {"file": {"type": "path"}}, "outputs": {"it": "it"},
               "nodes": {"it": {"node": "door.digest", "from": {"path": "inputs.file"}}}}  # fmt: skip
    assert run(server, {"workflow": by_name, "inputs": {"file": reference(id=asset["id"])}})["status"] == "succeeded"


def test_an_output_is_an_asset(server: Server) -> None:
    job = run(server, {"workflow": workflow("sheet", text="an output")})
    (output,) = job["outputs"]
    asset = check(server.ask("GET", f"{ASSETS}/{output['id']}"), "GET", ASSET).data
    assert (asset["job_id"], asset["size_bytes"]) == (job["id"], 9)
    assert server.ask("GET", f"{ASSETS}/{output['id']}/content").body == b"an output"
    refusal(check(server.ask("DELETE", f"{ASSETS}/{output['id']}"), "DELETE", ASSET), 409, "asset_in_use")
    again = run(server, {"workflow": workflow("digest", path=reference(id=output["id"]))})
    digest = hashlib.sha256(b"an output").hexdigest()
    assert server.ask("GET", f"{ASSETS}/{again['outputs'][0]['id']}/content").body.decode() == digest
    (server.folder / "out" / output["name"]).unlink()
    refusal(server.ask("GET", f"{ASSETS}/{output['id']}/content"), 404, "output_unavailable")


def test_assets_that_are_missing_are_all_named(server: Server) -> None:
    gone = [str(uuid.uuid4()) for _ in range(2)]
    given = workflow("digest", path=[reference(id=gone[0]), reference(id=gone[1]), {"__type": "core/ASSET"}])
    error = refusal(server.ask("POST", JOBS, {"workflow": given}), 422, "missing_asset")
    assert error["details"]["missing_ids"] == [*gone, ""]


def test_an_asset_stands_only_where_a_file_may(server: Server) -> None:
    asset = upload(server, fresh()).data
    given = workflow("sheet", text=reference(id=asset["id"]))
    error = refusal(server.ask("POST", JOBS, {"workflow": given}), 422, "invalid_workflow")
    assert error["details"]["node_errors"]["it"][0]["field"] == "text"
    assert str(server.folder) not in str(error)


def test_a_key_is_taken_once(server: Server) -> None:
    content = fresh()
    refusal(upload(server, content, "k1", expected_hash=hash_of(b"")), 409, "hash_mismatch")
    assert upload(server, content, "k1").status == 201
    refusal(upload(server, content, "k1"), 422, "idempotency_key_reuse")


@pytest.mark.parametrize(
    "fields",
    [{"file_path": "../x"}, {"file_path": "/etc/x"}, {"file_path": ""}, {"file_path": ["a", "b"]},
     {"content_type": "html"}, {"expires_in": "59"}, {"expires_in": "x"}, {"nonsense": "x"}],
)  # fmt: skip
def test_wrong_uploads(server: Server, fields: dict[str, Any]) -> None:
    refusal(check(upload(server, fresh(), **fields), "POST", ASSETS), 422, "invalid_request")


def test_bodies_that_are_no_uploads(server: Server) -> None:
    refusal(upload(server, None), 422, "invalid_request")
    body, type = form(b"x", content_type="a/b", file_path="x")
    for wrong in (body[:-20], body.replace(b"--b", b"--c"), b"", b"\xff" * 100):
        refusal(server.ask("POST", ASSETS, wrong, Content_Type=type), 422, "invalid_request")
    refusal(server.ask("POST", ASSETS, body, Content_Type="application/json"), 422, "invalid_request")
    refusal(server.ask("POST", ASSETS, body, Content_Type="multipart/form-data"), 422, "invalid_request")
    for given in ({}, {"hash": 5}, {"hash": "blake3:", "tags": "x"}, {"hash": "x", "expires_in": 1}):
        refusal(server.ask("POST", f"{ASSETS}/from-hash", given), 422, "invalid_request")
    refusal(server.ask("POST", f"{ASSETS}/from-hash", {"hash": "blake3:00"}), 404, "blob_not_found")


def test_too_large(server: Server) -> None:
    connection, answer = server.send("POST", ASSETS, b"", Content_Type="multipart/form-data; boundary=b",
                                     Content_Length=str(102 << 20))  # fmt: skip
    assert answer.status == 413
    connection.close()
