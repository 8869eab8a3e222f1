"""A server from its start to its end: health, what it imports, signals, restarts, where it listens."""

from __future__ import annotations

import http.client
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

from graphengine.service import Queue
from tests.graphengine.cli.conftest import Run, cli, command, environment
from tests.graphengine.sample import until
from tests.graphengine.service.conftest import PACK as LIGHT

from .conftest import PACK, Server

__all__ = ["cli"]  # a fixture

GATE = "/v1/workflows/gate/jobs"


def test_health_and_metrics(server: Server) -> None:
    assert server.ask("GET", "/health").data == {"status": "alive"}
    assert server.ask("GET", "/ready").data == {"status": "ready"}
    server.run("greet", {"text": "counted"})
    figures = server.ask("GET", "/metrics").body.decode()
    assert 'graphengine_jobs_ended_total{state="done"}' in figures
    assert 'graphengine_jobs{state="queued"} 0.0' in figures


def test_its_memory_does_not_grow_with_garbage(server: Server) -> None:
    """A command's process begins without Python's search for garbage; one that lasts needs it."""
    graph = {"version": 1, "nodes": {"it": {"node": "door.collects"}}, "outputs": {"it": "it"}}
    job = server.ask("POST", "/v1/jobs", {"workflow": graph}, Prefer="wait=60").data
    assert job["outputs"] == {"it": {"value": True}}


def test_it_imports_no_torch(server: Server) -> None:
    """Nor after jobs whose values need none, and descriptions of all nodes: its libraries are not in the process."""
    server.run("greet", {"text": "light"})
    assert server.ask("GET", "/v1/nodes").status == 200
    mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "python" in mapped
    assert "libtorch" not in mapped


def test_a_signal_ends_streams_and_puts_jobs_back(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve()
    file = tmp_path / "go"
    job = server.ask("POST", GATE, {"inputs": {"file": str(file)}}).data
    waiting = server.ask("POST", "/v1/workflows/gate/jobs", {"inputs": {"file": str(file), "text": "second"}}).data
    stream = server.events(job["id"])
    stream.until("progress")
    os.kill(server.process.pid, signal.SIGTERM)
    assert [event.kind for event in stream if event.id] in ([], ["left"])  # a clean end: the last chunk came
    assert server.stop() == 0
    again = serve()
    file.touch()
    for one in (job, waiting):
        assert [event.kind for event in again.events(one["id"])][-1] == "done"
    assert again.ask("GET", job["urls"]["self"]).data["number"] == job["number"]


def test_it_ends_though_nobody_reads_what_it_says(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve()
    job = server.ask("POST", GATE, {"inputs": {"file": str(tmp_path / "never")}}).data
    server.events(job["id"]).until("progress")
    assert server.process.stdout is not None
    server.process.stdout.close()
    os.kill(server.process.pid, signal.SIGTERM)
    server.process.wait(300)


@pytest.mark.slow  # the lease of the one that was killed lasts 15 s
def test_killed_it_has_lost_nothing_that_was_acknowledged(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve()
    server.ask("POST", "/v1/queue/pause")
    made = [
        server.ask("POST", "/v1/workflows/greet/jobs", {"inputs": {"text": str(n)}}, Idempotency_Key=str(n)).data["id"]
        for n in range(5)
    ]
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    again = serve()
    answer = again.ask("POST", "/v1/workflows/greet/jobs", {"inputs": {"text": "3"}}, Idempotency_Key="3")
    assert (answer.data["id"], answer.headers["idempotent-replayed"]) == (made[3], "true")
    again.ask("POST", "/v1/queue/resume")
    for name in made:
        assert [event.kind for event in again.events(name)][-1] == "done"


LEFT = """
import os, signal
from aiohttp import web
from graphengine.server.serving import SERVED, UNREADABLE, listen, serve

async def stream(request):
    answer = web.StreamResponse()
    await answer.prepare(request)
    await answer.write(b"part")
    request.transport.close()  # what a client that leaves does, just before the last part is written
    os.kill(os.getpid(), signal.SIGTERM)
    await answer.write_eof()
    raise AssertionError("the last part was written")

app = web.Application()
app[SERVED] = set()
app[UNREADABLE] = lambda error, path, request: web.Response(status=400)
app.router.add_get("/", stream)
listening = listen("127.0.0.1", 0)
serve(app, listening, lambda: print(listening.getsockname()[1], flush=True), lambda: None)
"""


def test_a_client_that_leaves_before_the_end_of_an_answer_is_no_error(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LEFT], env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    connection = http.client.HTTPConnection("127.0.0.1", int(process.stdout.readline()))
    connection.request("GET", "/")
    assert connection.getresponse().read(4) == b"part"
    assert process.communicate()[1] == ""
    assert process.returncode == 0


def test_beyond_this_machine_only_with_a_token(cli: Run, tmp_path: Path) -> None:
    state = {"GRAPHENGINE_STATE": str(tmp_path / "state"), "GRAPHENGINE_PACKS": str(PACK)}
    done = cli("serve", "--host", "0.0.0.0", "--port", 0, "--backend", "inline", **state)
    assert done.code == 2
    assert "graphengine serve token add NAME" in done.err
    made = cli("serve", "token", "add", "ann", **state)
    assert made.out.startswith("ge_")
    assert "ann has a token already" in cli("serve", "token", "add", "ann", **state).err
    assert cli("serve", "token", "list", **state).out.startswith("ann")
    assert "did you mean ann" in cli("serve", "token", "remove", "anne", **state).err
    assert cli("serve", "token", "remove", "ann", **state).code == 0
    assert cli("serve", "token", "list", **state).out == ""


@pytest.mark.parametrize(
    ("options", "code", "why"),
    [
        (["--backend", "other"], 2, "--backend is local, inline or ray"),
        (["--backend", "ray"], 2, "--address go together"),
        (["--models", "nowhere"], 3, "is no folder"),
        (["--host", "256.0.0.1"], 2, "there are no tokens"),
        (["--backend", "inline", "--timeout", "5"], 2, "--timeout is for workers"),
    ],
)
def test_options_that_are_wrong(cli: Run, options: list[str], code: int, why: str) -> None:
    done = cli("serve", "--port", 0, *options)
    assert (done.code, why in done.err) == (code, True), done.err


def test_a_port_that_is_taken(server: Server, cli: Run) -> None:
    done = cli("serve", "--port", server.port, "--backend", "inline")
    assert done.code == 3
    assert "cannot be listened on" in done.err


@pytest.mark.slow
@pytest.mark.process
def test_a_node_that_gives_no_sign_is_ended_after_the_given_time(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve("--backend", "local", "--workers", 1, "--device", "cpu", "--timeout", 1)
    job = server.ask("POST", GATE, {"inputs": {"file": str(tmp_path / "never there")}}).data
    ended = server.events(job["id"]).until("failed")[-1]
    assert "gave no sign for 1 s and was ended" in ended.data["error"], ended


@pytest.mark.slow
@pytest.mark.process
def test_a_picture_of_tiny_comes_from_a_worker(serve: Callable[..., Server], cli: Run, tmp_path: Path) -> None:
    server = serve("--backend", "local", "--workers", 1, "--threads", 1)
    job = server.run("text_to_image", {"prompt": "a red circle", "steps": 4, "seed": 3})
    assert job["state"] == "done", job
    assert server.ask("GET", "/ready").status == 200
    picture = server.ask("GET", job["outputs"]["image"]["files"][0]["url"])
    assert picture.headers["content-type"] == "image/png"
    assert server.stop() == 0
    done = cli("run", "text_to_image", "--set", "prompt=a red circle", "--set", "steps=4", "--set", "seed=3", "--json")
    (file,) = done.lines[-1]["files"]
    own, theirs = PIL.Image.open(tmp_path / file), PIL.Image.open(io.BytesIO(picture.body))
    assert own.tobytes() == theirs.tobytes()


# --- models that are loaded before the first job ----------------------------------------------------------------------


def test_a_server_is_ready_when_its_worker_has_loaded_the_model_and_the_first_job_loads_none(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve("--backend", "local", "--workers", 1, "--warm", "tiny")
    until(lambda: server.ask("GET", "/ready").data == {"status": "ready"}, 600)
    (before,) = server.ask("GET", "/v1/workers").data["workers"]
    assert (before["state"], before["computed"]) == ("ready", 0)
    assert before["parts"] > 2, "a text encoder, a denoiser, a VAE"
    mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "libtorch" not in mapped, "the worker imports torch; the server does not even to count GPUs"
    job = server.ask("POST", "/v1/workflows/text_to_image/jobs", {"inputs": {"steps": 1}}).data
    until(lambda: server.ask("GET", f"/v1/jobs/{job['id']}").data["state"] == "done", 600)
    calls = Queue(tmp_path / "state" / "queue.sqlite").named(job["id"]).result["calls"]
    assert {call["loads"] for call in calls} == {0}
    (after,) = server.ask("GET", "/v1/workers").data["workers"]
    assert (after["parts"], after["loads"]) == (before["parts"], before["loads"])
    assert after["computed"] == len(calls) > 1


def test_a_model_that_cannot_be_loaded_is_told_and_jobs_run(serve: Callable[..., Server]) -> None:
    server = serve("--warm", "tniy")
    until(lambda: "tniy cannot be loaded: " in server.ask("GET", "/ready").data["status"])
    answer = server.ask("GET", "/ready")
    assert (answer.status, "did you mean tiny" in answer.data["status"]) == (503, True)
    assert server.ask("GET", "/health").status == 200
    assert server.run("greet", {"text": "all the same"})["state"] == "done"
    assert server.log.read_text().count("tniy cannot be loaded: ") == 1


def test_a_worker_loads_models_before_its_first_job(tmp_path: Path) -> None:
    """`graphengine worker` has the option too."""
    options = ["--queue", "q.sqlite", "--packs", LIGHT, "--device", "cpu", "--warm", "Emma", "--warm", "Persuasion"]
    with subprocess.Popen(
        command("worker", *options), cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout)
        assert "every worker has loaded Emma, Persuasion\n" in lines
        process.send_signal(signal.SIGINT)
