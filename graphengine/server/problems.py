"""`ApiError`: the one error of the HTTP server, which each contract shows in its own form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphengine.errors import FileError, GraphEngineError, Problem, WorkflowError
from graphengine.service.jobs.database import QueueError
from graphengine.service.jobs.queue import NoJob, QueueFull

RETRY_SECONDS = 5
"""Seconds after which a client that was refused for want of room may ask again."""

TITLES = {
    "bad_request": (400, "The request is wrong"),
    "unauthorized": (401, "A token is needed"),
    "forbidden": (403, "This is not allowed"),
    "not_found": (404, "There is no such thing here"),
    "method_not_allowed": (405, "This path takes no such method"),
    "conflict": (409, "This cannot be done now"),
    "too_large": (413, "The body is too large"),
    "bad_type": (415, "The body is of a type that is not taken here"),
    "slow": (408, "The body did not arrive in time"),
    "bad_range": (416, "The file has no such bytes"),
    "invalid": (422, "The workflow or its inputs are wrong"),
    "key_reused": (422, "The Idempotency-Key belongs to another request"),
    "queue_full": (429, "The queue takes no more jobs of this user now"),
    "busy": (429, "The server does too much of this now"),
    "internal": (500, "The server has failed"),
    "unavailable": (503, "The server cannot do this now"),
}
"""By the code of an error, its status in HTTP and its title."""


class ApiError(Exception):
    """Why a request is refused.

    Attributes:
        code: One of `TITLES`.
        detail: What is wrong and what to do, in a sentence.
        problems: Everything that is wrong with a workflow and its inputs.
        headers: More headers of the answer.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        problems: Sequence[Problem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code, self.detail, self.problems, self.headers = code, detail, list(problems), dict(headers or {})

    @property
    def status(self) -> int:
        """The status in HTTP."""
        return TITLES[self.code][0]

    @property
    def title(self) -> str:
        """What is wrong, in general."""
        return TITLES[self.code][1]


def as_api_error(error: BaseException) -> ApiError | None:
    """An error of the engine as one of the server; None for what is no mistake of a request."""
    match error:
        case ApiError():
            return error
        case WorkflowError():
            errors = [problem for problem in error.problems if problem.severity == "error"] or error.problems
            count = f"{len(errors):,} problems: " if len(errors) > 1 else ""
            return ApiError("invalid", f"{count}{errors[0]}" if errors else str(error), error.problems)
        case NoJob():
            return ApiError("not_found", str(error))
        case QueueFull():
            return ApiError("queue_full", str(error), headers={"Retry-After": str(RETRY_SECONDS)})
        case FileError():  # QueueFileError too: a full disk, a locked file
            return ApiError("unavailable", "the server cannot read or write its files; its log says more")
        case QueueError():
            return ApiError("conflict", str(error))
        case GraphEngineError():
            return ApiError("invalid", str(error))
    return None
