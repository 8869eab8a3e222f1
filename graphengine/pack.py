"""What a pack says about itself, which modules belong to one, and what its state adds to the keys of its nodes."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from graphengine.errors import as_exception
from graphengine.system.opening import read_file

GROUP = "graphengine.nodes"
SOURCES = "__graphengine_sources__"
"""Where a module of a folder holds the hash of that folder's sources as they were when it was loaded."""


@dataclass(frozen=True)
class Pack:
    """What a pack says about itself, as `__pack__` in its top module; all of it is optional.

    Args:
        name: The first part of its nodes' full names; by default the module's name.
        distribution: The installed distribution whose version enters keys.
        libraries: Further distributions whose versions decide results.
        environment: Says how this process computes (kind of device, threads, ...): it salts the keys of exact runs
            and stands beside each value that is made on a device.
        preload: Names of modules that its nodes for a device import when they compute: the command line begins to
            import them while it still reads and checks the workflow.
        parameters: How other tools read the settings of a picture: given where a value comes from (see
            `graphengine.provenance.steps.Step`) and the value, the text of the PNG chunk `parameters`, or None.
        held: Given a device, what this process holds in its memory (weights, by digest): a scheduler gives it calls
            that need just that. See `SocketType.needs`.
        free: Given a device, how many bytes more this process can hold there before it lets go of what it holds; None
            where that is not known, or it holds nothing. It is asked after each call, and must be cheap.
        spare: Given a device and the inputs of a call for which its memory did not suffice, a generator of the inputs
            that give the same result with less of it, the cheapest first; before each it lets go of what it can. It
            is asked for calls of other packs too, whose inputs it may not know.
        devices: The devices of this machine that its nodes can compute on, each for a worker of its own.
        groups: Titles of its modules in the order in which their nodes are listed; see
            `graphengine.declare.node_groups`.
    """

    name: str
    distribution: str | None = None
    libraries: tuple[str, ...] = ()
    environment: Callable[[], Mapping[str, Any]] | None = None
    preload: tuple[str, ...] = ()
    parameters: Callable[[Any, Any], str | None] | None = None
    held: Callable[[str], frozenset[str]] | None = None
    free: Callable[[str], int | None] | None = None
    spare: Callable[[str, Mapping[str, Any]], Iterator[Mapping[str, Any]]] | None = None
    devices: Callable[[], list[str]] | None = None
    groups: tuple[str, ...] = ()


def pack_of(module: ModuleType | str) -> Pack:
    """The pack of a module: the `__pack__` of it or of a package that holds it, or one named as the top module."""
    name = module if isinstance(module, str) else module.__name__
    part = name
    while part:
        found = getattr(sys.modules.get(part), "__pack__", None)
        if isinstance(found, Pack):
            _homes.setdefault(found, sys.modules[part])
            return found
        part = part.rpartition(".")[0]
    top = name.partition(".")[0]
    pack = Pack(top.strip("_") or "main")
    if top in sys.modules:
        _homes.setdefault(pack, sys.modules[top])
    return pack


Home = Literal["pack", "library", "loose"]

_homes: dict[Pack, ModuleType] = {}
"""Where the sources of each pack lie; known as soon as one of its nodes is asked for its pack."""
_kinds: dict[str, tuple[ModuleType, Home]] = {}
_stamps: dict[Pack, tuple[str, ...]] = {}


def home(module: str) -> Home:
    """Whether a module belongs to a pack, to the standard library or an installed distribution, or to neither.

    Loose are scripts, notebooks, and the modules that lie beside them: their code may change at any time.
    """
    known, loaded = _kinds.get(module), sys.modules.get(module)
    if known is not None and known[0] is loaded:
        return known[1]
    kind = _home(module)
    if loaded is not None:
        _kinds[module] = (loaded, kind)
    return kind


def _home(module: str) -> Home:
    top = module.partition(".")[0]
    if module == "__main__" and not isinstance(getattr(sys.modules[module], "__pack__", None), Pack):
        return "loose"
    part = module
    while part:
        if isinstance(getattr(sys.modules.get(part), "__pack__", None), Pack):
            return "pack"
        part = part.rpartition(".")[0]
    if top == "graphengine" or top in sys.stdlib_module_names:
        return "library"
    known = sys.modules.get(module)
    file = getattr(known, "__file__", None)
    if top in _entry_modules():
        return "pack"
    if file is None:
        return "loose" if known is None or not hasattr(known, "__spec__") or known.__spec__ is None else "library"
    return "library" if _is_installed(file) else "loose"


@functools.cache
def _entry_modules() -> frozenset[str]:
    return frozenset(e.module.partition(".")[0] for e in importlib.metadata.entry_points(group=GROUP))


@functools.cache
def _places() -> tuple[str, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple({str(Path(p)) + os.sep for n in names if (p := sysconfig.get_path(n))})


def _is_installed(file: str) -> bool:
    return file.startswith(_places()) or not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)


def loose_sources(module: str) -> str | None:
    """A hash of the sources of a loose module, which need not be imported; None for others."""
    top = module.partition(".")[0]
    if not top or top == "graphengine" or top in sys.stdlib_module_names:
        return None
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    file = spec.origin if spec is not None else None
    if file is None or not file.endswith(".py") or _is_installed(file) or top in _entry_modules():
        return None
    return hash_of(_sources(Path(file), alone=True))


def read_anew(pack: Pack, module: ModuleType) -> None:
    """A folder's pack was loaded again: its sources are asked for once more."""
    _homes[pack] = module
    _stamps.pop(pack, None)


def stamp(pack: Pack) -> tuple[str, ...]:
    """What stands for the state of a pack in its nodes' keys.

    The versions of the libraries it names and, where it was installed from an index, that of its distribution; a
    hash of its sources where it lies in a folder or was installed from one (editable or not), or from a repository.
    """
    found = _stamps.get(pack)
    if found is None:
        found = _stamps[pack] = _stamp(pack)
    return found


def sources_of(pack: Pack) -> str | None:
    """The hash of its sources, where that stands for its state."""
    return next((part for part in stamp(pack) if "==" not in part), None)


def _stamp(pack: Pack) -> tuple[str, ...]:
    found = libraries(pack)
    if pack.distribution is not None and (version := _version(pack.distribution)) and not _is_local(pack.distribution):
        return (f"{pack.distribution}=={version}", *found)
    module = _homes.get(pack)
    sources = getattr(module, SOURCES, None)
    file = getattr(module, "__file__", None)
    if sources is None and file is not None and pack.name != "main":
        sources = hash_of(_sources(Path(file)))
    return tuple(found) if sources is None else (sources, *found)


def _sources(file: Path, alone: bool = False) -> list[Path]:
    """The files that go with a module: all of a package's; what lies beside a module, or that alone."""
    if file.name == "__init__.py":
        return sorted(file.parent.rglob("*.py"))
    return [file] if alone else sorted(file.parent.glob("*.py"))


def libraries(pack: Pack) -> tuple[str, ...]:
    return tuple(f"{name}=={version}" for name in pack.libraries if (version := _version(name)))


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_local(distribution: str) -> bool:
    """Whether it was installed from a folder, a file or a repository, where one version may have many states."""
    return importlib.metadata.distribution(distribution).read_text("direct_url.json") is not None


def hash_of(files: Iterable[Path]) -> str:
    """A hash of the names and contents of files."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        content = read_file(file)
        digest.update(f"{file.name}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


def environment(packs: Iterable[Pack]) -> dict[str, Any]:
    """How this process computes, as those packs tell it."""
    facts: dict[str, Any] = {}
    for pack in packs:
        if pack.environment is not None:
            try:
                facts.update(pack.environment())
            except BaseException as error:
                raise as_exception(error) from error.__cause__
    return facts
