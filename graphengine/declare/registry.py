"""The registry of node packs, in which nodes are found by name.

An installed pack names its module in the entry-point group `graphengine.nodes`; a folder of `.py` files is a pack too.
The standard pack is found in the same way as any other.

The module is long because installed packs and folders, with their import hooks, fill one registry under one lock.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from graphengine.declare.definition import NodeDef
from graphengine.errors import GraphEngineError, PackError, nearest, text_of
from graphengine.pack import GROUP, SOURCES, Pack, folder_reloaded, hash_of, origin, pack_of
from graphengine.system.opening import read_file
from graphengine.values.socket_types import SocketType, declared_at, socket_type

FOLDERS = "graphengine_folder_pack"
OWN_NODES = "put it into a .py file and load that as a pack: load_pack, packs=[...], --packs or GRAPHENGINE_PACKS"
"""The advice for using a script's node in another program."""
WORKER_PACKS = "`graphengine worker --packs`"
"""The command by which a service loads a folder pack."""
ENVIRONMENT = "GRAPHENGINE_PACKS"
"""The environment variable that names folders of packs, as PATH names folders."""


@dataclass
class _Registry:
    """All nodes, all packs, and the packs that could not be loaded.

    Attributes:
        nodes: By full name.
        bare: By bare name, the full names of the nodes that have it.
        packs: The top modules by the pack's name.
        failed: By pack or file, the error of what could not be loaded.
        folders: The paths of folder packs by name.
        loading: Packages of folder packs that are being loaded now.
        discovered: Whether the installed packs have been loaded.
    """

    nodes: dict[str, NodeDef[..., Any]] = field(default_factory=dict)
    bare: dict[str, list[str]] = field(default_factory=dict)
    packs: dict[str, ModuleType] = field(default_factory=dict)
    failed: dict[str, PackError] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    loading: list[str] = field(default_factory=list)
    discovered: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)


_registry = _Registry()


def nodes() -> dict[str, NodeDef[..., Any]]:
    """All nodes of all loaded packs, by full name."""
    _discover()
    return dict(_registry.nodes)


def modules() -> list[ModuleType]:
    """The top modules of all loaded packs."""
    _discover()
    return list(_registry.packs.values())


def pack_folders() -> list[Path]:
    """The folders of the installed packs and of those that GRAPHENGINE_PACKS names, without importing any."""
    installed = []
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda e: e.name):
        with contextlib.suppress(ImportError, ValueError):  # its module was removed
            spec = importlib.util.find_spec(entry.module)
            if spec is not None and spec.origin is not None:
                installed.append(Path(spec.origin).parent)
    named = map(Path, filter(None, os.environ.get(ENVIRONMENT, "").split(os.pathsep)))
    return installed + [path.parent if path.suffix == ".py" else path for path in named]


def failures() -> list[PackError]:
    """The errors of the packs that could not be loaded."""
    _discover()
    return list(_registry.failed.values())


def find(name: str) -> NodeDef[..., Any] | None:
    """Find a node by its full name, or by its bare name if only one pack has it; None if there is none.

    After the packs, the running script or notebook and the modules that it has imported are searched. Nothing is
    imported for a name.
    """
    _discover()
    name = name.partition("@")[0]
    if name in _registry.nodes:
        return _registry.nodes[name]
    full = _registry.bare.get(name, [])
    if full:
        return _registry.nodes[full[0]] if len(full) == 1 else None
    own = own_nodes(name)
    return own[0] if len(own) == 1 else None


def own_nodes(name: str) -> list[NodeDef[..., Any]]:
    """Find nodes by name in imported modules that belong to no loaded pack: those of a script, or a module beside it.

    Args:
        name: A full name; a bare name is searched in the script only.
    """
    pack, _, bare = name.rpartition(".")
    nodes: dict[int, NodeDef[..., Any]] = {}
    for module in _modules_of(pack or "main"):
        for value in list(vars(module).values()):
            if isinstance(value, NodeDef) and value.name == bare and (not pack or value.pack == pack):
                nodes[id(value)] = value
    return list(nodes.values())


def _modules_of(pack: str) -> Iterator[ModuleType]:
    """The imported modules that may define nodes of a pack which was not loaded as one.

    Modules of folders that are being loaded are included: they may save and load workflows of their nodes meanwhile.
    """
    loading = tuple(f"{package}." for package in _registry.loading)
    for name, module in list(sys.modules.items()):
        mine = (pack in name and name.partition(".")[0].strip("_") == pack) or (
            bool(loading) and f"{name}.".startswith(loading)
        )  # the cheap questions first: files may ask for thousands of unknown nodes
        if mine and isinstance(module, ModuleType):
            yield module


def class_called(module: str, name: str) -> type | None:
    """Find a class of a loaded pack, or one in the annotations of a node; None if there is none.

    Nothing is imported for a name that stands in a file.
    """
    declared = declared_at(module, name)
    if declared is None and module in sys.modules and origin(module) == "loose":
        declare_own(module)
        declared = declared_at(module, name)
    if declared is not None:
        return declared
    value: Any = sys.modules.get(module) if origin(module) == "pack" else None
    for part in name.split("."):
        value = getattr(value, part, None)
    return value if isinstance(value, type) and value.__module__ == module else None


def type_of_packs(cls: type) -> SocketType[Any] | None:
    """The socket type of a class or its nearest base, after loading all installed packs; None if there is none."""
    _discover()
    return socket_type(cls)


def declare_own(module: str = "__main__") -> None:
    """Read the signatures of the nodes of a script, a notebook or a module, which declares the types in them."""
    for value in list(vars(sys.modules[module]).values()):
        if isinstance(value, NodeDef):
            with contextlib.suppress(GraphEngineError):  # reported when the node is used
                value.sockets, value.outputs  # noqa: B018


def why_not(name: str) -> tuple[str, tuple[str, ...]]:
    """Explain why `find` does not know a name: a sentence, and the nearest names."""
    bare = name.partition("@")[0]
    several = _registry.bare.get(bare, [])
    if len(several) > 1:
        return f"{bare} is a node of several packs; write {' or '.join(sorted(several))}", ()
    if len(own_nodes(bare)) > 1:
        return f"{bare} is defined in several modules; give one another name", ()
    sentence = f"no installed pack has a node called {bare}"
    if bare.startswith("main."):
        own = bare.removeprefix("main.")
        mine = [full for full in _registry.bare.get(own, ()) if full.removesuffix(f".{own}") in _registry.folders]
        sentence = f"{bare} is a node of a script or notebook, which only that program has; "
        if mine:
            return f"{sentence}loaded as a pack it is {' or '.join(mine)}: write that in the file", ()
        sentence += f"{OWN_NODES}, and write PACK.{own} in the file"
    elif _registry.failed:
        sentence += f" ({', '.join(_registry.failed)} did not load)"
    near = nearest(bare, _registry.nodes if "." in bare else _registry.bare)
    pack = bare.rpartition(".")[0]
    if pack and pack != "main" and not near and not any(full.startswith(f"{pack}.") for full in _registry.nodes):
        sentence += f"; a pack {pack} in a folder or file is loaded by --packs, in a service by {WORKER_PACKS}"
    return sentence, near


def folders() -> list[Path]:
    """The folders and files that are loaded as packs."""
    _discover()
    return list(_registry.folders.values())


def load_pack(path: str | Path) -> Mapping[str, NodeDef[..., Any]]:
    """Load a folder of `.py` files, or one such file, as a pack; returns its nodes by their bare names.

    A pack that is loaded already is loaded again only if its files have changed. Workers that are started afterwards
    by `graphengine.service.start.local_workers` load it too.

    Raises:
        PackError: There is no such folder or file, another pack has its name, or one of its files cannot be loaded.
    """
    place = Path(path).resolve()
    _discover()
    with _registry.lock:
        package = sys.modules.get(_package(_name_of(place)))
        same = _registry.folders.get(_name_of(place)) == place and not _failures_of(_name_of(place))
        if not same or package is None or vars(package).get(SOURCES) != hash_of(_sources(place)):
            failed = load_folder(place)
            if failed:
                what = "; ".join(str(failure).partition("node pack ")[2] for failure in failed)
                raise PackError(_name_of(place), what) from failed[0]
    prefix = f"{_name_of(place)}."
    return {d.name: d for full, d in _registry.nodes.items() if full.startswith(prefix)}


def load_folder(folder: str | Path) -> list[PackError]:
    """Load every `.py` file of a folder (or one file) as a pack with its name; returns the errors of files that fail.

    The files may import each other (`from .common import K`). A folder that is loaded already is loaded again.

    Raises:
        PackError: There is no such folder, or another pack of this name is loaded.
    """
    path = Path(folder).resolve()
    if not path.is_dir() and not (path.is_file() and path.suffix == ".py"):
        what = "it is no folder and no .py file" if path.exists() else "there is no such folder"
        raise PackError(str(folder), what)
    name = _name_of(path)
    with _registry.lock:
        other = _registry.folders.setdefault(name, path)
        if other != path and other.exists():
            raise PackError(name, f"two packs are called {name}: {other} and {path}; rename one of them")
        _registry.folders[name] = path
        for failed in _failures_of(name):
            del _registry.failed[failed]
        _forget(_package(name))
        _registry.loading.append(_package(name))
        try:
            return _load_files(path, _package(name))
        finally:
            _registry.loading.remove(_package(name))


def _name_of(path: Path) -> str:
    return path.stem if path.suffix == ".py" and not path.is_dir() else path.name


def _failures_of(name: str) -> list[str]:
    return [failed for failed in _registry.failed if failed == name or failed.startswith(f"{name}.")]


def _package(name: str) -> str:
    return f"{FOLDERS}.{name.replace('.', '_')}"


def _sources(path: Path) -> list[Path]:
    """The source files of a folder pack."""
    return sorted(file for file in path.rglob("*.py") if file.is_file()) if path.is_dir() else [path]


def _load_files(path: Path, package: str) -> list[PackError]:
    if not any(isinstance(finder, _FolderFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _FolderFinder())  # before Python's own finder, which reads compiled files
    sys.modules.setdefault(FOLDERS, ModuleType(FOLDERS)).__dict__.setdefault("__path__", [])
    parent = sys.modules[package] = ModuleType(package)
    parent.__dict__.update({
        "__path__": [str(path)], "__package__": package, "__pack__": Pack(_name_of(path)),
        SOURCES: hash_of(_sources(path)),
    })  # fmt: skip
    failed = []
    files = path.glob("*.py") if path.is_dir() else [path]
    for file in sorted(files, key=lambda file: (file.stem != "__init__", file.name)):
        is_top = file.stem == "__init__"
        name = package if is_top else f"{package}.{file.stem.replace('.', '_')}"
        try:
            if is_top:
                parent.__file__ = str(file)
                exec(compile(read_file(file), str(file), "exec", dont_inherit=True), parent.__dict__)
            module = sys.modules[name] if name in sys.modules else _load_file(name, file)
            pack = module.__dict__["__pack__"]
            folder_reloaded(pack, module)
            register(module, pack.name)
        except BaseException as error:
            where = _name_of(path) if is_top or file == path else f"{path.name}.{file.stem}"
            _let_through(where, error)
            failed.append(_failed(where, error, _beside(path, error)))
    return failed


def _beside(folder: Path, error: BaseException) -> str:
    """The advice for a file that imports another file of its folder as if that were installed; may be empty."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if not name or not ((folder / f"{name}.py").is_file() or (folder / name).is_dir()):
        return ""
    return f"; {name} lies beside it in this pack: write `from .{name} import ...`"


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
    """Forget the modules and nodes of a folder pack, before it is loaded again."""
    for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
        del sys.modules[name]
    for full, definition in list(_registry.nodes.items()):
        if f"{definition.fn.__module__}.".startswith(f"{package}."):
            del _registry.nodes[full]
            _registry.bare[definition.name].remove(full)
            if not _registry.bare[definition.name]:
                del _registry.bare[definition.name]


class _FolderLoader(importlib.machinery.SourceFileLoader):
    """Loader that always compiles the current source: Python checks compiled files by whole seconds only."""

    def get_data(self, path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> bytes:
        return read_file(Path(os.fsdecode(path)))

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.get_data(self.path), self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        parent = sys.modules[module.__name__.rpartition(".")[0]]
        module.__dict__.setdefault("__pack__", parent.__dict__["__pack__"])
        module.__dict__[SOURCES] = parent.__dict__[SOURCES]
        super().exec_module(module)


class _FolderFinder(importlib.abc.MetaPathFinder):
    """Import finder for the modules of folder packs."""

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
    """Register all nodes of a module under their pack, and read their signatures.

    Args:
        module: The module.
        name: The pack's name, if it is not the module's own.

    Raises:
        NodeDefinitionError: A signature is wrong.
        PackError: Another node has the full name of one of them.
    """
    pack = pack_of(module)
    own = [value for value in vars(module).values() if isinstance(value, NodeDef)]
    with _registry.lock:
        for definition in own:
            if definition.module_pack is not pack and definition.pack != (name or pack.name):
                continue  # imported from another pack
            definition.sockets, definition.outputs  # noqa: B018 - raises for a bad annotation
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
        for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda e: e.name):
            try:
                register(importlib.import_module(entry.module))
            except BaseException as error:
                _let_through(entry.name, error)
                _failed(entry.name, error)
        _registry.discovered = True
        for folder in filter(None, os.environ.get(ENVIRONMENT, "").split(os.pathsep)):
            try:
                load_folder(folder)
            except PackError as error:
                what = str(error).partition(": ")[2]
                _registry.failed[folder] = PackError(folder, f"{what} ({ENVIRONMENT} names it)")


def _let_through(name: str, error: BaseException) -> None:
    """Raise KeyboardInterrupt again, naming the pack that was being loaded, which may have raised it itself."""
    if isinstance(error, KeyboardInterrupt):
        raise KeyboardInterrupt(f"while node pack {name} was loaded") from error


def _failed(name: str, error: BaseException, advice: str = "") -> PackError:
    problem = PackError(name, f"did not load: {type(error).__name__}: {text_of(error)}{advice}")
    problem.__cause__ = error
    _registry.failed[name] = problem
    return problem
