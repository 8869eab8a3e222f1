"""Checks of Pipes' arguments that must be numbers or paths; errors name the argument."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any

__all__ = ["check_range", "numbers", "path"]


def check_range(name: str, value: Any, must: str, low: float, high: float = math.inf) -> None:
    """Refuse a value that is not a number from `low` to `high`.

    Raises:
        ValueError: It is not; `must` completes the sentence "but must be ...".
    """
    try:
        inside = not isinstance(value, bool) and bool(low <= value <= high)
    except (TypeError, ValueError):  # it is no number; an array is as many
        inside = False
    if not inside:
        raise ValueError(f"{name} is {value!r:.40}, but must be {must}")


def numbers(name: str, values: Iterable[Any]) -> list[float]:
    """Read a number or several as a list of floats.

    Raises:
        ValueError: A value is no number.
    """
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {values!r:.40}, but must be a number or several") from None


def path(name: str, value: Any) -> str:
    """Read a path or a name, with `~` expanded.

    Raises:
        ValueError: It is neither.
    """
    if not isinstance(value, str | os.PathLike):
        raise ValueError(f"{name} is {value!r:.40}, but must be a path or a name")
    return os.path.expanduser(os.fspath(value))
