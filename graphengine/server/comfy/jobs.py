"""Jobs in ComfyUI's form: entries of its queue and history, items of its job lists, and the events of their ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from graphengine.events import Reuse
from graphengine.server.comfy.prompt import FACTS, in_ids, shown_id
from graphengine.server.job_api import IDS, MAKERS
from graphengine.service.jobs.job import Job, State

STATUS = {
    State.QUEUED: "pending", State.RUNNING: "in_progress", State.DONE: "completed", State.FAILED: "failed",
    State.CANCELLED: "cancelled",
}  # fmt: skip
"""The words of its job lists for our states."""
MOVING = (".mp4", ".webm", ".mkv", ".mov", ".gif")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".avif", *MOVING)
TEMP = "temp"
"""The folder of what is only to be looked at: in the output folder what jobs write so (PreviewImage), in the input
folder what is uploaded so."""
AUDIO = (".flac", ".mp3", ".opus", ".wav", ".ogg")


def facts_of(job: Job) -> Mapping[str, Any]:
    """What the client of the classic API sent; empty for jobs that came in another way."""
    found = job.facts.get(FACTS)
    return found if isinstance(found, Mapping) else {}


def ids_of(job: Job) -> Mapping[str, str]:
    """The ids of the client's nodes by those of the job's graph."""
    found: Mapping[str, str] = job.facts.get(IDS, {})
    return found


def node_of(job: Job, node: str) -> str:
    """The client's id of a node of the job's graph."""
    return shown_id(node, ids_of(job))


def file_facts(path: str, folder: Path) -> dict[str, str] | None:
    """A file in the output folder, as clients ask for it by `/view`; None for a file that lies elsewhere."""
    try:
        inside = PurePath(path).relative_to(folder)
    except ValueError:
        return None
    is_temp = len(inside.parts) > 1 and inside.parts[0] == TEMP
    parent = (inside.relative_to(TEMP) if is_temp else inside).parent.as_posix()
    return {
        "filename": inside.name, "subfolder": "" if parent == "." else parent, "type": TEMP if is_temp else "output",
    }  # fmt: skip


def outputs(job: Job, folder: Path) -> dict[str, dict[str, Any]]:
    """By node, its files by their sort (`images`, `audio`, `files`), or its plain value (`text`)."""
    told = job.result.get("told", {}) if job.state is State.DONE and isinstance(job.result, Mapping) else {}
    found: dict[str, dict[str, Any]] = {}
    makers = job.facts.get(MAKERS, {})
    for name, one in told.items():
        shown = found.setdefault(node_of(job, makers.get(name, name)), {})
        for path in one.get("files", ()):
            facts, ending = file_facts(path, folder), PurePath(path).suffix.lower()
            if facts is not None:
                sort = "images" if ending in IMAGES else "audio" if ending in AUDIO else "files"
                shown.setdefault(sort, []).append(facts)
        if any(facts["filename"].endswith(MOVING) for facts in shown.get("images", ())):
            shown["animated"] = [True]
        if "value" in one:
            value = one["value"]
            shown["text"] = [str(part) for part in (value if isinstance(value, list) else [value])]
    return found


def queue_entry(job: Job) -> list[Any]:
    """A job as `/queue` and `/history` have it: `[number, id, prompt, extra_data, outputs]`."""
    facts = facts_of(job)
    extra = {**facts.get("extra", {}), "client_id": facts.get("client", ""), "create_time": _ms(job.created)}
    return [facts.get("number", job.id), job.uuid, facts.get("prompt", {}), extra, facts.get("outputs", [])]


def history_entry(job: Job, folder: Path) -> dict[str, Any]:
    """A job that has ended, as `/history` has it."""
    made = outputs(job, folder)
    meta = {node: {"node_id": node, "display_node": node, "parent_node": None, "real_node_id": node} for node in made}
    return {"prompt": queue_entry(job), "outputs": made, "status": status_of(job), "meta": meta}


def status_of(job: Job) -> dict[str, Any]:
    """How a job has ended, with the events that tell of it."""
    done = job.state is State.DONE
    messages: list[list[Any]] = []
    if job.started is not None:
        messages.append(["execution_start", {"prompt_id": job.uuid, "timestamp": _ms(job.started)}])
        messages.append(["execution_cached", {"nodes": cached(job), **_stamp(job)}])
    messages.append(list(end_of(job)))
    return {"status_str": "success" if done else "error", "completed": done, "messages": messages}


def cached(job: Job) -> list[str]:
    """The nodes whose values were known already."""
    reuse = job.result.get("reuse", {}) if isinstance(job.result, Mapping) else {}
    return list(dict.fromkeys(node_of(job, node) for node, how in reuse.items() if how != Reuse.COMPUTED))


def end_of(job: Job) -> tuple[str, dict[str, Any]]:
    """The event that tells of a job's end: its type and its data."""
    match job.state:
        case State.DONE:
            return "execution_success", _stamp(job)
        case State.FAILED:
            return "execution_error", {**_stamp(job), **error_of(job), "executed": cached(job)}
    return "execution_interrupted", {**_stamp(job), "node_id": "", "node_type": "", "executed": []}


def error_of(job: Job) -> dict[str, Any]:
    """Why a job has failed."""
    result = job.result if isinstance(job.result, Mapping) else {}
    node, type = result.get("node") or ("", "")
    id = node_of(job, node)
    written = facts_of(job).get("prompt", {}).get(id, {})
    return {
        "node_id": id,
        "node_type": written.get("class_type", type),
        "exception_message": in_ids(job.error or "it has failed", ids_of(job)),
        "exception_type": result.get("cause") or result.get("error") or "Error",
        "traceback": [],
        "current_inputs": {},
        "current_outputs": [],
    }


def waits(job: Job, doing: Mapping[int, Mapping[str, Any]]) -> bool:
    """Whether a job that has not ended waits: in the queue, or for a worker that begins it. Light nodes may have been
    computed already.

    Args:
        doing: What the jobs do that run here, as `Service.doing` gives it.
    """
    facts = doing.get(job.id, {})
    return job.state is State.QUEUED or facts.get("state") == "queued" or (is_idle(job, doing) and not facts["served"])


def is_idle(job: Job, doing: Mapping[int, Mapping[str, Any]]) -> bool:
    """Whether nothing of a job that runs is computed now, as all that is next waits for a worker."""
    return bool(doing.get(job.id, {}).get("waits"))


def job_item(job: Job, folder: Path, doing: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """A job as an item of `/api/jobs`. The frontend drops the whole list if one item lacks a field."""
    made = outputs(job, folder)
    files = [
        {**facts, "nodeId": node, "mediaType": sort}
        for node, shown in made.items() for sort in ("images", "audio", "files") for facts in shown.get(sort, ())
    ]  # fmt: skip
    return {
        "id": job.uuid,
        "status": STATUS[State.QUEUED if not job.state.ended and waits(job, doing) else job.state],
        "priority": facts_of(job).get("number", job.id),
        "create_time": _ms(job.created),
        "execution_start_time": _ms(job.started),
        "execution_end_time": _ms(job.ended),
        "outputs_count": sum(len(value) for shown in made.values() for sort, value in shown.items()
                             if sort != "animated"),
        "workflow_id": workflow_id(job),
        "preview_output": files[0] if files else None,
        "execution_error": error_of(job) if job.state is State.FAILED else None,
    }  # fmt: skip


def job_detail(job: Job, folder: Path, doing: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """A job as `/api/jobs/{id}` has it: with its outputs, and the workflow that made it, to be opened again."""
    _, _, prompt, extra, _ = queue_entry(job)
    ended = {"execution_status": status_of(job)} if job.state.ended else {}
    return job_item(job, folder, doing) | {
        "outputs": outputs(job, folder), "workflow": {"prompt": prompt, "extra_data": extra},
        "update_time": _ms(job.ended or job.started or job.created), **ended,
    }  # fmt: skip


def workflow_id(job: Job) -> str | None:
    """The id that the frontend gave the workflow."""
    workflow = facts_of(job).get("extra", {}).get("extra_pnginfo", {}).get("workflow")
    id = workflow.get("id") if isinstance(workflow, Mapping) else None
    return id if isinstance(id, str) else None


def _stamp(job: Job) -> dict[str, Any]:
    return {"prompt_id": job.uuid, "timestamp": _ms(job.ended or job.started or job.created)}


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
