"""`graphengine cache`: show, clear or limit the values kept on disk. Imports no torch."""

from __future__ import annotations

import json as json_
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphengine.cli.common import Debug, Json, guarded
from graphengine.errors import Problem, WorkflowError
from graphengine.old_names import moved

commands = typer.Typer(no_args_is_help=True, help="Show, clear or limit what is kept on disk between runs.")

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30,
          "ti": 1 << 40}  # fmt: skip


@commands.command("show")
@guarded
def show(json: Json = False, debug: Debug = False) -> None:
    """Show the folder, the number of values in it, their size and the budget."""
    store = _store()
    count, size = store.usage()
    facts: dict[str, Any] = {"folder": str(store.folder), "values": count, "bytes": size, "budget": store.budget}
    if json:
        print(json_.dumps(facts))
        return
    print(f"folder  {store.folder}")
    print(f"values  {count:,}")
    print(f"size    {size_text(size)} of {size_text(store.budget)}")


@commands.command("clear")
@guarded
def clear(debug: Debug = False) -> None:
    """Remove all values, and the records of runs that `why` reads."""
    import contextlib

    from graphengine.system.folders import cache_folder

    store = _store()
    _, size = store.usage()
    count = store.clear()
    for file in (cache_folder() / "runs").glob("*.json*"):
        with contextlib.suppress(OSError):
            file.unlink()
    print(f"{count:,} values forgotten, {size_text(size)}")


@commands.command("budget")
@guarded
def budget(
    size: Annotated[str, typer.Argument(metavar="SIZE", help="Say 20G, 500M or 1.5GiB.")], debug: Debug = False
) -> None:
    """Set how many bytes values may take; the least recently used ones are removed."""
    store = _store()
    store.set_budget(parse_size(size))
    print(f"{size_text(store.budget)} in {store.folder}")


def _store() -> Any:
    from graphengine.cache import DiskStore
    from graphengine.system.folders import cache_folder

    return DiskStore(cache_folder() / "store")


def parse_size(text: str) -> int:
    """Parse a size such as `20G`, `500 MB` or `1.5GiB`; returns bytes.

    Raises:
        WorkflowError: It is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    if match is None or match[2] not in _UNITS:
        raise WorkflowError(Problem("usage", f"{text!r:.40} is no size; write for example 20G, 500M or 1.5GiB"))
    return int(float(match[1]) * _UNITS[match[2]])


def size_text(size: int) -> str:
    """Write a number of bytes for people: `1.5 GB`."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)  # names that were renamed
