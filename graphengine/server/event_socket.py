"""The WebSocket of events, `/v1/events`: one socket on which a client follows many jobs."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from graphengine.server.async_hub import AsyncHub
from graphengine.server.contract import Route
from graphengine.server.http import CALLER, WRITE_SECONDS, Pace
from graphengine.server.job_api import JobApi
from graphengine.server.json_text import parse
from graphengine.server.problems import ApiError, as_api_error
from graphengine.server.tokens import Caller
from graphengine.service.jobs.job import Job

MOST_JOBS = 200
"""The most jobs that are followed on one socket."""
LONGEST = 1 << 16
"""The most bytes of a client's message."""
MOST_SOCKETS = 200
"""The most sockets of a user who is no admin."""
HEARTBEAT = 20.0
"""Seconds between pings; a client that answers none is gone."""


class EventSocket:
    """The route of the socket.

    Args:
        api: Whose jobs are followed.
        hub: The events of jobs.
    """

    def __init__(self, api: JobApi, hub: AsyncHub) -> None:
        self.api, self.hub = api, hub
        self._open: Counter[str] = Counter()  # sockets by user

    def routes(self) -> list[Route]:
        """Its route."""
        about = "Events of many jobs on a WebSocket: it takes the messages Subscribe and Unsubscribe"
        return [Route("GET", "/v1/events", self.follow, about, {"101": ""})]

    async def follow(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/events`."""
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT, max_msg_size=LONGEST, compress=False)
        if not socket.can_prepare(request):
            raise ApiError("bad_request", "this is a WebSocket: ask with Upgrade: websocket")
        caller: Caller = request[CALLER]
        if self._open[caller.user] >= MOST_SOCKETS and not caller.admin:
            what = f"a user has at most {MOST_SOCKETS} of these sockets; one follows {MOST_JOBS} jobs"
            raise ApiError("busy", what, headers={"Retry-After": "5"})
        self._open[caller.user] += 1
        try:
            await self._serve(request, socket)
        finally:
            self._open -= Counter([caller.user])  # drops users who have none
        return socket

    async def _serve(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        await socket.prepare(request)
        following = _Following(self.api, self.hub, request, socket)
        ending, pace = asyncio.create_task(self._end(socket)), Pace()
        try:
            async for message in socket:
                await pace.keep()
                if message.type is not WSMsgType.TEXT:
                    await socket.close(code=WSCloseCode.UNSUPPORTED_DATA, message=b"messages are JSON texts")
                    break
                await following.take(message.data)
        finally:
            ending.cancel()
            await following.end()

    async def _end(self, socket: web.WebSocketResponse) -> None:
        await self.hub.closed.wait()
        await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the server ends")


class _Following:
    """The jobs that one client follows, each by a task that reads the hub and writes to the socket: what a client does
    not read is not read from the hub, which keeps little for it."""

    def __init__(self, api: JobApi, hub: AsyncHub, request: web.Request, socket: web.WebSocketResponse) -> None:
        self._api, self._hub, self._request, self._socket = api, hub, request, socket
        self._caller: Caller = request[CALLER]
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def take(self, text: str) -> None:
        """Do what a message of the client asks; what is wrong with it is told on the socket."""
        name: str | None = None
        try:
            asked = parse(text.encode(errors="surrogatepass"))
            name, after, previews, follows = _read(asked)
            job = await asyncio.to_thread(self._api.find, self._caller, name)
            if (before := self._tasks.pop(job.uuid, None)) is not None:
                before.cancel()
            if not follows:
                return
            if len(self._tasks) >= MOST_JOBS:
                raise ApiError("conflict", f"at most {MOST_JOBS} jobs are followed on one socket; open another one")
            self._tasks[job.uuid] = asyncio.create_task(self._tell(job, after, previews))
        except Exception as error:
            await self._refuse(name, error)

    async def end(self) -> None:
        """Follow nothing more."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _tell(self, job: Job, after: int, previews: bool) -> None:
        """Tell what happens to a job until its end."""
        ended = False
        try:
            watching = self._hub.batches(job, after, previews=previews, caller=self._request[CALLER])
            async with contextlib.aclosing(watching) as batches:
                async for batch in batches:
                    # A sign that nothing has happened is not sent: the pings show that the client is there.
                    await self._send(*(event.message(job.uuid) for event in batch if event.kind))
                    ended = batch[-1].last
        except ConnectionError:  # the client has gone
            return
        except Exception as error:
            await self._refuse(job.uuid, error)
            ended = True
        finally:
            if ended and self._tasks.get(job.uuid) is asyncio.current_task():
                del self._tasks[job.uuid]

    async def _refuse(self, job: str | None, error: Exception) -> None:
        known = as_api_error(error)
        if known is None:
            raise error
        problem = {"kind": "problem", "job": job, "code": known.code, "detail": known.detail}
        with contextlib.suppress(ConnectionError):
            await self._send(json.dumps(problem))

    async def _send(self, *messages: str) -> None:
        """Send messages; a client that reads nothing for long is let go."""
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                for message in messages:
                    await self._socket.send_str(message)
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("the client reads nothing") from None


def _read(asked: Any) -> tuple[str, int, bool, bool]:
    """What a client asks: a job, the number of the event after which it is followed, whether with previews, and whether
    it is followed or no longer."""
    if not isinstance(asked, dict) or len(asked.keys() & {"subscribe", "unsubscribe"}) != 1:
        raise ApiError("bad_request", 'a message is {"subscribe": ID} or {"unsubscribe": ID}, where ID is a job\'s')
    if more := asked.keys() - {"subscribe", "unsubscribe", "after", "previews"}:
        known = "there are subscribe, unsubscribe, after and previews"
        raise ApiError("bad_request", f"{min(more)[:40]!r} is unknown here; {known}")
    name = asked.get("subscribe", asked.get("unsubscribe"))
    after, previews = asked.get("after", 0), asked.get("previews", True)
    if not isinstance(name, str) or not isinstance(previews, bool):
        raise ApiError("bad_request", "the id of a job is a text, and previews is true or false")
    if type(after) is not int or not 0 <= after < 2**63:
        raise ApiError("bad_request", "after is the number of an event, 0 for all")
    return name, after, previews, "subscribe" in asked
