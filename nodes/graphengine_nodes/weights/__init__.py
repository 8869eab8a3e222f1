"""Weights on disk: which files a model consists of, and reading them into modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphengine.old_names import moved

if not TYPE_CHECKING:  # a type checker tells of names that have moved
    __getattr__ = moved("graphengine_nodes.weights")
