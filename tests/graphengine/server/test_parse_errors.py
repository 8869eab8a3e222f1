"""Requests that are no HTTP, byte by byte: each contract answers them as its other errors."""

from __future__ import annotations

import http.client
import json
import socket

import pytest

from tests.graphengine.server.conftest import Server

LONG = b"a" * 20_000
CHUNKED = b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


def answer(server: Server, request: bytes) -> tuple[int, str, bytes]:
    """Send bytes; returns the status, the type and the body of the answer, after which the connection ends."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(request)
        found = http.client.HTTPResponse(connection)
        found.begin()
        body = found.read()
        assert connection.recv(1) == b""
        assert found.headers["X-Content-Type-Options"] == "nosniff"
        return found.status, found.headers.get_content_type(), body


@pytest.mark.parametrize(
    ("request_", "form"),
    [
        (b"NONSENSE\r\n\r\n", "native"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", "native"),
        (b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nX: " + LONG + b"\r\n\r\n", "native"),
        (b"GET /v1/jobs HTTP/9.9\r\nHost: localhost\r\n\r\n", "native"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "native"),
        (b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n" + CHUNKED + b"zz\r\n", "native"),
        (b"GET /api/jobs HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n", "classic"),
        (b"POST /prompt HTTP/1.1\r\nHost: localhost\r\nContent-Length: abc\r\n\r\n{}", "classic"),
        (b"GET /view?" + LONG + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", "classic"),
        (b"POST /prompt HTTP/1.1\r\nHost: localhost\r\n" + CHUNKED + b"2\r\n{}\r\nqq\r\n", "classic"),
        (b"GET /api/v2/jobs/" + LONG + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", "v2"),
        (b"GET /api/v2/jobs HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n", "v2"),
    ],
)
def test_what_is_no_http_is_answered_in_the_form_of_its_contract(server: Server, request_: bytes, form: str) -> None:
    status, type, body = answer(server, request_)
    assert status == 400
    assert b"aaaa" not in body  # nothing of the request comes back: it may hold a token
    data = json.loads(body)
    match form:
        case "native":
            assert (type, data["code"]) == ("application/problem+json", "bad_request")
            message = data["detail"]
        case "classic":
            assert data["error"]["type"] == "bad_request"
            message = data["error"]["message"]
        case "v2":
            assert data["error"]["code"] == "invalid_request"
            message = data["error"]["message"]
    assert message.startswith("the request cannot be read: ")
    assert server.ask("GET", "/health").status == 200
