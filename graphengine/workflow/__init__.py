"""Workflow files: reading and writing graphs as YAML or JSON, and the JSON Schema of the files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphengine.old_names import moved

if not TYPE_CHECKING:  # a type checker tells of names that have moved
    __getattr__ = moved("graphengine.workflow")
