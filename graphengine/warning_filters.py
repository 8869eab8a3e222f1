"""Turn the warnings of libraries into errors, or silence them, inside a block."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

_lock = threading.RLock()
"""The filters of warnings are all threads': of two that change them at once one would leave its own behind."""


@contextmanager
def warnings_as(action: Literal["error", "ignore"], category: type[Warning] = Warning) -> Iterator[None]:
    """Warnings of a category as errors, or unheard."""
    with _lock, warnings.catch_warnings():
        warnings.simplefilter(action, category)
        yield
