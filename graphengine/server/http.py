"""What all contracts share in HTTP: who may ask, how bodies are read, and how files are sent."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import urllib.parse
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import IO, Any

from aiohttp import BodyPartReader, web

from graphengine.server.fetching import is_address
from graphengine.server.file_store import SHOWN
from graphengine.server.json_text import parse
from graphengine.server.problems import ApiError, as_api_error
from graphengine.server.tokens import Caller, Tokens

log = logging.getLogger(__name__)

LARGEST_JSON = 32 << 20
"""The most bytes of a body of JSON."""
PIECE_SECONDS, BODY_SECONDS = 20.0, 600.0
"""Seconds in which the next piece of a body, and all of it, must have arrived."""
SMALL_JSON = 1 << 13
"""Bytes of JSON that are read faster than a thread is asked to."""
PIECE = 1 << 18
MOST_PARTS, LONGEST_FIELD = 100, 8192
"""The most parts of a form, and the most bytes of each but the file."""
ENVELOPE = 1 << 20
"""Bytes of a form around its file."""
FREE_MESSAGES, MESSAGE_SECONDS = 500, 0.02
"""The messages of a socket that are taken at once, and the seconds between any more."""
WRITE_SECONDS = 30.0
"""Seconds after which a client that reads nothing of a stream is let go."""
_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII)
_CLOSE = {"Connection": "close"}
"""The header of an answer to a body that is not read to its end."""
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""The headers of every answer, unless a handler sets others."""

READING = ("GET", "HEAD", "OPTIONS")
"""The methods that change nothing."""
TOKEN_COOKIE = "graphengine_token"
"""The cookie in which a browser sends a token, see `pages`."""

CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Render = Callable[[ApiError, web.Request], web.Response]


@dataclass(frozen=True, slots=True)
class Door:
    """Who may ask.

    Attributes:
        tokens: The tokens of the users.
        hosts: Names by which browsers may call this server, besides addresses and `localhost`.
        open: Whether it may be used without a token while there is none: on loopback only.
    """

    tokens: Tokens
    hosts: Collection[str] = ()
    open: bool = True

    def check_host(self, request: web.Request) -> None:
        """Refuse names that are not ours: a page of another site could have its name lead to this machine (DNS
        rebinding)."""
        host = _name_of(request.headers.get("Host", ""))
        if host not in ("localhost", *self.hosts) and not is_address(host):
            what = f"this server is not called {host[:80]!r}"
            raise ApiError("forbidden", f"{what}; whoever runs it can say --allow-host {host[:80]}")

    def check_origin(self, request: web.Request) -> None:
        """Refuse what pages of other sites ask by a browser of somebody who is allowed to."""
        site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
        foreign = site is not None and site not in ("same-origin", "none")
        if origin is not None:
            foreign |= urllib.parse.urlsplit(origin).netloc.lower() != request.headers.get("Host", "").lower()
        if foreign:
            raise ApiError("forbidden", "a page of another site may not use this server")

    def needs_token(self) -> bool:
        """Whether requests need a token."""
        return bool(self.tokens.all()) or not self.open

    def caller(self, request: web.Request) -> Caller:
        """Who asks, by the token of the request: in its header, or in a browser's cookie."""
        if not self.needs_token():
            return Caller("", admin=True)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if not scheme and (cookie := request.cookies.get(TOKEN_COOKIE)):
            scheme, token = "bearer", cookie
        if scheme.lower() == "bearer" and (found := self.tokens.caller(token.strip())) is not None:
            return found
        what = "the token is unknown" if scheme else "a token is needed: Authorization: Bearer TOKEN"
        hint = "whoever runs this server makes one with `graphengine serve token add NAME`"
        raise ApiError("unauthorized", f"{what}; {hint}", headers={"WWW-Authenticate": "Bearer"})


def _name_of(host: str) -> str:
    name = host.lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.rpartition(":")[0] if name.count(":") == 1 else name


def is_loopback(host: str) -> bool:
    """Whether a server that listens there is reached from this machine only."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def guard(door: Door, render: Render, without_token: Collection[str]) -> Any:
    """The middleware around every route: who may ask, errors in the contract's form, safe headers.

    Args:
        render: Makes an answer of an error.
        without_token: Paths that need none.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            door.check_host(request)
            door.check_origin(request)
            if request.path not in without_token:
                caller = request[CALLER] = await asyncio.to_thread(door.caller, request)
                if caller.read_only and request.method not in READING:
                    raise ApiError("forbidden", "this token may read and change nothing")
            answer = await handler(request)
        except ConnectionError:  # the client has gone, maybe in the middle of an answer
            raise
        except Exception as error:
            answer = render(_as_answer(error, request), request)
        for name, value in SAFE.items():
            if not answer.prepared:
                answer.headers.setdefault(name, value)
        return answer

    return middleware


def _as_answer(error: Exception, request: web.Request) -> ApiError:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return ApiError("method_not_allowed", f"{request.path[:200]} takes {allowed}", headers={"Allow": allowed})
    if isinstance(error, web.HTTPNotFound):
        return ApiError("not_found", f"there is no {request.path[:200]!r} here; /v1/openapi.json lists all")
    if isinstance(error, web.HTTPException):
        return ApiError("bad_request", error.reason)
    found = as_api_error(error)
    if found is None or found.status >= 500:
        log.error("%s %s failed", request.method, request.path[:200], exc_info=error)
    return found or ApiError("internal", "the server has failed at this; its log says more")


# --- bodies -----------------------------------------------------------------------------------------------------------


async def pieces(request: web.Request, most: int, take: Callable[[bytes], object], waits: bool = True) -> None:
    """Read a body piece by piece, none of which is kept here.

    Args:
        take: Called with each piece.
        waits: `take` may wait for a disk, and is called on a thread.

    Raises:
        ApiError: It has more than `most` bytes, or does not arrive in time.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ApiError("bad_type", "a body is sent as it is, without Content-Encoding")
    _check_length(request, most)
    count = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                async with asyncio.timeout(PIECE_SECONDS):
                    piece = await request.content.read(PIECE)
                if not piece:
                    return
                count += len(piece)
                if count > most:
                    raise ApiError("too_large", f"the body has more than {most:,} bytes", headers=_CLOSE)
                if waits:
                    await asyncio.to_thread(take, piece)
                else:
                    take(piece)
    except TimeoutError:
        what = "the body did not arrive in time; send it again"
        raise ApiError("slow", what, headers=_CLOSE) from None


def _check_length(request: web.Request, most: int) -> None:
    """Refuse a body by the length that its client announces."""
    if (request.content_length or 0) > most:
        what = f"the body has {request.content_length:,} bytes; at most {most:,} are taken"
        raise ApiError("too_large", what, headers=_CLOSE)


async def json_body(request: web.Request, any_type: bool = False) -> dict[str, Any]:
    """The body of a request, a JSON object.

    Args:
        any_type: Whatever the client calls the body, it is read as JSON.

    Raises:
        ApiError: It is none.
    """
    named = request.headers.get("Content-Type") is not None and not any_type
    if named and not request.content_type.endswith(("/json", "+json")):
        raise ApiError("bad_type", f"the body must be application/json, not {request.content_type[:80]}")
    content = bytearray()
    await pieces(request, LARGEST_JSON, content.extend, waits=False)
    text = bytes(content)
    data = parse(text) if len(text) <= SMALL_JSON else await asyncio.to_thread(parse, text)
    if not isinstance(data, dict):
        raise ApiError("bad_request", f"the body must be a JSON object, not {type(data).__name__}")
    return data


async def form_parts(
    request: web.Request, most: int, fields: dict[str, list[str]], take: Callable[[bytes], object], file: str = "file"
) -> str | None:
    """Read a form piece by piece (`multipart/form-data`); the bytes of its file are not kept here.

    Args:
        most: The most bytes of all of it.
        fields: Is given the texts of each part but the file, by its name.
        take: Called with each piece of the file.
        file: The name of the part that is the file.

    Returns:
        The file's name, if the form has one.

    Raises:
        ApiError: It is no form, too large, or does not arrive in time.
    """
    if request.content_type != "multipart/form-data":
        raise ApiError("bad_type", f"the body must be multipart/form-data, not {request.content_type[:80]}")
    _check_length(request, most)
    files = parts = 0
    name: str | None = None
    try:
        async with asyncio.timeout(BODY_SECONDS):
            form = await request.multipart()
            while (part := await asyncio.wait_for(form.next(), PIECE_SECONDS)) is not None:
                parts += 1
                if not isinstance(part, BodyPartReader) or part.name is None or parts > MOST_PARTS:
                    what = f"a form has at most {MOST_PARTS} parts, each with a name"
                    raise ApiError("bad_request", what, headers=_CLOSE)
                is_file, text = part.name == file, bytearray()
                if is_file:
                    files, name = files + 1, part.filename
                while piece := await asyncio.wait_for(part.read_chunk(PIECE), PIECE_SECONDS):
                    if is_file:
                        await asyncio.to_thread(take, piece)
                    elif len(text := text + piece) > LONGEST_FIELD:
                        what = f"{part.name[:60]} has more than {LONGEST_FIELD:,} bytes"
                        raise ApiError("too_large", what, headers=_CLOSE)
                if not is_file:
                    fields.setdefault(part.name, []).append(text.decode())
    except TimeoutError:
        raise ApiError("slow", "the body did not arrive in time; send it again", headers=_CLOSE) from None
    except UnicodeDecodeError:
        raise ApiError("bad_request", "a part of the form is no UTF-8 text", headers=_CLOSE) from None
    except (ValueError, AssertionError, RuntimeError) as error:
        raise ApiError("bad_request", f"the body is no form: {str(error)[:200]}", headers=_CLOSE) from None
    if files != 1:
        raise ApiError("bad_request", f"the form must have one part `{file}`, not {files}")
    return name


class Pace:
    """The pace at which messages of one socket are taken: at once up to a number, then so many a second at most. What
    comes faster waits in the network."""

    def __init__(self) -> None:
        self._left = FREE_MESSAGES

    async def keep(self) -> None:
        """Wait before the next message, if there were many."""
        if self._left:
            self._left -= 1
        else:
            await asyncio.sleep(MESSAGE_SECONDS)


# --- answers ----------------------------------------------------------------------------------------------------------


async def send_file(
    request: web.Request, file: IO[bytes], size: int, type: str, name: str, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """Send an open file, or the range of its bytes that the request asks for, and close it. Only types that are safe to
    show are shown, all others are saved.

    Args:
        headers: More headers of the answer.

    Raises:
        ApiError: The file has none of the bytes that the request asks for.
    """
    try:
        how = "inline" if type in SHOWN else "attachment"
        safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in PurePath(name).name)[:100]
        first, end = _range(request, size)
        given = {"Content-Disposition": f'{how}; filename="{safe}"', "Cache-Control": "private, no-cache",
                 "Accept-Ranges": "bytes", **SAFE, **(headers or {})}  # fmt: skip
        answer = web.StreamResponse(headers=given)
        if (first, end) != (0, size):
            answer.set_status(206)
            answer.headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
        answer.content_type, answer.content_length = type, end - first
        await answer.prepare(request)
        if request.method != "HEAD":
            left = end - first
            await asyncio.to_thread(file.seek, first)
            while left and (piece := await asyncio.to_thread(file.read, min(PIECE, left))):
                await answer.write(piece)
                left -= len(piece)
        await answer.write_eof()
        return answer
    finally:
        file.close()


def _range(request: web.Request, size: int) -> tuple[int, int]:
    """The first byte that is wanted and the one behind the last: all where no range is asked for, or several, or one
    that cannot be read (RFC 9110, section 14.2)."""
    found = _RANGE.fullmatch(request.headers.get("Range", ""))
    if found is None or request.method != "GET" or "If-Range" in request.headers:
        return 0, size
    first, last = found[1], found[2]
    if not first and not last:
        return 0, size
    if not first:
        start, end = size - min(int(last), size), size
    else:
        start, end = int(first), size if not last else min(int(last) + 1, size)
        if last and int(last) < start:
            return 0, size
    if start >= end:
        unsatisfied = {"Content-Range": f"bytes */{size}"}
        raise ApiError("bad_range", f"the file has {size:,} bytes, none of those that are asked for", (), unsatisfied)
    return start, end


async def write_in_time(request: web.Request, answer: web.StreamResponse, part: bytes) -> None:
    """Write a part of a stream; a client that reads nothing for long is let go."""
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            await answer.write(part)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client reads nothing") from None


def origin_of(request: web.Request) -> str:
    """The scheme and host by which a client calls this server, for links in answers; behind a server that speaks TLS
    the scheme is the one that the client used there."""
    scheme = "https" if request.headers.get("X-Forwarded-Proto", "") == "https" else request.scheme
    return f"{scheme}://{request.headers.get('Host', '')}"
