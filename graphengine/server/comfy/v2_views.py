"""Views of jobs, outputs and errors in the form of the Comfy API v2."""

from __future__ import annotations

import json
import mimetypes
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web

from graphengine.server.comfy.jobs import facts_of, ids_of, node_of
from graphengine.server.comfy.prompt import in_ids, shown_id
from graphengine.server.file_store import UNKNOWN
from graphengine.server.job_api import MAKERS, NODES, JobView
from graphengine.server.problems import ApiError
from graphengine.service.jobs.job import Job, State

PREFIX = "/api/v2"
KEPT = timedelta(days=36525)
"""How long after its beginning a job or an asset is said to expire, where a client asks for a date: nothing expires."""
TERMINAL = ("succeeded", "failed", "canceled", "expired")
STATES: Mapping[str, tuple[State, ...]] = {
    "queued": (State.QUEUED, State.RUNNING),  # a job that no worker has begun is shown as one that waits
    "running": (State.RUNNING,),
    "canceling": (State.RUNNING,),
    "succeeded": (State.DONE,),
    "failed": (State.FAILED,),
    "canceled": (State.CANCELLED,),
    "expired": (),
}
"""By the status of a job in this API, the states in the queue that it may have."""
_STATUS = {
    State.QUEUED: "queued", State.RUNNING: "running", State.DONE: "succeeded", State.FAILED: "failed",
    State.CANCELLED: "canceled",
}  # fmt: skip
_CODES = {
    "bad_request": "invalid_request",
    "too_large": "payload_too_large",
    "bad_type": "invalid_request",
    "bad_range": "range_not_satisfiable",
    "slow": "invalid_request",
    "invalid": "invalid_workflow",
    "key_reused": "idempotency_key_reuse",
    "internal": "upstream_error",
    "unavailable": "upstream_unreachable",
}
"""The codes of errors that this API calls by another name than `problems.TITLES`."""


class Refused(ApiError):
    """An error with a code that only this API has.

    Args:
        status: Its status in HTTP.
        own: Its code.
        details: What programs read of it.
    """

    def __init__(
        self,
        status: int,
        own: str,
        detail: str,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__("bad_request", detail, headers=headers)
        self.own, self.details = own, details
        self._status = status

    @property
    def status(self) -> int:
        """The status in HTTP."""
        return self._status


def answer(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """JSON data as an answer, with the number of the request by which people may ask about it."""
    return web.json_response(data, status=status, headers={**request_id(), **(headers or {})})


def request_id() -> dict[str, str]:
    """The header that names a request."""
    return {"X-Comfy-Request-Id": str(uuid.uuid4())}


def error_answer(error: ApiError) -> web.Response:
    """An error in the envelope of this API."""
    if isinstance(error, Refused):
        code, details = error.own, error.details
    else:
        code, details = _CODES.get(error.code, error.code), _node_errors(error)
    body = {"error": {"code": code, "message": error.detail, "details": details}}
    return answer(body, error.status, error.headers)


def refused_workflow(error: ApiError, ids: Mapping[str, str]) -> ApiError:
    """What is wrong with a workflow, with its nodes named as the client named them.

    Args:
        ids: The client's ids by those of the graph.
    """
    named = [p if p.where.node is None else p.at(node=shown_id(p.where.node, ids)) for p in error.problems]
    named = [replace(problem, what=in_ids(problem.what, ids)) for problem in named]
    return ApiError(error.code, in_ids(error.detail, ids), named, error.headers)


def _node_errors(error: ApiError) -> dict[str, Any] | None:
    """By node, the fields that are wrong and why; what is wrong elsewhere is under `problems`."""
    nodes: dict[str, list[dict[str, str | None]]] = {}
    others: list[str] = []
    for problem in error.problems[:1000]:
        if problem.severity != "error":
            continue
        if problem.where.node is None:
            others.append(str(problem))
            continue
        reason = problem.kind.replace(" ", "_")
        fault = {"field": problem.where.socket, "reason": reason, "message": str(problem)}
        nodes.setdefault(problem.where.node, []).append(fault)
    if not nodes and not others:
        return None
    return {"node_errors": nodes} | ({"problems": others} if others else {})


# --- workflows --------------------------------------------------------------------------------------------------------


def is_canvas(workflow: Mapping[str, Any]) -> bool:
    """Whether a workflow is as ComfyUI's editor saves it, with places and links."""
    return isinstance(workflow.get("nodes"), list) and "links" in workflow


def class_of(job: Job, name: str) -> str | None:
    """The class of a node of the client's workflow, by its id there."""
    prompt = facts_of(job).get("prompt", {})
    nodes = prompt if name in prompt else prompt.get("nodes")
    node = nodes.get(name) if isinstance(nodes, Mapping) else None
    found = (node.get("class_type") or node.get("node")) if isinstance(node, Mapping) else None
    return found if isinstance(found, str) else None


# --- outputs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Produced:
    """An output of a job: a file, or a plain value as text.

    Attributes:
        id: By which the bytes are asked for: the job's UUID and the number of the output.
        output: The name of the declared output.
        name: The file's name.
        path: The file; None for a plain value.
        text: The plain value.
    """

    id: str
    output: str
    name: str
    path: Path | None = None
    text: bytes = b""

    @property
    def type(self) -> str:
        """The media type, by the file's name."""
        if self.path is None:
            return "text/plain"
        return mimetypes.guess_type(self.name)[0] or UNKNOWN

    @property
    def size(self) -> int:
        """The bytes; 0 if the file is gone."""
        try:
            return len(self.text) if self.path is None else self.path.stat().st_size
        except OSError:
            return 0

    @property
    def sort(self) -> str:
        """What it is, in the words of this API."""
        if self.name.endswith(".latent"):
            return "latent"
        group = self.type.partition("/")[0]
        return group if group in ("image", "video", "audio", "text") else "file"


def produced(job: Job) -> Iterator[Produced]:
    """The outputs of a job that has ended, in their order."""
    told = job.result.get("told") if isinstance(job.result, Mapping) else None
    number = 0
    for output, values in (told or {}).items():
        for file in values.get("files", ()):
            yield Produced(f"{job.uuid}_{number}", output, Path(file).name, Path(file))
            number += 1
        if "value" in values:
            value = values["value"]
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            yield Produced(f"{job.uuid}_{number}", output, f"{output}.txt", text=text.encode())
            number += 1


def output_data(job: Job, one: Produced, origin: str) -> dict[str, Any]:
    """An output as JSON data.

    Args:
        origin: The scheme and host by which the client calls this server.
    """
    return {
        "node_id": node_of(job, job.facts.get(MAKERS, {}).get(one.output, one.output)),
        "name": one.name,
        "type": one.sort,
        "content_type": one.type,
        "size_bytes": one.size,
        "id": one.id,
        "hash": None,
        "url": f"{origin}{PREFIX}/assets/{one.id}/content",
        "url_expires_at": time_text(job.created, KEPT),
        "job_id": job.uuid,
    }


# --- jobs -------------------------------------------------------------------------------------------------------------


def status_of(view: JobView) -> str:
    """The status of a job in the words of this API."""
    job = view.job
    if job.state is State.RUNNING:
        if job.cancelling:
            return "canceling"
        if view.doing.get("state") == "queued":
            return "queued"
    return _STATUS[job.state]


def status_data(view: JobView) -> dict[str, Any]:
    """The status of a job as an event tells it."""
    return {"status": status_of(view), "queue_position": None if view.ahead is None else view.ahead + 1}


def progress_data(view: JobView) -> dict[str, Any] | None:
    """How far a job is, as a whole; None before it runs."""
    job, doing = view.job, view.doing
    status = status_of(view)
    if status == "queued" or (job.state is not State.RUNNING and job.state is not State.DONE):
        return None
    total = max(int(job.facts.get(NODES, 1)), 1)
    if job.state is State.DONE:
        return {"value": 1.0, "nodes_done": total, "nodes_total": total} | dict.fromkeys(_NODE)
    done = min(int(doing.get("finished", 0)), total)
    found: dict[str, Any] = {"value": done / total, "nodes_done": done, "nodes_total": total, **dict.fromkeys(_NODE)}
    node = doing.get("node")
    if node is None:
        return found
    name = node_of(job, node)
    step, steps = doing.get("step"), doing.get("total")
    kind = class_of(job, name) or doing.get("type")
    if step is not None and steps:
        found["value"] = min((done + min(step / steps, 1.0)) / total, 1.0)
    found |= {"current_node": name, "current_node_class": kind, "step": step, "steps": steps}
    found["message"] = kind if step is None else f"{kind} {step}/{steps}"
    return found


_NODE = ("current_node", "current_node_class", "step", "steps", "message")


def job_data(view: JobView, origin: str) -> dict[str, Any]:
    """A job as JSON data, with every name that this API has, null or not.

    Args:
        origin: The scheme and host by which the client calls this server.
    """
    job, base = view.job, f"{PREFIX}/jobs/{view.job.uuid}"
    facts = facts_of(job)
    queued = (job.started or job.ended or job.created) - job.created
    took = None if job.started is None or job.ended is None else round((job.ended - job.started) * 1000)
    return {
        "id": job.uuid,
        **status_data(view),
        "created_at": time_text(job.created),
        "started_at": None if status_of(view) == "queued" else time_text(job.started),
        "completed_at": time_text(job.ended),
        "expires_at": time_text(job.created, KEPT),
        "progress": progress_data(view),
        "outputs": [output_data(job, one, origin) for one in produced(job)],
        "error": _error_data(job),
        "metrics": {"queue_ms": round(queued * 1000) if job.started else None, "execution_ms": took},
        "metadata": facts.get("metadata", job.facts.get("labels", {})),
        "priority": job.priority,
        "urls": {name: f"{origin}{base}{rest}" for name, rest in _URLS.items()},
    }


_URLS = {"self": "", "events": "/events", "cancel": "/cancel", "logs": "/logs"}


def listed_data(view: JobView, origin: str) -> dict[str, Any]:
    """A job in a list: as `job_data`, with the names that lists have besides."""
    job = view.job
    data = job_data(view, origin)
    changed = job.ended or job.started or job.created
    return data | {"create_time": data["created_at"], "update_time": time_text(changed)}


def _error_data(job: Job) -> dict[str, Any] | None:
    if job.state is not State.FAILED:
        return None
    facts = job.result if isinstance(job.result, Mapping) else {}
    node, type = facts.get("node") or (None, None)
    name = None if node is None else node_of(job, node)
    return {
        "code": "node_execution_error" if node else "execution_error",
        "message": in_ids(job.error or "it failed", ids_of(job)),
        "node_id": name,
        "class_type": (class_of(job, name) if name else None) or type,
        "traceback": None,
    }


def time_text(seconds: float | None, later: timedelta = timedelta()) -> str | None:
    """A time as text with its zone."""
    return None if seconds is None else (datetime.fromtimestamp(seconds, UTC) + later).isoformat()
