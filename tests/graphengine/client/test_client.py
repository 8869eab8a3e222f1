"""The client in Python: what a service in this process does, over HTTP, also when connections or servers are lost."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from graphengine import FileError, Graph, GraphEngineError, WorkflowError
from graphengine.client import (
    AsyncClient,
    Client,
    Event,
    Job,
    JobFailed,
    NotAllowed,
    ServerError,
    ServerFull,
    Unreachable,
)
from graphengine.declare import registry
from graphengine.service import QueueError, State
from graphengine.service.jobs.queue import NoJob
from tests.graphengine.sample import until
from tests.graphengine.server.conftest import PIXEL, WORKFLOWS, Server
from tests.graphengine.server.test_native import gate, open_gate

from .conftest import Road


def of(node: str, **inputs: Any) -> Graph:
    """A graph of one node of the server's pack."""
    graph = Graph()
    graph.add(f"door.{node}", "n", **inputs)
    graph.output("value", graph["n"])
    return graph


def test_a_script_moves_to_a_server_by_one_line(server: Server) -> None:
    graph = of("sheet", text="moved", ending="txt")
    (here,) = graph.run().values()
    with Client(server.url) as client:
        assert client.run(graph) == {"value": here}  # the very value
        assert client.run(graph, want="value") == here
        assert client.run(graph, want=["value"]) == [here]


def test_a_job_and_what_it_made(server: Server, tmp_path: Path) -> None:
    with Client(server.url) as client:
        job = client.submit("greet", {"text": "good morning"}, labels={"set": "one"}, priority=3)
        assert (job.state in State, job.priority, job.labels) == (True, 3, {"set": "one"})
        (ended,) = client.wait(job)
        assert (ended.state, ended.id, ended.workflow) == (State.DONE, job.id, "greet")
        assert client.outputs(job)["sheet"].content == b"good morning"
        (file,) = client.download(ended.id, tmp_path / "new")["sheet"]
        assert (file.parent, file.read_bytes()) == (tmp_path / "new", b"good morning")
        events = list(client.events(job))
        assert [event.kind for event in events] == ["queued", "running", "done"]
        assert [event.last for event in events] == [False, False, True]
        assert list(client.events(job, after=events[-1].number or 0)) == []  # all is known
        client.delete(job)
        with pytest.raises(NoJob):
            client.get(job)


def test_types_that_are_not_installed_come_as_bytes(server: Server) -> None:
    script = f"""
from graphengine.client import Client
with Client({server.url!r}) as client:
    print(client.run("greet", {{"text": "plain"}}))
"""
    bare = server.environment | {"GRAPHENGINE_PACKS": ""}
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=bare)
    assert told.stdout == "{'sheet': b'plain'}\n"


def test_local_files_are_uploaded_once(server: Server, road: Road, tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("only here")
    with Client(road.url) as client:
        one = client.run("digest", {"file": str(file)})
        assert one == client.run("digest", {"file": file})
        assert one == client.run(server.folder / "flows" / "digest.yaml", {"file": file})
        assert client.run(of("digest", path=str(file))) == {"value": one["digest"]}
        document = _document("digest")
        document["inputs"]["file"]["default"] = str(file)
        assert one == client.run(document)
        assert [line for line in road.asked if line.startswith("POST /v1/files")] == [
            f"POST /v1/files?expected={client.upload(file)}"
        ]
        with pytest.raises(WorkflowError, match=r"no_such\.txt"):
            client.submit("digest", {"file": "no_such.txt"})
        with pytest.raises(WorkflowError, match=r"sha256:0{64}"):
            client.submit(of("digest", path="sha256:" + "0" * 64))
        with pytest.raises(FileError, match=r"no_such\.txt"):
            client.submit("greet", {"text": Path("no_such.txt")})
        assert client.upload(PIXEL) == client.upload(PIXEL)


def _document(name: str) -> dict[str, Any]:
    from graphengine.workflow.yaml12 import load

    found: dict[str, Any] = load(WORKFLOWS[name], name)[0]
    return found


def test_errors_are_those_of_the_engine(server: Server) -> None:
    with Client(server.url) as client:
        with pytest.raises(WorkflowError) as wrong:
            client.submit("greet", {"txt": "x", "ending": "gif"})
        assert {problem.kind for problem in wrong.value.problems} >= {"unknown input", "missing input"}
        assert wrong.value.problems[0].nearest == ("text",)
        for name in ("00000000-0000-4000-8000-000000000000", "../queue", ""):
            with pytest.raises((NoJob, ServerError)):
                client.get(name)
            with pytest.raises((NoJob, ServerError)):
                next(client.events(name))
        with pytest.raises(ServerError, match="did you mean greet"):
            client.submit("gret", {"text": "x"})
        with pytest.raises(JobFailed, match="four is not lucky") as failed:
            client.run("fails")
        assert failed.value.node == "fails"
        with pytest.raises(QueueError, match="is failed"):
            client.outputs(next(iter(client.jobs(["failed"]))))
        with pytest.raises(WorkflowError, match="no plain data"):
            client.submit("greet", {"text": object()})
    with pytest.raises(ServerError, match="no address"):
        Client("localhost:8188")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    never = Client(f"http://127.0.0.1:{port}", patience=100_000)  # nothing is waited for where no server was ever
    with never, pytest.raises(Unreachable, match="graphengine serve"):
        never.queue()


def test_what_no_server_would_take_is_an_error_of_the_engine(server: Server) -> None:
    nobody = "00000000-0000-4000-8000-000000000000"
    for url in ("http://127.0.0.1:99999", "http://[::1", "http://", "http://a b:1", "http://127.0.0.1:1?x=1", "ftp://x"):
        with pytest.raises(ServerError, match="no address"):
            Client(url)
    with pytest.raises(NotAllowed, match="characters"):
        Client(server.url, "two\nlines")
    with Client(server.url) as client:
        ask: dict[str, Callable[[], object]] = {
            "no graph": lambda: client.submit(cast(Any, 3)),
            "values by name": lambda: client.submit("greet", cast(Any, ["text"])),
            "nan is no number": lambda: client.submit("paces", {"steps": 1, "seconds": float("nan")}),
            "no node nosuch": lambda: client.submit("greet", {"text": "x"}, want="nosuch"),
            "a key has": lambda: client.submit("greet", {"text": "x"}, key="two\nlines"),
            "a key has 1 to 255": lambda: client.submit("greet", {"text": "x"}, key=""),
            "no path": lambda: client.file("http://elsewhere/file"),
        }
        for why, call in ask.items():
            with pytest.raises(GraphEngineError, match=why):
                call()
        for lost in (client.get, client.cancel, client.move, client.delete, client.outputs, client.report):
            with pytest.raises(NoJob):
                lost(nobody)
    for call in (client.queue, lambda: next(client.jobs())):
        with pytest.raises(ServerError, match="closed"):
            call()


ANSWERS = {
    "SSH": b"SSH-2.0-server\r\n",
    "a page": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nhello",
    "a list": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]",
    "half of JSON": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n{",
    "another place": b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.invalid/\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_another_server_is_an_error_that_asks_whether_it_is_ours(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve_all() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    with client:
                        client.recv(1 << 16)
                        client.sendall(answer)

        threading.Thread(target=serve_all, daemon=True).start()
        with Client(f"http://127.0.0.1:{listening.getsockname()[1]}") as client:
            calls: list[Callable[[], object]] = [
                client.queue, client.workflows, lambda: client.submit("greet", {}), lambda: list(client.jobs()),
            ]  # fmt: skip
            for call in calls:
                with pytest.raises(ServerError, match="is `graphengine serve` running there"):
                    call()


SCRIPT = """\
import sys
from graphengine.client import Client
with Client(sys.argv[1]) as client:
    client.run("gate", {"file": sys.argv[2]}, listen=lambda event: print(event.job, event.kind, flush=True))
"""


def test_ctrl_c_in_a_script_cancels_the_job_that_it_runs(server: Server) -> None:
    script = [sys.executable, "-c", SCRIPT, server.url, gate(server, "interrupted")]
    with subprocess.Popen(
        script, env=server.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        assert process.stdout is not None
        job = next(line.split()[0] for line in process.stdout if line.endswith(" progress\n"))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=600)
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert "pending" not in said
    with Client(server.url) as client:
        assert client.wait(job, timeout=600)[0].state is State.CANCELLED


def test_a_run_that_is_cancelled_while_it_is_submitted_leaves_no_job(server: Server) -> None:
    """The server has the order already when its client is cancelled, before the answer."""

    async def work() -> None:
        async with AsyncClient(server.url) as client:
            before = {job.id async for job in client.jobs()}
            submit = client.submit
            sent = asyncio.Event()

            async def late(*given: Any, **options: Any) -> Job:
                job = await submit(*given, **options)
                sent.set()
                await asyncio.sleep(0.05)  # the answer is still on its way
                return job

            client.submit = late  # type: ignore[method-assign]
            task = asyncio.create_task(client.run("gate", {"file": gate(server, "shut")}))
            await sent.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            (job,) = [job async for job in client.jobs() if job.id not in before]
            assert (await client.wait(job, timeout=600))[0].state is State.CANCELLED

    asyncio.run(work())


def test_a_client_that_is_closed_ends_the_calls_of_other_threads(server: Server) -> None:
    client = Client(server.url)
    job = client.submit("gate", {"file": gate(server, "shut")})
    waits, said = threading.Event(), list[str]()

    def wait() -> None:
        try:
            for _ in client.events(job):
                waits.set()
        except ServerError as error:
            said.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    assert waits.wait(600)
    client.close()
    thread.join(600)
    assert said == ["the client is closed"]
    with Client(server.url) as other:
        other.cancel(job)
        inner = other.run("greet", {"text": "x"}, listen=lambda event: refused(other), want="sheet")
        assert inner.content == b"x"


def refused(client: Client) -> None:
    """A call of a client by the function that it calls would wait for itself."""
    with pytest.raises(ServerError, match="listen"):
        client.queue()


def test_the_queue_with_tokens(tokens: tuple[Server, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    server, token = tokens
    with Client(server.url) as client, pytest.raises(NotAllowed, match="a token is needed"):
        client.queue()
    with Client(server.url, token["root"]) as root:
        assert root.limit(0, "ann").limits == {"ann": 0}
        assert root.pause("ben").paused is False
    monkeypatch.setenv("GRAPHENGINE_TOKEN", token["ann"])
    with Client(server.url) as ann:
        with pytest.raises(ServerFull) as full:
            ann.submit("greet", {"text": "x"})
        assert full.value.retry_after == 5
        with pytest.raises(NotAllowed):
            ann.limit(None, "ann")
    with Client(server.url, token["ben"]) as ben:
        one, two = (ben.submit("greet", {"text": text}) for text in ("1", "2"))
        assert [job.id for job in ben.queue().waiting] == [one.id, two.id]
        assert ben.move(two, one).ahead == 0
        assert ben.cancel(one).state is State.CANCELLED
        assert ben.queue().paused is True
        assert ben.resume().paused is False
        assert ben.wait(one, two)[1].state is State.DONE
        assert [job.id for job in ben.jobs(page=1)] == [two.id, one.id]
    with Client(server.url) as ann, pytest.raises(NoJob):
        ann.get(one)


def test_an_order_whose_answer_is_lost_makes_one_job(server: Server, road: Road) -> None:
    with Client(road.url) as client:
        client.queue()
        road.cut = 2
        job = client.submit("greet", {"text": "once"}, labels={"of": "lost answers"}, want=["sheet"])
        assert [line.split()[0] for line in road.asked if line.endswith("/jobs")].count("POST") >= 2
        assert [found.id for found in client.jobs(labels={"of": "lost answers"})] == [job.id]


def test_events_go_on_when_connections_break(server: Server, road: Road) -> None:
    file = gate(server, "broken")
    with Client(road.url) as client:
        job = client.submit("gate", {"file": file})
        kinds = []
        for event in client.events(job):
            kinds.append(event.kind)
            if event.kind == "progress" and kinds.count("progress") == 1:
                road.break_all()
                open_gate(file)
        assert [kind for kind in kinds if kind in ("queued", "running", "done")] == ["queued", "running", "done"]
        assert sum(line.endswith("/events?previews=false") for line in road.asked) >= 2


def test_a_wait_outlives_a_restart_of_the_server(serve: Callable[..., Server]) -> None:
    server = serve()
    file = gate(server, "restarted")
    with Client(server.url, patience=600) as client:
        job = client.submit("gate", {"file": file})
        ended: list[Any] = []
        waiting = threading.Thread(target=lambda: ended.extend(client.wait(job)))
        waiting.start()
        until(lambda: client.get(job).progress is not None)
        server.stop()
        again = serve("--port", server.port)
        assert again.url == server.url
        open_gate(file)
        waiting.join(600)
        assert ended[0].state is State.DONE
        assert client.outputs(job) == {"text": "through"}


def test_without_patience_a_lost_server_is_an_error(serve: Callable[..., Server]) -> None:
    server = serve()
    with Client(server.url, patience=0.2) as client:
        job = client.submit("gate", {"file": gate(server, "gone")})
        server.process.kill()
        with pytest.raises(Unreachable):
            client.wait(job)


def test_many_at_once(server: Server) -> None:
    async def work() -> list[bytes]:
        async with AsyncClient(server.url) as client:
            found = await asyncio.gather(*(client.run("greet", {"text": str(n)}, want="sheet") for n in range(20)))
            return [sheet.content for sheet in found]

    assert asyncio.run(work()) == [str(n).encode() for n in range(20)]


def test_following_many_jobs_holds_up_nothing_else(server: Server) -> None:
    file = gate(server, "many")

    async def follow() -> None:
        async with AsyncClient(server.url) as client, asyncio.timeout(600):
            job = await client.submit("gate", {"file": file})
            streams = [client.events(job) for _ in range(120)]
            await asyncio.gather(*map(anext, streams))  # all are open
            assert (await client.get(job)).id == job.id
            open_gate(file)
            await asyncio.gather(*(stream.aclose() for stream in streams))

    asyncio.run(follow())


def test_a_run_that_is_cancelled_cancels_its_job(server: Server) -> None:
    async def work() -> None:
        async with AsyncClient(server.url) as client:
            began, events = asyncio.Event(), list[Event]()

            def listen(event: Event) -> None:
                events.append(event)
                if event.kind == "progress":
                    began.set()

            task = asyncio.create_task(client.run("gate", {"file": gate(server, "shut")}, listen=listen))
            await asyncio.wait_for(began.wait(), 600)
            (running,) = [job for job in (await client.queue()).running if job.id == events[0].job]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(task, 0.01)
            (ended,) = await client.wait(running, timeout=600)
            assert ended.state is State.CANCELLED
            (job,) = await client.wait(await client.submit("gate", {"file": gate(server, "shut")}), timeout=0.2)
            assert not job.state.ended  # the wait was over
            await client.cancel(job)

    asyncio.run(work())
    with Client(server.url) as client:
        job = client.submit("gate", {"file": gate(server, "shut")})
        threading.Timer(0.5, client.cancel, [job]).start()
        (ended,) = client.wait(job)
        with pytest.raises(QueueError, match="cancelled"):
            client.outputs(ended)


def test_previews(server: Server) -> None:
    file = gate(server, "previews")
    with Client(server.url) as client:
        pictures = []
        job = client.submit("shows", {"file": file})
        for event in client.events(job, previews=True):
            if event.picture is not None:
                pictures.append(event.picture)
                if len(pictures) == 2:
                    open_gate(file)
        assert set(pictures) == {PIXEL}


def test_both_clients_have_the_same_methods() -> None:
    one, other = ({n: f for n, f in vars(c).items() if not n.startswith("_")} for c in (Client, AsyncClient))
    assert one.keys() == other.keys()
    for name in one:
        here, there = (inspect.signature(methods[name]).parameters for methods in (one, other))
        assert list(here.values()) == list(there.values()), name
    submit, run = (inspect.signature(method).parameters for method in (Client.submit, Client.run))
    assert run.items() >= submit.items()  # so that type checkers know the options of both


def test_the_pack_is_loaded_here() -> None:
    assert registry.find("door.sheet") is not None
