"""Showing jobs: as JSON data, as lines, and as rows of a table. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine.service.job_activity import SILENT, silence, words
from graphengine.service.jobs.job import Job, State
from graphengine.service.jobs.submit import in_short
from graphengine.service.socket_client import doing as ask

if TYPE_CHECKING:
    from rich.table import Table

    from graphengine.service.jobs.queue import Queue

Doing = Mapping[int, Mapping[str, Any]]
BAR = 12
"""Characters of a progress bar."""
SPARE = 200
"""Jobs that are read beyond a page: the service may tell another state of a job than the file."""


def doing_now(queue: Queue, jobs: Sequence[Job]) -> Doing:
    """The activity of these jobs, by number; empty if none runs, or no service answers."""
    return ask(queue.file) if any(job.state is State.RUNNING for job in jobs) else {}


def state_of(job: Job, doing: Doing) -> str:
    """The state of a job as users see it: `queued` until its first node has begun."""
    now = doing.get(job.id)
    return str(now["state"]) if job.state is State.RUNNING and now is not None else str(job.state)


def page(
    queue: Queue, states: Sequence[State], user: str | None, before: int | None, limit: int
) -> tuple[list[Job], Doing]:
    """A page of jobs, the newest first; a job counts as queued until its first node has begun."""
    either = {State.QUEUED, State.RUNNING}
    split = bool(either & {*states}) and not either <= {*states}
    jobs = queue.history({*states} | (either if split else set()), user, before, limit + SPARE * split)
    doing = doing_now(queue, jobs)
    return [job for job in jobs if not split or state_of(job, doing) in states][:limit], doing


def counts(queue: Queue) -> dict[str, int]:
    """How many jobs are in each state, as users see it."""
    found = {state.value: count for state, count in queue.counts().items()}
    running = queue.running() if found["running"] else []
    doing = doing_now(queue, running)
    unbegun = sum(state_of(job, doing) == State.QUEUED for job in running)
    return found | {"queued": found["queued"] + unbegun, "running": found["running"] - unbegun}


# --- as data ----------------------------------------------------------------------------------------------------------


def facts(job: Job, doing: Doing) -> dict[str, Any]:
    """A job as JSON data."""
    found = fields(job)
    found["job"], found["uuid"] = found.pop("id"), job.uuid
    del found["result"], found["facts"]
    now = doing.get(job.id, {})
    found |= {"state": state_of(job, doing), "waits": bool(now.get("waits")), "lacks": now.get("lacks")}
    found |= {"workflow": job.facts.get("workflow"), "inputs": job.facts.get("inputs", {})}
    found["node"] = {name: now[name] for name in ("node", "type", "worker", "step", "total", "left") if name in now}
    return found | {"made": made(job)}


def fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, with times as texts."""
    found = {name: getattr(value, name) for name in value.__dataclass_fields__}
    for name in ("created", "started", "ended"):
        if isinstance(found.get(name), float):
            found[name] = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found[name]))
    return found


def made(job: Job) -> dict[str, Any]:
    """The files that a job wrote, and the values of outputs that are written into no file."""
    if job.state is not State.DONE or not isinstance(job.result, Mapping):
        return {}
    told = job.result.get("told", {})
    values = {name: one["value"] for name, one in told.items() if "value" in one}
    if not told:  # a job without a folder for files: its outputs as trees of `cache.tree`
        values = {name: _kept(tree) for name, tree in job.result.get("outputs", {}).items()}
    return {"files": list(job.result.get("files", ())), "values": values}


def _kept(tree: Any) -> Any:
    """A value that a job keeps, as a short text; its type if it is too long for a line."""
    if not isinstance(tree, Mapping):
        return "not kept"
    if "json" in tree:
        return in_short(tree["json"])
    return tree.get("type") or tree.get("float") or tree.get("path") or f"a {next(iter(tree))}"


# --- as text ----------------------------------------------------------------------------------------------------------


def plain(text: object) -> str:
    """A text in one line, without characters that a terminal would obey."""
    return "".join(c if c.isprintable() else " " if c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def given(job: Job) -> str:
    """The inputs of a job, in a line."""
    return plain("  ".join(f"{name}={value}" for name, value in job.facts.get("inputs", {}).items()))


def outcome(job: Job, doing: Doing) -> str:
    """The activity of a job, or its outcome, in a line."""
    if job.error:
        return plain(str(job.error).split("\n")[0])
    if job.state is State.DONE:
        came = made(job)
        files = [_near(file) for file in came.get("files", ())]
        texts = [f"{name}: {value}" for name, value in came.get("values", {}).items()]
        more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
        return plain("  ".join([*(f"{file}{more}" for file in files[:1]), *texts]))
    return plain(_going(doing.get(job.id, {})))


def _near(file: str) -> str:
    """A file's path, relative to the current folder if it lies in it."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def _going(now: Mapping[str, Any]) -> str:
    """The activity of a job, with a bar: `sample [####........] 12/30, 8 s left, worker-0`."""
    if now.get("lacks"):
        return f"waits: {now['lacks']}"
    if not now.get("node"):
        return ""
    step, total, left = now.get("step"), now.get("total"), now.get("left")
    parts = [str(now["node"])]
    if step is not None and total:
        full = min(BAR, BAR * step // total)
        parts[0] += f" [{'#' * full}{'.' * (BAR - full)}] {step}/{total}"
    if left is not None:
        parts.append(f"{left:.0f} s left" if left < 100 else f"{left / 60:.0f} min left")
    if now.get("worker"):
        parts.append(str(now["worker"]))
    if now.get("silent", 0.0) >= SILENT:
        parts.append(f"silent for {now['silent']:.0f} s")
    return ", ".join(parts)


def table(jobs: Sequence[Job], doing: Doing, title: str | None = None) -> Table:
    """Jobs as a table with a line each; columns that would be empty are left out."""
    from rich.table import Table
    from rich.text import Text

    columns: dict[str, list[str]] = {
        "job": [str(job.id) for job in jobs],
        "state": [words(job.state, doing.get(job.id)) for job in jobs],
        "user": [plain(job.user) for job in jobs],
        "priority": [str(job.priority or "") for job in jobs],
        "workflow": [plain(job.facts.get("workflow") or "") for job in jobs],
        "inputs": [given(job) for job in jobs],
        "submitted": [_when(job.created) for job in jobs],
        "took": [_took(job) for job in jobs],
        "": [outcome(job, doing) for job in jobs],
    }
    named = [sentence for job in jobs if (sentence := silence(job.id, doing.get(job.id))) is not None]
    caption = Text("\n".join(map(plain, named)), justify="left") if named else None
    found = Table(title=title, caption=caption, caption_justify="left", box=None, pad_edge=False)
    kept = {name: cells for name, cells in columns.items() if any(cells) or name in ("job", "state")}
    for name in kept:
        long = name in ("inputs", "")
        found.add_column(name, no_wrap=True, overflow="ellipsis", ratio=1 if long else None)
    for cells in zip(*kept.values(), strict=True):
        found.add_row(*map(Text, cells))
    return found


def _when(moment: float) -> str:
    """A time, of today as hours, else as a day."""
    then, now = time.localtime(moment), time.localtime()
    return time.strftime("%H:%M:%S" if then[:3] == now[:3] else "%Y-%m-%d", then)


def _took(job: Job) -> str:
    if job.started is None or job.ended is None:
        return ""
    return f"{job.ended - job.started:.1f} s"


def lines(job: Job, doing: Doing) -> list[str]:
    """A job as lines, for `queue show`."""
    found = facts(job, doing) | {"state": words(job.state, doing.get(job.id))}
    names = ("job", "state", "workflow", "user", "priority", "created", "started", "ended", "worker", "error")
    told = [f"{name:9} {_lines_of(found[name])}" for name in names if found[name] not in (None, "")]
    told += [f"{'input':9} {plain(name)}: {plain(value)}" for name, value in found["inputs"].items()]
    return told + [f"{'node':9} {plain(going)}" for going in [_going(doing.get(job.id, {}))] if going]


def _lines_of(value: object) -> str:
    """A text of several lines, each without characters that a terminal would obey."""
    return "\n".join(map(plain, str(value).split("\n")))
