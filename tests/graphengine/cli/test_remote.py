"""`run --server` and `queue --server`: what the commands do on this machine, on a server."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphengine.client import AsyncClient, Client
from graphengine.server.job_api import MOST_LISTED
from tests.graphengine.cli.conftest import command
from tests.graphengine.sample import until
from tests.graphengine.server.conftest import Server, serve, server, tokens
from tests.graphengine.server.test_native import gate, open_gate, submit

__all__ = ["serve", "server", "tokens"]


def go(server: Server, *arguments: object, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command beside a server."""
    own = server.environment | more
    told = subprocess.run(command(*arguments), cwd=server.folder, env=own, capture_output=True, text=True, timeout=600)
    assert told.returncode == code, told.stderr
    assert "Traceback" not in told.stderr
    return told


def test_a_run_writes_its_files_here(server: Server) -> None:
    (server.folder / "words.txt").write_text("of this machine")
    run = ["run", "flows/greet.yaml", "--server", server.url, "--set", "text=good morning", "--out", "mine"]
    assert go(server, *run).stdout == "mine/greet_sheet_00000.html\n"
    *_, last = map(json.loads, go(server, *run, "--json").stdout.splitlines())
    assert (last["kind"], last["files"]) == ("outputs", ["mine/greet_sheet_00001.html"])  # the first one stays
    assert (server.folder / "mine" / "greet_sheet_00001.html").read_text() == "good morning"
    told = go(server, "run", "flows/digest.yaml", "--server", server.url, "--set", "file=words.txt").stdout
    assert told.splitlines()[1] == "model: tiny"
    assert "four is not lucky" in go(server, "run", "flows/fails.yaml", "--server", server.url, code=1).stderr
    assert "--device" in go(server, "run", "flows/greet.yaml", "--server", server.url, "--device", "cpu", code=2).stderr
    assert "graphengine serve" in go(server, "run", "flows/greet.yaml", "--set", "text=x", "--server",
                                     "http://127.0.0.1:9", code=2).stderr  # fmt: skip


def test_files_of_a_comfyui_workflow_are_called_as_there(server: Server) -> None:
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 24, "batch_size": 2, "color": 255}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "of/%width%"}},
        "10": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    (server.folder / "prompt.json").write_text(json.dumps(prompt))
    for first in (1, 3):
        told = go(server, "run", "prompt.json", "--server", server.url, "--out", "pictures").stdout.split()
        assert told[:2] == [f"pictures/of/16_{number:05}_.png" for number in (first, first + 1)]
        assert [name.rpartition("temp_")[0] for name in told[2:]] == ["pictures/temp/ComfyUI_"] * 2
        assert all((server.folder / name).read_bytes().startswith(b"\x89PNG") for name in told)


def test_ctrl_c_cancels_the_job(server: Server) -> None:
    run = command("run", "flows/gate.yaml", "--server", server.url, "--set", f"file={gate(server, 'interrupted')}")
    with subprocess.Popen(run, cwd=server.folder, env=server.environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        number = process.stderr.readline().split()[1]
        until(lambda: server.ask("GET", f"/v1/jobs/{number}").data["state"] == "running")
        process.terminate()
        assert process.wait(600) == 130
    assert server.ask("GET", f"/v1/jobs/{number}").data["state"] == "cancelled"


def test_ctrl_c_ends_the_command_also_when_the_server_is_gone(serve: Callable[..., Server]) -> None:
    server = serve()
    run = command("run", "flows/gate.yaml", "--server", server.url, "--set", f"file={gate(server, 'shut')}")
    with subprocess.Popen(run, cwd=server.folder, env=server.environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        number = process.stderr.readline().split()[1]
        until(lambda: server.ask("GET", f"/v1/jobs/{number}").data["state"] == "running")
        server.process.kill()
        server.process.wait(30)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert f"job {number} was not cancelled and may go on" in said
    assert "graphengine serve" in said
    assert "Traceback" not in said


def test_all_that_waits_is_waited_for(server: Server) -> None:
    async def submit_many() -> list[int]:
        async with AsyncClient(server.url) as client:
            await client.pause()
            jobs = await asyncio.gather(*(client.submit("greet", {"text": "many"}) for _ in range(MOST_LISTED + 1)))
            return sorted(job.number for job in jobs)

    numbers = asyncio.run(submit_many())
    told = go(server, "queue", "--server", server.url, "wait", "--timeout", 0.1, code=1).stdout
    assert sorted(int(line.split()[1]) for line in told.splitlines()) == numbers
    with Client(server.url) as client:
        client.resume()
        assert {job.state for job in client.wait(*map(str, numbers))} == {"done"}


def test_the_queue_with_a_token_in_a_file(tokens: tuple[Server, dict[str, str]], tmp_path: Path) -> None:
    server, token = tokens
    file = tmp_path / "ann.token"
    file.write_text(token["ann"] + "\n")
    ann = ["queue", "--server", server.url, "--token-file", file]
    server.token = token["ann"]
    job = submit(server, "gate", {"file": (path := gate(server, "through"))})["number"]
    assert "gate" in go(server, *ann, "list").stdout
    until(lambda: server.ask("GET", f"/v1/jobs/{job}").data["state"] == "running")
    told = go(server, *ann, "cancel", job).stdout
    assert told in (f"job {job} is being cancelled\n", f"job {job} is cancelled\n")  # its node looks a moment later
    again = submit(server, "gate", {"file": path})["number"]
    open_gate(path)
    assert go(server, *ann, "wait", again).stdout == f"job {again} is done\n"
    assert go(server, *ann, "watch", again).stdout.splitlines()[-1] == f"job {again} done"
    assert "text: through" in go(server, *ann, "show", again).stdout
    assert "token" in go(server, "queue", "--server", server.url, "list", code=2).stderr
    assert "limits" in go(server, *ann, "limit", 3, code=2).stderr
    assert go(server, "queue", "--server", server.url, "list", "--json", GRAPHENGINE_TOKEN=token["ben"]).stdout == ""
    assert "no job" in go(server, "queue", "--server", server.url, "cancel", again, code=2,
                          GRAPHENGINE_TOKEN=token["ben"]).stderr  # fmt: skip
    assert "of this machine" in go(server, *ann, "clean", code=2).stderr
    for here in (["cancel", again, "--queue", "q.sqlite"], ["list", "--user", "ann"]):
        assert f"cannot follow {here[-2]}" in go(server, *ann, *here, code=2).stderr


def test_the_events_of_a_job_have_one_form_on_its_machine_and_elsewhere(server: Server) -> None:
    with Client(server.url) as client:
        client.pause()
        job = client.submit("greet", {"text": "one form"})
        here, there = (
            subprocess.Popen(command("queue", *words, "watch", job.number, "--json"), cwd=server.folder,
                             env=server.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for words in ([], ["--server", server.url])
        )  # fmt: skip
        stream, told = server.events(job.id), dict[str, list[dict[str, Any]]]()
        for name, looking in (("here", here), ("there", there)):
            assert looking.stdout is not None
            told[name] = [json.loads(looking.stdout.readline())]
        client.resume()
        for name, looking in (("here", here), ("there", there)):
            told[name] += [json.loads(line) for line in looking.communicate(timeout=600)[0].splitlines()]
    assert [line["kind"] for line in told["here"]] == ["queued", "running", "node_started", "node_finished", "done"]
    assert told["here"][1].pop("worker")  # not told elsewhere
    assert told["here"] == told["there"]
    assert told["here"] == [{**event.data, "job": job.number} for event in stream.until("done")]


def test_jobs_are_submitted_counted_and_reported(server: Server) -> None:
    queue = ["queue", "--server", server.url]
    submit = [*queue, "submit", "flows/greet.yaml"]
    told = go(server, *submit, "--set", "text=one by one", "--over", 'ending=["html", "txt"]', "--priority", 3).stdout
    jobs = [int(line.removeprefix("job ")) for line in told.splitlines()]
    assert go(server, *queue, "wait", *jobs).stdout == "".join(f"job {job} is done\n" for job in jobs)
    with Client(server.url) as client:
        made = [client.get(str(job)) for job in jobs]
        assert [(job.inputs["ending"], job.priority) for job in made] == [("html", 3), ("txt", 3)]
        (file,) = client.download(made[1], server.folder / "fetched")["sheet"]
        assert (file.suffix, file.read_text()) == (".txt", "one by one")
    (line,) = go(server, *submit, "--set", "text=x", "--json").stdout.splitlines()
    assert json.loads(line).keys() == {"job", "uuid"}
    assert "cannot follow --out, --keep-going" in go(
        server, *submit, "--set", "text=x", "--out", "mine", "--keep-going", code=2
    ).stderr  # fmt: skip
    assert "ending" in go(server, *submit, "--set", "text=x", "--set", "ending=gif", code=2).stderr
    go(server, *queue, "wait", json.loads(line)["job"])
    assert go(server, *queue, "report", jobs[0], "--out", "page.html").stdout == "page.html\n"
    assert "one by one" in (server.folder / "page.html").read_text()
    assert "no job" in go(server, *queue, "report", 99999, code=2).stderr
    assert go(server, *queue, "stats").stdout.splitlines()[:3] == [
        f"server     {server.url}", "running    0", "queued     0",
    ]  # fmt: skip
    facts = json.loads(go(server, *queue, "stats", "--json").stdout)
    assert (facts["paused"], facts["limit"], facts["limits"], facts["workers"]) == (False, None, {}, [])


@pytest.mark.parametrize("number", ["0", "9" * 18, "9" * 19, "-1", "1.0"])
def test_numbers_of_no_job(server: Server, number: str) -> None:
    assert server.ask("GET", f"/v1/jobs/{number}").problem["code"] == "not_found"
