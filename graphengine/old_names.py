"""Old homes of names that have moved: they import from there for one version more, with a warning.

What stands in keys keeps its old home for good: a key that was made before a move is still the same.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

MOVED: dict[str, dict[str, str]] = {
    "graphengine.evaluate": {
        "bind_inputs": "graphengine.inputs",
        "folder_of": "graphengine.graph",
        "packs_of": "graphengine.order",
        "take_plan": "graphengine.plan",
        "wanted_links": "graphengine.selection",
    },
    "graphengine.elements": {"Node": "graphengine.graph"},
    "graphengine.graph": {
        "Graph": "graphengine.api",
        "building": "graphengine.building",
        "not_building": "graphengine.building",
    },
    "graphengine.keys": {
        **dict.fromkeys(("PLAIN", "NotData", "canonical", "digest", "token"), "graphengine.canonical"),
        "graph_key": "graphengine.graph_key",
        "topological": "graphengine.order",
    },
    "graphengine.yaml12": {"dump": "graphengine.yaml12_write"},
    "graphengine.workflow": {"load": "graphengine.api", "loads": "graphengine.api"},
}
"""By old module the names that were in it, and the module where each is now."""

_OLD = {(new, name): old for old, names in MOVED.items() for name, new in names.items()}


def moved(module: str) -> Callable[[str], Any]:
    """The `__getattr__` of a module that names have left."""
    names = MOVED[module]

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new = names[name]
        warnings.warn(f"{module}.{name} is {new}.{name} now", DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(new), name)

    return get


def home_in_keys(module: str, name: str) -> str:
    """The module that stands in keys for something of a module: where it was first."""
    return _OLD.get((module, name), module)
