"""Errors: one tree of exceptions, and `Problem`, the value that describes one mistake in a graph or a file.

    GraphEngineError
    ├── WorkflowError     a graph or a workflow file cannot be run: holds every Problem
    ├── NodeError         a node raised an exception: names node, type and inputs, keeps the cause
    ├── NodeDefinitionError   a function cannot be made a node
    ├── PackError         a node pack cannot be loaded
    ├── ModelError        weights are missing, damaged or of the wrong kind
    ├── FileError         a file is missing, damaged or outside the allowed folders
    ├── Cancelled         the run was cancelled
    ├── NotStorable       a value has no form in which it could be written or sent
    ├── InputChanged      a node changed one of its inputs in place
    ├── Lost              a worker died, or memory ran out, before the value was ready; it can be computed again
    │   └── Spoiled       a stored value was changed in place; it is computed again
    ├── Raised            code of a pack raised something that is no Exception: SystemExit, GeneratorExit, ...
    └── Exhausted         this process has no threads, file descriptors or memory left; the node is not at fault

A message says what is wrong, where, and what to do.
"""

from __future__ import annotations

import difflib
import reprlib
import signal
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

__all__ = [
    "Cancelled",
    "Exhausted",
    "FileError",
    "GraphEngineError",
    "InputChanged",
    "Lost",
    "ModelError",
    "NodeDefinitionError",
    "NodeError",
    "NotStorable",
    "PackError",
    "Problem",
    "Raised",
    "Spoiled",
    "Where",
    "WorkflowError",
    "as_exception",
    "lacks_memory",
    "nearest",
    "text_of",
]

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Where:
    """A place: a line of a file, a node, one of its sockets; unknown parts are None."""

    file: str | None = None
    line: int | None = None
    node: str | None = None
    socket: str | None = None

    def __str__(self) -> str:
        place = self.file or ""
        if self.line is not None:
            place += f":{self.line}" if place else f"line {self.line}"
        port = ".".join(part for part in (self.node and short_path(self.node), self.socket) if part)
        return ": ".join(part for part in (place, port) if part)


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a graph or a file: where it is, what is wrong, and what to do about it.

    Attributes:
        kind: A short fixed name for programs: `unknown node`, `type mismatch`, ...
        what: The sentence for a person.
        where: The place.
        hint: What to do about it; may be empty.
        expected, found: What should stand there and what stands there, where that applies.
        nearest: Known names similar to an unknown one.
        severity: `error`, or `warning` for what does not stop a run.
    """

    kind: str
    what: str
    where: Where = Where()
    hint: str = ""
    expected: str | None = None
    found: str | None = None
    nearest: tuple[str, ...] = ()
    severity: Severity = "error"

    def __str__(self) -> str:
        place = str(self.where)
        text = f"{place}: {self.what}" if place else self.what
        if self.nearest:
            text += f"; did you mean {' or '.join(self.nearest)}?"
        if self.hint:
            text += f" ({self.hint})"
        return f"warning: {text}" if self.severity == "warning" else text

    def at(self, **place: Any) -> Problem:
        """The same problem at a better known place."""
        return replace(self, where=replace(self.where, **place))

    def as_dict(self) -> dict[str, Any]:
        """The problem as data for JSON, without unknown and empty fields."""
        where = {name: getattr(self.where, name) for name in Where.__dataclass_fields__}
        items = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "where"}
        items["nearest"] = list(self.nearest)
        return {"where": {k: v for k, v in where.items() if v is not None}} | {
            k: v for k, v in items.items() if v not in (None, "", [])
        }


def short_path(node: str) -> str:
    """Shorten a node's path (`outer/inner/node`, through workflows used as nodes) for messages.

    A long path keeps its first and last `ENDS` parts, with the number of parts between them.
    """
    parts = node.split("/")
    if len(parts) <= 2 * ENDS + 1:
        return node
    return "/".join([*parts[:ENDS], f"…({len(parts) - 2 * ENDS:,} more)…", *parts[-ENDS:]])


ENDS = 3
"""Parts shown at each end of a long node path."""


def nearest(name: str, known: Iterable[str], count: int = 2) -> tuple[str, ...]:
    """The known names that look most like this one, best first."""
    return tuple(difflib.get_close_matches(name, list(known), n=count, cutoff=0.6))


class GraphEngineError(Exception):
    """Base class of everything that graphengine raises on purpose.

    Attributes:
        result: If a run raised this: the `graphengine.Result` of the outputs that were made nevertheless.
        failures: If a run raised this: all errors of the run, this one first.
    """

    result: Any = None
    failures: tuple[GraphEngineError, ...] = ()


class WorkflowError(GraphEngineError):
    """A graph or a workflow file cannot be run. `problems` holds every `Problem`, warnings included."""

    def __init__(self, problems: Iterable[Problem] | Problem | str) -> None:
        if isinstance(problems, str):
            problems = Problem("workflow", problems)
        self.problems: list[Problem] = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("\n".join(str(p) for p in self.problems))


class NodeError(GraphEngineError):
    """A node raised an exception while it ran; `__cause__` is that exception."""

    def __init__(self, node: str, type: str, inputs: Mapping[str, Any], cause: BaseException) -> None:
        self.node, self.type = node, type
        self.inputs = {name: shorten(value) for name, value in inputs.items()}
        self.__cause__ = cause
        given = ", ".join(f"{name}={text}" for name, text in self.inputs.items())
        raised = "" if isinstance(cause, GraphEngineError) else f"{cause.__class__.__name__}: "
        message = f"{raised}{text_of(cause)}\n  with {given or 'no inputs'}"
        super().__init__(f"node {short_path(node)} ({type}) failed: {message}")


class NodeDefinitionError(GraphEngineError):
    """A function cannot be made a node: an annotation is missing or cannot be read."""


class PackError(GraphEngineError):
    """A node pack cannot be loaded. `pack` is its name."""

    def __init__(self, pack: str, message: str) -> None:
        self.pack = pack
        super().__init__(f"node pack {pack}: {message}")


class ModelError(GraphEngineError):
    """Weights are missing, damaged or of the wrong kind."""


class FileError(GraphEngineError):
    """A file is missing, damaged, absurdly large or outside the allowed folders."""


class Cancelled(GraphEngineError):
    """The run was cancelled before it ended."""


class NotStorable(GraphEngineError, TypeError):
    """A value, or a part of it, cannot be written to a file or sent to another process."""


class InputChanged(GraphEngineError):
    """A node changed one of its inputs in place, although other nodes, runs and callers may hold the same object."""


class Lost(GraphEngineError):
    """A call was lost: its worker died or memory ran out. The node did not fail, and the call can be tried again."""


class Exhausted(GraphEngineError):
    """This process can get no more threads, file descriptors or memory; the node did not fail."""


class Raised(GraphEngineError):
    """Code of a pack raised something that is no Exception; `__cause__` is it, if it was raised in this process."""


class Spoiled(Lost):
    """A remembered value was changed in place after it was computed: it is forgotten and computed again when needed."""


def lacks_memory(error: object) -> bool:
    """Whether an exception means that memory ran out (torch's error for a device is no MemoryError)."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def text_of(error: BaseException) -> str:
    """The message of an exception; its class name if its `__str__` raises."""
    try:
        return str(error)
    except BaseException as raised:
        if _is_interrupt(raised):
            raise
        return type(error).__name__


def as_exception(error: BaseException) -> Exception:
    """Turn whatever code of a pack raised into an Exception.

    SystemExit and the like would silently end a thread or a process that others wait for.

    Raises:
        KeyboardInterrupt: `error` is one that Ctrl-C raised on this thread.
    """
    if isinstance(error, Exception):
        return error
    if _is_interrupt(error):
        raise error
    name, text = type(error).__name__, text_of(error)
    raised = Raised(f"{name}: {text}" if text else name)
    raised.__cause__ = error
    return raised


def _is_interrupt(error: BaseException) -> bool:
    """Whether Ctrl-C may have raised this: Python does so on the main thread only, by its default handler."""
    if not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread():
        return False
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler


def shorten(value: Any, length: int = 80) -> str:
    """Show a value in one line of at most `length` characters, for messages; arrays and tensors by type and shape."""
    short = _Short()
    short.maxstring = short.maxother = short.maxlong = max(length, 8) + 8
    try:
        text = " ".join(short.repr(value).split())
    except BaseException as raised:  # its `__repr__` fails
        as_exception(raised)
        text = f"<{type(value).__name__}>"
    return text if len(text) <= length else f"{text[: length - 1]}…"


class _Short(reprlib.Repr):
    """`reprlib.Repr`, which looks at the first items only, with arrays and tensors shown by type and shape."""

    def repr1(self, x: Any, level: int) -> str:
        cls = type(x)
        if hasattr(cls, "shape") and hasattr(cls, "dtype") and (shape := tuple(x.shape)):
            return f"<{cls.__name__} {list(shape)} {str(x.dtype).removeprefix('torch.')}>"
        return super().repr1(x, level)
