"""Node packs: modules whose nodes can be found by name.

An installed pack names its module under the entry-point group `graphengine.nodes`; a folder of `.py` files is a pack
too. The standard pack is found like anybody else's.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from graphengine.definition import NodeDef
from graphengine.errors import PackError, nearest

GROUP = "graphengine.nodes"


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
            `graphengine.steps.Step`) and the value, the text of the PNG chunk `parameters`, or None.
    """

    name: str
    distribution: str | None = None
    libraries: tuple[str, ...] = ()
    environment: Callable[[], Mapping[str, Any]] | None = None
    preload: tuple[str, ...] = ()
    parameters: Callable[[Any, Any], str | None] | None = None


@dataclass
class _Registry:
    """All nodes by full name, and what did not load."""

    nodes: dict[str, NodeDef[..., Any]] = field(default_factory=dict)
    bare: dict[str, list[str]] = field(default_factory=dict)
    packs: dict[str, ModuleType] = field(default_factory=dict)
    failed: dict[str, PackError] = field(default_factory=dict)
    discovered: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)


_registry = _Registry()


def nodes() -> dict[str, NodeDef[..., Any]]:
    """All nodes of all packs that loaded, by full name."""
    _discover()
    return dict(_registry.nodes)


def modules() -> list[ModuleType]:
    """The top modules of all packs that loaded."""
    _discover()
    return list(_registry.packs.values())


def failures() -> list[PackError]:
    """The packs that did not load, and why."""
    _discover()
    return list(_registry.failed.values())


def find(name: str) -> NodeDef[..., Any] | None:
    """The node of a full name, or of a bare one while only one pack has it; None if there is none."""
    _discover()
    name = name.partition("@")[0]
    if name in _registry.nodes:
        return _registry.nodes[name]
    full = _registry.bare.get(name, [])
    return _registry.nodes[full[0]] if len(full) == 1 else None


def why_not(name: str) -> tuple[str, tuple[str, ...]]:
    """For a name that `find` does not know: a sentence, and the nearest names."""
    bare = name.partition("@")[0]
    several = _registry.bare.get(bare, [])
    if len(several) > 1:
        return f"{bare} is a node of several packs; write {' or '.join(sorted(several))}", ()
    sentence = f"no installed pack has a node called {bare}"
    if _registry.failed:
        sentence += f" ({', '.join(_registry.failed)} did not load)"
    return sentence, nearest(bare, _registry.nodes if "." in bare else _registry.bare)


def load_folder(folder: str | Path) -> list[PackError]:
    """Load every `.py` file of a folder as one pack, called as the folder is; returns what did not load."""
    path = Path(folder).resolve()
    if not path.is_dir():
        raise PackError(str(folder), "there is no such folder")
    failed = []
    for file in sorted(path.glob("*.py")):
        name = f"{path.name}.{file.stem}" if file.stem != "__init__" else path.name
        try:
            spec = importlib.util.spec_from_file_location(f"graphengine_folder_pack.{name}", file)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            module.__dict__.setdefault("__pack__", Pack(path.name))
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
            register(module, module.__dict__.get("__pack__", Pack(path.name)).name)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failed.append(_failed(name, error))
    return failed


def register(module: ModuleType, name: str | None = None) -> None:
    """Make the nodes among a module's names known; reading their signatures shows what is wrong with them."""
    pack = pack_of(module)
    found = [value for value in vars(module).values() if isinstance(value, NodeDef)]
    with _registry.lock:
        for definition in found:
            if definition.module_pack is not pack and definition.pack != (name or pack.name):
                continue  # imported from another pack
            definition.sockets, definition.outputs  # noqa: B018 - a bad annotation shows here
            full = definition.full_name
            other = _registry.nodes.get(full)
            if other is not None and other is not definition and other.fn.__module__ != definition.fn.__module__:
                raise PackError(pack.name, f"two nodes are called {full}")
            _registry.nodes[full] = definition
            names = _registry.bare.setdefault(definition.name, [])
            if full not in names:
                names.append(full)
        _registry.packs[name or pack.name] = module


def _discover() -> None:
    if _registry.discovered:
        return
    with _registry.lock:
        if _registry.discovered:
            return
        import graphengine.flow

        register(graphengine.flow)
        for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda e: e.name):
            try:
                register(importlib.import_module(entry.module))
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                _failed(entry.name, error)
        _registry.discovered = True


def _failed(name: str, error: BaseException) -> PackError:
    problem = PackError(name, f"did not load: {type(error).__name__}: {error}")
    problem.__cause__ = error
    _registry.failed[name] = problem
    return problem


# --- what a pack adds to its nodes' keys -----------------------------------------------------------------------------


def pack_of(module: ModuleType | str) -> Pack:
    """The pack of a module: its top module's `__pack__`, or one named as that module."""
    name = module if isinstance(module, str) else module.__name__
    top = name.partition(".")[0]
    for part in (name, top):
        found = getattr(sys.modules.get(part), "__pack__", None)
        if isinstance(found, Pack):
            _homes.setdefault(found, sys.modules[part])
            return found
    pack = Pack(top.strip("_") or "main")
    if top in sys.modules:
        _homes.setdefault(pack, sys.modules[top])
    return pack


_homes: dict[Pack, ModuleType] = {}
"""Where the sources of each pack lie; known as soon as one of its nodes is asked for its pack."""


@functools.cache
def stamp(pack: Pack) -> tuple[str, ...]:
    """What stands for the state of a pack in its nodes' keys.

    The versions of its distribution and of the libraries it names; a hash of its sources where it is installed
    editable or lies in a folder.
    """
    found = [f"{name}=={version}" for name in pack.libraries if (version := _version(name))]
    if pack.distribution is not None and (version := _version(pack.distribution)) and not _editable(pack.distribution):
        return (f"{pack.distribution}=={version}", *found)
    module = _homes.get(pack)
    file = getattr(module, "__file__", None)
    if file is None or pack.name == "main":
        return tuple(found)
    folder = Path(file).parent
    sources = sorted(folder.rglob("*.py")) if Path(file).name == "__init__.py" else sorted(folder.glob("*.py"))
    return (_hash_of(sources), *found)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _editable(distribution: str) -> bool:
    text = importlib.metadata.distribution(distribution).read_text("direct_url.json")
    return text is not None and bool(json.loads(text).get("dir_info", {}).get("editable"))


def _hash_of(files: Iterable[Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.name}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


def environment(packs: Iterable[Pack]) -> dict[str, Any]:
    """How this process computes, as those packs tell it."""
    facts: dict[str, Any] = {}
    for pack in packs:
        if pack.environment is not None:
            facts.update(pack.environment())
    return facts
