"""Copies of workflow files, together with the files that they name, so that a copy runs where it is put."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graphengine.declare.shipped import SUFFIXES
from graphengine.errors import FileError, Problem, Where, WorkflowError
from graphengine.system.opening import read_file
from graphengine.system.staging import hidden_folder, make_folder, write_file
from graphengine.workflow.files import dumps
from graphengine.workflow.yaml12 import load as parse


def copy_workflow(source: Path, target: Path, *, force: bool = False) -> list[Path]:
    """Copy a workflow file with the files that it names: pictures, values, other workflows.

    The files keep their relative places, so that the text is copied unchanged, with its comments. If the target has
    the other format (YAML or JSON), the text is converted.

    Args:
        source: The workflow file.
        target: The path of the copy; it ends in .yaml, .yml or .json.
        force: Overwrite existing files.

    Returns:
        The files that were written, the copy of the workflow last. Existing files with the same content are not
        written again.

    Raises:
        WorkflowError: The source is no workflow, it names a file outside its folder, or the target has another ending.
            Nothing was written.
        FileError: A file would be overwritten, and nothing was written; or a file cannot be read or written.
    """
    if target.suffix.lower() not in SUFFIXES:
        raise WorkflowError(Problem("bad name", f"{target} is no name of a workflow file", hint="end it in .yaml or "
                                    ".json"))
    text = _read(source)
    data, _ = parse(text.decode(errors="replace"), str(source))
    beside = _files_beside(source, data)
    copies = {place: file for name, file in beside.items() if not _same(place := target.parent / name, file)}
    blocked = [place for place in (target, *copies) if os.path.lexists(place)]
    if any(os.path.samefile(place, file) for place in blocked if place.exists() for file in (source, *beside.values())):
        raise FileError(f"{target} is the workflow itself, or a file that it uses")
    if blocked and not force:
        raise FileError(f"{' and '.join(map(str, blocked))} would be overwritten; say --force to do that")
    if (source.suffix.lower() == ".json") != (target.suffix.lower() == ".json"):
        text = dumps(data, "json" if target.suffix.lower() == ".json" else "yaml").encode()
    try:
        for place, file in copies.items():
            make_folder(place.parent)
            with hidden_folder(place.parent) as hidden:
                shutil.copyfile(file, hidden / "file")
                os.replace(hidden / "file", place)
        make_folder(target.parent)
    except OSError as error:
        blocks = isinstance(error, FileExistsError | NotADirectoryError)
        why = "that is a file, not a folder" if blocks else error.strerror or error
        raise FileError(f"nothing can be written into {error.filename or target.parent}: {why}") from None
    write_file(target, text)
    return [*copies, target]


def _read(file: Path) -> bytes:
    try:
        return read_file(file)
    except OSError as error:
        raise FileError(f"{file} cannot be read: {error.strerror or error}") from None


def _same(place: Path, file: Path) -> bool:
    """Whether a file with the same content is at the place already."""
    try:
        return place.is_file() and filecmp.cmp(place, file, shallow=False)
    except OSError:
        return False


def _files_beside(source: Path, data: Any) -> dict[str, Path]:
    """The files that a workflow and the workflows that it uses name, by their paths relative to its folder."""
    base, named = Path(os.path.abspath(source)).parent, dict[str, Path]()
    documents, read = [(base, data)], {source.resolve()}
    while documents:
        folder, document = documents.pop()
        for text, is_workflow in _texts(document):
            place = Path(os.path.normpath(folder / text))
            if not text or "\0" in text or len(text) > 4096 or os.path.isabs(text) or place == folder:
                continue
            try:
                files = [file for file in sorted(place.rglob("*")) if file.is_file()] if place.is_dir() else [place]
                files = [file for file in files if file.is_file()]
            except OSError:  # the name is too long, or the folder cannot be read
                continue
            if files and not place.is_relative_to(base):
                raise WorkflowError(Problem(
                    "outside", f"it names {text}, which does not lie in its folder", Where(file=str(source)),
                    "copy the whole folder yourself, or name that file by --set"))
            named |= {str(file.relative_to(base)): file for file in files}
            for file in files if is_workflow else ():
                if file.resolve() not in read:
                    read.add(file.resolve())
                    documents.append((file.parent, parse(_read(file).decode(errors="replace"), str(file))[0]))
    named.pop(os.path.relpath(os.path.abspath(source), base), None)  # a workflow may use itself
    return named


def _texts(document: Any) -> Iterator[tuple[str, bool]]:
    """The texts in a document that may be paths, each with whether it names a workflow."""
    for declared in _entries(document, "inputs"):
        yield from ((text, False) for text in _literals(declared.get("default")))
        held = declared.get("default_file")
        yield from ((text, False) for text in _literals(held.get("file") if isinstance(held, dict) else None))
    for value in _entries(document, "values"):
        yield from ((text, False) for text in _literals(value.get("file")))
    for node in _entries(document, "nodes"):
        yield from ((text, False) for text in _literals(node.get("with")))
        yield from ((text, False) for text in _literals(list(_values(node.get("from")))))
        inner = node.get("workflow")
        yield from _texts(inner) if isinstance(inner, dict) else ((text, True) for text in _literals(inner))
    for inner in _entries(document, "workflows"):
        yield from _texts(inner)


def _entries(document: Any, key: str) -> Iterator[dict[str, Any]]:
    """The mappings among the entries under a key."""
    entries = document.get(key) if isinstance(document, dict) else None
    yield from (entry for entry in (entries.values() if isinstance(entries, dict) else ()) if isinstance(entry, dict))


def _values(links: Any) -> Iterator[Any]:
    """The literals among links: those written as `{value: ...}` in lists."""
    for link in links.values() if isinstance(links, dict) else links if isinstance(links, list) else ():
        if isinstance(link, dict):
            yield link.get("value")
        elif isinstance(link, list):
            yield from _values(link)


def _literals(value: Any) -> Iterator[str]:
    """The texts in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _literals(part)
