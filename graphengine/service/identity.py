"""The identity of a service: version, packs and allowed folders, which a submitting process must share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def identity(roots: Sequence[str | Path] | None = None) -> dict[str, Any]:
    """The version, packs and allowed folders of this process; a job means the same in two processes that agree."""
    from graphengine.declare import registry
    from graphengine.pack import pack_of, version_stamp
    from graphengine.version import __version__

    packs = {pack.name: list(version_stamp(pack)) for pack in map(pack_of, registry.modules())}
    allowed = None if roots is None else sorted(str(Path(root).absolute()) for root in roots)
    return {"version": __version__, "packs": packs, "roots": allowed}
