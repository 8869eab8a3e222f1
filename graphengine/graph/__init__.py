"""Graphs as data: building, checking, combining and comparing them; nodes for conditions and loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphengine.old_names import moved

if not TYPE_CHECKING:  # a type checker tells of names that have moved
    __getattr__ = moved("graphengine.graph")
