"""Reading documents: converts plain data, as YAML and JSON hold it, to a graph.

A mistake that prevents reading is raised at once; all others are added to the graph's `problems_at_load`, so that
validation reports them together with its own.

The module is long because documents are recursive: graphs, nodes, sources and nested workflows are read by one reader,
which knows where in the file it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from graphengine.cache.tree import packed, unpacked
from graphengine.declare.definition import NodeDef
from graphengine.declare.sockets import Choices, Range
from graphengine.errors import Problem, Where, WorkflowError, nearest
from graphengine.graph.build import GraphBuilder
from graphengine.graph.data import GraphData, Node
from graphengine.graph.elements import INPUTS, VALUES, Input, Link
from graphengine.system.opening import check_inside, read_file, rooted
from graphengine.values.socket_types import SocketType, parse_type, type_called

FORMAT = 1
"""The format version of documents that are written."""
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""By version, the function that converts a document of that version to the next one."""
PACKED: SocketType[Any] = SocketType(object, "packed", packed, unpacked, suffix=".packed")
"""The type of values that are neither plain data nor of a registered type: arrays in lists, sets, ..."""
MAX_FILES = 32
"""The most levels of workflow files that use one another."""

_TOP = ("version", "title", "description", "inputs", "values", "workflows", "nodes", "outputs", "ui")
_NODE = ("node", "workflow", "from", "with", "each", "keep_going", "ui")
_INPUT = ("type", "default", "default_file", "help", "min", "max", "step", "choices")
_VALUE = ("type", "file", "digest", "value")
_LONGEST_TYPE = 300
UNREADABLE = object()
"""Returned for a value that cannot be read; a problem says why."""

Place = tuple[str | int, ...]
Fetch = Callable[[str], bytes | None]


@dataclass(frozen=True)
class Reach:
    """Everything outside itself that a document may use: folders, other files, stored values.

    Attributes:
        base: The folder at which its relative paths start.
        roots: Folders that must contain every file that it names; None allows all.
        fetch: Returns the bytes of a value by their SHA-256 digest, or None.
        chain: The files that are being read, outermost first.
        known: The graphs of files that were read or are being read (a workflow may use itself).
        named: The graphs under `workflows` of the document, by name.
        open_file: Reads another workflow file.
        make: Makes an empty graph.
    """

    base: Path
    roots: tuple[Path, ...] | None = None
    fetch: Fetch | None = None
    chain: tuple[Path, ...] = ()
    known: dict[Path, GraphData] = field(default_factory=dict)
    open_file: Callable[[Path, Reach], GraphData] | None = None
    named: dict[str, GraphData] = field(default_factory=dict)
    make: Callable[[], GraphData] = GraphBuilder

    def confine(self, file: Path) -> Path:
        """Confine a file's path to the roots, also when it is opened later.

        Raises:
            WorkflowError: It is outside them.
        """
        if self.roots is None:
            return file
        try:
            check_inside(file, self.roots, links=False)
        except OSError as error:
            what = str(error.strerror).removeprefix("it ")
            raise WorkflowError(Problem("no file", f"{file} {what}")) from None
        return rooted(file, self.roots)


class Lines(Mapping[tuple[Any, ...], int]):
    """The line numbers below one path of a document."""

    def __init__(self, lines: Mapping[tuple[Any, ...], int], prefix: Place) -> None:
        self._lines, self._prefix = lines, prefix

    def __getitem__(self, path: tuple[Any, ...]) -> int:
        return self._lines[(*self._prefix, *path)]

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        size = len(self._prefix)
        return (path[size:] for path in self._lines if path[:size] == self._prefix)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return bool(self._lines)


def migrated(data: Any, place: Where) -> dict[str, Any]:
    """Convert a document to the current format version.

    Args:
        data: The document.
        place: The file, for problems.

    Raises:
        WorkflowError: It is no workflow, or has an unknown format version.
    """
    if data is None:
        raise WorkflowError(Problem("empty", "the file is empty", place, "a workflow begins with `version: 1`"))
    if not isinstance(data, dict):
        what = f"this is {'a list' if isinstance(data, list) else 'a single value'}, not a workflow"
        raise WorkflowError(Problem("no workflow", what, place, "a workflow is a mapping with `version`, `nodes`, ..."))
    version = data.get("version", FORMAT)
    if type(version) is not int or version < 1:
        raise WorkflowError(Problem("bad version", f"the format version {version!r:.40} is no number from 1 on",
                                    place, f"this graphengine writes version {FORMAT}", found=f"{version!r:.40}"))
    if version > FORMAT:
        raise WorkflowError(Problem(
            "newer version", f"the file has format version {version}, this graphengine reads up to {FORMAT}", place,
            "update graphengine", expected=str(FORMAT), found=str(version)))
    while version < FORMAT:
        if version not in MIGRATIONS:
            raise WorkflowError(Problem(
                "old version", f"format version {version} cannot be brought to {FORMAT}", place,
                expected=str(FORMAT), found=str(version)))
        data = MIGRATIONS[version](data)
        version += 1
    return dict(data)


def declared_type(text: str) -> Any:
    """The type for a name in a file, also one that a node of the running script or notebook declares.

    Raises:
        ValueError: There is no such type.
    """
    from graphengine.declare.registry import declare_own

    try:
        return parse_type(text)
    except ValueError:
        if "." not in text:
            raise
        declare_own()
        return parse_type(text)


class Reader:
    """Reads one document in the current format, or one inside another: `Reader(...).graph_of(data)`."""

    def __init__(
        self, lines: Mapping[tuple[Any, ...], int], file: Path | None, name: str | None, reach: Reach
    ) -> None:
        self.graph = reach.make()
        self.graph.file, self.graph.lines = file, lines
        self.name, self.reach = name, reach

    def problem(self, kind: str, what: str, path: Place, *, hint: str = "", near: tuple[str, ...] = ()) -> None:
        """Add a problem at a path of the document."""
        node = path[1] if len(path) > 1 and path[0] == "nodes" else path[0] if path else None
        socket = None
        if len(path) > 3 and path[2] in ("from", "with"):
            socket = str(path[3])
        elif len(path) > 1 and path[0] != "nodes":
            socket = str(path[1])
        lines = self.graph.lines
        line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
        where = Where(self.name, line, None if node is None else str(node), socket)
        self.graph.problems_at_load.append(Problem(kind, what, where, hint, nearest=near))

    # --- checked access to parts of a document --------------------------------------------------------------------

    def mapping(self, data: Mapping[str, Any], key: str, path: Place) -> dict[str, Any]:
        """The mapping under a key; empty if it is missing or, with a problem, if it is no mapping."""
        value = data.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.problem("wrong type", f"`{key}` must be a mapping", (*path, key))
            return {}
        return value

    def text(self, data: Mapping[str, Any], key: str, path: Place) -> str:
        """The text under a key; empty if it is missing or, with a problem, if it is no text."""
        value = data.get(key)
        if value is not None and not isinstance(value, str):
            self.problem("wrong type", f"`{key}` must be a text", (*path, key))
            return ""
        return value or ""

    def known_keys(self, data: Iterable[str], known: tuple[str, ...], path: Place, of: str) -> None:
        """Add a problem for each unknown key."""
        for key in data:
            if key not in known:
                near = nearest(key, known)
                hint = "" if near else f"{of} has {', '.join(known)}"
                self.problem("unknown key", f"{of} has no key {key!r:.60}", (*path, key), hint=hint, near=near)

    # --- the document ---------------------------------------------------------------------------------------------

    def graph_of(self, data: dict[str, Any], inline: bool = False) -> GraphData:
        """Read a document into the graph; `inline` documents need no format version."""
        graph = self.graph
        self.known_keys(data, _TOP, (), "a workflow")
        if "version" not in data and not inline:
            self.problem("no version", "the file does not say its format version", (),
                         hint=f"write `version: {FORMAT}` first")
        graph.title, graph.description = self.text(data, "title", ()), self.text(data, "description", ())
        graph.ui = self.mapping(data, "ui", ())
        for name, declared in self.mapping(data, "inputs", ()).items():
            graph.inputs[name] = self.input(name, declared)
        for name, value in self.mapping(data, "values", ()).items():
            if (held := self.held_value(value, (VALUES, name))) is not UNREADABLE:
                self.graph.values[name] = held
        self.workflows(self.mapping(data, "workflows", ()))
        for id, node in self.mapping(data, "nodes", ()).items():
            graph.put(id, self.node(id, node))
        for name, source in self.mapping(data, "outputs", ()).items():
            link = self.source(source, ("outputs", name))
            if type(link) is Link:
                graph.outputs[name] = link
            elif link is not None:
                self.problem("bad link", "an output comes from one node", ("outputs", name),
                             hint="write its id, or id.port")
        return graph

    def workflows(self, written: Mapping[str, Any]) -> None:
        """Read the workflows that nodes use by name; all names are known first, so that they may use one another."""
        readers = {}
        for name, data in written.items():
            path: Place = ("workflows", name)
            if isinstance(data, dict):
                readers[name] = Reader(Lines(self.graph.lines, path), self.graph.file, self.name, self.reach)
                self.reach.named[name] = readers[name].graph
            else:
                self.problem("wrong type", "a workflow is a mapping with `nodes`, ...", path)
        for name, reader in readers.items():
            reader.graph_of(written[name], inline=True)

    def input(self, name: str, declared: Any) -> Input:
        """Read a declared input."""
        path: Place = (INPUTS, name)
        if not isinstance(declared, dict):
            self.problem("wrong type", "an input is declared as a mapping", path,
                         hint=f"write `{name}: {{type: str, default: ...}}`")
            return Input(name, Any)
        self.known_keys(declared, _INPUT, path, "an input")
        annotation: Any = Any
        written = declared.get("type")
        if "type" not in declared:
            self.problem("no type", "the input does not say its type", path, hint="for example `type: int`")
        elif not isinstance(written, str) or len(written) > _LONGEST_TYPE:
            self.problem("unknown type", f"{written!r:.60} is no type", (*path, "type"))
        else:
            try:
                annotation = declared_type(written)
            except ValueError as error:
                self.problem("unknown type", str(error), (*path, "type"))
        limits = {key: declared[key] for key in ("min", "max", "step") if declared.get(key) is not None}
        for key in [k for k, v in limits.items() if isinstance(v, bool) or not isinstance(v, int | float)]:
            self.problem("wrong type", f"`{key}` must be a number", (*path, key))
            del limits[key]
        choices = declared.get("choices")
        if choices is not None and not isinstance(choices, list):
            self.problem("wrong type", "`choices` must be a list", (*path, "choices"))
            choices = None
        required, default = "default" not in declared, declared.get("default")
        if "default_file" in declared:
            if not required:
                self.problem("two defaults", "an input has a `default` or a `default_file`, not both", path)
            default = self.held_value(declared["default_file"], (*path, "default_file"))
            required = default is UNREADABLE
        return Input(
            name, annotation, required, default, self.text(declared, "help", path),
            Range(**limits) if limits else None, None if choices is None else Choices(*choices),
        )

    def held_value(self, entry: Any, path: Place) -> Any:
        """Read an entry that holds a value, or names its file and digest; UNREADABLE, with a problem, if that fails."""
        if not isinstance(entry, dict):
            self.problem("wrong type", "a value is a mapping of type, file and digest", path)
            return UNREADABLE
        self.known_keys(entry, _VALUE, path, "a value")
        if "value" in entry:
            return entry["value"]
        name_of_type = entry.get("type")
        value_type = type_called(name_of_type) if isinstance(name_of_type, str) else None
        value_type = PACKED if name_of_type == PACKED.name else value_type
        if value_type is None or value_type.decode is None:
            self.problem("unknown type", f"{entry.get('type')!r:.60} is no type whose values lie in files", path)
            return UNREADABLE
        try:
            return value_type.decode(self.bytes_of(entry))
        except WorkflowError as error:
            self.problem("bad value", str(error.problems[0].what), path)
        except Exception as error:  # a codec is a pack's code, and may raise anything on a damaged file
            self.problem("bad value", f"its file cannot be read as {value_type.name}: {error}", path)
        return UNREADABLE

    def bytes_of(self, entry: Mapping[str, Any]) -> bytes:
        """The bytes of a value's file, checked against its digest.

        Raises:
            WorkflowError: They are missing, or others.
        """
        digest, name = entry.get("digest"), entry.get("file")
        content: bytes | None = None
        if not isinstance(digest, str):
            raise WorkflowError("it has no digest (the SHA-256 of its file)")
        if self.reach.fetch is not None:
            content = self.reach.fetch(digest)
        if content is None and isinstance(name, str):
            if not _stays_below(name):
                raise WorkflowError(f"{name!r:.80} does not lie beside the workflow")
            try:
                content = read_file(self.reach.confine(self.reach.base / name))
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or error
                raise WorkflowError(f"{name!r:.80} cannot be read: {why}") from None
        if content is None:
            raise WorkflowError(f"nothing here holds the value with the digest {digest:.80}")
        if hashlib.sha256(content).hexdigest() != digest:
            raise WorkflowError("its file is not the one that was saved: the digests differ")
        return content

    # --- nodes ----------------------------------------------------------------------------------------------------

    def node(self, id: str, data: Any) -> Node:
        """Read a node."""
        path: Place = ("nodes", id)
        if not isinstance(data, dict):
            self.problem("wrong type", "a node is a mapping", path, hint=f"write `{id}: {{node: NAME, with: ...}}`")
            return Node("", {})
        self.known_keys(data, _NODE, path, "a node")
        args: dict[str, Any] = {}
        links = self.mapping(data, "from", path)
        for name, source in links.items():
            link = self.source(source, (*path, "from", name))
            if link is not None:
                args[name] = link
        for name, literal in self.mapping(data, "with", path).items():
            if name in links:
                self.problem("duplicate input", f"{name} stands under `from` and under `with`",
                             (*path, "with", name), hint="keep one of them")
            else:
                args[name] = literal
        each = data.get("each") or []
        if not isinstance(each, list) or not all(isinstance(name, str) for name in each):
            self.problem("wrong type", "`each` is a list of inputs", (*path, "each"))
            each = []
        keeps = data.get("keep_going", False)
        if not isinstance(keeps, bool):
            self.problem("wrong type", "`keep_going` is true or false", (*path, "keep_going"))
            keeps = False
        ui = self.mapping(data, "ui", path)
        if "workflow" in data:
            if "node" in data:
                self.problem("two kinds", "a node is a `node` or a `workflow`, not both", path)
            graph, file = self.workflow(data["workflow"], (*path, "workflow"))
            return Node(graph, args, each, None, file, ui, keeps)
        if not isinstance(data.get("node"), str) or not data["node"]:
            self.problem("no node", "it does not say which node it is", path, hint="write `node: NAME`")
            return Node("", args, each, ui=ui)
        node = self.call(data["node"], args, each, ui, path)
        node.keep_going = keeps
        return node

    def call(self, written: str, args: dict[str, Any], each: list[str], ui: dict[str, Any], path: Place) -> Node:
        """Read a `node:` key, `NAME` or `NAME@VERSION`, migrating the arguments to the installed version."""
        from graphengine.declare.registry import find

        name, at, digits = written.partition("@")
        version = int(digits) if re.fullmatch(r"[0-9]{1,6}", digits) else None
        if at and version is None:
            self.problem("bad version", f"{written!r:.80} has no version number behind the @", (*path, "node"))
        definition = find(name)
        if definition is None:
            return Node(name, args, each, version, ui=ui)
        if version is not None and version != definition.version:
            moved = self.moved(definition, version, args, path)
            if moved is not None:
                args, version = moved, definition.version
        return Node(definition, args, each, version, ui=ui)

    def moved(
        self, definition: NodeDef[..., Any], version: int, args: dict[str, Any], path: Place
    ) -> dict[str, Any] | None:
        """Migrate arguments to the installed version of a node; None, with a problem, if there is no migration."""
        name, installed = definition.full_name, definition.version
        origin = f"the file was written for version {version} of {name}"
        if installed is None:
            self.problem("node version", f"{origin}, but the installed one declares no version", (*path, "node"))
            return None
        if version > installed:
            self.problem("node version", f"{origin}, installed is version {installed}", (*path, "node"),
                         hint="update the pack")
            return None
        for step in range(version, installed):
            migration = definition.migrations.get(step)
            if migration is None:
                self.problem("node version", f"{origin}, installed is version {installed}, and the pack has no "
                             f"migration from version {step}", (*path, "node"))
                return None
            try:
                args = dict(migration(dict(args)))
            except Exception as error:  # a migration is a pack's code, and the file may hold anything
                self.problem("node version", f"{origin}; the migration from version {step} failed: {error!r:.200}",
                             (*path, "node"))
                return None
        return args

    def source(self, source: Any, path: Place) -> Any:
        """Read an entry of `from`: a link, or a list of links and literals; None, with a problem, if it is neither."""
        if isinstance(source, str):
            node, dot, port = source.partition(".")
            if not node or (not port and (dot or node in (INPUTS, VALUES))):
                self.problem("bad link", f"{source!r:.60} is no link", path,
                             hint="write a node's id, id.port, inputs.NAME or values.NAME")
                return None
            return Link(node, port)
        if isinstance(source, list):
            return [self.item(item, (*path, n)) for n, item in enumerate(source)]
        self.problem("bad link", f"{source!r:.60} is no link", path, hint="values stand under `with`")
        return None

    def item(self, item: Any, path: Place) -> Any:
        """Read an item of a list under `from`: a link, a list, or a literal as `{value: ...}`."""
        if isinstance(item, dict) and list(item) == ["value"]:
            return item["value"]
        if isinstance(item, str | list):
            return self.source(item, path)
        self.problem("bad link", f"{item!r:.60} is no link", path, hint="a value in a list stands as {value: ...}")
        return None

    # --- workflows used as nodes ----------------------------------------------------------------------------------

    def workflow(self, given: Any, path: Place) -> tuple[GraphData | str, str | None]:
        """Read a `workflow:` key; returns the graph, or '' with a problem, and the path if one stands there."""
        if isinstance(given, dict):
            inner = Reader(Lines(self.graph.lines, path), self.graph.file, self.name, self.reach)
            return inner.graph_of(given, inline=True), None
        if not isinstance(given, str) or not given:
            self.problem("wrong type", "`workflow` is a path of a workflow file, or a workflow", path)
            return "", None
        if given in self.reach.named:
            return self.reach.named[given], None
        reason = self.refused(given)
        if reason or self.reach.open_file is None:
            self.problem("bad workflow", f"{given!r:.120} {reason or 'cannot be opened here'}", path)
            return "", given
        file = (self.reach.base / given).resolve()
        if file in self.reach.known:
            return self.reach.known[file], given
        try:
            graph = self.reach.open_file(file, replace(self.reach, base=file.parent))
        except WorkflowError as error:
            what, first = f"the workflow {given!r:.120} cannot be read", error.problems[0]
            if first.where.line is None and len(error.problems) == 1:  # the problem is the file itself
                self.problem("bad workflow", f"{what}: {first.what}", path, hint=first.hint, near=first.nearest)
            else:
                self.problem("bad workflow", what, path)
                self.graph.problems_at_load.extend(error.problems)
            return "", given
        self.reach.known[file] = graph
        return graph, given

    def refused(self, given: str) -> str:
        """The reason why a workflow's path must not be opened; '' if it may be."""
        if "\0" in given or PurePosixPath(given).is_absolute() or Path(given).is_absolute():
            return "is an absolute path; write it relative to this file"
        file = (self.reach.base / given).resolve()
        try:
            self.reach.confine(file)
        except WorkflowError:
            return "lies outside the allowed folders"
        if len(self.reach.chain) >= MAX_FILES and file not in self.reach.known:
            return f"is nested deeper than {MAX_FILES} files"
        return ""


def _stays_below(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return "\0" not in name and not path.is_absolute() and ".." not in path.parts and not Path(name).is_absolute()
