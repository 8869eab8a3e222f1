"""Keys of calls: hashes of files, of code and of arguments, by which values are found again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphengine.old_names import moved

if not TYPE_CHECKING:  # a type checker tells of names that have moved
    __getattr__ = moved("graphengine.keys")
