"""Structured logs: every line is a JSON object, with the job and the node that it is about."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from graphengine.events import Kind
from graphengine.service.job_events import JobEvent, JobEventKind

NAMES = ("job", "node", "event", "facts")
QUIET = (Kind.PROGRESS, Kind.PREVIEW, Kind.NODE_STARTED)
"""Events that are too many for a log."""
BAD = (JobEventKind.FAILED, JobEventKind.LOST, JobEventKind.WORKER_LOST, Kind.NODE_FAILED)
"""Events that are logged as warnings."""

_job: ContextVar[int | None] = ContextVar("job", default=None)

log = logging.getLogger("graphengine.jobs")


@contextmanager
def about_job(job: int) -> Iterator[None]:
    """Mark all log records of this thread as about a job while the context lasts."""
    token = _job.set(job)
    try:
        yield
    finally:
        _job.reset(token)


class JsonFormatter(logging.Formatter):
    """Formats a log record as a line of JSON: time, level, logger, message, and its job and node."""

    def format(self, record: logging.LogRecord) -> str:
        facts: dict[str, Any] = {"time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"), "level": record.levelname}
        facts |= {"logger": record.name, "message": record.getMessage()}
        said = {"job": _job.get()} | {name: getattr(record, name) for name in NAMES if hasattr(record, name)}
        facts |= {name: value for name, value in said.items() if value is not None}
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        return json.dumps(facts, default=str)


def log_event(event: JobEvent) -> None:
    """Log an event of a job, except steps and previews; a listener for `Service.subscribe`."""
    if event.kind in QUIET:
        return
    facts = dict(event.facts) | ({} if event.event is None else event.event.as_dict())
    node = facts.pop("node", None)
    facts = {name: value for name, value in facts.items() if name not in ("kind", "run", "time")}
    level = logging.WARNING if event.kind in BAD else logging.INFO
    about = f"job {event.job}" if node is None else f"job {event.job}, node {node}"
    extra = {"job": event.job, "node": node, "event": str(event.kind), "facts": facts or None}
    log.log(level, "%s: %s", about, event.kind, extra=extra)


def log_to(file: Path) -> logging.Handler:
    """Append the log records of graphengine to a file, as lines of JSON.

    Raises:
        OSError: The file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(0o600)
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("graphengine")
    if not logger.hasHandlers():  # without this, warnings would not go to standard error any more
        shown = logging.StreamHandler()
        shown.setLevel(logging.WARNING)
        shown.addFilter(lambda record: not hasattr(record, "event"))
        logger.addHandler(shown)
    logger.addHandler(handler)
    logger.setLevel(min(logger.level or logging.INFO, logging.INFO))
    return handler
