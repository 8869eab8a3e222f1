"""Folders of this user: caches, state and the job queue."""

from __future__ import annotations

import os
from pathlib import Path

from graphengine.errors import FileError


def cache_folder() -> Path:
    """The folder of this user's caches: GRAPHENGINE_CACHE, else `graphengine` in the user's cache folder."""
    given = os.environ.get("GRAPHENGINE_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or home("GRAPHENGINE_CACHE") / ".cache") / "graphengine"


def home(instead: str) -> Path:
    """This user's home folder.

    Args:
        instead: The environment variable that the error recommends, with which no home folder is needed.

    Raises:
        FileError: HOME is not set, and the system knows no home folder of the user.
    """
    try:
        return Path.home()
    except RuntimeError:
        raise FileError(f"this user has no home folder; set HOME, or {instead} to a folder") from None


def state_folder() -> Path:
    """The folder of this user's job queue: GRAPHENGINE_STATE, else `graphengine` in the user's state folder."""
    given = os.environ.get("GRAPHENGINE_STATE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_STATE_HOME") or home("GRAPHENGINE_STATE") / ".local" / "state") / "graphengine"


def queue_file() -> Path:
    """The path of this user's job queue."""
    return state_folder() / "queue.sqlite"
