"""The native API under `/v1`: workflows as endpoints, jobs, events, files, nodes and the queue.

The module is long because each route has a handler here, which reads a request and renders what `JobApi` returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import math
import re
import urllib.parse
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from graphengine.errors import nearest
from graphengine.server.async_hub import AsyncHub
from graphengine.server.contract import Route
from graphengine.server.event_socket import EventSocket
from graphengine.server.file_store import StoredFile
from graphengine.server.http import CALLER, SAFE, json_body, pieces, send_file, write_in_time
from graphengine.server.job_api import MOST_LISTED, JobApi, JobView, Order
from graphengine.server.job_details import JobDetails
from graphengine.server.openapi import document
from graphengine.server.problems import ApiError
from graphengine.server.tokens import Caller
from graphengine.service.jobs.job import Job, State
from graphengine.service.watcher import WatchEvent
from graphengine.service.workers.wire import pack

LONGEST_WAIT = 60.0
"""The most seconds that `Prefer: wait=N` is heeded."""
LONGEST_LISTED = 2000
"""The most characters of an output's text in a list of jobs."""
_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d+)(?:$|[,;\s])")


_STATE = f"({'|'.join(State)})"
_STATES = {"type": "string", "pattern": f"^{_STATE}(,{_STATE})*$", "description": "One state, or several with commas."}


class Native:
    """The handlers of `/v1`.

    Args:
        api: What they render.
        hub: The events of jobs.
    """

    prefixes = ("/v1/",)
    without_token = ()

    def __init__(self, api: JobApi, hub: AsyncHub) -> None:
        self.api, self.hub, self.details = api, hub, JobDetails(api)

    def problem(self, error: ApiError, request: web.Request) -> web.Response:
        """An error as RFC 9457 has it."""
        return problem_answer(error, request)

    def routes(self) -> list[Route]:
        """All routes, as the document of the API describes them."""
        job = {"200": "Job"}
        return [
            Route("GET", "/v1/openapi.json", self.openapi, "This document", {"200": "object"}),
            Route("GET", "/v1/workflows", self.workflows, "All named workflows", {"200": "Workflows"}),
            Route("GET", "/v1/workflows/{name}", self.workflow, "A workflow, with the JSON Schema of its inputs",
                  {"200": "Workflow"}),
            Route("POST", "/v1/workflows/{name}/jobs", self.submit_named, "Run a workflow by its name",
                  {"200": "Job", "202": "Job"}, body="NamedOrder"),
            Route("POST", "/v1/jobs", self.submit, "Run a graph", {"200": "Job", "202": "Job"}, body="Order"),
            Route("GET", "/v1/jobs", self.jobs, "A page of jobs, the newest first", {"200": "Page"},
                  query={"limit": {"type": "integer", "minimum": 1, "maximum": MOST_LISTED}, "cursor": "string",
                         "state": _STATES, "workflow": "string", "label.NAME": "string"}),
            Route("GET", "/v1/jobs/{id}", self.job, "A job", job),
            Route("DELETE", "/v1/jobs/{id}", self.delete, "Remove a job that has ended", {"204": ""}),
            Route("POST", "/v1/jobs/{id}/cancel", self.cancel, "Cancel a job", job),
            Route("POST", "/v1/jobs/{id}/move", self.move, "Move a waiting job before another one", job, body="Move"),
            Route("GET", "/v1/jobs/{id}/events", self.events, "What happens to a job (server-sent events)",
                  {"200": "text/event-stream", "204": ""}, query={"previews": "boolean"}),
            Route("GET", "/v1/jobs/{id}/values/{name}", self.value, "The value of an output, whole", {"200": "bytes"}),
            Route("GET", "/v1/jobs/{id}/files/{name}", self.output,
                  "A file that a job wrote; with width a small copy of a picture", {"200": "bytes", "206": "bytes"},
                  query={"width": {"type": "integer", "minimum": 1, "maximum": 9999}}),
            *self.details.routes(),
            Route("POST", "/v1/files", self.upload, "Upload a file: its bytes are the body",
                  {"200": "File", "201": "File"}, body="bytes"),
            Route("GET", "/v1/files/{id}", self.download, "The bytes of an uploaded file",
                  {"200": "bytes", "206": "bytes"}),
            Route("DELETE", "/v1/files/{id}", self.remove, "Remove an uploaded file", {"204": ""}),
            Route("GET", "/v1/nodes", self.nodes, "All nodes", {"200": "Nodes"}),
            Route("GET", "/v1/nodes/{name}", self.node, "A node", {"200": "object"}),
            Route("GET", "/v1/queue", self.queue, "What runs and what waits", {"200": "Queue"}),
            Route("POST", "/v1/queue/pause", self.pause, "Begin no more jobs of the caller, or of all",
                  {"200": "Queue"}, body="Pause"),
            Route("POST", "/v1/queue/resume", self.resume, "End a pause", {"200": "Queue"}, body="Pause"),
            Route("PUT", "/v1/queue/limit", self.limit, "Limit how many jobs of a user may wait (admins only)",
                  {"200": "Queue"}, body="Limit"),
            *EventSocket(self.api, self.hub).routes(),
        ]  # fmt: skip

    # --- jobs ---------------------------------------------------------------------------------------------------------

    async def submit_named(self, request: web.Request) -> web.Response:
        """`POST /v1/workflows/{name}/jobs`."""
        data = await json_body(request)
        return await self._submit(request, request.match_info["name"], data, ("inputs", *_OPTIONS))

    async def submit(self, request: web.Request) -> web.Response:
        """`POST /v1/jobs`."""
        data = await json_body(request)
        workflow = data.get("workflow")
        if not isinstance(workflow, dict):
            what = "workflow must be a graph as a document, with version and nodes"
            raise ApiError("bad_request", f"{what}; one is run by its name at /v1/workflows/NAME/jobs")
        return await self._submit(request, workflow, data, ("workflow", "inputs", *_OPTIONS))

    async def _submit(
        self, request: web.Request, workflow: str | dict[str, Any], data: dict[str, Any], known: tuple[str, ...]
    ) -> web.Response:
        _check_names(data, known)
        order = Order(
            workflow,
            _field(data, "inputs", dict, {}),
            _texts(data, "want"),
            _field(data, "labels", dict, {}),
            _field(data, "priority", int, 0),
            _field(data, "exact", bool, False),
            request.headers.get("Idempotency-Key"),
        )
        wait = _wait(request)
        caller = request[CALLER]
        submitted = asyncio.ensure_future(asyncio.to_thread(self.api.submit, caller, order))
        try:
            view = await asyncio.shield(submitted)  # a client that goes away now has still submitted its job
            ended = view.job.state.ended
            if wait and not ended and await self.hub.ended(view.job, wait, caller):
                view, ended = await asyncio.to_thread(self.api.get, caller, view.job.uuid), True
        except asyncio.CancelledError:
            if wait and order.key is None:
                submitted.add_done_callback(functools.partial(self._leave, caller))
            raise
        headers = {"Location": f"/v1/jobs/{view.job.uuid}"}
        if view.replayed:
            headers["Idempotent-Replayed"] = "true"
        if wait:
            headers["Preference-Applied"] = f"wait={wait:g}"
        if not ended:
            headers["Retry-After"] = "1"
        return web.json_response(job_data(view), status=200 if wait and ended else 202, headers=headers)

    def _leave(self, caller: Caller, submitted: asyncio.Future[JobView]) -> None:
        """Cancel a job whose client has left while it waited: it was told nothing of the job, and no Idempotency-Key
        leads back to it. A job that somebody else watches goes on."""
        if submitted.cancelled() or submitted.exception() is not None or self.hub.closed.is_set():
            return
        job = submitted.result().job
        if not self.hub.is_watched(job):
            asyncio.get_running_loop().run_in_executor(None, self.api.cancel, caller, job.uuid)

    async def jobs(self, request: web.Request) -> web.Response:
        """`GET /v1/jobs`."""
        query = request.query
        labels = {name[6:]: value for name, value in query.items() if name.startswith("label.")}
        others = {name: 0 for name in query if not name.startswith("label.")}
        _check_names(others, ("limit", "cursor", "state", "workflow"))
        limit = query.get("limit", "20")
        if not limit.isascii() or not limit.isdigit() or len(limit) > 6:
            raise ApiError("bad_request", f"limit must be a whole number, not {limit[:40]!r}")
        states = [state for text in query.getall("state", []) for state in text.split(",")]
        cursor = query.get("cursor")
        page = await asyncio.to_thread(
            self.api.page, request[CALLER], states, labels, cursor, int(limit), query.get("workflow")
        )
        found: dict[str, Any] = {"jobs": [job_data(view, in_list=True) for view in page.jobs]}
        if page.cursor is not None:
            found["next_cursor"] = page.cursor
        return web.json_response(found)

    async def job(self, request: web.Request) -> web.Response:
        """`GET /v1/jobs/{id}`."""
        view = await asyncio.to_thread(self.api.get, request[CALLER], request.match_info["id"])
        return web.json_response(job_data(view))

    async def cancel(self, request: web.Request) -> web.Response:
        """`POST /v1/jobs/{id}/cancel`."""
        view = await asyncio.to_thread(self.api.cancel, request[CALLER], request.match_info["id"])
        return web.json_response(job_data(view))

    async def delete(self, request: web.Request) -> web.Response:
        """`DELETE /v1/jobs/{id}`."""
        await asyncio.to_thread(self.api.delete, request[CALLER], request.match_info["id"])
        return web.Response(status=204)

    async def move(self, request: web.Request) -> web.Response:
        """`POST /v1/jobs/{id}/move`."""
        data = await json_body(request) if request.body_exists else {}
        _check_names(data, ("before",))
        before = _field(data, "before", str, None)
        view = await asyncio.to_thread(self.api.move, request[CALLER], request.match_info["id"], before)
        return web.json_response(job_data(view))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/jobs/{id}/events`: those of the queue's log have its numbers as ids, progress and previews
        have none."""
        job = await asyncio.to_thread(self.api.find, request[CALLER], request.match_info["id"])
        after = request.headers.get("Last-Event-ID", "0")
        if not after.isascii() or not after.isdigit() or len(after) > 18:
            raise ApiError("bad_request", f"Last-Event-ID must be the id of an event, not {after[:40]!r}")
        previews = request.query.get("previews", "true")
        if previews not in ("true", "false"):
            raise ApiError("bad_request", f"previews must be true or false, not {previews[:40]!r}")
        answer = web.StreamResponse(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", **SAFE})
        answer.content_type = "text/event-stream"
        if request.method == "HEAD":
            await answer.prepare(request)
            return answer
        watching = self.hub.batches(job, int(after), previews=previews == "true", caller=request[CALLER])
        async with contextlib.aclosing(watching) as batches:
            batch = await anext(batches, None)
            if batch is not None and batch[0].number is None and batch[0].last and int(after):
                return web.Response(status=204)  # the client knows all: a browser connects no more
            await answer.prepare(request)
            await answer.write(b"retry: 1000\n\n")
            while batch is not None:
                text = "".join(_text(job, event) for event in batch)
                await write_in_time(request, answer, text.encode())
                batch = await anext(batches, None)
        await answer.write_eof()
        return answer

    async def output(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/jobs/{id}/files/{name}`."""
        if "width" in request.query:
            return await self.details.thumbnail(request)
        name = request.match_info["name"]
        found = await asyncio.to_thread(self.api.open_output, request[CALLER], request.match_info["id"], name)
        return await send_file(request, *found, name)

    async def value(self, request: web.Request) -> web.Response:
        """`GET /v1/jobs/{id}/values/{name}`: a JSON object, and the bytes of its blobs (see `workers.wire.pack`)."""
        caller, info = request[CALLER], request.match_info
        tree, blobs = await asyncio.to_thread(self.api.value, caller, info["id"], info["name"])
        return web.Response(body=await asyncio.to_thread(pack, tree, blobs), content_type="application/octet-stream")

    # --- files --------------------------------------------------------------------------------------------------------

    async def upload(self, request: web.Request) -> web.Response:
        """`POST /v1/files`."""
        if request.content_type.startswith("multipart/"):
            raise ApiError("bad_type", "the body must be the bytes of the file as they are, no form")
        files = self.api.files
        upload = await asyncio.to_thread(files.upload, request[CALLER].user)
        try:
            await pieces(request, files.most, upload.write)
            if not upload.size:
                raise ApiError("bad_request", "the file is empty")
            stored = await asyncio.to_thread(upload.keep, request.query.get("expected"))
        finally:
            await asyncio.to_thread(upload.close)
        headers = {"Location": f"/v1/files/{stored.id}"}
        return web.json_response(file_data(stored), status=201 if stored.new else 200, headers=headers)

    async def download(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/files/{id}`."""
        stored = await asyncio.to_thread(self.api.files.get, request[CALLER].user, request.match_info["id"])
        file = await asyncio.to_thread(stored.path.open, "rb")
        return await send_file(request, file, stored.size, stored.type, stored.path.name)

    async def remove(self, request: web.Request) -> web.Response:
        """`DELETE /v1/files/{id}`."""
        await asyncio.to_thread(self.api.files.delete, request[CALLER].user, request.match_info["id"])
        return web.Response(status=204)

    # --- workflows, nodes, the queue ----------------------------------------------------------------------------------

    async def workflows(self, request: web.Request) -> web.Response:
        """`GET /v1/workflows`."""
        return web.json_response({"workflows": await asyncio.to_thread(self.api.catalog.all)})

    async def workflow(self, request: web.Request) -> web.Response:
        """`GET /v1/workflows/{name}`."""
        return web.json_response(await asyncio.to_thread(self.api.catalog.facts, request.match_info["name"]))

    async def nodes(self, request: web.Request) -> web.Response:
        """`GET /v1/nodes`."""
        found = {"nodes": await asyncio.to_thread(self.api.nodes)}
        return web.json_response(found, dumps=_dumps)

    async def node(self, request: web.Request) -> web.Response:
        """`GET /v1/nodes/{name}`."""
        found = await asyncio.to_thread(self.api.node, request.match_info["name"])
        return web.json_response(found, dumps=_dumps)

    async def queue(self, request: web.Request) -> web.Response:
        """`GET /v1/queue`."""
        found = await asyncio.to_thread(self.api.queue_facts, request[CALLER])
        for name in ("running", "waiting"):
            found[name] = [job_data(view) for view in found[name]]
        return web.json_response(found)

    async def pause(self, request: web.Request) -> web.Response:
        """`POST /v1/queue/pause`."""
        return await self._pause(request, True)

    async def resume(self, request: web.Request) -> web.Response:
        """`POST /v1/queue/resume`."""
        return await self._pause(request, False)

    async def _pause(self, request: web.Request, paused: bool) -> web.Response:
        data = await json_body(request) if request.body_exists else {}
        _check_names(data, ("user",))
        await asyncio.to_thread(self.api.pause, request[CALLER], paused, _field(data, "user", str, None))
        return await self.queue(request)

    async def limit(self, request: web.Request) -> web.Response:
        """`PUT /v1/queue/limit`."""
        data = await json_body(request)
        _check_names(data, ("limit", "user"))
        if "limit" not in data:
            raise ApiError("bad_request", "limit is missing: how many jobs may wait, or null for any number")
        count, user = _field(data, "limit", int, None), _field(data, "user", str, "")
        await asyncio.to_thread(self.api.set_limit, request[CALLER], count, user)
        return await self.queue(request)

    async def openapi(self, request: web.Request) -> web.Response:
        """`GET /v1/openapi.json`."""
        workflows = await asyncio.to_thread(self.api.catalog.all)
        return web.json_response(document(self.routes(), workflows), dumps=_dumps)


_OPTIONS = ("want", "labels", "priority", "exact")
"""What an order may hold besides what is run."""


def problem_answer(error: ApiError, request: web.Request) -> web.Response:
    """An error as RFC 9457 has it, with everything that is wrong with a workflow at once."""
    data: dict[str, Any] = {
        "type": f"urn:graphengine:problem:{error.code.replace('_', '-')}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "instance": request.path[:500],
        "code": error.code,
    }
    if error.problems:
        data["problems"] = [problem.as_dict() for problem in error.problems[:1000]]
    return web.json_response(
        data, status=error.status, headers=error.headers, content_type="application/problem+json", dumps=_dumps
    )


def job_data(view: JobView, in_list: bool = False) -> dict[str, Any]:
    """A job as JSON data; in a list only the beginnings of long texts."""
    job, base = view.job, f"/v1/jobs/{view.job.uuid}"
    doing = view.doing
    began = job.state is State.RUNNING and doing and doing.get("state") == "queued"
    outputs: dict[str, Any] = {}
    for name, one in view.outputs.items():
        files = [{"name": file, "url": f"{base}/files/{urllib.parse.quote(file)}"} for file in one.get("files", ())]
        value = one.get("value")
        outputs[name] = {"files": files} if "files" in one else {"value": _plain(_begin(value) if in_list else value)}
    facts = job.result if job.state is State.FAILED and isinstance(job.result, Mapping) else {}
    node = facts.get("node")
    error = {"message": job.error, "node": node[0] if node else None} if job.state is State.FAILED else None
    return {
        "id": job.uuid,
        "number": job.id,
        "state": "queued" if began else str(job.state),
        "cancelling": job.cancelling,
        "workflow": job.facts.get("workflow"),
        "inputs": job.facts.get("inputs", {}),
        "drawn": job.facts.get("drawn", {}),
        "labels": job.facts.get("labels", {}),
        "user": job.user,
        "priority": job.priority,
        "created": _time(job.created),
        "started": _time(job.started),
        "ended": _time(job.ended),
        "ahead": view.ahead,
        "progress": {name: doing.get(name) for name in ("node", "type", "step", "total", "left")} if doing else None,
        "error": error,
        "outputs": outputs,
        "urls": {"self": base, "events": f"{base}/events", "cancel": f"{base}/cancel"},
    }


def _begin(value: Any) -> Any:
    """A value; of a text that is long its beginning."""
    return f"{value[:LONGEST_LISTED]}…" if isinstance(value, str) and len(value) > LONGEST_LISTED else value


def file_data(stored: StoredFile) -> dict[str, Any]:
    """An uploaded file as JSON data."""
    return {
        "id": stored.id,
        "size": stored.size,
        "content_type": stored.type,
        "created": _time(stored.created),
        "url": f"/v1/files/{stored.id}",
    }


def _text(job: Job, event: WatchEvent) -> str:
    """An event as server-sent events are written; a comment if there is none."""
    if not event.kind:
        return ": nothing new\n\n"
    number = "" if event.number is None else f"id: {event.number}\n"
    return f"{number}event: {event.kind}\ndata: {event.message(job.uuid)}\n\n"


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def _plain(value: Any) -> Any:
    """A value without numbers that JSON does not know."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _dumps(data: Any) -> str:
    return json.dumps(_plain(data), default=str)


def _wait(request: web.Request) -> float:
    found = _WAIT.search(request.headers.get("Prefer", ""))
    return min(float(found[1]), LONGEST_WAIT) if found else 0.0


def _check_names(data: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in data:
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
            raise ApiError("bad_request", f"{name[:60]!r} is unknown here; {hint}")


def _field(data: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = data.get(name)
    if value is None:
        return default
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON knows one sort of numbers
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        words = {dict: "an object", int: "a whole number", bool: "true or false", str: "a text"}
        raise ApiError("bad_request", f"{name} must be {words[kind]}, not {json.dumps(value)[:60]}")
    return value


def _texts(data: Mapping[str, Any], name: str) -> list[str] | None:
    value = data.get(name)
    if value is not None and not (isinstance(value, list) and value and all(isinstance(one, str) for one in value)):
        raise ApiError("bad_request", f"{name} must be a list of texts, not {json.dumps(value)[:60]}")
    return value
