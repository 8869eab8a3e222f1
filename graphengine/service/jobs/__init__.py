"""Jobs as data: the queue in a SQLite file, its lease, and how a job is written and submitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphengine.old_names import moved

if not TYPE_CHECKING:  # a type checker tells of names that have moved
    __getattr__ = moved("graphengine.service.jobs")
