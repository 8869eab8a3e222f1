"""Takes out of keys what changes with every line of a pack: the state of its sources, and of its libraries.

All that is patched in this package is patched here.
"""

from __future__ import annotations

import importlib
from typing import Any

STATE = "graphengine.pack", "_version_stamp"
"""The function that finds the state of a pack, and that nothing keeps the result of yet."""


def pin() -> None:
    """Let the state of every pack be one text, in this process, in which no key has been made yet."""
    module, name = importlib.import_module(STATE[0]), STATE[1]
    assert callable(getattr(module, name))

    def pinned(pack: Any) -> tuple[str, ...]:
        return ("pinned",)

    setattr(module, name, pinned)
