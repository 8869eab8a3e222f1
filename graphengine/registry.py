"""The registry of node packs: modules whose nodes can be found by name.

An installed pack names its module under the entry-point group `graphengine.nodes`; a folder of `.py` files is a pack
too. The standard pack is found like anybody else's.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from graphengine.definition import NodeDef
from graphengine.errors import PackError, nearest
from graphengine.pack import GROUP, SOURCES, Pack, hash_of, pack_of, read_anew

FOLDERS = "graphengine_folder_pack"


@dataclass
class _Registry:
    """All nodes by full name, and what did not load."""

    nodes: dict[str, NodeDef[..., Any]] = field(default_factory=dict)
    bare: dict[str, list[str]] = field(default_factory=dict)
    packs: dict[str, ModuleType] = field(default_factory=dict)
    failed: dict[str, PackError] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
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
    """Load every `.py` file of a folder as one pack, called as the folder is; returns what did not load.

    The files may import each other (`from .common import K`). A folder that is loaded again is read again.

    Raises:
        PackError: There is no such folder, or another one of this name is loaded.
    """
    path = Path(folder).resolve()
    if not path.is_dir():
        raise PackError(str(folder), "there is no such folder")
    with _registry.lock:
        other = _registry.folders.setdefault(path.name, path)
        if other != path and other.is_dir():
            raise PackError(path.name, f"two folders are called {path.name}: {other} and {path}; rename one of them")
        _registry.folders[path.name] = path
        package = f"{FOLDERS}.{path.name.replace('.', '_')}"
        _forget(package)
        return _load_files(path, package)


def _load_files(path: Path, package: str) -> list[PackError]:
    if not any(isinstance(finder, _FolderFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _FolderFinder())  # the usual one reads compiled files
    sys.modules.setdefault(FOLDERS, ModuleType(FOLDERS)).__dict__.setdefault("__path__", [])
    parent = sys.modules[package] = ModuleType(package)
    parent.__dict__.update({
        "__path__": [str(path)], "__package__": package, "__pack__": Pack(path.name),
        SOURCES: hash_of(sorted(path.rglob("*.py"))),
    })  # fmt: skip
    failed = []
    for file in sorted(path.glob("*.py"), key=lambda file: (file.stem != "__init__", file.name)):
        is_top = file.stem == "__init__"
        name = package if is_top else f"{package}.{file.stem.replace('.', '_')}"
        try:
            if is_top:
                parent.__file__ = str(file)
                exec(compile(file.read_bytes(), str(file), "exec", dont_inherit=True), parent.__dict__)
            module = sys.modules[name] if name in sys.modules else _load_file(name, file)
            pack = module.__dict__["__pack__"]
            read_anew(pack, module)
            register(module, pack.name)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failed.append(_failed(path.name if is_top else f"{path.name}.{file.stem}", error))
    return failed


def _load_file(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file, loader=_FolderLoader(name, str(file)))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        _FolderLoader(name, str(file)).exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _forget(package: str) -> None:
    """Forget a folder's modules and nodes, for it is read anew."""
    for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
        del sys.modules[name]
    for full, definition in list(_registry.nodes.items()):
        if f"{definition.fn.__module__}.".startswith(f"{package}."):
            del _registry.nodes[full]
            _registry.bare[definition.name].remove(full)
            if not _registry.bare[definition.name]:
                del _registry.bare[definition.name]


class _FolderLoader(importlib.machinery.SourceFileLoader):
    """Compiles the source as it is now: compiled files are told apart by whole seconds only."""

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.get_data(self.path), self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        parent = sys.modules[module.__name__.rpartition(".")[0]]
        module.__dict__.setdefault("__pack__", parent.__dict__["__pack__"])
        module.__dict__[SOURCES] = parent.__dict__[SOURCES]
        super().exec_module(module)


class _FolderFinder(importlib.abc.MetaPathFinder):
    """Finds what the files of a folder import of each other."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(f"{FOLDERS}."):
            return None
        for place in path or ():
            base = Path(place) / fullname.rpartition(".")[2]
            for file, inside in ((base / "__init__.py", [str(base)]), (base.with_suffix(".py"), None)):
                if file.is_file():
                    return importlib.util.spec_from_file_location(
                        fullname, file, loader=_FolderLoader(fullname, str(file)), submodule_search_locations=inside
                    )
        return None


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
