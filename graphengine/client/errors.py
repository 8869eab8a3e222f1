"""Errors of a server's answers, as the exceptions of the engine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from graphengine.errors import GraphEngineError, Problem, Where, WorkflowError
from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.queue import NoJob, QueueFull

IS_IT = "is `graphengine serve` running there?"
_OF_A_JOB = re.compile(r"/v1/jobs/[^/]*(/(events|cancel|move|inputs|report))?")
"""Paths that are not there only where their job is not."""


class ServerError(GraphEngineError):
    """The server refuses a request, or has failed.

    Attributes:
        status: The status in HTTP; 0 without an answer.
        problem: The code of the problem, as `not_found`.
    """

    def __init__(self, message: str, status: int = 0, problem: str = "") -> None:
        super().__init__(message)
        self.status, self.problem = status, problem


class NotAllowed(ServerError):
    """The token is missing or unknown, or its user may not do this."""


class Unreachable(ServerError):
    """The server cannot be reached, or was gone for longer than the client waits."""


class ServerFull(QueueFull):
    """The queue takes no more jobs of this user now.

    Attributes:
        retry_after: Seconds after which the server suggests to ask again.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class JobFailed(GraphEngineError):
    """A job that was waited for has failed.

    Attributes:
        node: The id of the node that failed; None if it was none.
    """

    def __init__(self, message: str, node: str | None = None) -> None:
        super().__init__(message)
        self.node = node


def error_of(status: int, data: Any, headers: Mapping[str, str], path: str) -> GraphEngineError:
    """The exception for an answer that is an error.

    Args:
        data: The body as JSON data, RFC 9457; anything if it is no JSON.
        path: What was asked for.
    """
    known = data if isinstance(data, dict) else {}
    code = str(known.get("code", ""))
    detail = str(known.get("detail") or f"the server answers {status} to {path}; {IS_IT}")
    match code:
        case "invalid":
            problems = [_problem(one) for one in known.get("problems", ())]
            return WorkflowError(problems or detail)
        case "not_found" if _OF_A_JOB.fullmatch(path):
            return NoJob(detail)
        case "queue_full":
            return ServerFull(detail, _seconds(headers.get("Retry-After")))
        case "conflict":
            return QueueError(detail)
        case "unauthorized" | "forbidden":
            return NotAllowed(detail, status, code)
    return ServerError(detail, status, code)


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and text.isascii() and text.isdigit() else 5.0


def _problem(data: Any) -> Problem:
    known = data if isinstance(data, dict) else {}
    where = {name: known.get("where", {}).get(name) for name in Where.__dataclass_fields__}
    texts = {name: known.get(name) for name in ("expected", "found")}
    return Problem(
        str(known.get("kind", "")), str(known.get("what", "")), Where(**where), str(known.get("hint", "")),
        nearest=tuple(known.get("nearest", ())), severity=known.get("severity", "error"), **texts,
    )  # fmt: skip
