"""The editor under `/editor/`: ComfyUI's stock web frontend, an installed package of its own, over the classic routes.

Nothing of the frontend is part of this project: its static files are served as they were installed, and it speaks HTTP.
Below `/editor/api` and at `/editor/ws` it meets the handlers of the classic API; here is what only the frontend asks
for: settings, files of users, extensions. An extension of ours (`editor_page/editor.js`) opens the starter graph.
"""

from __future__ import annotations

import asyncio
import importlib.util
from importlib.resources import files
from pathlib import Path
from typing import Any

from aiohttp import web

from graphengine.errors import WorkflowError
from graphengine.server.comfy.classic import ComfyClassic
from graphengine.server.contract import Route
from graphengine.server.editor_workflows import EditorWorkflows
from graphengine.server.http import CALLER, pieces
from graphengine.server.json_text import parse
from graphengine.server.pages import to_login
from graphengine.server.problems import ApiError
from graphengine.server.user_files import LARGEST, LARGEST_SETTINGS, UserFile, UserFiles

PACKAGE = "comfyui_frontend_package"
EXTENSION = Path(__file__).parent / "editor_page"
"""Our extension of the frontend, and the starter graph that it opens."""
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self'; connect-src 'self' data:; frame-src 'self'; object-src 'self'; "
    "frame-ancestors 'self'; base-uri 'self'"
)
"""What the editor's page may do. The frontend needs `eval`, inline scripts and styles, `blob:` and `data:`; the test in
a browser runs under this policy."""
DEFAULTS: dict[str, Any] = {
    "Comfy.TutorialCompleted": True,  # opens the starter graph in place of the list of templates
    "Comfy.Notification.ShowVersionUpdates": False,  # asks a server in the internet
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None",
    "Comfy.Workflow.ShowMissingModelsWarning": False,  # offers downloads that this server does not make
}
"""Settings of users who have not changed them."""
STYLE = "user.css"
"""A user's own style sheet, which every page asks for: an empty one where there is none."""
ICONS = ("/assets/favicon.ico", "/assets/images/favicon_progress_16x16/{name}")
"""Files of the frontend that it asks for at the root of the server."""
TYPES = {
    ".css": "text/css", ".html": "text/html", ".ico": "image/x-icon", ".jpg": "image/jpeg", ".js": "text/javascript",
    ".json": "application/json", ".map": "application/json", ".md": "text/markdown", ".mjs": "text/javascript",
    ".png": "image/png", ".svg": "image/svg+xml", ".ttf": "font/ttf", ".wasm": "application/wasm",
    ".webp": "image/webp", ".woff": "font/woff", ".woff2": "font/woff2",
}  # fmt: skip
"""Types of the frontend's files; the tables of systems differ, and browsers take no script of another type."""


def frontend_folder() -> Path:
    """The folder of the installed frontend's static files.

    Raises:
        WorkflowError: It is not installed.
    """
    if importlib.util.find_spec(PACKAGE) is not None:
        static = Path(str(files(PACKAGE) / "static"))
        if (static / "index.html").is_file():
            return static
    raise WorkflowError("the editor is not installed: pip install 'graphengine[editor]'")


class Editor:
    """The editor's routes.

    Args:
        frontend: The folder of the frontend's static files.
        users: The files and settings of users.
        classic: The classic API, whose routes are served below `/editor` too, and whose nodes the editor shows.
    """

    prefixes = ("/editor/",)
    without_token = ()

    def __init__(self, frontend: Path, users: UserFiles, classic: ComfyClassic) -> None:
        self.frontend, self.users, self.classic = frontend.resolve(), users, classic
        self.workflows = EditorWorkflows(users, classic.nodes_for)

    def problem(self, error: ApiError, request: web.Request) -> web.Response:
        """An error as the classic API shows it; for a browser that opens the page without a token, the login."""
        if error.code == "unauthorized" and "text/html" in request.headers.get("Accept", ""):
            return to_login(request)
        return self.classic.problem(error, request)

    def routes(self) -> list[Route]:
        """All routes; the last one is that of the static files."""
        file, page = "/editor/api/userdata/{file}", {"200": "bytes"}
        own = [
            ("GET", "/editor/api/users", self.who, "The users that the frontend may choose from"),
            ("GET", "/editor/api/settings", self.settings, "All settings of the user"),
            ("POST", "/editor/api/settings", self.change_settings, "Change settings"),
            ("GET", "/editor/api/settings/{id}", self.setting, "A setting"),
            ("POST", "/editor/api/settings/{id}", self.change_setting, "Change a setting"),
            ("GET", "/editor/api/extensions", self.extensions, "The extensions that the frontend loads"),
            ("GET", "/editor/api/i18n", self.nothing, "Translations of nodes: none"),
            ("GET", "/editor/api/global_subgraphs", self.nothing, "Subgraphs for all workflows: none"),
            ("GET", "/editor/api/node_replacements", self.nothing, "Nodes in the place of old ones: none"),
            ("GET", "/editor/api/workflow_templates", self.nothing, "Templates of packs: none"),
            ("POST", "/editor/api/graphengine/open/{name}", self.open_dropped, "A file of ours, as it is opened"),
            ("GET", "/editor/api/userdata", self.list_files, "The user's files"),
            ("GET", file, self.read_file, "A file of the user"),
            ("POST", file, self.write_file, "Write a file of the user"),
            ("DELETE", file, self.delete_file, "Remove a file of the user"),
            ("POST", f"{file}/move/{{to}}", self.move_file, "Give a file of the user another name"),
        ]
        return [
            *(
                Route(route.method, f"/editor{route.path}", route.handler, route.summary, route.answers, route.body)
                for route in self.classic.routes()
                if route.path.startswith("/api/") or route.path == "/ws"
            ),
            *(Route(method, path, handler, summary, {"200": "object"}) for method, path, handler, summary in own),
            Route("GET", "/editor", self.to_page, "The way to the editor", {"302": ""}),
            *(Route("GET", path, self.icon, "The editor's icons, which it asks for here", page) for path in ICONS),
            Route("GET", "/editor/extensions/graphengine/{name}", self.our_file, "Our extension", page),
            Route("GET", "/editor/{name:.*}", self.static, "The frontend's files", page),
        ]

    # --- settings -----------------------------------------------------------------------------------------------------

    async def who(self, request: web.Request) -> web.Response:
        """`GET /users`: one user, who is known by the token."""
        return web.json_response({"storage": "server", "migrated": True})

    async def settings(self, request: web.Request) -> web.Response:
        """`GET /settings`."""
        return web.json_response(DEFAULTS | await asyncio.to_thread(self.users.settings, request[CALLER]))

    async def setting(self, request: web.Request) -> web.Response:
        """`GET /settings/{id}`: null for one that is not set."""
        known = DEFAULTS | await asyncio.to_thread(self.users.settings, request[CALLER])
        return web.json_response(known.get(request.match_info["id"]))

    async def change_settings(self, request: web.Request) -> web.Response:
        """`POST /settings`."""
        changes = parse(await _body(request, LARGEST_SETTINGS))
        if not isinstance(changes, dict):
            raise ApiError("bad_request", f"settings are a JSON object, not {type(changes).__name__}")
        await asyncio.to_thread(self.users.change_settings, request[CALLER], changes)
        return web.json_response({})

    async def change_setting(self, request: web.Request) -> web.Response:
        """`POST /settings/{id}`: the body is the value as JSON."""
        value = parse(await _body(request, LARGEST_SETTINGS))
        await asyncio.to_thread(self.users.change_settings, request[CALLER], {request.match_info["id"][:200]: value})
        return web.json_response({})

    async def extensions(self, request: web.Request) -> web.Response:
        """`GET /extensions`."""
        return web.json_response(["/extensions/graphengine/editor.js"])

    async def nothing(self, request: web.Request) -> web.Response:
        """What the frontend may ask for, and of which there is none."""
        return web.json_response({})

    # --- files of users -----------------------------------------------------------------------------------------------

    async def list_files(self, request: web.Request) -> web.Response:
        """`GET /userdata?dir=`: names in that folder, with sizes and times if `full_info` is true."""
        folder = request.query.get("dir", "").strip("/")
        found = await asyncio.to_thread(self.workflows.files, request[CALLER], folder)
        inner = [(file.name.removeprefix(f"{folder}/"), file) for file in found]
        if not _flag(request, "recurse"):
            inner = [(name, file) for name, file in inner if "/" not in name]
        if _flag(request, "full_info"):
            return web.json_response([_facts(name, file) for name, file in inner])
        if _flag(request, "split"):
            return web.json_response([[name, *name.split("/")] for name, _ in inner])
        return web.json_response([name for name, _ in inner])

    async def read_file(self, request: web.Request) -> web.Response:
        """`GET /userdata/{file}`."""
        name = request.match_info["file"]
        try:
            content = await asyncio.to_thread(self.workflows.read, request[CALLER], name)
        except ApiError as error:
            if name != STYLE or error.code != "not_found":
                raise
            content = b""
        kind = {".json": "application/json", ".css": "text/css"}.get(Path(name).suffix, "application/octet-stream")
        return web.Response(body=content, content_type=kind, headers={"Cache-Control": "private, no-cache"})

    async def write_file(self, request: web.Request) -> web.Response:
        """`POST /userdata/{file}`."""
        content, overwrite = await _body(request, LARGEST), _flag(request, "overwrite", True)
        name = request.match_info["file"]
        made = await asyncio.to_thread(self.workflows.write, request[CALLER], name, content, overwrite)
        return web.json_response(_facts(name, made) if _flag(request, "full_info") else name)

    async def delete_file(self, request: web.Request) -> web.Response:
        """`DELETE /userdata/{file}`."""
        await asyncio.to_thread(self.workflows.delete, request[CALLER], request.match_info["file"])
        return web.Response(status=204)

    async def move_file(self, request: web.Request) -> web.Response:
        """`POST /userdata/{file}/move/{to}`."""
        name, to, overwrite = request.match_info["file"], request.match_info["to"], _flag(request, "overwrite")
        made = await asyncio.to_thread(self.workflows.move, request[CALLER], name, to, overwrite)
        return web.json_response(_facts(to, made) if _flag(request, "full_info") else to)

    async def open_dropped(self, request: web.Request) -> web.Response:
        """`POST /graphengine/open/{name}`: the body is the file, the answer what the editor opens."""
        content, name = await _body(request, LARGEST), request.match_info["name"][:200]
        opened = await asyncio.to_thread(self.workflows.dropped, request[CALLER], name, content)
        return web.Response(body=opened, content_type="application/json")

    # --- the page -----------------------------------------------------------------------------------------------------

    async def to_page(self, request: web.Request) -> web.Response:
        """`GET /editor`."""
        return web.Response(status=302, headers={"Location": "/editor/"})

    async def our_file(self, request: web.Request) -> web.StreamResponse:
        """`GET /editor/extensions/graphengine/{name}`."""
        return await self._send(EXTENSION, request.match_info["name"], "no-cache")

    async def icon(self, request: web.Request) -> web.StreamResponse:
        """`GET /assets/...`: the frontend asks for its icons at the server's root, wherever it is served."""
        return await self._send(self.frontend, request.path.removeprefix("/"), "private, max-age=604800")

    async def static(self, request: web.Request) -> web.StreamResponse:
        """`GET /editor/...`: files with a hash in their names are kept by browsers, all others are asked for again."""
        name = request.match_info["name"] or "index.html"
        if name == STYLE and not (self.frontend / STYLE).is_file():
            return web.Response(content_type=TYPES[".css"], headers={"Cache-Control": "no-cache"})
        kept = name.startswith(("assets/", "fonts/"))
        return await self._send(self.frontend, name, "private, max-age=604800" if kept else "no-cache")

    async def _send(self, folder: Path, name: str, cache: str) -> web.StreamResponse:
        place = await asyncio.to_thread(_confined, folder, name)
        if place is None:
            raise ApiError("not_found", f"there is no {name[:200]!r} in the editor")
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": cache}
        kind = TYPES.get(place.suffix)
        return web.FileResponse(place, headers=headers | ({"Content-Type": kind} if kind else {}))


def _confined(folder: Path, name: str) -> Path | None:
    """The file of a name inside a folder; None if there is none."""
    try:
        place = folder.joinpath(name).resolve()
        return place if place.is_relative_to(folder) and place.is_file() else None
    except (OSError, ValueError):  # a name that is too long, or holds a zero byte
        return None


def _facts(name: str, file: UserFile) -> dict[str, Any]:
    return {"path": name, "size": file.size, "modified": int(file.modified * 1000)}


def _flag(request: web.Request, name: str, default: bool = False) -> bool:
    return request.query.get(name, str(default)).lower() in ("true", "1")


async def _body(request: web.Request, most: int) -> bytes:
    content = bytearray()
    await pieces(request, most, content.extend)
    return bytes(content)
