"""Reading and writing workflow files: YAML and JSON with one structure (the document).

    version: 1
    inputs:
      prompt: {type: str, default: a red circle on a blue background}
    nodes:
      model: {node: load_model@1, with: {source: tiny}}
      text:
        node: encode_prompt@2
        from: {model: model, prompt: inputs.prompt}
        with: {clip_skip: 1}
    outputs: {image: decode}

`from` holds links (`id`, `id.port`, `inputs.NAME`, `values.NAME`, or lists of these, in which a literal is written as
`{value: ...}`), `with` holds literals. A node is a `node:` of a pack or a `workflow:`, by its path or written in place.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from graphengine.declare.shipped import SUFFIXES, shipped
from graphengine.errors import FileError, Problem, Where, WorkflowError, nearest
from graphengine.graph.build import GraphBuilder
from graphengine.graph.data import GraphData
from graphengine.system.opening import read_file
from graphengine.workflow.formats import converted
from graphengine.workflow.pictures import is_picture, refuse_writing, workflow_in
from graphengine.workflow.read import FORMAT, MIGRATIONS, Fetch, Reach, Reader, migrated
from graphengine.workflow.write import KeepBytes, WorkflowWriter
from graphengine.workflow.yaml12 import MAX_SIZE, Lines
from graphengine.workflow.yaml12 import load as parse
from graphengine.workflow.yaml12_write import dump as dump_yaml

__all__ = [
    "FORMAT", "MIGRATIONS", "dumps", "from_document", "load_file", "save", "shipped", "to_document",
]  # fmt: skip


def load_file(
    source: str | Path,
    roots: Sequence[str | Path] | None = None,
    anywhere: bool = False,
    make: Callable[[], GraphData] = GraphBuilder,
) -> GraphData:
    """Read a workflow file, a shipped workflow by its name, or the workflow in a picture of another tool.

    Args:
        source, roots, anywhere: As for `graphengine.load`.
        make: Makes the empty graphs that are filled, including those of workflows used as nodes.

    Raises:
        WorkflowError: It cannot be read; holds the problems with their lines.
    """
    path = Path(source)
    if "\0" in str(source):
        raise WorkflowError(Problem("no file", f"{str(source)[:60]!r} is no path"))
    if not path.is_file() and isinstance(source, str) and _is_name(source):
        known = shipped()
        if source not in known:
            what = f"there is no file and no shipped workflow {source}"
            hint = "" if (near := nearest(source, known)) else f"shipped are {', '.join(known) or 'none'}"
            raise WorkflowError(Problem("no file", what, hint=hint, nearest=near))
        path, anywhere = known[source], True
    return _load_file(path, Reach(path.absolute().parent, _folders(roots), open_file=_open, make=make), anywhere)


def from_document(
    data: Any,
    *,
    name: str | None = None,
    lines: Mapping[tuple[Any, ...], int] | None = None,
    base: str | Path | None = None,
    roots: Sequence[str | Path] | None = None,
    fetch: Fetch | None = None,
    make: Callable[[], GraphData] = GraphBuilder,
) -> GraphData:
    """Make a graph from a document.

    Args:
        data: The document: plain data, as YAML and JSON hold it. It may be in a format that a pack has registered.
        name, base, roots, fetch: As for `graphengine.loads`.
        lines: The line numbers by path in the document.
        make: Makes the empty graphs that are filled, including those of workflows used as nodes.

    Raises:
        WorkflowError: It is no workflow, or has an unknown format version.
    """
    folder = Path.cwd() if base is None else Path(base).absolute()
    reach = Reach(folder, _folders(roots), fetch, open_file=_open, make=make)
    document, places = _converted(data, lines or {}, Where(file=name))
    graph = Reader(places, None, name, reach).graph_of(document)
    graph.base = None if base is None else folder
    return graph


def to_document(
    graph: GraphData,
    embed: bool = False,
    values_folder: str | Path | None = None,
    *,
    pin: bool = False,
    keep: KeepBytes | None = None,
    stem: str | None = None,
    findable: bool = False,
) -> dict[str, Any]:
    """Convert a graph to a document: plain data, as YAML and JSON hold it.

    Args:
        graph: The graph.
        embed: Write workflows used as nodes in place, instead of their paths.
        values_folder: The folder for files of values; without it the document holds only their digests.
        pin: Write the installed version of each node that names none.
        keep: Called with the digest and the bytes of each value, so that `fetch` can find them when it is read.
        stem: The beginning of the names of the values' files; by default that of the graph's file.
        findable: Refuse nodes that cannot be found by their names (such as one defined inside a function).

    Raises:
        WorkflowError: A literal cannot be written; holds every such problem.
        FileError: A value's file cannot be written.
    """
    base = graph.folder or Path.cwd()
    folder = base if values_folder is None else Path(values_folder).absolute()
    stem = stem or (graph.file.stem if graph.file is not None else "workflow")

    def write_file(name: str, content: bytes) -> None:
        _write(folder / name, content)

    return WorkflowWriter(
        folder, embed=embed, pin=pin, stem=stem, write_file=None if values_folder is None else write_file, keep=keep,
        findable=findable,
    ).document(graph)


def dumps(document: Mapping[str, Any], format: str = "yaml") -> str:
    """Write a document as a text in the format `yaml` or `json`."""
    if format == "json":
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return dump_yaml(document)


def save(graph: GraphData, path: str | Path, *, embed: bool = False) -> None:
    """Write a graph as a workflow file, YAML or JSON by the name's ending, with files of its values beside it.

    Nodes are written with their installed versions, from which later versions can migrate. An old file is replaced only
    if the new one was written completely.

    Args:
        graph: The graph.
        path: The file; it ends in .yaml, .yml or .json.
        embed: Write workflows used as nodes in place, instead of their paths.

    Raises:
        WorkflowError: The name has another ending, or a part of the graph cannot be written.
        FileError: The disk is full, the folder is missing, ...
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise WorkflowError(Problem("bad name", f"{path.name} is no name of a workflow file", hint="end it in .yaml "
                                    "or .json"))
    document = to_document(graph, embed, path.absolute().parent, pin=True, stem=path.stem, findable=True)
    text = dumps(document, "json" if path.suffix.lower() == ".json" else "yaml")
    _write(path, text.encode())


def _is_name(source: str) -> bool:
    return not source.lower().endswith(SUFFIXES) and os.sep not in source and "/" not in source


def _folders(roots: Sequence[str | Path] | None) -> tuple[Path, ...] | None:
    return None if roots is None else tuple(Path(root).absolute() for root in roots)


def _load_file(path: Path, reach: Reach, anywhere: bool = False) -> GraphData:
    place = path if anywhere else reach.confine(path)
    picture = is_picture(place)
    data, lines = (workflow_in(place), {}) if picture else _parse_file(place)
    inside = Reach(
        path.absolute().parent, reach.roots, reach.fetch, (*reach.chain, path.resolve()), reach.known, _open,
        make=reach.make,
    )
    document, places = _converted(data, lines, Where(file=str(path)))
    reader = Reader(places, path, str(path), inside)
    reach.known[path.resolve()] = reader.graph  # a workflow may use itself
    graph = reader.graph_of(document)
    if picture:
        refuse_writing(graph, place)
    return graph


def _converted(
    data: Any, lines: Mapping[tuple[Any, ...], int], place: Where
) -> tuple[dict[str, Any], Mapping[tuple[Any, ...], int]]:
    """A document in our format and version, with the lines of its parts; one of another format has none."""
    ours = converted(data, place)
    return migrated(ours, place), lines if ours is data else {}


def _open(path: Path, reach: Reach) -> GraphData:
    # Problems show a path relative to the current folder if the file is below that.
    return _load_file(Path(os.path.relpath(path)) if path.is_relative_to(Path.cwd()) else path, reach)


def _parse_file(path: Path) -> tuple[Any, Lines]:
    where = Where(file=str(path))
    if not path.is_file():
        there = path.exists()
        names = [] if there or not path.parent.is_dir() else [p.name for p in path.parent.iterdir()]
        what = "this is no file" if there else "there is no such file"
        raise WorkflowError(Problem("no file", what, where, nearest=nearest(path.name, names)))
    try:
        if path.stat().st_size > MAX_SIZE:
            what = f"the file is larger than {MAX_SIZE // 1_000_000} MB"
            raise WorkflowError(Problem("too large", what, where, "a workflow file is text of some kilobytes"))
        content = read_file(path)
    except OSError as error:
        raise WorkflowError(Problem("no file", f"it cannot be read: {error.strerror or error}", where)) from None
    try:
        return parse(content.decode(), str(path))
    except UnicodeDecodeError as error:
        where = Where(file=str(path), line=content.count(b"\n", 0, error.start) + 1)
        raise WorkflowError(Problem("bad character", "the file is no UTF-8 text", where)) from None


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    # Without the tempfile module, whose files only their user can read: this file gets the mode of any new file.
    part = path.with_name(f".{path.name[:40]}.{os.urandom(6).hex()}")
    try:
        with open(part, "xb") as file:
            file.write(content)
        os.replace(part, path)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
