"""Turn the warnings of libraries into errors, or silence them, inside a block."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

_lock = threading.RLock()
"""Held while filters are changed: all threads share them, and of two changes at once one would be left behind."""


@contextmanager
def warnings_as(action: Literal["error", "ignore"], category: type[Warning] = Warning) -> Iterator[None]:
    """Raise warnings of a category as errors, or ignore them, inside a `with` block."""
    with _lock, warnings.catch_warnings():
        warnings.simplefilter(action, category)
        yield
