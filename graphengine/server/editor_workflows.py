"""Workflow files of ours in the editor, which knows JSON files of its own format only.

A file `portrait.yaml` is shown as `portrait.yaml.json`. It is converted when it is opened and when it is saved, and so
is a document of ours in JSON, under its own name. Whatever else lies in the folder goes as it is.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from graphengine.errors import FileError, WorkflowError
from graphengine.graph.data import GraphData
from graphengine.results.record import parse as parse_record
from graphengine.server.json_text import parse
from graphengine.server.problems import ApiError
from graphengine.server.tokens import Caller
from graphengine.server.user_files import WORKFLOWS, UserFile, UserFiles
from graphengine.workflow.files import dumps, from_document, to_document
from graphengine.workflow.formats import from_editor, to_editor
from graphengine.workflow.pictures import RECORD, SIGNATURE
from graphengine.workflow.yaml12 import load
from graphengine.workflow.yaml_edit import edited

YAML, SHOWN = (".yaml", ".yml"), ".json"


def is_yaml(name: str) -> bool:
    """Whether a user's file is a workflow in YAML."""
    return name.startswith(f"{WORKFLOWS}/") and name.lower().endswith(YAML)


def shown_name(name: str) -> str:
    """The name of a user's file in the editor."""
    return f"{name}{SHOWN}" if is_yaml(name) else name


class EditorWorkflows:
    """The files of users, as the editor sees them. Every method is safe to call from any thread.

    Args:
        users: The files.
        classes: Returns the nodes as the editor knows them for a user.
    """

    def __init__(self, users: UserFiles, classes: Callable[[Caller], Mapping[str, Any]]) -> None:
        self.users, self.classes = users, classes

    def files(self, caller: Caller, folder: str) -> list[UserFile]:
        """The files in a folder and the folders in it, by name."""
        found = {shown_name(file.name): file for file in self.users.files(caller, folder)}
        return [replace(file, name=name) for name, file in found.items()]

    def read(self, caller: Caller, name: str) -> bytes:
        """The bytes of a file, workflows of ours as the editor opens them.

        Raises:
            ApiError: There is none.
            WorkflowError: The editor cannot show it.
        """
        file = _file(name)
        content = self.users.read(caller, file)
        document = self._document(caller, file, content)
        if document is None:
            return content
        return json.dumps(to_editor(document, self.classes(caller), file)).encode()

    def write(self, caller: Caller, name: str, content: bytes, overwrite: bool) -> UserFile:
        """Write a file, whole or not at all: what the editor saves under the name of a workflow of ours becomes one.

        Raises:
            ApiError: There is one already, and `overwrite` is false.
            WorkflowError: A workflow of ours cannot hold a part of it.
        """
        file = _file(name)
        old = self._old(caller, file)
        if is_yaml(file) or (old is not None and self._is_ours(caller, file, old)):
            workflow = parse(content)
            if not isinstance(workflow, dict):
                raise ApiError("bad_request", "a workflow of the editor is a JSON object")
            document = self._pinned(caller, file, from_editor(workflow, self.classes(caller), file))
            content = self._text(caller, file, document, old).encode()
        return replace(self.users.write(caller, file, content, overwrite), name=name)

    def dropped(self, caller: Caller, name: str, content: bytes) -> bytes:
        """A workflow of ours that somebody has dropped on the page, as the editor opens it.

        Args:
            name: The file's name.
            content: A YAML or JSON file, or a PNG with the record of how it was made, whose inputs are as they were.

        Raises:
            ApiError: It is none of these, or damaged.
            WorkflowError: It cannot be read, or the editor cannot show it.
        """
        if content.startswith(SIGNATURE):
            record = _record(content, name)
            data, lines = record["workflow"], None
            inputs = data.get("inputs")
            for input, value in record["inputs"].items() if isinstance(inputs, dict) else ():
                if isinstance(inputs.get(input), dict):
                    inputs[input]["default"] = value
        else:
            try:
                data, lines = load(content.decode(), name)
            except UnicodeDecodeError:
                raise ApiError("bad_request", f"{name[:80]} is no UTF-8 text") from None
        graph = from_document(data, name=name, lines=lines, base=self.users.folder, roots=())
        return json.dumps(to_editor(_in_full(graph), self.classes(caller), name)).encode()

    def delete(self, caller: Caller, name: str) -> None:
        """Remove a file."""
        self.users.delete(caller, _file(name))

    def move(self, caller: Caller, name: str, to: str, overwrite: bool) -> UserFile:
        """Give a file another name; one that becomes YAML, or ends being YAML, is converted."""
        file, target = _file(name), _file(to)
        if is_yaml(file) == is_yaml(target):
            return replace(self.users.move(caller, file, target, overwrite), name=to)
        made = self.write(caller, to, self.read(caller, name), overwrite)
        self.users.delete(caller, file)
        return made

    # --- documents ----------------------------------------------------------------------------------------------------

    def _document(self, caller: Caller, file: str, content: bytes) -> dict[str, Any] | None:
        """The document of a file in full: with all names and versions of nodes; None if it is no document of ours."""
        if not file.startswith(f"{WORKFLOWS}/") or not file.lower().endswith((*YAML, SHOWN)):
            return None
        if not is_yaml(file) and b'"nodes"' not in content:
            return None
        try:
            data, lines = load(content.decode(), file)
        except (WorkflowError, UnicodeDecodeError):
            if is_yaml(file):
                raise
            return None
        if not is_yaml(file) and not (isinstance(data, dict) and isinstance(data.get("nodes"), dict)):
            return None
        return self._pinned(caller, file, data, lines)

    def _pinned(self, caller: Caller, file: str, data: Any, lines: Any = None) -> dict[str, Any]:
        place, root = self.users.place(caller, file)
        return _in_full(from_document(data, name=file, lines=lines, base=place.parent, roots=[root]))

    def _old(self, caller: Caller, file: str) -> str | None:
        """The text of a file that is written anew; None if there is none."""
        try:
            return self.users.read(caller, file).decode()
        except (ApiError, UnicodeDecodeError):
            return None

    def _is_ours(self, caller: Caller, file: str, text: str) -> bool:
        try:
            return self._document(caller, file, text.encode()) is not None
        except WorkflowError:
            return True

    def _text(self, caller: Caller, file: str, document: dict[str, Any], old: str | None) -> str:
        """The text of a document, with the comments of the file that it replaces where they can stay."""
        if not is_yaml(file):
            return dumps(document, "json")
        if old is None:
            return dumps(document)
        try:
            before = self._document(caller, file, old.encode())
            text = edited(old, before or {}, document)
            return text if self._document(caller, file, text.encode()) == document else dumps(document)
        except WorkflowError:  # the old file was damaged
            return dumps(document)


def _in_full(graph: GraphData) -> dict[str, Any]:
    """The document of a graph that was read, with all names and versions of nodes."""
    if graph.problems_at_load:
        raise WorkflowError(graph.problems_at_load)
    return to_document(graph, pin=True)


def _record(content: bytes, name: str) -> dict[str, Any]:
    """The record in a picture of how it was made."""
    import PIL.Image  # not before a picture is dropped: the server starts without it

    try:
        with PIL.Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
            text = picture.info.get(RECORD)
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        text = None
    if not isinstance(text, str):
        raise ApiError("bad_request", f"the picture {name[:80]} does not say how it was made")
    try:
        return parse_record(text, name)
    except FileError as error:
        raise ApiError("bad_request", str(error)) from None


def _file(name: str) -> str:
    """The file that the editor means by a name."""
    inner = name.removesuffix(SHOWN)
    return inner if inner != name and is_yaml(inner) else name
