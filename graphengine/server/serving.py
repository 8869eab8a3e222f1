"""Serving: the application with all its routes, from its start to the end of its last stream."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from graphengine.errors import FileError
from graphengine.server.async_hub import AsyncHub
from graphengine.server.comfy.classic import ComfyClassic
from graphengine.server.comfy.v2 import ComfyV2
from graphengine.server.comfy.v2_assets import ComfyV2Assets
from graphengine.server.contract import Contract, contract_of
from graphengine.server.editor import Editor
from graphengine.server.http import CALLER, SAFE, Door, Handler, guard
from graphengine.server.job_api import JobApi
from graphengine.server.native import Native
from graphengine.server.pages import Pages
from graphengine.server.parse_errors import Answer, answered
from graphengine.server.problems import ApiError
from graphengine.server.user_files import UserFiles
from graphengine.service.metrics import Metrics

log = logging.getLogger(__name__)

TIDY_SECONDS = 3600.0
"""Seconds between two searches for files whose time is over."""
MOST_FILES = 65_536
"""Open files that this process asks for."""
THREADS = 16
"""Threads for what waits for disks."""
WITHOUT_TOKEN = ("/health", "/ready")
CLOSING_SECONDS = 2.0
"""Seconds that answers which are being sent have to end."""
HEADER_SECONDS = 20.0
"""Seconds in which the headers of a connection's first request must have arrived."""
IDLE_SECONDS = 75.0
"""Seconds for which a connection is kept after an answer, until the headers of the next request have arrived."""
SERVED = web.AppKey("served", set[object])
"""The connections that have sent the headers of a request."""
UNREADABLE: web.AppKey[Answer] = web.AppKey("unreadable")
"""Answers requests that are no HTTP."""


def application(api: JobApi, door: Door, metrics: Metrics, editor: tuple[Path, UserFiles] | None) -> web.Application:
    """The application with all its routes.

    Args:
        editor: The folder of the editor's frontend and the files of its users; None for no editor.
    """
    hub = AsyncHub(api.service, api.places.without_places)
    classic = ComfyClassic(api, hub)
    contracts: list[Contract] = [Native(api, hub), ComfyV2(api, hub), ComfyV2Assets(api), classic, Pages(api, door)]
    if editor is not None:
        contracts.append(Editor(*editor, classic))

    def problem(error: ApiError, request: web.Request) -> web.Response:
        error.detail, error.problems = api.places.without_folders(error.detail), api.places.of_problems(error.problems)
        return contract_of(contracts, request.path).problem(error, request)

    without_token = [*WITHOUT_TOKEN, *(path for contract in contracts for path in contract.without_token)]
    served = set[object]()

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        served.add(request.protocol)
        return await handler(request)

    app = web.Application(middlewares=[note, guard(door, problem, without_token)], client_max_size=1 << 20)
    app[SERVED] = served

    def unreadable(error: ApiError, path: str, request: web.BaseRequest) -> web.Response:
        assert isinstance(request, web.Request)
        answer = contract_of(contracts, path).problem(error, request)
        answer.headers.update({name: value for name, value in SAFE.items() if name not in answer.headers})
        return answer

    app[UNREADABLE] = unreadable

    async def health(request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def ready(request: web.Request) -> web.Response:
        why_not = await asyncio.to_thread(api.why_not_ready)
        return web.json_response({"status": why_not or "ready"}, status=503 if why_not else 200)

    async def figures(request: web.Request) -> web.Response:
        if not request[CALLER].admin:
            raise ApiError("forbidden", "metrics are for admins: `graphengine serve token add NAME --admin`")
        text = await asyncio.to_thread(generate_latest, metrics.registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.router.add_get("/health", health)
    app.router.add_get("/ready", ready)
    app.router.add_get("/metrics", figures)
    for route in (route for contract in contracts for route in contract.routes()):
        if route.method == "GET":
            app.router.add_get(route.path, route.handler)
        else:
            app.router.add_route(route.method, route.path, route.handler)

    async def tidy() -> None:
        while True:
            try:
                await asyncio.to_thread(api.files.tidy)
                await asyncio.to_thread(classic.files.tidy)
            except Exception:  # of a disk; the next time may be better
                log.exception("old files could not be removed")
            await asyncio.sleep(TIDY_SECONDS)

    async def running(app: web.Application) -> AsyncIterator[None]:
        hub.start()
        tidying = asyncio.create_task(tidy())
        yield
        tidying.cancel()

    async def closing(app: web.Application) -> None:
        hub.close()

    app.cleanup_ctx.append(running)
    app.on_shutdown.append(closing)
    return app


def serve(app: web.Application, listening: socket.socket, on_start: Callable[[], object],
          on_stop: Callable[[], object]) -> None:  # fmt: skip
    """Serve until SIGTERM or Ctrl-C, then end all streams.

    Args:
        listening: The socket, bound.
        on_start: Called when requests are answered.
        on_stop: Called at the signal, before streams are ended; it must not block.
    """

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(THREADS, "graphengine-http"))
        runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=CLOSING_SECONDS, handler_cancellation=True,
            keepalive_timeout=IDLE_SECONDS,
        )  # fmt: skip
        await runner.setup()
        assert runner.server is not None
        answered(runner.server, app[UNREADABLE])
        letting_go = asyncio.create_task(_let_silent_go(runner.server, app[SERVED]))
        await web.SockSite(runner, listening, backlog=1024).start()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        on_start()
        try:
            await stop.wait()
            on_stop()
        finally:
            letting_go.cancel()
            await runner.cleanup()

    _allow_many_files()
    logging.getLogger("aiohttp.server").addFilter(_is_of_interest)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())


def _allow_many_files() -> None:
    """Raise this process's limit of open files, where the system lets it: each connection is one."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now == resource.RLIM_INFINITY:
        return
    wanted = MOST_FILES if most == resource.RLIM_INFINITY else min(most, MOST_FILES)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(now, wanted), most))


def _is_of_interest(record: logging.LogRecord) -> bool:
    """Whether a record of aiohttp tells of a fault here. What is no HTTP is answered, and could fill the log; and a
    client may leave in the middle of an answer."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | ConnectionError))


async def _let_silent_go(server: web.Server, served: set[object]) -> None:
    """End connections that send no request: each costs memory and a file descriptor, and anybody can open thousands."""
    since: dict[object, float] = {}
    while True:
        await asyncio.sleep(HEADER_SECONDS / 4)
        now, open_ones = time.monotonic(), server.connections
        served.intersection_update(open_ones)
        since = {one: since.get(one, now) for one in open_ones if one not in served}
        for connection in open_ones:
            if now - since.get(connection, now) > HEADER_SECONDS:
                connection.force_close()


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket.

    Raises:
        FileError: The port is taken, or the host is none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise FileError(f"{host}:{port} cannot be listened on: {error.strerror}; another --port, or --host?") from None
    return listening
