"""Requests that are no HTTP, answered as the contract of their path answers errors: aiohttp answers them by itself, as
plain text, before any route is looked for."""

from __future__ import annotations

import re
from collections.abc import Callable

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from graphengine.server.problems import ApiError

Answer = Callable[[ApiError, str, web.BaseRequest], web.Response]
"""A function of an error, the path that was asked for as far as it is known, and the request; returns the answer."""
_LINE = re.compile(rb"[A-Z]{1,20} (/[^\s?]{0,200})")


class _Connection(RequestHandler):
    """A connection whose parser's errors are answered by a function.

    Attributes:
        answer: The function.
        path: The path of the latest request, as far as it is known.
    """

    __slots__ = ("answer", "path")

    answer: Answer
    path: str

    def data_received(self, data: bytes) -> None:
        """Take bytes, and note the path of a request that begins with them."""
        if (line := _LINE.match(data)) is not None:
            self.path = line[1].decode("latin-1")
        super().data_received(data)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to an error that no route has caught; the connection is closed after it."""
        super().handle_error(request, status, exc, message)  # it logs, and raises if an answer was begun
        what = re.split(r":? b'|:? bytearray|:?\n", message or "")[0]
        if status == 400:
            error = ApiError("bad_request", f"the request cannot be read: {what[:200] or 'it is no HTTP'}")
        else:
            error = ApiError("internal", "the server has failed at this; its log says more")
        answer = self.answer(error, self.path, request)
        answer.force_close()
        return answer


class _Server(web.Server):
    answer: Answer

    def __call__(self) -> RequestHandler:
        connection = _Connection(self, loop=self._loop, **self._kwargs)
        connection.answer, connection.path = self.answer, "/"
        return connection


def answered(server: web.Server, answer: Answer) -> None:
    """Have a server answer what its parser refuses by a function."""
    server.__class__ = _Server  # aiohttp's runner makes the server, and leaves no choice of its class
    assert isinstance(server, _Server)
    server.answer = answer
