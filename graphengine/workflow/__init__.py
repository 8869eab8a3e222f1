"""Workflow files: graphs to YAML or JSON and back, and their schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphengine.old_names import moved

if not TYPE_CHECKING:  # a type checker tells of names that have moved
    __getattr__ = moved("graphengine.workflow")
