"""Checks of jobs before they enter the queue: their numbers, names and JSON data."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from graphengine.service.jobs.database import HALF, QueueError
from graphengine.service.jobs.job import NewJob

LARGEST = 32_000_000
"""Characters of one job's body."""
_ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=False)  # made once: `json.dumps` makes one for each text


def check(job: NewJob) -> None:
    """Refuse a job whose user, priority or attempts are wrong, by a `QueueError`."""
    if not isinstance(job.user, str):
        raise QueueError(f"user is {job.user!r:.40}, but must be a text")
    if not job.user.isprintable():  # it is shown on terminals and in logs
        raise QueueError(f"user is {job.user!r:.40}, which has characters that cannot be printed")
    for name, low, high in (("priority", -(2**63), 2**63 - 1), ("attempts", 1, 1000)):
        value = getattr(job, name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise QueueError(f"{name} is {value!r:.40}, but must be a whole number from {low} to {high}")


def check_uuid(text: str) -> None:
    """Refuse what is no UUID in lower case, by a `QueueError`."""
    try:
        right = str(uuid.UUID(text)) == text
    except (ValueError, AttributeError, TypeError):
        right = False
    if not right:
        raise QueueError(f"uuid is {text!r:.40}, but must be a UUID in lower case")


def json_of(data: Mapping[str, Any], what: str) -> str:
    """JSON data of a job as text; a `QueueError` if it is none, or too large."""
    try:
        text = _ENCODER.encode(data)
        text.encode()
    except UnicodeEncodeError:
        raise QueueError(HALF) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise QueueError(f"the job's {what} is no JSON data: {error}") from None
    if len(text) > LARGEST:
        raise QueueError(f"the job's {what} has {len(text):,} characters, more than {LARGEST:,}")
    return text
