"""What pages show of jobs beyond what programs ask for: inputs in full, small pictures, reports, and workers."""

from __future__ import annotations

import asyncio
import html
from pathlib import Path, PurePath
from typing import Any

from aiohttp import web

from graphengine.server.contract import Route
from graphengine.server.file_store import PREFIX
from graphengine.server.http import CALLER
from graphengine.server.job_api import JobApi
from graphengine.server.thumbnails import TYPE, Thumbnails, width_of
from graphengine.server.tokens import Caller
from graphengine.service.job_report import job_page
from graphengine.service.jobs.request import request_of
from graphengine.service.jobs.submit import files_of
from graphengine.show.report_page import POLICY
from graphengine.workflow.write import NoData, plain

REPORT = {"Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'; sandbox allow-popups"}


class JobDetails:
    """Routes of `/v1` for pages.

    Args:
        api: What they render.
    """

    def __init__(self, api: JobApi) -> None:
        self.api, self.thumbnails = api, Thumbnails()

    def routes(self) -> list[Route]:
        """All routes."""
        return [
            Route("GET", "/v1/jobs/{id}/inputs", self.inputs, "A job's inputs in full, to run it again",
                  {"200": "object"}),
            Route("GET", "/v1/jobs/{id}/report", self.report, "The report of a job that has ended, a page",
                  {"200": "text/html"}),
            Route("GET", "/v1/workers", self.workers, "Who computes, and what they hold", {"200": "Workers"}),
        ]  # fmt: skip

    async def inputs(self, request: web.Request) -> web.Response:
        """`GET /v1/jobs/{id}/inputs`."""
        found = await asyncio.to_thread(self._inputs, request[CALLER], request.match_info["id"])
        return web.json_response({"inputs": found})

    def _inputs(self, caller: Caller, name: str) -> dict[str, Any]:
        job, queue = self.api.find(caller, name), self.api.queue
        given = request_of(queue.body(job.id), files_of(queue)).inputs
        found = {}
        for key, value in given.items():
            try:
                found[key] = self._as_sent(value, job.user)
            except NoData:  # a picture that a program in Python gave, say
                continue
        return found

    def _as_sent(self, value: Any, user: str) -> Any:
        """An input as a client sends it: the id of an upload, a path inside the server's folders, a plain value."""
        if isinstance(value, list | tuple):
            return [self._as_sent(item, user) for item in value]
        if not isinstance(value, str | PurePath):
            return plain(value)
        path = Path(value)
        if path.is_absolute():
            if path.parent == self.api.files.of(user):
                return PREFIX + path.name
            for folder in (self.api.folders.input, self.api.folders.models):
                if folder is not None and path.is_relative_to(folder):
                    return str(path.relative_to(folder))
        return str(value)

    async def report(self, request: web.Request) -> web.Response:
        """`GET /v1/jobs/{id}/report`."""
        page = await asyncio.to_thread(self._report, request[CALLER], request.match_info["id"])
        headers = {"Cache-Control": "private, no-cache", **REPORT}
        return web.Response(text=page, content_type="text/html", headers=headers)

    def _report(self, caller: Caller, name: str) -> str:
        job = self.api.find(caller, name)
        page, said = job_page(self.api.queue, job.id), self.api.queue.get(job.id).error
        if said:  # strangers need not know where this server keeps its files
            page = page.replace(html.escape(said), html.escape(job.error or ""))
        return self.api.places.without_folders(page)

    async def workers(self, request: web.Request) -> web.Response:
        """`GET /v1/workers`: `computing` is how many nodes it computes; there are none where this process computes."""
        statuses = await asyncio.to_thread(self.api.service.backend.status)
        found = [
            {
                "name": status.name, "device": status.device, "state": str(status.state),
                "computing": len(status.computing), "parts": status.held, "loads": status.loads, "free": status.free,
                "computed": status.landed, "deaths": status.deaths,
            }
            for status in statuses
        ]  # fmt: skip
        return web.json_response({"workers": found})

    async def thumbnail(self, request: web.Request) -> web.Response:
        """`GET /v1/jobs/{id}/files/{name}?width=N`: a small copy of a picture."""
        width = width_of(request.query["width"])
        job, name, caller = request.match_info["id"], request.match_info["name"], request[CALLER]

        def make() -> bytes:
            return self.thumbnails.get((job, name), width, lambda: self.api.open_output(caller, job, name)[0])

        content = await asyncio.to_thread(make)
        headers = {"Content-Disposition": "inline", "Cache-Control": "private, max-age=3600"}
        return web.Response(body=content, content_type=TYPE, headers=headers)
