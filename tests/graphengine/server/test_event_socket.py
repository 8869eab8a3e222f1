"""The WebSocket of events: many jobs on one socket, followed from where a client left, until the server ends."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from .conftest import Server
from .test_native import gate, open_gate, submit, until_unwatched


@asynccontextmanager
async def connect(server: Server) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    headers = {} if server.token is None else {"Authorization": f"Bearer {server.token}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.ws_connect(f"{server.url}/v1/events", autoping=True) as found,
    ):
        yield found


async def until_kind(
    found: aiohttp.ClientWebSocketResponse, kind: str, job: str | None = None
) -> list[dict[str, Any]]:
    """The events up to the first of a kind."""
    seen = []
    while True:
        seen.append(await found.receive_json(timeout=300))
        if seen[-1]["kind"] == kind and job in (None, seen[-1]["job"]):
            return seen


def test_many_jobs_on_one_socket(server: Server) -> None:
    async def follow() -> None:
        files = [gate(server, f"socket-{n}") for n in range(2)]
        one, two = (submit(server, "gate", {"file": file})["id"] for file in files)
        async with connect(server) as found:
            await found.send_json({"subscribe": one})
            seen = await until_kind(found, "progress")
            assert {event["job"] for event in seen} == {one}
            await found.send_json({"subscribe": two.upper(), "previews": False})
            await until_kind(found, "running", two)
            open_gate(files[0])
            ended = await until_kind(found, "done", one)
            assert ended[-1]["last"] is True
            await found.send_json({"unsubscribe": two})
            await found.send_json({"subscribe": one, "after": ended[-1]["number"]})
            assert (await until_kind(found, "done"))[-1]["job"] == one  # what it knows already is told once more
            open_gate(files[1])
            server.events(two).until("done")
            await found.send_json({"subscribe": two, "after": seen[0]["number"]})
            (first, *_, last) = await until_kind(found, "done")
            assert first["job"] == two
            assert last["number"] > ended[-1]["number"]

    asyncio.run(follow())


def test_events_are_those_of_the_stream(server: Server) -> None:
    job = server.run("greet", {"text": "the same"})["id"]

    async def follow() -> list[dict[str, Any]]:
        async with connect(server) as found:
            await found.send_json({"subscribe": job})
            return await until_kind(found, "done")

    told = asyncio.run(follow())
    streamed = [event.data | {"number": int(event.id)} for event in server.events(job)]
    assert told == streamed
    assert [event.get("last") for event in told] == [None, None, True]


def test_a_wrong_message_is_answered_and_the_socket_goes_on(server: Server) -> None:
    job = server.run("greet", {"text": "right"})["id"]
    wrong: list[Any] = [
        "{", "[]", "{}", '{"subscribe": 3}', f'{{"subscribe": "{job}", "after": -1}}', '{"subscribe": "../1"}',
        f'{{"subscribe": "{job}", "previews": 1}}', f'{{"subscribe": "{job}", "afer": 1}}', '{"subscribe": "\\ud800"}',
        f'{{"subscribe": "{job}", "unsubscribe": "{job}"}}', "[" * 1000,
    ]  # fmt: skip

    async def follow() -> None:
        async with connect(server) as found:
            for text in wrong:
                await found.send_str(text)
                told = await found.receive_json(timeout=300)
                assert told["kind"] == "problem", text
                assert told["detail"]
            await found.send_json({"subscribe": job})
            await until_kind(found, "done")
            await found.send_bytes(b"x")
            assert (await found.receive(timeout=300)).type is aiohttp.WSMsgType.CLOSE
            assert found.close_code == aiohttp.WSCloseCode.UNSUPPORTED_DATA

    asyncio.run(follow())
    assert "WebSocket" in server.ask("GET", "/v1/events").problem["detail"]


def test_jobs_of_others_are_not_there(tokens: tuple[Server, dict[str, str]]) -> None:
    server, token = tokens
    assert server.ask("GET", "/v1/events").status == 401
    server.token = token["ann"]
    job = server.run("greet", {"text": "hers"})["id"]
    server.token = token["ben"]

    async def follow() -> dict[str, Any]:
        async with connect(server) as found:
            await found.send_json({"subscribe": job})
            told: dict[str, Any] = await found.receive_json(timeout=300)
            return told

    told = asyncio.run(follow())
    assert (told["kind"], told["code"], told["job"]) == ("problem", "not_found", job)


def test_it_is_closed_at_the_end_of_the_server(serve: Callable[..., Server]) -> None:
    server = serve()
    job = submit(server, "gate", {"file": gate(server, "never")})["id"]

    async def follow() -> None:
        async with connect(server) as busy, connect(server) as idle:
            await busy.send_json({"subscribe": job})
            await until_kind(busy, "running")
            server.process.send_signal(signal.SIGTERM)
            for found in (idle, busy):
                while (message := await found.receive(timeout=300)).type is aiohttp.WSMsgType.TEXT:
                    pass
                assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, aiohttp.WSCloseCode.GOING_AWAY)

    asyncio.run(follow())


def test_a_client_that_vanishes_is_forgotten(server: Server) -> None:
    file = gate(server, "vanishes")
    job = submit(server, "shows", {"file": file})

    async def follow() -> None:
        async with connect(server) as found:
            await found.send_json({"subscribe": job["id"]})
            await until_kind(found, "preview")
            transport = found.get_extra_info("socket")
            transport.shutdown(socket.SHUT_RDWR)

    asyncio.run(follow())
    assert until_unwatched(server, job, file) > 0
    open_gate(file)


def test_a_user_has_so_many_sockets_and_no_more(tokens: tuple[Server, dict[str, str]]) -> None:
    from graphengine.server.event_socket import MOST_SOCKETS

    server, token = tokens

    async def open_all(path: str) -> None:
        """With a client that reads, which answers pings: the server lets go of one that does not."""
        url = f"{server.url}{path}"
        headers = {name: {"Authorization": f"Bearer {token[name]}"} for name in ("ann", "ben")}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            opened, readers = list[aiohttp.ClientWebSocketResponse](), list[asyncio.Future[None]]()
            for _ in range(MOST_SOCKETS):
                opened.append(await session.ws_connect(url, headers=headers["ann"]))
                readers.append(asyncio.ensure_future(read(opened[-1])))
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(url, headers=headers["ann"])
            assert refused.value.status == 429
            assert refused.value.headers is not None
            assert int(refused.value.headers["retry-after"]) > 0
            opened.append(await session.ws_connect(url, headers=headers["ben"]))
            await asyncio.gather(*(socket.close() for socket in opened))
            await asyncio.gather(*readers)

    async def read(socket: aiohttp.ClientWebSocketResponse) -> None:
        async for _ in socket:
            pass

    for path in ("/v1/events", "/ws"):
        asyncio.run(open_all(path))
