"""Node packs: modules whose nodes can be found by name.

An installed pack names its module under the entry-point group `graphengine.nodes`; a folder of `.py` files is a pack
too. The standard pack is found like anybody else's.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Literal

from graphengine.definition import NodeDef
from graphengine.errors import PackError, nearest

GROUP = "graphengine.nodes"
FOLDERS = "graphengine_folder_pack"
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
        SOURCES: _hash_of(sorted(path.rglob("*.py"))),
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
            _homes[pack] = module
            _stamps.pop(pack, None)
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


# --- what a pack adds to its nodes' keys -----------------------------------------------------------------------------


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
    return _hash_of(_sources(Path(file), alone=True))


def state(definition: NodeDef[..., Any]) -> tuple[str, ...]:
    """What stands for the state of a node's pack in its keys; for a node of a folder, as it was when it was loaded."""
    sources = getattr(definition.fn, "__globals__", {}).get(SOURCES)
    pack = definition.module_pack
    return stamp(pack) if sources is None else (sources, *_libraries(pack))


def stamp(pack: Pack) -> tuple[str, ...]:
    """What stands for the state of a pack in its nodes' keys.

    The versions of the libraries it names and, where it was installed from an index, that of its distribution; a
    hash of its sources where it lies in a folder or was installed from one (editable or not), or from a repository.
    """
    found = _stamps.get(pack)
    if found is None:
        found = _stamps[pack] = _stamp(pack)
    return found


def _stamp(pack: Pack) -> tuple[str, ...]:
    found = _libraries(pack)
    if pack.distribution is not None and (version := _version(pack.distribution)) and not _is_local(pack.distribution):
        return (f"{pack.distribution}=={version}", *found)
    module = _homes.get(pack)
    sources = getattr(module, SOURCES, None)
    file = getattr(module, "__file__", None)
    if sources is None and file is not None and pack.name != "main":
        sources = _hash_of(_sources(Path(file)))
    return tuple(found) if sources is None else (sources, *found)


def _sources(file: Path, alone: bool = False) -> list[Path]:
    """The files that go with a module: all of a package's; what lies beside a module, or that alone."""
    if file.name == "__init__.py":
        return sorted(file.parent.rglob("*.py"))
    return [file] if alone else sorted(file.parent.glob("*.py"))


def _libraries(pack: Pack) -> tuple[str, ...]:
    return tuple(f"{name}=={version}" for name in pack.libraries if (version := _version(name)))


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_local(distribution: str) -> bool:
    """Whether it was installed from a folder, a file or a repository, where one version may have many states."""
    return importlib.metadata.distribution(distribution).read_text("direct_url.json") is not None


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
