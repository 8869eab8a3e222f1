"""Inputs of jobs as clients send them, made what the engine takes: files by hash or data URL, paths inside folders."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from graphengine.declare.sockets import File
from graphengine.errors import FileError, Problem, Where, WorkflowError
from graphengine.graph.data import GraphData
from graphengine.graph.elements import INPUTS
from graphengine.graph.validate import problems as problems_of
from graphengine.keys.files import resolve
from graphengine.planning.inputs import BoundInputs, bind_inputs
from graphengine.server.file_store import PREFIX, FileStore, StoredFile
from graphengine.server.problems import ApiError
from graphengine.values.socket_types import strip, union_members

_DATA = re.compile(r"data:[\w.+-]*/?[\w.+-]*(?:;[\w.+-]+=[\w.+-]+)*;base64,", re.ASCII)


Fetch = Callable[[str, str], StoredFile]


@dataclass(frozen=True, slots=True)
class Folders:
    """The folders of a server.

    Attributes:
        input: Where relative paths of jobs start.
        output: Where the files of jobs are written.
        models: Where models lie; None if jobs may name only models of packs and hub ids.
        workflows: Named workflows, and files beside them.
    """

    input: Path
    output: Path
    models: Path | None = None
    workflows: Path | None = None

    def readable(self) -> list[Path]:
        """The folders whose files a job may name."""
        return [folder for folder in (self.input, self.models, self.workflows) if folder is not None]


def bind(graph: GraphData, inputs: Mapping[str, Any], user: str, folders: Folders, files: FileStore,
         roots: Sequence[Path], fetch: Fetch) -> BoundInputs:  # fmt: skip
    """The inputs of a job, checked together with its graph.

    Args:
        graph: The graph, which is not changed.
        inputs: As a client sent them. For an input of type `path`: the id of a file of the user (`sha256:...`), a data
            URL, a URL that may be fetched, or a path inside the input folder.
        user: Whose files these are.
        roots: The folders that the job's files may not leave.
        fetch: Fetches a file for a user by its URL, or says why not.

    Raises:
        WorkflowError: Holds everything that is wrong with the graph and the inputs.
    """
    found = [problem for problem in problems_of(graph) if problem.severity == "error"]
    found += _of_files(graph, roots, files.of(user))
    given: dict[str, Any] = {}
    for name, value in inputs.items():
        rule = _rule(graph, name)
        if rule is not None and value == graph.inputs[name].default:
            continue  # a file beside the workflow, where a client's own are not looked for
        try:
            given[name] = value if rule is None else _file(value, name, rule, user, folders, files, fetch)
        except ApiError as error:
            if error.code == "busy":
                raise
            found.append(Problem("no file", error.detail, Where(node=INPUTS, socket=name)))
    wrong = {problem.where.socket for problem in found if problem.where.node == INPUTS}
    try:
        bound = bind_inputs(graph, given, folders.input)
    except WorkflowError as error:
        found += [one for one in error.problems if one not in found and one.where.socket not in wrong]
        raise WorkflowError(found) from None
    if found:
        raise WorkflowError(found)
    return bound


def put_uploads(graph: GraphData, user: str, files: FileStore) -> None:
    """Put the paths of uploaded files in the place of their ids in a graph that was just read.

    Raises:
        WorkflowError: The user has no such file; holds all that are missing.
    """
    missing: list[Problem] = []

    def path_of(value: Any, where: Where) -> Any:
        if isinstance(value, list):
            return [path_of(item, where) for item in value]
        if not isinstance(value, str | PurePath) or not str(value).startswith(PREFIX):
            return value
        try:
            return str(files.get(user, str(value)).path)
        except ApiError as error:
            missing.append(Problem("no file", error.detail, where))
            return value

    for part in graph.with_parts():
        for id, node in part.nodes.items():
            for name, socket in node.sockets.items():
                if socket.file is not None and name in node.literals:
                    node.args[name] = node.literals[name] = path_of(node.literals[name], Where(node=id, socket=name))
    if missing:
        raise WorkflowError(missing)


def _rule(graph: GraphData, name: str) -> File | None:
    """The rule of the file that an input names; None if it names none."""
    declared = graph.inputs.get(name)
    if declared is None:
        return None
    rules = []
    for id, socket_name, link in graph.bound_sockets():
        socket = graph.nodes[id].sockets.get(socket_name) if link.node == INPUTS and link.port == name else None
        if socket is not None and socket.file is not None:
            rules.append(socket.file)
    if rules:
        return rules[0]
    members = union_members(strip(declared.type))
    return File() if any(isinstance(one, type) and issubclass(one, PurePath) for one in members) else None


def _file(
    value: Any, name: str, rule: File, user: str, folders: Folders, files: FileStore, fetch: Fetch
) -> Any:  # fmt: skip
    if isinstance(value, list):
        return [_file(item, name, rule, user, folders, files, fetch) for item in value]
    if not isinstance(value, str) or value in rule.known:
        return value
    if value.startswith(PREFIX):
        return str(files.get(user, value).path)
    if value.startswith("data:"):
        return str(files.put(user, _decoded(value, name)).path)
    if value.lower().startswith(("http://", "https://")):
        return str(fetch(user, value).path)
    path = PurePath(value)
    if "\0" in value or len(value) > 4096 or path.is_absolute() or ".." in path.parts or value.startswith("~"):
        raise ApiError("invalid", f"{value[:80]!r} is no path inside the folders of this server")
    for folder in (folders.models if rule.names else None, folders.input):
        if folder is not None and (folder / path).exists():
            return str(folder / path)
    if rule.names:
        return value  # a hub id, or a name that the node knows
    raise ApiError("invalid", f"there is no file {value[:80]!r} among the inputs of this server; upload it, or send a "
                              "data URL")  # fmt: skip


def _decoded(url: str, name: str) -> bytes:
    head = _DATA.match(url)
    if head is None:
        raise ApiError("invalid", f"{name}: a data URL is data:TYPE;base64,CONTENT, not {url[:40]!r}")
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError("invalid", f"{name}: the data URL holds no base64: {error}") from None


def _of_files(graph: GraphData, roots: Sequence[Path], uploads: Path) -> list[Problem]:
    """What is wrong with the files that the nodes of a graph name, or write.

    Args:
        uploads: The folder of the user's uploads, which only inputs that take files may name: its place is not shown.
    """
    found = []
    for part in graph.with_parts():
        for id, node in part.nodes.items():
            for name, socket in node.sockets.items():
                rule, where = socket.file, Where(node=id, socket=name)
                if rule is None:
                    value = node.literals.get(name)
                    if any(str(uploads) in text for text in _texts(value)):
                        what = "this input takes no file, so that no asset can stand here"
                        found.append(Problem("no file", what, where))
                    continue
                if rule.write:
                    what = f"{node.type} writes a file by itself, which jobs of a server do not"
                    found.append(Problem("writes files", what, where, hint="make its value an output of the workflow"))
                    continue
                value = node.literals.get(name)
                for text in value if isinstance(value, list) else [value]:
                    if isinstance(text, str | Path):
                        try:
                            resolve(text, rule, part.folder or roots[0], list(roots))
                        except FileError as error:
                            found.append(Problem("no file", _without(str(error), roots), where))
    return found


def _texts(value: Any) -> Iterator[str]:
    """The texts in a literal."""
    if isinstance(value, str | Path):
        yield str(value)
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _without(text: str, roots: Sequence[Path]) -> str:
    """A sentence without the places of this server's folders."""
    text = re.sub(r" \(/.*\)", "", text)
    for root in sorted(map(str, roots), key=len, reverse=True):
        text = text.replace(f"{root}/", "").replace(root, "")
    return text
