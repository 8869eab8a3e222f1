"""`graphengine cache`: the values that are kept on disk. Imports no torch."""

from __future__ import annotations

import json as json_
import re
from typing import Annotated, Any

import typer

from graphengine.cli.common import Debug, Json, guarded
from graphengine.errors import Problem, WorkflowError

commands = typer.Typer(no_args_is_help=True, help="Show, clear or limit what is kept on disk between runs.")

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30,
          "ti": 1 << 40}  # fmt: skip


@commands.command("show")
@guarded
def show(json: Json = False, debug: Debug = False) -> None:
    """Show where values are kept, how many there are, and how many bytes they may take."""
    store = _store()
    count, size = store.usage()
    facts: dict[str, Any] = {"folder": str(store.folder), "values": count, "bytes": size, "budget": store.budget}
    if json:
        print(json_.dumps(facts))
        return
    print(f"folder  {store.folder}")
    print(f"values  {count:,}")
    print(f"size    {told(size)} of {told(store.budget)}")


@commands.command("clear")
@guarded
def clear(debug: Debug = False) -> None:
    """Forget all values, and the records of runs that `why` looks at."""
    import contextlib

    from graphengine.system.folders import cache_folder

    store = _store()
    _, size = store.usage()
    count = store.clear()
    for file in (cache_folder() / "runs").glob("*.json*"):
        with contextlib.suppress(OSError):
            file.unlink()
    print(f"{count:,} values forgotten, {told(size)}")


@commands.command("budget")
@guarded
def budget(
    size: Annotated[str, typer.Argument(metavar="SIZE", help="Say 20G, 500M or 1.5GiB.")], debug: Debug = False
) -> None:
    """Say how many bytes values may take; what was not used for longest goes."""
    store = _store()
    store.set_budget(parse_size(size))
    print(f"{told(store.budget)} in {store.folder}")


def _store() -> Any:
    from graphengine.cache import DiskStore
    from graphengine.system.folders import cache_folder

    return DiskStore(cache_folder() / "store")


def parse_size(text: str) -> int:
    """Bytes of a text such as `20G`, `500 MB` or `1.5GiB`.

    Raises:
        WorkflowError: It is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    if match is None or match[2] not in _UNITS:
        raise WorkflowError(Problem("usage", f"{text!r:.40} is no size; write for example 20G, 500M or 1.5GiB"))
    return int(float(match[1]) * _UNITS[match[2]])


def told(size: int) -> str:
    """Bytes as people read them."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
