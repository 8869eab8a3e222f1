"""Named workflows of the server: those that packs ship, and the files of a folder."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphengine.api import load
from graphengine.declare.shipped import SUFFIXES, shipped
from graphengine.errors import FileError, WorkflowError, nearest
from graphengine.graph.data import GraphData
from graphengine.graph.type_inference import output_type
from graphengine.graph.validate import problems as problems_of
from graphengine.server.problems import ApiError
from graphengine.values.socket_types import type_name
from graphengine.workflow.schema import inputs_schema


class Catalog:
    """The workflows that may be run by name. A file of the folder hides a shipped workflow of its name.

    Args:
        folder: Files of workflows; a file `portrait.yaml` is the workflow `portrait`.
        roots: Folders that must contain every file that a workflow of the folder names.
    """

    def __init__(self, folder: Path | None = None, roots: Sequence[Path] = ()) -> None:
        self.folder, self.roots = folder, list(roots)
        self._shipped = shipped()  # packs are loaded once, and looking for their files takes as long as a job
        self._lock = threading.Lock()
        self._read: dict[str, tuple[tuple[int, int], GraphData]] = {}

    def files(self) -> dict[str, Path]:
        """The workflows' files, by name."""
        found = dict(self._shipped)
        if self.folder is not None:
            try:
                mine = sorted(self.folder.iterdir())
            except OSError as error:
                raise FileError(f"{self.folder} cannot be read: {error.strerror or error}") from None
            found |= {file.stem: file for file in mine if file.suffix.lower() in SUFFIXES and file.is_file()}
        return dict(sorted(found.items()))

    def graph(self, name: str) -> GraphData:
        """A workflow by its name; it is not to be changed.

        Raises:
            ApiError: There is none, or it cannot be read.
        """
        known = self.files()
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known) or 'none'}"
            raise ApiError("not_found", f"there is no workflow {name[:80]!r}; {hint}")
        file = known[name]
        stat = file.stat()
        state = (stat.st_mtime_ns, stat.st_size)
        with self._lock:
            kept = self._read.get(str(file))
        if kept is not None and kept[0] == state:
            return kept[1]
        own = self.folder is not None and file.parent == self.folder
        try:
            graph: GraphData = load(file, roots=[self.folder, *self.roots] if own and self.folder else None)
        except WorkflowError as error:
            what = f"the workflow {name} cannot be read; whoever runs this server must correct it"
            raise ApiError("unavailable", what, error.problems) from None
        with self._lock:
            self._read[str(file)] = state, graph
        return graph

    def named(self, name: str) -> GraphData | None:
        """A workflow by its name, or None if there is none.

        Raises:
            ApiError: It cannot be read.
        """
        return self.graph(name) if name in self.files() else None

    def facts(self, name: str) -> dict[str, Any]:
        """A workflow as JSON data: its name, title, description, the JSON Schema of its inputs, its outputs, and why it
        cannot be run, if it cannot."""
        graph = self.graph(name)
        outputs = {output: type_name(output_type(graph, link)) for output, link in graph.outputs.items()}
        wrong = next((one for one in problems_of(graph) if one.severity == "error"), None)
        error = {}
        if wrong is not None:
            error["error"] = str(replace(wrong, where=replace(wrong.where, file=None)))
        return {
            "name": name,
            "title": graph.title,
            "description": graph.description,
            "inputs": inputs_schema(graph),
            "outputs": outputs,
            **error,
        }

    def all(self) -> list[dict[str, Any]]:
        """All workflows as JSON data; of one that cannot be read its name, and why."""
        found = []
        for name in self.files():
            try:
                found.append(self.facts(name))
            except ApiError as error:
                found.append({"name": name, "error": error.detail})
        return found
