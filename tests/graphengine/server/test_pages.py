"""The pages without a browser: the login, its cookie, what may follow it, and the headers of pages."""

from __future__ import annotations

import http.cookies
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest

from graphengine.server.pages import inside
from graphengine.server.tokens import Tokens

from .conftest import Answer, Server

FORM = "application/x-www-form-urlencoded"
PAGE = {"Accept": "text/html,*/*"}


@pytest.fixture
def locked(serve: Callable[..., Server], tmp_path: Path) -> tuple[Server, str]:
    """A server with a token."""
    token = Tokens(tmp_path / "tokens.json").add("ann")
    return serve("--token-file", tmp_path / "tokens.json"), token


def log_in(server: Server, token: str, goal: str = "/", **headers: str) -> Answer:
    body = urllib.parse.urlencode({"token": token, "next": goal}).encode()
    return server.ask("POST", "/login", body, Content_Type=FORM, **PAGE, **headers)


def test_a_token_is_taken_into_a_cookie_that_opens_the_api(locked: tuple[Server, str]) -> None:
    server, token = locked
    asked = server.ask("GET", "/w/greet?x=1", **PAGE)
    assert (asked.status, asked.headers["location"]) == (303, "/login?next=%2Fw%2Fgreet%3Fx%3D1")
    page = server.ask("GET", asked.headers["location"], **PAGE)
    assert page.status == 200
    assert b'value="/w/greet?x=1"' in page.body
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    answer = log_in(server, token, "/w/greet?x=1", Origin=f"http://127.0.0.1:{server.port}")
    assert (answer.status, answer.headers["location"]) == (303, "/w/greet?x=1")
    cookie = http.cookies.SimpleCookie(answer.headers["set-cookie"])["graphengine_token"]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["secure"]) == (True, "Strict", "/", "")
    assert server.ask("GET", "/v1/jobs", Cookie=f"graphengine_token={cookie.value}").status == 200
    # A page of another site has the cookie sent by no browser; where one did, the server refuses.
    other = server.ask("GET", "/v1/jobs", Cookie=f"graphengine_token={cookie.value}", Origin="https://evil.example")
    assert other.status == 403
    gone = server.ask("POST", "/logout", b"", **PAGE)
    assert (gone.status, gone.headers["location"]) == (303, "/login")
    assert 'graphengine_token=""' in gone.headers["set-cookie"]


def test_behind_tls_the_cookie_is_sent_by_tls_only(locked: tuple[Server, str]) -> None:
    server, token = locked
    answer = log_in(server, token, Host="localhost:1", Origin="https://localhost:1")
    assert http.cookies.SimpleCookie(answer.headers["set-cookie"])["graphengine_token"]["secure"]


def test_a_wrong_token_is_told_nothing(locked: tuple[Server, str]) -> None:
    server, token = locked
    answers = [log_in(server, wrong) for wrong in ("", "x", token[:-1], "ge_ü")]
    pages = {(answer.status, answer.body) for answer in answers}
    ((status, page),) = pages
    assert status == 401
    assert b"This token is not known here." in page
    assert b"ann" not in page.replace(b"cannot", b"")
    for cookie in ("", "x", token[:-1]):
        answer = server.ask("GET", "/v1/jobs", Cookie=f"graphengine_token={cookie}")
        assert (answer.status, answer.problem["code"]) == (401, "unauthorized")
    assert server.ask("POST", "/login", b"token=x", Content_Type="text/plain").status == 415
    assert server.ask("POST", "/login", b"a=1&" * 20, Content_Type=FORM).status == 400
    assert server.ask("POST", "/login", b"a" * 20_000, Content_Type=FORM).status == 413
    foreign = log_in(server, token, Origin="https://evil.example")
    assert foreign.status == 403
    assert "set-cookie" not in foreign.headers


@pytest.mark.parametrize(
    "goal",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)", "w/greet",
     "/\t/evil.example", "/x\r\nSet-Cookie: a=b", "/login?next=/", "", "/ü"],
)  # fmt: skip
def test_a_login_leads_nowhere_else(goal: str) -> None:
    assert inside(goal) == "/"


def test_a_login_leads_back() -> None:
    for goal in ("/", "/w/a-b.c?x=1&y=%20#z", "/editor/"):
        assert inside(goal) == goal


def test_a_login_escapes_what_it_is_given(locked: tuple[Server, str]) -> None:
    server, _ = locked
    goal = urllib.parse.quote('/w/"><script>alert(1)</script>')
    assert b"<script>" not in server.ask("GET", f"/login?next={goal}", **PAGE).body
    assert b"<script>" not in log_in(server, "x", '/w/"><script>').body


def test_where_no_token_is_in_use_there_is_no_login(server: Server) -> None:
    answer = server.ask("GET", "/login?next=/w/greet", **PAGE)
    assert (answer.status, answer.headers["location"]) == (303, "/w/greet")


def test_files_of_pages_and_nothing_else(server: Server) -> None:
    assert server.ask("GET", "/static/pages.css").headers["content-type"].startswith("text/css")
    for name in ("../pages.py", "..%2fpages.py", "pages.py", "login.html", "%2e%2e/pages.py"):
        assert server.ask("GET", f"/static/{name}").status == 404
    page = server.ask("GET", "/nothing<script>", **PAGE)
    assert page.status == 404
    assert page.headers["content-type"].startswith("text/html")
    assert b"<script>" not in page.body
