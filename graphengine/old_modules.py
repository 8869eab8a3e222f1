"""Import hook for the old names of modules. The table of names is read when a module is not found: it is long."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

PACKAGES = ("graphengine.", "graphengine_nodes.", "multigen.")
"""How the names of modules begin that the table knows."""


class _OldModules:
    """Import hook for the old names of modules; the old name of a module that moved whole is the module itself.

    It is no subclass of what `importlib.abc` has for hooks: importing that takes longer than all of `graphengine`.
    """

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(PACKAGES):
            return None
        from importlib.machinery import ModuleSpec

        from graphengine.old_names import MODULES

        if name not in MODULES:
            return None
        return ModuleSpec(name, self)  # type: ignore[arg-type] # a loader as Python asks for it since 3.4

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        from graphengine.old_names import MODULES, NAMES

        if spec.name in NAMES:
            return None
        module = importlib.import_module(MODULES[spec.name])
        spec.loader_state = module.__spec__  # importing would give it the spec of its old name
        return module

    def exec_module(self, module: ModuleType) -> None:
        from graphengine.old_names import MODULES, NAMES, moved

        spec = module.__spec__
        if spec is not None and spec.name in NAMES:
            module.__dict__["__getattr__"] = moved(spec.name)
        elif spec is not None:
            name, module.__spec__ = spec.name, spec.loader_state
            warnings.warn(f"{name} is {MODULES[name]} now", DeprecationWarning, stacklevel=2)


def find_old_modules() -> None:
    """Install the import hook for the old names of modules; a second call does nothing."""
    if not any(isinstance(finder, _OldModules) for finder in sys.meta_path):
        sys.meta_path.append(_OldModules())
