"""Whether a worker can be used: its device exists, and its packs are those of the service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphengine.pack import pack_of, sources_of


def source_hashes() -> dict[str, str]:
    """The hash of the sources that this process has loaded of each pack; packs that are known by a version are left
    out."""
    from graphengine.declare import registry

    packs = dict.fromkeys(map(pack_of, registry.modules()))
    return {pack.name: found for pack in packs if (found := sources_of(pack)) is not None}


def missing_device(device: str) -> str | None:
    """Why nothing can be computed on a device; None if it can, as far as the packs know."""
    from graphengine.declare import registry

    kind = device.partition(":")[0]
    if kind != "cuda":  # packs list every GPU that they compute on by themselves, and no other devices
        return None
    lists = [pack.devices() for pack in dict.fromkeys(map(pack_of, registry.modules())) if pack.devices is not None]
    there = [one for devices in lists for one in devices]
    if not there or device in there or any(device == one.partition(":")[0] for one in there):
        return None
    return f"there is no {device} here, only {', '.join(there)}"


def why_incompatible(ready: Mapping[str, Any]) -> str | None:
    """Why this process cannot use a worker; None if it can.

    Args:
        ready: The message with which the worker tells that it has started.
    """
    if ready["absent"] is not None:
        return str(ready["absent"])
    mine = source_hashes()
    other = sorted(name for name, found in ready["code"].items() if mine.get(name, found) != found)
    if not other:
        return None
    return (
        f"its code of {', '.join(map(_with_place, other))} is not that of this process; it was changed since this "
        "process read it: start the service, or the program, again"
    )


def _with_place(name: str) -> str:
    """A pack's name, and where its code lies."""
    from graphengine.declare import registry

    module = next(module for module in registry.modules() if pack_of(module).name == name)
    place = next(iter(getattr(module, "__path__", ())), None) or getattr(module, "__file__", None)
    return name if place is None else f"{name} ({place})"
