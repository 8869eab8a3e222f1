"""Pages for people: workflows, the queue, the login. Pages are files, whose script renders what `/v1` says."""

from __future__ import annotations

import asyncio
import functools
import html
import string
import urllib.parse
from pathlib import Path

from aiohttp import web

from graphengine.server.contract import Route
from graphengine.server.http import CALLER, TOKEN_COOKIE, Door, pieces
from graphengine.server.job_api import JobApi
from graphengine.server.native import problem_answer
from graphengine.server.problems import ApiError

FILES = Path(__file__).parent / "static"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".html": "text/html"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""What a page may do: nothing that stands in its text is run, and nothing comes from elsewhere."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers send forms with `Origin: null`
    "Cache-Control": "no-cache",
}
REMEMBERED = 30 * 24 * 3600
"""Seconds for which a browser keeps the token."""
LONGEST_FORM = 1 << 14
WRONG = "This token is not known here."


class Pages:
    """The pages of the server.

    Args:
        api: Knows the workflows that have a page.
        door: Who may ask.
    """

    prefixes = ("/",)
    without_token = ("/login", "/logout", "/static/pages.css", "/static/icon.svg")

    def __init__(self, api: JobApi, door: Door) -> None:
        self.api, self.door = api, door

    def problem(self, error: ApiError, request: web.Request) -> web.Response:
        """An error: for a browser that wants a page, a page or the way to the login; for all others as in `/v1`."""
        if "text/html" not in request.headers.get("Accept", ""):
            return problem_answer(error, request)
        if error.code == "unauthorized" and request.method in ("GET", "HEAD"):
            return to_login(request)
        return _page("error.html", error.status, title=error.title, detail=error.detail)

    def routes(self) -> list[Route]:
        """All routes."""
        page = {"200": "text/html"}
        return [
            Route("GET", "/", self.start, "The page of all workflows, the queue and the workers", page),
            Route("GET", "/w/{name}", self.workflow, "The page of a workflow", page),
            Route("GET", "/session", self.session, "What the pages need to know of who asks", {"200": "object"}),
            Route("GET", "/login", self.login, "The page that takes a token", page),
            Route("POST", "/login", self.take_token, "Take a token, and keep it in a cookie", {"303": ""}),
            Route("POST", "/logout", self.logout, "Forget the token", {"303": ""}),
            Route("GET", "/static/{name}", self.file, "A file of the pages", {"200": "bytes"}),
        ]

    async def start(self, request: web.Request) -> web.Response:
        """`GET /`."""
        return _page("index.html")

    async def workflow(self, request: web.Request) -> web.Response:
        """`GET /w/{name}`."""
        await asyncio.to_thread(self.api.catalog.graph, request.match_info["name"])  # or says what there is instead
        return _page("workflow.html")

    async def session(self, request: web.Request) -> web.Response:
        """`GET /session`: the user with the rights of the token, whether there is a login, and whether there is an
        editor."""
        caller = request[CALLER]
        paths = [resource.canonical for resource in request.app.router.resources()]
        facts = {
            "user": caller.user,
            "admin": caller.admin,
            "read_only": caller.read_only,
            "workflows": None if caller.workflows is None else list(caller.workflows),
            "login": await asyncio.to_thread(self.door.needs_token),
            "editor": any(path.startswith("/editor") for path in paths),
        }
        return web.json_response(facts, headers={"Cache-Control": "no-store"})

    async def login(self, request: web.Request) -> web.Response:
        """`GET /login`: there is no page of it where no token is in use."""
        goal = inside(request.query.get("next", ""))
        if not await asyncio.to_thread(self.door.needs_token):
            return _redirect(goal)
        return _page("login.html", message="", next=goal)

    async def take_token(self, request: web.Request) -> web.Response:
        """`POST /login`: a token that is wrong, of whatever sort, is answered in one way."""
        if request.content_type != "application/x-www-form-urlencoded":
            raise ApiError("bad_type", "the token is sent by the form of this page")
        body = bytearray()
        await pieces(request, LONGEST_FORM, body.extend)
        try:
            form = dict(urllib.parse.parse_qsl(body.decode("ascii", "replace"), max_num_fields=8))
        except ValueError:
            raise ApiError("bad_request", "the form has too many fields") from None
        token, goal = form.get("token", "").strip(), inside(form.get("next", ""))
        if await asyncio.to_thread(self.door.tokens.caller, token) is None:
            return _page("login.html", 401, message=WRONG, next=goal)
        answer = _redirect(goal)
        # Behind a proxy with TLS only the browser knows how it came here.
        secure = request.secure or request.headers.get("Origin", "").startswith("https:")
        answer.set_cookie(
            TOKEN_COOKIE, token, max_age=REMEMBERED, path="/", secure=secure, httponly=True, samesite="Strict"
        )
        return answer

    async def logout(self, request: web.Request) -> web.Response:
        """`POST /logout`."""
        answer = _redirect("/login")
        answer.del_cookie(TOKEN_COOKIE, path="/", httponly=True, samesite="Strict")
        return answer

    async def file(self, request: web.Request) -> web.Response:
        """`GET /static/{name}`."""
        name = request.match_info["name"]
        if name not in _names():
            raise ApiError("not_found", f"there is no {request.path[:200]!r} here")
        kind = TYPES[Path(name).suffix]
        return web.Response(body=_content(name), content_type=kind, charset="utf-8", headers=HEADERS)


def to_login(request: web.Request) -> web.Response:
    """The way to the login, and from there back to the page that was asked for."""
    return _redirect(f"/login?next={urllib.parse.quote(request.path_qs, safe='')}")


def inside(goal: str) -> str:
    """A path of this server, to which a login may lead; `/` in the place of everything else."""
    parts = urllib.parse.urlsplit(goal)
    is_path = goal.startswith("/") and not goal.startswith(("//", "/login")) and "\\" not in goal
    return goal if is_path and not parts.scheme and not parts.netloc and goal.isascii() and goal.isprintable() else "/"


def _redirect(goal: str) -> web.Response:
    return web.Response(status=303, headers={**HEADERS, "Location": goal})


def _page(name: str, status: int = 200, **texts: str) -> web.Response:
    """A page of a file, with texts in the place of `$name`, none of which is read as HTML."""
    safe = {key: html.escape(text) for key, text in texts.items()}
    text = string.Template(_content(name).decode()).substitute(safe)
    return web.Response(text=text, status=status, content_type="text/html", headers=HEADERS)


@functools.cache
def _names() -> frozenset[str]:
    return frozenset(file.name for file in FILES.iterdir() if file.suffix in (".css", ".js", ".svg"))


@functools.cache
def _content(name: str) -> bytes:
    return (FILES / name).read_bytes()
