"""The Comfy API v2 under `/api/v2`: jobs, their events, and assets, for the SDK of ComfyUI's makers and its like."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web

from graphengine.errors import nearest
from graphengine.server.async_hub import AsyncHub
from graphengine.server.comfy.annotated import with_held_files
from graphengine.server.comfy.files import Files
from graphengine.server.comfy.jobs import facts_of
from graphengine.server.comfy.prompt import FACTS, client_ids
from graphengine.server.comfy.v2_assets import with_files
from graphengine.server.comfy.v2_events import job_events
from graphengine.server.comfy.v2_views import (
    PREFIX,
    STATES,
    Refused,
    answer,
    error_answer,
    is_canvas,
    job_data,
    listed_data,
    refused_workflow,
    request_id,
    status_of,
)
from graphengine.server.contract import Route
from graphengine.server.http import CALLER, SAFE, json_body, origin_of, write_in_time
from graphengine.server.job_api import MOST_LISTED, JobApi, JobView, Order, check_labels
from graphengine.server.problems import ApiError, as_api_error
from graphengine.server.tokens import Caller
from graphengine.service.jobs.queue import NoJob

KEYS = uuid.UUID("5f0ccd0d-6ac5-5a30-9f3f-1b8d2c1f7e04")
"""The namespace of the UUIDs of jobs that were submitted here with an Idempotency-Key."""
KEY_SECONDS = 24 * 3600
"""Seconds after which an Idempotency-Key may be used again."""
LONGEST_METADATA = 1024
"""The most bytes of metadata that are one text."""
ORDER = ("workflow", "inputs", "metadata", "priority", "extra_data", "webhook_url")


class ComfyV2:
    """The handlers of `/api/v2/jobs`.

    Args:
        api: What they render.
        hub: The events of jobs.
    """

    prefixes = (f"{PREFIX}/",)
    without_token = ()

    def __init__(self, api: JobApi, hub: AsyncHub) -> None:
        self.api, self.hub, self.files = api, hub, Files(api)

    def problem(self, error: ApiError, request: web.Request) -> web.Response:
        """An error in the envelope of this API."""
        return error_answer(error)

    def routes(self) -> list[Route]:
        """All routes."""
        jobs, job = f"{PREFIX}/jobs", f"{PREFIX}/jobs/{{id}}"
        return [
            Route("POST", jobs, self.submit, "Run a workflow", {"201": "object"}),
            Route("GET", jobs, self.jobs, "A page of jobs, the newest first", {"200": "object"}),
            Route("GET", job, self.job, "A job", {"200": "object"}),
            Route("GET", f"{job}/workflow", self.workflow, "The workflow of a job", {"200": "object"}),
            Route("GET", f"{job}/events", self.events, "What happens to a job", {"200": "text/event-stream"}),
            Route("POST", f"{job}/cancel", self.cancel, "Cancel a job", {"200": "object"}),
            Route("GET", f"{job}/logs", self.logs, "The log of a job: there is none", {"204": ""}),
        ]

    async def submit(self, request: web.Request) -> web.Response:
        """`POST /api/v2/jobs`."""
        data = await json_body(request)
        order = order_of(data)
        key = request.headers.get("Idempotency-Key")
        # A client that goes away now has still submitted its job.
        view = await asyncio.shield(asyncio.to_thread(self._submit, request[CALLER], order, key))
        headers = {"Location": f"{PREFIX}/jobs/{view.job.uuid}"}
        return answer(job_data(view, origin_of(request)), 201, headers)

    def _submit(self, caller: Caller, order: Order, key: str | None) -> JobView:
        name = "" if key is None else self._name(caller, key)
        workflow = with_held_files(self.files, caller, with_files(self.api, caller, order.workflow))
        inputs = with_files(self.api, caller, order.inputs, as_ids=True)
        try:
            return self.api.submit(caller, replace(order, workflow=workflow, inputs=inputs, uuid=name))
        except Exception as error:
            refused = as_api_error(error)
            if refused is None:
                raise
            if key is not None and refused.code == "conflict":
                raise _used(key) from None
            if refused.problems:
                refused = refused_workflow(refused, client_ids(workflow, self.api.folders.input))
            raise refused from None

    def _name(self, caller: Caller, key: str) -> str:
        """The UUID of a job that is submitted with a key: whoever comes second finds it taken, also after a restart.

        Raises:
            ApiError: The key was used.
        """
        if not 1 <= len(key) <= 255 or not key.isprintable():
            raise ApiError("bad_request", "an Idempotency-Key has 1 to 255 printable characters")
        use = 0
        while True:
            name = str(uuid.uuid5(KEYS, f"{caller.user}\0{key}\0{use}"))
            try:
                job = self.api.queue.named(name)
            except NoJob:
                return name
            if job.created > time.time() - KEY_SECONDS:
                raise _used(key)
            use += 1

    async def jobs(self, request: web.Request) -> web.Response:
        """`GET /api/v2/jobs`."""
        query = request.query
        labels, wanted = _labels(query), _statuses(query)
        limit = query.get("limit", "50")
        if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:6]) <= MOST_LISTED:
            raise ApiError("bad_request", f"limit must be from 1 to {MOST_LISTED}, not {limit[:40]!r}")
        states = sorted({state.value for status in wanted for state in STATES[status]})
        if wanted and not states:
            return answer({"jobs": []})
        cursor = query.get("cursor") or None
        try:
            page = await asyncio.to_thread(self.api.page, request[CALLER], states, labels, cursor, int(limit))
        except ApiError as error:
            if cursor is not None and error.code == "bad_request":
                raise Refused(400, "invalid_cursor", error.detail) from None
            raise
        views = [view for view in page.jobs if not wanted or status_of(view) in wanted]
        origin = origin_of(request)
        found: dict[str, Any] = {"jobs": await asyncio.to_thread(lambda: [listed_data(view, origin) for view in views])}
        if page.cursor is not None:
            found["next_cursor"] = page.cursor
        return answer(found)

    async def job(self, request: web.Request) -> web.Response:
        """`GET /api/v2/jobs/{id}`."""
        origin = origin_of(request)
        view = await asyncio.to_thread(self.api.get, request[CALLER], request.match_info["id"])
        return answer(await asyncio.to_thread(job_data, view, origin))

    async def workflow(self, request: web.Request) -> web.Response:
        """`GET /api/v2/jobs/{id}/workflow`: as it was submitted; our own form of it where another API took the job."""

        def read() -> dict[str, Any]:
            job = self.api.find(request[CALLER], request.match_info["id"])
            workflow = facts_of(job).get("prompt") or self.api.queue.body(job.id)["workflow"]
            return {"workflow": workflow, "format": "save" if is_canvas(workflow) else "api"}

        return answer(await asyncio.to_thread(read))

    async def cancel(self, request: web.Request) -> web.Response:
        """`POST /api/v2/jobs/{id}/cancel`."""
        cancelled = asyncio.to_thread(self.api.cancel, request[CALLER], request.match_info["id"])
        return answer(job_data(await asyncio.shield(cancelled), origin_of(request)))

    async def logs(self, request: web.Request) -> web.Response:
        """`GET /api/v2/jobs/{id}/logs`: there is none."""
        await asyncio.to_thread(self.api.find, request[CALLER], request.match_info["id"])
        return web.Response(status=204, headers=request_id())

    async def events(self, request: web.Request) -> web.StreamResponse:
        """`GET /api/v2/jobs/{id}/events`."""
        caller = request[CALLER]
        job = await asyncio.to_thread(self.api.find, caller, request.match_info["id"])
        try:
            self.hub.check_room(caller)
        except ApiError as error:
            raise Refused(429, "too_many_streams", error.detail, headers=error.headers) from None
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **SAFE, **request_id()}
        stream = web.StreamResponse(headers=headers)
        stream.content_type = "text/event-stream"
        await stream.prepare(request)
        if request.method != "HEAD":
            events = job_events(self.api, self.hub, caller, job, origin_of(request))
            async with contextlib.aclosing(events):
                async for name, data in events:
                    text = f"event: {name}\ndata: {json.dumps(data)}\n\n" if name else ": nothing new\n\n"
                    await write_in_time(request, stream, text.encode())
        await stream.write_eof()
        return stream


def order_of(data: Mapping[str, Any]) -> Order:
    """The order in the body of a request.

    Raises:
        ApiError: It is none.
    """
    for name in data:
        if name not in ORDER:
            near = nearest(name, ORDER) or ORDER
            raise Refused(422, "invalid_request", f"{name[:60]!r} is unknown here; there are {', '.join(near)}")
    workflow, inputs, priority = data.get("workflow"), data.get("inputs"), data.get("priority")
    if data.get("webhook_url") is not None:
        raise Refused(422, "invalid_request", "webhook_url is not taken here; wait for the job, or watch its events")
    if not isinstance(workflow, dict):
        raise Refused(422, "invalid_request", "workflow must be an object: a workflow in ComfyUI's API format")
    if inputs is not None and not isinstance(inputs, dict):
        raise Refused(422, "invalid_request", "inputs must be an object: values of the workflow's inputs by name")
    if priority is not None and (isinstance(priority, bool) or not isinstance(priority, int)):
        raise Refused(422, "invalid_request", "priority must be a whole number")
    extra = data.get("extra_data")
    if extra is not None and not (
        isinstance(extra, dict)
        and set(extra) <= {"api_key_comfy_org"}
        and all(isinstance(value, str) for value in extra.values())
    ):
        raise Refused(422, "invalid_request", "extra_data holds api_key_comfy_org, a text, and nothing else")
    labels, facts = _metadata(data.get("metadata"))
    # The key in extra_data is for nodes that call ComfyUI's paid services, of which there are none here: it is dropped.
    facts |= {"prompt": workflow, "client": "", "extra": {}, "outputs": [], "previews": False}
    return Order(workflow, inputs or {}, labels=labels, priority=priority or 0, facts={FACTS: facts})


def _metadata(given: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """The labels of a job, and what is kept of metadata that is one text."""
    if given is None:
        return {}, {}
    if isinstance(given, str):
        if len(given.encode()) > LONGEST_METADATA:
            raise Refused(422, "metadata_invalid", f"metadata has at most {LONGEST_METADATA:,} bytes")
        return {}, {"metadata": given}
    if not isinstance(given, dict):
        raise Refused(422, "metadata_invalid", "metadata must be an object of texts, or a text")
    try:
        check_labels(given)
    except ApiError as error:
        raise Refused(422, "metadata_invalid", error.detail) from None
    return given, {}


def _labels(query: Mapping[str, str]) -> dict[str, str]:
    """The labels by which jobs are chosen: `metadata[NAME]=VALUE`."""
    found = {name[9:-1]: value for name, value in query.items() if name.startswith("metadata[") and name[-1] == "]"}
    try:
        check_labels(found)
    except ApiError as error:
        raise Refused(400, "invalid_metadata_filter", error.detail) from None
    for name in query:
        if name not in ("limit", "cursor", "status") and name[9:-1] not in found:
            raise ApiError("bad_request", f"{name[:60]!r} is unknown here; there are limit, cursor, status, metadata[]")
    return found


def _statuses(query: Mapping[str, str]) -> list[str]:
    """The statuses by which jobs are chosen: `status=queued,running`."""
    found = [status for status in query.get("status", "").split(",") if status]
    for status in found:
        if status not in STATES:
            near = nearest(status, STATES) or list(STATES)
            raise ApiError("bad_request", f"{status[:40]!r} is no status of a job; there are {', '.join(near)}")
    return found


def _used(key: str) -> ApiError:
    what = f"the Idempotency-Key {key[:60]!r} was used; list your jobs, or take a new key for a new job"
    return ApiError("key_reused", what)
