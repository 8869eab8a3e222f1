"""The connection to a server: requests that are sent again where that is safe, and streams of events that go on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
import urllib.parse
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from graphengine.client.answers import Event
from graphengine.client.errors import IS_IT, NotAllowed, ServerError, Unreachable, error_of

PATIENCE = 60.0
"""Seconds for which a server that was there may be gone: it is started again, say."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two tries, which double from the first to the longest."""
CONNECT_SECONDS, READ_SECONDS = 10.0, 90.0
"""Seconds for a connection, and for the next bytes of an answer; a stream of events gives a sign every 15 s."""
MOST_REQUESTS = 100
"""Requests that are sent at once; streams of events, which last as long as their jobs, are not counted."""
LONGEST_LINE = 1 << 21
"""Bytes that are read ahead: an event, with its preview, is one line."""
AGAIN = (502, 503, 504)
"""Statuses of a server that starts or ends."""
_LOST = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError, TimeoutError)


class Tries:
    """The tries of one request: how long to wait before the next one.

    Args:
        patience: Seconds from the first failure on after which it is given up.
    """

    def __init__(self, patience: float) -> None:
        self.patience, self._pause, self._end = patience, FIRST_PAUSE, 0.0

    async def pause(self, error: Exception) -> None:
        """Wait before the next try.

        Raises:
            Exception: The error, if there is none any more.
        """
        now = time.monotonic()
        self._end = self._end or now + self.patience
        if now + self._pause > self._end:
            raise error
        await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
        self._pause = min(LONGEST_PAUSE, 2 * self._pause)

    def succeed(self) -> None:
        """Begin anew: the server has answered."""
        self._pause, self._end = FIRST_PAUSE, 0.0


class Connection:
    """Requests to a server; used on one event loop.

    Args:
        url: As `http://localhost:8188`.
        token: The user's token.
        patience: Seconds for which a server that has answered once may be gone.
    """

    def __init__(self, url: str, token: str | None, patience: float) -> None:
        self.url, self.patience = _address(url), patience
        if token is not None and not (token.isascii() and token.isprintable()):
            raise NotAllowed("the token has characters that no token has")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._session: aiohttp.ClientSession | None = None
        self._requests = asyncio.Semaphore(MOST_REQUESTS)
        self._reached = False

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
            self._session = aiohttp.ClientSession(
                headers=self._headers, timeout=timeout, read_bufsize=LONGEST_LINE,
                connector=aiohttp.TCPConnector(limit=0),  # a request must not wait for a place that a stream holds
            )  # fmt: skip
        return self._session

    async def ask(
        self, method: str, path: str, *, json: Any = None, data: bytes | None = None,
        query: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None, again: bool = True,
    ) -> tuple[int, Any]:
        """Send a request; returns the status and the body: JSON data, or bytes of another type.

        Args:
            again: It may be sent again when the connection was lost, because twice is as good as once.

        Raises:
            GraphEngineError: As `errors.error_of`; `Unreachable` if there was no answer.
        """
        tries = Tries(self.patience if again else 0.0)
        while True:
            try:
                async with self._requests, self._open().request(
                    method, self.url + path, json=json, data=data, params=query, headers=headers, allow_redirects=False
                ) as answer:
                    body = await answer.read()
                    found = _body(answer, body)
                    if answer.status < 300 or (answer.status == 404 and method == "HEAD"):
                        self._reached = True
                        return answer.status, found
                    error: Exception = error_of(answer.status, found, answer.headers, path)
                    if answer.status not in AGAIN:
                        raise error
            except _LOST as lost:
                error = self._unreachable(lost)
                if not self._reached:  # nobody is there: no use to wait
                    raise error from None
            except aiohttp.ClientError:
                raise self._foreign("what answers there does not speak HTTP") from None
            await tries.pause(error)

    async def data(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        """As `ask`; returns the JSON object of the answer."""
        _, found = await self.ask(method, path, **more)
        if not isinstance(found, dict):
            raise self._foreign(f"the answer to {path} is none of `graphengine serve`")
        return found

    def _unreachable(self, error: Exception) -> Unreachable:
        why = str(error) or type(error).__name__
        return Unreachable(f"{self.url} cannot be reached: {why}; {IS_IT}")

    def _foreign(self, why: str) -> Unreachable:
        return Unreachable(f"{self.url} is another server: {why}; {IS_IT}")

    async def events(self, job: str, after: int, previews: bool) -> AsyncIterator[Event]:
        """The events of a job after a number, until its end; a connection that is lost is made again."""
        tries = Tries(self.patience)
        path, query = f"/v1/jobs/{job}/events", {"previews": "true" if previews else "false"}
        while True:
            error: Exception = Unreachable(f"{self.url} has ended the stream of events")
            try:
                headers = {"Last-Event-ID": str(after)} if after else {}
                async with self._open().get(self.url + path, params=query, headers=headers) as answer:
                    if answer.status == 204:  # all is known
                        return
                    if answer.status == 200:
                        self._reached = True
                        async for event in _parsed(answer.content):
                            tries.succeed()
                            after = after if event.number is None else event.number
                            yield event
                            if event.last:
                                return
                    else:
                        error = error_of(answer.status, _body(answer, await answer.read()), answer.headers, path)
                        if answer.status not in AGAIN:
                            raise error
            except _LOST as lost:
                error = self._unreachable(lost)
                if not self._reached:
                    raise error from None
            except aiohttp.ClientError:
                raise self._foreign("what answers there does not speak HTTP") from None
            await tries.pause(error)


def _address(url: str) -> str:
    """The address of a server, to which paths are added."""
    with contextlib.suppress(ValueError):  # of a port that is none, and of brackets
        parts = urllib.parse.urlsplit(url)
        is_base = not parts.query and not parts.fragment and not set(url) & set(" \t\r\n")
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and is_base:
            return url.rstrip("/")
    raise ServerError(f"{url!r:.80} is no address of a server: http://HOST:PORT")


async def _parsed(content: aiohttp.StreamReader) -> AsyncIterator[Event]:
    """The events of a stream, as the standard of server-sent events writes them."""
    kind, number, data = "", None, ""
    async for line in content:
        name, _, value = line.decode().rstrip("\r\n").partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                kind = value
            case "id" if value.isdigit():
                number = int(value)
            case "data":
                data += value
            case "" if not value and data:
                found = json.loads(data)
                job, facts = found.pop("job", ""), {key: part for key, part in found.items() if key != "kind"}
                yield Event(job, kind, number, facts)
                kind, number, data = "", None, ""


def _body(answer: aiohttp.ClientResponse, body: bytes) -> Any:
    if answer.content_type.endswith(("/json", "+json")):
        with contextlib.suppress(ValueError):
            return json.loads(body)
    return body
