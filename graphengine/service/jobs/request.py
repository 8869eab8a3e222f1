"""The document of a job: its graph, inputs and options as JSON and back; bytes lie in a folder of the job."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphengine.cache.tree import blob_name, from_tree, to_tree
from graphengine.errors import FileError, NotStorable, Problem, Where, WorkflowError
from graphengine.graph.data import GraphData, folder_of
from graphengine.graph.elements import INPUTS
from graphengine.graph.selection import link_of
from graphengine.planning.inputs import as_given
from graphengine.system.folders import state_folder
from graphengine.system.opening import read_file
from graphengine.system.private import make_private, write_private
from graphengine.system.staging import Hold, make_held, sync
from graphengine.workflow.files import from_document, to_document

FORMAT = 1


@dataclass
class JobRequest:
    """A job as a graph with its inputs and options.

    Attributes:
        graph, inputs: The graph and its inputs, as given until they are bound for the run.
        want: The wanted outputs, nodes or ports by name; None for all outputs.
        exact: Compute no call in a batch, and share values only with runs in the very same environment.
        base: The folder from which relative paths among the inputs start.
        out: A folder into which the outputs are written; None to write none.
        name: The beginning of the names of those files.
        roots: Folders that file parameters may not leave; None allows all.
        keep_going: After a failure, compute all nodes that do not depend on it.
        whole: If the job fails, write the outputs that were made.
        finish: The name of a finisher of the service that is called with the outputs, and its data.
        texts: More texts that the written pictures carry, by their names; the engine's own go before them.
    """

    graph: GraphData
    inputs: Mapping[str, Any] = field(default_factory=dict)
    want: Sequence[str] | None = None
    exact: bool = False
    base: Path = field(default_factory=Path.cwd)
    out: Path | None = None
    name: str = "job"
    roots: Sequence[str] | None = None
    finish: tuple[str, Any] | None = None
    keep_going: bool = False
    whole: bool = False
    texts: Mapping[str, str] = field(default_factory=dict)


class Files:
    """The folders beside a queue in which jobs keep their bytes, one for each job.

    Args:
        folder: The folder that holds them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._coming: dict[str, Hold | None] = {}  # of jobs that are not in the queue yet

    def new(self) -> str:
        """A name for a new job's folder, which is made when bytes are written; until `settle` no sweep removes it."""
        name = uuid.uuid4().hex
        self._coming[name] = None
        return name

    def settle(self, name: str) -> None:
        """Note that a new job is in the queue, which keeps sweeps from its folder from now on."""
        hold = self._coming.pop(name, None)
        if hold is not None:
            hold.release()

    def put(self, name: str, blob: str, content: bytes, like: str = "") -> None:
        """Write bytes into a job's folder, whole or not at all.

        Args:
            like: The folder of another job: bytes that it has too are linked.
        """
        file = self._file(name, blob)
        if file.exists():
            return
        try:
            self._make(name)
            with contextlib.suppress(OSError):  # the other folder has none, or the disk knows no links
                if like:
                    os.link(self._file(like, blob), file)
                    return
            write_private(file, content, durable=True)  # the job that needs it is acknowledged next
        except OSError as error:
            raise FileError(f"{file} cannot be written: {error.strerror or error}") from None

    def _make(self, name: str) -> None:
        folder = self.folder / name
        if folder.is_dir():
            return
        first = not self.folder.is_dir()
        make_private(self.folder, state_folder())
        if first:
            sync(self.folder.parent)
        if name not in self._coming:
            make_private(folder, state_folder())
            return

        def make() -> Path:
            make_private(folder, state_folder())
            return folder

        self._coming[name] = make_held(make)

    def sync(self, name: str) -> None:
        """Bring the names of a job's files to the disk; their bytes are there already.

        Raises:
            FileError: They cannot be written.
        """
        if (self.folder / name).is_dir():
            try:
                sync(self.folder / name)
                sync(self.folder)
            except OSError as error:
                raise FileError(f"{self.folder} cannot be written: {error.strerror or error}") from None

    def get(self, name: str, blob: str, hash_of: Callable[[bytes], str] = blob_name) -> bytes:
        """Read bytes from a job's folder.

        Args:
            hash_of: The hash by which they are named.

        Raises:
            OSError: There are no such bytes.
            FileError: They are damaged.
        """
        file = self._file(name, blob)
        content = read_file(file)
        if hash_of(content) != blob:
            raise FileError(f"{file} is damaged: its bytes are not those that were written; submit the job again")
        return content

    def remove(self, name: str) -> None:
        """Remove a job's folder."""
        if name:
            shutil.rmtree(self.folder / name, ignore_errors=True)
            self.settle(name)

    def half_written(self, name: str) -> list[Path]:
        """List the half-written files in a job's folder; while the job runs it may be writing them."""
        return list((self.folder / name).glob(".*")) if name else []

    def tidy(self, name: str) -> None:
        """Remove half-written files from the folder of a job that does not run."""
        for file in self.half_written(name):
            with contextlib.suppress(OSError):
                file.unlink()

    def _file(self, name: str, blob: str) -> Path:
        if not name.isalnum() or not blob.isalnum():
            raise FileError(f"{name}/{blob} is no file of a job")
        return self.folder / name / blob


def body_of(request: JobRequest, files: Files, like: str = "") -> dict[str, Any]:
    """The body of a job as JSON data; its bytes are put into files.

    Args:
        like: The folder of another job: bytes that it has too are linked, not written again.

    Raises:
        WorkflowError: The graph cannot be written, or an input is no data; names all problems.
    """
    name = files.new()
    try:
        body = _body(request, name, lambda blob, content: files.put(name, blob, content, like))
        files.sync(name)
        return body
    except BaseException:
        files.remove(name)
        raise


def _body(request: JobRequest, name: str, put: Callable[[str, bytes], None]) -> dict[str, Any]:
    problems, inputs = [], {}
    for key, value in as_given(request.inputs).items():
        try:
            inputs[key] = to_tree(value, put)
        except NotStorable as error:
            where = Where(node=INPUTS, socket=key)
            problems.append(Problem("no data", str(error), where, hint="jobs are data only"))
    if problems:
        raise WorkflowError(problems)
    graph = request.graph
    return {
        "format": FORMAT,
        "workflow": to_document(graph, embed=True, pin=True, keep=put, findable=True),
        "folder": str(folder_of(graph)),
        "file": None if graph.file is None else graph.file.name,
        "name": request.name,
        "inputs": inputs,
        "want": None if request.want is None else list(request.want),
        "exact": request.exact,
        "keep_going": request.keep_going,
        "whole": request.whole,
        "texts": dict(request.texts),
        "base": str(request.base),
        "out": None if request.out is None else str(request.out),
        "roots": None if request.roots is None else list(request.roots),
        "finish": None if request.finish is None else list(request.finish),
        "files": name,
    }


def request_of(body: Mapping[str, Any], files: Files, roots: Sequence[str] | None = None) -> JobRequest:
    """Read a job's request from its body.

    Args:
        roots: Folders that no file may leave, whatever the body says; None allows what it says.

    Raises:
        WorkflowError: The body is of a newer version, or its workflow cannot be read here.
        FileError: The job's bytes are gone, or damaged.
    """
    if body.get("format") != FORMAT:
        raise WorkflowError(f"this job is of version {body.get('format')}, this program knows {FORMAT}; update it")
    name = body["files"]

    def read(blob: str) -> bytes:
        try:
            return files.get(name, blob)
        except OSError:
            raise FileError(f"the bytes {blob[:12]} of this job are gone from {files.folder}") from None

    def fetch(digest: str) -> bytes | None:
        with contextlib.suppress(OSError):
            return files.get(name, digest, lambda content: hashlib.sha256(content).hexdigest())
        return None

    allowed = body["roots"] if roots is None else roots
    graph = from_document(body["workflow"], name=body["file"], base=body["folder"], roots=allowed, fetch=fetch)
    return JobRequest(
        graph,
        {key: from_tree(tree, read) for key, tree in body["inputs"].items()},
        body["want"],
        body["exact"],
        Path(body["base"]),
        None if body["out"] is None else Path(body["out"]),
        body["name"],
        body["roots"],
        None if body["finish"] is None else (body["finish"][0], body["finish"][1]),
        body.get("keep_going", False),
        body.get("whole", False),
        body.get("texts", {}),
    )


def wants(graph: GraphData, want: Any) -> list[str] | None:
    """The wanted outputs, nodes or ports, as texts."""
    if want is None:
        return None
    several = want if isinstance(want, list | tuple) else [want]
    return [one if isinstance(one, str) else str(link_of(graph, one)) for one in several]


def result_tree(outputs: Mapping[str, Any], name: str, files: Files) -> dict[str, Any]:
    """Outputs as trees; an output without a codec is None, as it cannot leave its process."""
    found: dict[str, Any] = {}
    for key, value in outputs.items():
        try:
            found[key] = to_tree(value, lambda blob, content: files.put(name, blob, content))
        except NotStorable:
            found[key] = None
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]
