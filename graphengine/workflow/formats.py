"""File formats of other tools: converts a document in a format that a pack has registered to a document of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphengine.declare.registry import find, modules, nodes
from graphengine.errors import Problem, Where, WorkflowError, nearest, text_of
from graphengine.graph.data import GraphData
from graphengine.pack import FileFormat, FormatContext, pack_of

ID, TITLE = "id", "title"
"""The keys under `ui` of a node that hold its id and title in the file from which its document was converted."""
SHOWN_BY = "shown_by"
"""The key under `ui` of a converted document: under `inputs` and `outputs`, the ids in the file of the nodes that stand
for them, by name."""


def formats() -> list[FileFormat]:
    """The file formats of all loaded packs."""
    return [format for module in modules() for format in pack_of(module).formats]


def converted(data: Any, place: Where) -> Any:
    """Convert a document in a registered format; any other document is returned as it is.

    Args:
        data: The document: plain data, as YAML and JSON hold it.
        place: The file, for problems.

    Raises:
        WorkflowError: It is in such a format, but cannot be converted.
    """
    if not isinstance(data, dict) or isinstance(data.get("nodes"), dict):  # `nodes` is a mapping in ours only
        return data
    for format in formats():
        try:
            if format.recognise(data):
                return format.read(data, FormatContext(place.file, find, nodes))
        except WorkflowError as error:
            raise WorkflowError([p if p.where.file else p.at(file=place.file) for p in error.problems]) from None
        except Exception as error:  # code of a pack, on data that may be wrong in any way
            what = f"this file of {format.name} cannot be read: {type(error).__name__}: {text_of(error)}"
            raise WorkflowError(Problem("damaged", what, place)) from error
    return data


def format_called(name: str) -> FileFormat:
    """A format that can be written, by its name in any case.

    Raises:
        WorkflowError: There is none.
    """
    known = {format.name.lower(): format for format in formats() if format.write is not None}
    if name.lower() not in known:
        what, listed = f"no pack writes a format called {name:.60}", [format.name for format in known.values()]
        near = nearest(name, listed)
        raise WorkflowError(Problem("unknown format", what, hint="" if near else f"there are {', '.join(listed)}",
                                    nearest=near))
    return known[name.lower()]


def is_output(definition: Any) -> bool:
    """Whether files of a registered format run a node for what it shows or saves."""
    tests = (format.is_output for format in formats())
    return bool(definition.output) or any(test is not None and test(definition) for test in tests)


def opened_inputs(definition: Any) -> Mapping[str, Mapping[str, Sequence[str]]]:
    """By input and choice of a node, the further inputs that the choice opens in files of a registered format."""
    found: dict[str, Mapping[str, Sequence[str]]] = {}
    for format in formats():
        if format.opened is not None:
            found |= format.opened(definition)
    return found


def exported(graph: GraphData, name: str) -> Any:
    """The data of a file that holds a graph in a registered format.

    Args:
        graph: The graph.
        name: The format's name, in any case.

    Raises:
        WorkflowError: There is no such format, or the graph has parts that it cannot hold.
    """
    format = format_called(name)
    assert format.write is not None
    return format.write(graph, FormatContext(None, find, nodes))


def to_editor(document: Mapping[str, Any], classes: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    """What the editor of a registered format opens to show a document.

    Args:
        document: The document, with full names of nodes.
        classes: The nodes as the editor knows them.
        name: The file's name, for problems.

    Raises:
        WorkflowError: No format has an editor, or this one cannot show a part of the document.
    """
    for format in formats():
        if format.to_editor is not None:
            return format.to_editor(document, classes, FormatContext(name, find, nodes))
    raise WorkflowError("no pack has a format with an editor")


def from_editor(data: Mapping[str, Any], classes: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    """The document of what the editor of a registered format saves.

    Args:
        data: What it saves.
        classes, name: As for `to_editor`.

    Raises:
        WorkflowError: No format has an editor, or a document cannot hold a part of it.
    """
    for format in formats():
        if format.from_editor is not None:
            return format.from_editor(data, classes, FormatContext(name, find, nodes))
    raise WorkflowError("no pack has a format with an editor")


def original_outputs(graph: GraphData) -> dict[str, str]:
    """By declared output of a converted document, the id that the node which stands for it had in the file."""
    return {name: id for name, id in _shown_by(graph, "outputs").items() if name in graph.outputs}


def original_inputs(graph: GraphData) -> dict[str, str]:
    """By declared input of a converted document, the id that the node which stands for it had in the file."""
    return {name: id for name, id in _shown_by(graph, "inputs").items() if name in graph.inputs}


def _shown_by(graph: GraphData, part: str) -> dict[str, str]:
    shown = graph.ui.get(SHOWN_BY)
    found = shown.get(part) if isinstance(shown, dict) else None
    return {name: id for name, id in found.items() if isinstance(id, str)} if isinstance(found, dict) else {}


def original_ids(graph: GraphData) -> dict[str, str]:
    """The ids that the nodes of a converted document had in its file, by their ids here; nodes without are left out."""
    ids = ((id, node.ui.get(ID)) for id, node in graph.nodes.items())
    return {id: original for id, original in ids if isinstance(original, str)}


def original_titles(graph: GraphData) -> Mapping[str, str]:
    """The titles that the nodes of a converted document had in its file, by their ids here."""
    titles = ((id, node.ui.get(TITLE)) for id, node in graph.nodes.items())
    return {id: title for id, title in titles if isinstance(title, str)}
