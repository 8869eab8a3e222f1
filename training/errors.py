"""`TrainingError`, which a user of the steps sees as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class TrainingError(Exception):
    """Something about the work folder, a checkpoint or the options that the user can put right."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise every error inside the context as a `TrainingError` about the file or folder at `path`.

    The libraries that read weights share no class of error for a damaged file.
    """
    try:
        yield
    except Exception as problem:
        reason = str(problem).strip().splitlines() or [type(problem).__name__]
        raise TrainingError(f"{path} cannot be read: {reason[0]}") from problem
