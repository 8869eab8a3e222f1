"""Events of a job as the Comfy API v2 streams them: status, whole progress, previews, and outputs before the end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Any

from graphengine.server.async_hub import AsyncHub
from graphengine.server.comfy.jobs import node_of
from graphengine.server.comfy.v2_views import TERMINAL, output_data, produced, progress_data, status_data
from graphengine.server.job_api import JobApi, JobView
from graphengine.server.problems import ApiError
from graphengine.server.tokens import Caller
from graphengine.service.jobs.job import Job, State
from graphengine.service.watcher import WatchEvent

PROGRESS_SECONDS = 0.5
"""Seconds between two reports of progress."""
LIVE = ("progress", "node_started", "node_finished")
CHANGES = ("queued", "running", "cancelling", "lost", "left", "moved", "preferred")


async def job_events(
    api: JobApi, hub: AsyncHub, caller: Caller, job: Job, origin: str
) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
    """What happens to a job, from now on until its end: names of events and their data; `("", {})` after 15 seconds in
    which nothing has happened.

    Args:
        origin: The scheme and host by which the client calls this server.
    """

    shown: dict[str, Any] = {}

    async def look() -> JobView:
        return await asyncio.to_thread(api.get, caller, job.uuid)

    def news(view: JobView) -> list[tuple[str, dict[str, Any]]]:
        """The status, if it is another one than before; after the last one nothing is read, so outputs come first."""
        nonlocal shown
        status = status_data(view)
        begun = shown.get("status") == "running" and status["status"] == "queued" and view.job.state is State.RUNNING
        if status == shown or begun:  # a job that was taken up waits for a worker: clients know no way back
            return []
        shown = status
        outputs = [("output", output_data(view.job, one, origin)) for one in produced(view.job)]
        return [*outputs, ("status", status)] if status["status"] in TERMINAL else [("status", status)]

    view = await look()
    for event in news(view):
        yield event
    if shown["status"] in TERMINAL:
        return
    if (progress := progress_data(view)) is not None:
        yield "progress", progress
    reported = progress
    next_report, is_due = time.monotonic() + PROGRESS_SECONDS, False
    async with contextlib.aclosing(hub.watch(job, caller=caller)) as events:
        coming = asyncio.ensure_future(anext(events, None))
        try:
            while True:
                left = max(next_report - time.monotonic(), 0) if is_due else None
                await asyncio.wait({coming}, timeout=left)
                if not coming.done():
                    is_due, next_report = False, time.monotonic() + PROGRESS_SECONDS
                    progress = progress_data(await look())
                    if progress is not None and progress != reported:
                        reported = progress
                        yield "progress", progress
                    continue
                latest: WatchEvent | None = coming.result()
                if latest is None:
                    return
                if latest.last:
                    with contextlib.suppress(ApiError):
                        for event in news(await look()):
                            yield event
                        return
                    yield "status", {"status": "expired", "queue_position": None}  # it was deleted
                    return
                coming = asyncio.ensure_future(anext(events, None))
                if latest.kind in LIVE:
                    is_due = True
                elif latest.kind == "preview":
                    yield "preview", _preview(view, latest)
                if latest.kind in CHANGES or not latest.kind or (is_due and shown["status"] == "queued"):
                    for event in news(view := await look()):
                        yield event
                if not latest.kind:
                    yield "", {}
        finally:
            coming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await coming


def _preview(view: JobView, event: WatchEvent) -> dict[str, Any]:
    data = event.data
    node = node_of(view.job, str(data.get("node", "")))
    return {"node_id": node, "content_type": data["type"], "data_base64": data["data"]}
