"""Node packs: how a pack describes itself, which modules belong to it, and the version stamp in its nodes' keys."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from graphengine.errors import as_exception
from graphengine.old_names import moved
from graphengine.system.opening import read_file

GROUP = "graphengine.nodes"
SOURCES = "__graphengine_sources__"
"""The attribute in which a module of a folder pack holds the hash of the folder's sources when it was loaded."""


@dataclass(frozen=True)
class PictureSettings:
    """The text `parameters` of pictures, as `Pack(parameters=...)` takes it: written for other tools, and read.

    Args:
        write: As `Pack.parameters`.
        read: `read(text, find)` makes a graph of a text that another tool has written, and returns it with a sentence
            for each setting that it cannot take over. `find(name, suffixes, fits)` looks for a file by its name
            without the suffix, for which `fits(path)` holds; it gives None if there is none.
    """

    write: Callable[[Any, Any], str | None]
    read: Callable[[str, Callable[..., Path | None]], tuple[Any, list[str]]]

    def __call__(self, step: Any, value: Any) -> str | None:
        return self.write(step, value)


@dataclass(frozen=True)
class FormatContext:
    """What the reader of a `FileFormat` may use.

    Attributes:
        file: The file's name, for problems; None if it has none.
        find: Returns the definition (`NodeDef`) of a node by its full name, or None.
        nodes: Returns the definitions of all nodes of all packs by full name.
    """

    file: str | None
    find: Callable[[str], Any]
    nodes: Callable[[], Mapping[str, Any]]


@dataclass(frozen=True)
class FileName:
    """How the files of an output node are named: `<path>_00001_.png`, with the number after the highest one there.

    Attributes:
        path: What stands before the number: a name, or a path inside the folder of the outputs with `/` in it.
        mark: A text in `path` in whose place each file has its number among those of its value, from 0 on; `''`: none.
    """

    path: str
    mark: str = ""


@dataclass(frozen=True)
class FileFormat:
    """A format of workflow files of another tool, which `Pack(formats=...)` makes known wherever workflows are read.

    Args:
        name: The name of the tool or format, as people write it.
        recognise: `recognise(data)` says whether plain data, as JSON holds it, has the format. It must be cheap.
        read: `read(data, context)` returns a document of graphengine: a mapping with `version`, `nodes`, ... A node's
            id and title in the file stand under `id` and `title` of its `ui`. What it does not understand it refuses
            by a `WorkflowError`.
        write: `write(graph, context)` returns the data of a file in the format; None if it can only be read.
        picture: `picture(texts)` returns the workflow, as JSON, among the texts of a picture (the text chunks of a PNG
            by name), or None if there is none of this format.
        is_output: `is_output(definition)` says whether files of the format run a node for what it shows or saves.
        file_name: `file_name(definition, arguments, value)` returns how the files of a value of such a node are named,
            as a `FileName`; None: as other outputs are. `arguments` holds the plain values of the node's inputs, as far
            as they are known without running the graph again.
        to_editor: `to_editor(document, classes, context)` returns what the tool's editor opens to show a document of
            graphengine, whose nodes have their full names. `classes` are the nodes as the editor knows them.
        from_editor: `from_editor(data, classes, context)` returns the document of what the editor saves, also of nodes
            that were added there. What a document cannot hold it refuses by a `WorkflowError`.
        opened: `opened(definition)` returns by input the choices of a node that open further inputs, and by choice the
            names of these: what a choice of `size` opens as `width` is the input `size_width` here.
    """

    name: str
    recognise: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any], FormatContext], dict[str, Any]]
    write: Callable[[Any, FormatContext], Any] | None = None
    picture: Callable[[Mapping[str, str]], str | None] | None = None
    is_output: Callable[[Any], bool] | None = None
    file_name: Callable[[Any, Mapping[str, Any], Any], FileName | None] | None = None
    to_editor: Callable[[Mapping[str, Any], Mapping[str, Any], FormatContext], dict[str, Any]] | None = None
    from_editor: Callable[[Mapping[str, Any], Mapping[str, Any], FormatContext], dict[str, Any]] | None = None
    opened: Callable[[Any], Mapping[str, Mapping[str, Sequence[str]]]] | None = None


@dataclass(frozen=True)
class Pack:
    """A pack's description of itself, assigned to `__pack__` in its top module; only `name` is required.

    Args:
        name: The first part of its nodes' full names.
        distribution: The installed distribution whose version enters keys.
        libraries: Further distributions whose versions affect results.
        environment: Returns how this process computes (device type, threads, ...). It enters the keys of exact runs
            and is recorded with each value that is made on a device.
        preload: Names of modules that its device nodes import when they compute: the command line starts importing
            them while it still reads and checks the workflow, and workers before they load models for later jobs.
        parameters: `parameters(step, value)` returns the text of the PNG chunk `parameters`, in which other tools
            read a picture's settings, or None. `step` says where the value comes from
            (`graphengine.provenance.steps.Step`). `PictureSettings` reads such texts as well.
        held: `held(device)` returns the digests of the weights that this process holds in the device's memory: the
            scheduler prefers calls that need these. See `SocketType.needs`.
        load: `load(reference, part, device)` loads the weights that a reference to weights stands for, or those of one
            part of it, as a node of the pack does that computes with them there: how `graphengine serve --warm` has
            workers load models before their first job.
        free: `free(device)` returns how many bytes more this process can hold there before it has to drop weights;
            None if that is unknown or it holds nothing. It is called after each call, and must be cheap.
        memory: `memory(device)` returns how many bytes of a device's own memory are free, and how many it has; None
            where that is unknown, or it has none of its own. It is called after each call, and must be cheap.
        spare: `spare(device, inputs)` is called when memory did not suffice for a call. It yields inputs that give
            the same result with less memory, the fastest first, and frees what it can before each. It is called for
            nodes of other packs too, whose inputs it may not know, and without inputs where memory is only to be freed.
        devices: Returns the devices of this machine that its nodes can compute on; each gets a worker of its own.
        groups: Titles of its modules in the order in which their nodes are listed; see
            `graphengine.declare.node_groups`.
        formats: Formats of workflow files of other tools, which can be read with this pack.
        model: The name of its node that makes a reference to a whole model of its first argument, the model's name or
            file: how `graphengine serve --warm` finds models.
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
    formats: tuple[FileFormat, ...] = ()
    model: str = ""
    load: Callable[[Any, str | None, str], None] | None = None
    memory: Callable[[str], tuple[int, int] | None] | None = None

    def __post_init__(self) -> None:
        for field in ("formats", "model", "load", "memory"):  # younger fields: keys of scripts hold packs as they were
            if not getattr(self, field):
                object.__delattr__(self, field)


def pack_of(module: ModuleType | str) -> Pack:
    """The pack of a module: its `__pack__` or that of a package around it, else one named after the top module."""
    name = module if isinstance(module, str) else module.__name__
    part = name
    while part:
        pack = getattr(sys.modules.get(part), "__pack__", None)
        if isinstance(pack, Pack):
            _top_modules.setdefault(pack, sys.modules[part])
            return pack
        part = part.rpartition(".")[0]
    top = name.partition(".")[0]
    pack = Pack(top.strip("_") or "main")
    if top in sys.modules:
        _top_modules.setdefault(pack, sys.modules[top])
    return pack


Origin = Literal["pack", "library", "loose"]

_top_modules: dict[Pack, ModuleType] = {}
"""The top module of each pack, beside which its sources lie; filled by `pack_of`."""
_origins: dict[str, tuple[ModuleType, Origin]] = {}
_stamps: dict[Pack, tuple[str, ...]] = {}


def origin(module: str) -> Origin:
    """Say where a module comes from: a pack, a library (the standard library too), or neither.

    Modules of neither are `loose`: scripts, notebooks, and the modules beside them, whose code may change at any time.
    """
    known, loaded = _origins.get(module), sys.modules.get(module)
    if known is not None and known[0] is loaded:
        return known[1]
    where = _origin(module)
    if loaded is not None:
        _origins[module] = (loaded, where)
    return where


def _origin(module: str) -> Origin:
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
def _library_folders() -> tuple[str, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple({str(Path(p)) + os.sep for n in names if (p := sysconfig.get_path(n))})


def _is_installed(file: str) -> bool:
    return file.startswith(_library_folders()) or not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)


def loose_sources(module: str) -> str | None:
    """Hash the sources of a loose module, without importing it; None for other modules."""
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


def folder_reloaded(pack: Pack, module: ModuleType) -> None:
    """Note that a folder pack was loaded again, so that its version stamp is made again."""
    _top_modules[pack] = module
    _stamps.pop(pack, None)


def version_stamp(pack: Pack) -> tuple[str, ...]:
    """The texts that identify the state of a pack's code in its nodes' keys.

    They are the versions of the libraries that it names, and one for its own code: the version of its distribution if
    that was installed from a package index, else (a folder, an editable install, a repository) a hash of its sources.
    """
    stamp = _stamps.get(pack)
    if stamp is None:
        stamp = _stamps[pack] = _version_stamp(pack)
    return stamp


def sources_of(pack: Pack) -> str | None:
    """The hash of a pack's sources, if its version stamp has one."""
    return next((part for part in version_stamp(pack) if "==" not in part), None)


def _version_stamp(pack: Pack) -> tuple[str, ...]:
    versions = library_versions(pack)
    if pack.distribution is not None and (version := _version(pack.distribution)) and not _is_local(pack.distribution):
        return (f"{pack.distribution}=={version}", *versions)
    module = _top_modules.get(pack)
    sources = getattr(module, SOURCES, None)
    file = getattr(module, "__file__", None)
    if sources is None and file is not None and pack.name != "main":
        sources = hash_of(_sources(Path(file)))
    return versions if sources is None else (sources, *versions)


def _sources(file: Path, alone: bool = False) -> list[Path]:
    """The source files of a pack: all in a package, or those beside a single module (with `alone`, that file only)."""
    if file.name == "__init__.py":
        return sorted(file.parent.rglob("*.py"))
    return [file] if alone else sorted(file.parent.glob("*.py"))


def library_versions(pack: Pack) -> tuple[str, ...]:
    """The installed versions of the libraries that a pack names, as `name==version`."""
    return tuple(f"{name}=={version}" for name in pack.libraries if (version := _version(name)))


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_local(distribution: str) -> bool:
    """Whether a distribution was installed from a folder, file or repository, so that one version may vary."""
    return importlib.metadata.distribution(distribution).read_text("direct_url.json") is not None


def hash_of(files: Iterable[Path]) -> str:
    """Hash the names and contents of files: 32 hexadecimal digits of BLAKE2b."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        content = read_file(file)
        digest.update(f"{file.name}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


def environment(packs: Iterable[Pack]) -> dict[str, Any]:
    """Merge what the `Pack.environment` functions of some packs return: how this process computes."""
    facts: dict[str, Any] = {}
    for pack in packs:
        if pack.environment is not None:
            try:
                facts.update(pack.environment())
            except BaseException as error:
                raise as_exception(error) from error.__cause__
    return facts


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)  # names that were renamed
