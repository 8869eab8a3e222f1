"""What pages show of jobs: inputs to run them again, small pictures, reports, workers."""

from __future__ import annotations

import base64
import io
import re

import PIL.Image
import pytest

from .conftest import PIXEL, Server


def picture(width: int, height: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (width, height), (200, 30, 30)).save(file, "PNG")
    return file.getvalue()


def test_inputs_are_those_that_make_the_same_job(server: Server) -> None:
    """Uploads by their id, paths inside the folder of inputs, numbers as they were drawn."""
    (server.folder / "in" / "here.txt").write_text("here")
    upload = server.ask("POST", "/v1/files", b"of a page").data["id"]
    url = "data:text/plain;base64," + base64.b64encode(b"of a page").decode()
    for sent, again in ((upload, upload), (url, upload), ("here.txt", "here.txt")):
        job = server.run("digest", {"file": sent})
        found = server.ask("GET", f"{job['urls']['self']}/inputs").data["inputs"]
        assert found == {"file": again}
        assert job["inputs"]["file"] == (sent if len(sent) < 100 else job["inputs"]["file"])
        assert str(server.folder) not in str(job)
        assert server.run("digest", found)["outputs"] == job["outputs"]
    long = "a text that is longer than lists show it " * 50
    job = server.run("greet", {"text": long})
    assert server.ask("GET", f"{job['urls']['self']}/inputs").data["inputs"] == {"text": long}
    drawn = server.run("text_to_image", {"seed": -1, "steps": 1})
    inputs = server.ask("GET", f"{drawn['urls']['self']}/inputs").data["inputs"]
    assert inputs == {"seed": drawn["drawn"]["seed"], "steps": 1}


def test_lists_of_uploads(server: Server) -> None:
    """An input that takes a list of files takes the ids of uploads in it."""
    (server.folder / "flows" / "several.yaml").write_text(
        "version: 1\ninputs: {files: {type: 'list[path]'}}\n"
        "nodes: {digest: {node: door.digest, from: {path: inputs.files}, each: [path]}}\noutputs: {digests: digest}\n"
    )
    ids = [server.ask("POST", "/v1/files", content).data["id"] for content in (b"one", b"two")]
    job = server.run("several", {"files": ids})
    assert job["state"] == "done", job
    assert len({*job["outputs"]["digests"]["value"]}) == 2
    assert server.ask("GET", f"{job['urls']['self']}/inputs").data["inputs"] == {"files": ids}
    for wrong in (["/etc/passwd"], ["../x"], [ids[0], "sha256:" + "0" * 64]):
        answer = server.ask("POST", "/v1/workflows/several/jobs", {"inputs": {"files": wrong}})
        assert answer.problem["problems"][0]["where"]["socket"] == "files", wrong
    schema = server.ask("GET", "/v1/workflows/several").data["inputs"]["properties"]["files"]
    assert schema["x-file"] == "text"


def test_jobs_of_one_workflow(server: Server) -> None:
    made = [server.run("fails", {"text": str(number)})["id"] for number in range(3)][::-1]
    server.run("greet", {"text": "another"})
    first = server.ask("GET", "/v1/jobs?workflow=fails&limit=2").data
    second = server.ask("GET", f"/v1/jobs?limit=2&cursor={first['next_cursor']}").data
    assert [job["id"] for job in first["jobs"] + second["jobs"]][:3] == made
    assert {job["workflow"] for job in first["jobs"] + second["jobs"]} == {"fails"}
    other = server.ask("GET", f"/v1/jobs?workflow=greet&cursor={first['next_cursor']}")
    assert other.problem["code"] == "bad_request"


def test_small_copies_of_pictures(server: Server) -> None:
    job = server.run("text_to_image", {"steps": 1, "width": 512, "height": 256})
    (file,) = job["outputs"]["image"]["files"]
    for asked, size in (("1", (128, 64)), ("128", (128, 64)), ("200", (256, 128)), ("4000", (512, 256))):
        answer = server.ask("GET", f"{file['url']}?width={asked}")
        assert (answer.status, answer.headers["content-type"]) == (200, "image/webp")
        assert PIL.Image.open(io.BytesIO(answer.body)).size == size
        assert "sandbox" in answer.headers["content-security-policy"]
    assert server.ask("GET", f"{file['url']}?width=128").body == server.ask("GET", f"{file['url']}?width=100").body
    for wrong in ("0", "x", "-1", "99999", ""):
        assert server.ask("GET", f"{file['url']}?width={wrong}").problem["code"] == "bad_request", wrong
    text = server.run("greet", {"text": "no picture", "ending": "txt"})["outputs"]["sheet"]["files"][0]["url"]
    assert server.ask("GET", f"{text}?width=128").problem["code"] == "not_found"


def test_a_report_is_a_page_that_runs_nothing(server: Server) -> None:
    upload = server.ask("POST", "/v1/files", PIXEL).data["id"]
    job = server.run("digest", {"file": upload})
    answer = server.ask("GET", f"{job['urls']['self']}/report")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert "script" not in policy
    assert str(server.folder) not in answer.body.decode()
    job = server.run("greet", {"text": "<script>alert(1)</script>"})
    page = server.ask("GET", f"{job['urls']['self']}/report").body.decode()
    assert "<script>" not in page
    assert re.search(r"wrote</td><td>[^/]+\.html", page), page[-2000:]
    assert server.ask("GET", "/v1/jobs/nothing/report").status == 404


def test_a_job_that_runs_has_no_report_yet(server: Server) -> None:
    file = server.folder / "go-report"
    job = server.ask("POST", "/v1/workflows/gate/jobs", {"inputs": {"file": str(file)}}).data
    assert server.ask("GET", f"{job['urls']['self']}/report").problem["code"] == "conflict"
    file.touch()
    server.events(job["id"]).until("done")
    assert server.ask("GET", f"{job['urls']['self']}/report").status == 200


def test_workers_where_this_process_computes(server: Server) -> None:
    assert server.ask("GET", "/v1/workers").data == {"workers": []}


@pytest.mark.slow  # a worker process starts
def test_workers_and_what_they_hold(serve: object) -> None:
    made = serve("--backend", "local", "--workers", 1, "--device", "cpu")  # type: ignore[operator]
    (before,) = made.ask("GET", "/v1/workers").data["workers"]
    made.run("text_to_image", {"steps": 1})
    (worker,) = made.ask("GET", "/v1/workers").data["workers"]
    assert (worker["device"], before["parts"], worker["deaths"]) == ("cpu", 0, 0)
    assert worker["parts"] > 1, "a text encoder, a denoiser, a VAE"


def test_forms_are_told_what_json_schema_has_no_word_for(server: Server) -> None:
    known = server.ask("GET", "/v1/workflows/image_to_image").data["inputs"]["properties"]
    assert known["image"]["x-file"] == "image"
    assert known["prompt"]["x-multiline"] is True
    assert known["seed"]["x-drawn"] is True
    assert known["model"]["x-file"] == "weights"
    assert "x-file" not in known["prompt"]
    assert server.ask("GET", "/v1/workflows/text_to_image").data["inputs"]["properties"]["width"]["x-step"] == 8
