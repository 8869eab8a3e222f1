"""Families by name: every module of this folder that has a `FAMILY`."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from pathlib import Path

from graphengine import ModelError
from graphengine_nodes.families.family import Family


@functools.cache
def families() -> dict[str, Family]:
    """Every family by name."""
    names = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    modules = [importlib.import_module(f"{__package__}.{name}") for name in names]
    found: list[Family] = [module.FAMILY for module in modules if hasattr(module, "FAMILY")]
    return {family.name: family for family in found}


def family(name: str) -> Family:
    """A family by name.

    Raises:
        ModelError: No module knows it.
    """
    found = families().get(name)
    if found is None:
        raise ModelError(f"no module knows the model family {name!r}; known are {', '.join(families())}")
    return found
