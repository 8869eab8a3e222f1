"""Lazy exports: a package imports each of its public names when it is first used, so that importing it is fast."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def exports(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Make the `__getattr__` of a package whose names are defined in other modules.

    The function raises AttributeError for other names. A name that was used once becomes an ordinary attribute.

    Args:
        package: The package's name.
        homes: By defining module, the names that the package exports from it.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def get(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(home_of[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get
