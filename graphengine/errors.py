"""What can go wrong, as values and as one tree of exceptions.

    GraphEngineError
    ├── WorkflowError     a graph or a workflow file cannot be run: holds every Problem found
    ├── NodeError         a node raised while it ran: names node, type and inputs, keeps the cause
    ├── NodeDefinitionError   a function cannot be a node
    ├── PackError         a node pack cannot be loaded
    ├── ModelError        weights are missing, damaged or of the wrong kind
    ├── FileError         a file is missing, damaged or outside the allowed folders
    ├── Cancelled         the run was cancelled
    ├── NotStorable       a value has no form in which it could be written or sent
    ├── InputChanged      a node changed one of its inputs in place
    ├── Lost              what computed a value went away before it ended; another may take over
    │   └── Spoiled       a value was changed in place after it had landed; it is computed anew
    ├── Raised            code of a pack raised what is no Exception: SystemExit, GeneratorExit, ...
    └── Exhausted         this process has no more threads, descriptors or memory: no fault of the node's

A message says what was wrong, where, and what to do.
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
    """A place: a line of a file, a node, one of its sockets; what is not known is None."""

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
    """One thing that is wrong with a graph or a file: where, what, and what to do about it.

    `kind` is a short fixed name (`unknown node`, `type mismatch`, ...) for programs;
    `expected`, `found` and `nearest` hold the parts of the sentence where they apply.
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
        """For JSON: only what is known."""
        where = {name: getattr(self.where, name) for name in Where.__dataclass_fields__}
        items = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "where"}
        items["nearest"] = list(self.nearest)
        return {"where": {k: v for k, v in where.items() if v is not None}} | {
            k: v for k, v in items.items() if v not in (None, "", [])
        }


def short_path(node: str) -> str:
    """The path of a node in workflows that are used as nodes (`outer/inner/node`), for messages: of a long one the
    first and the last parts, with a count of those between."""
    parts = node.split("/")
    if len(parts) <= 2 * ENDS + 1:
        return node
    return "/".join([*parts[:ENDS], f"…({len(parts) - 2 * ENDS:,} more)…", *parts[-ENDS:]])


ENDS = 3
"""Parts that are shown of each end of a long path of a node."""


def nearest(name: str, known: Iterable[str], count: int = 2) -> tuple[str, ...]:
    """The known names that look most like this one, best first."""
    return tuple(difflib.get_close_matches(name, list(known), n=count, cutoff=0.6))


class GraphEngineError(Exception):
    """Everything that graphengine raises on purpose.

    Attributes:
        result: For what a run failed with: a `graphengine.Result` of the outputs that were made all the same.
        failures: All that the run failed with, this first.
    """

    result: Any = None
    failures: tuple[GraphEngineError, ...] = ()


class WorkflowError(GraphEngineError):
    """A graph or a workflow file cannot be run. `problems` holds all that was found, warnings too."""

    def __init__(self, problems: Iterable[Problem] | Problem | str) -> None:
        if isinstance(problems, str):
            problems = Problem("workflow", problems)
        self.problems: list[Problem] = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("\n".join(str(p) for p in self.problems))


class NodeError(GraphEngineError):
    """A node raised while it ran. `__cause__` is what it raised."""

    def __init__(self, node: str, type: str, inputs: Mapping[str, Any], cause: BaseException) -> None:
        self.node, self.type = node, type
        self.inputs = {name: shorten(value) for name, value in inputs.items()}
        self.__cause__ = cause
        given = ", ".join(f"{name}={text}" for name, text in self.inputs.items())
        kind = "" if isinstance(cause, GraphEngineError) else f"{cause.__class__.__name__}: "
        told = f"{kind}{text_of(cause)}\n  with {given or 'no inputs'}"
        super().__init__(f"node {short_path(node)} ({type}) failed: {told}")


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
    """A value, or something in it, has no form in which it could be written to a file or sent to another process."""


class InputChanged(GraphEngineError):
    """A node changed one of its inputs in place, which other nodes, runs and callers may hold as well."""


class Lost(GraphEngineError):
    """What computed a value went away (a worker that died, memory that ran out): not the node's failure."""


class Exhausted(GraphEngineError):
    """This process has no more threads, descriptors or memory to be had: not the node's failure."""


class Raised(GraphEngineError):
    """Code of a pack raised what is no Exception. `__cause__` is that, where it was raised in this process."""


class Spoiled(Lost):
    """A value is not what it was when it landed: it is forgotten, and whoever needs it computes it anew."""


def lacks_memory(error: object) -> bool:
    """Whether an exception says that memory ran out (torch's own for a device is no MemoryError)."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def text_of(error: BaseException) -> str:
    """What an exception says, or its class where it cannot say anything."""
    try:
        return str(error)
    except BaseException as raised:
        if _is_interrupt(raised):
            raise
        return type(error).__name__


def as_exception(error: BaseException) -> Exception:
    """What code of a pack raised, as an Exception: SystemExit and its like would end a thread, or a process, that
    others wait for, and say nothing.

    Raises:
        KeyboardInterrupt: It is one, and Ctrl-C raises it on this thread.
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
    """Whether an exception may come of Ctrl-C: Python raises it on the main thread, and by this handler only."""
    if not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread():
        return False
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler


def shorten(value: Any, length: int = 80) -> str:
    """A value in at most `length` characters of one line, for messages; arrays and tensors by type and shape."""
    short = _Short()
    short.maxstring = short.maxother = short.maxlong = max(length, 8) + 8
    try:
        text = " ".join(short.repr(value).split())
    except BaseException as raised:  # of a class that cannot say what it is
        as_exception(raised)
        text = f"<{type(value).__name__}>"
    return text if len(text) <= length else f"{text[: length - 1]}…"


class _Short(reprlib.Repr):
    """`reprlib`'s own, which looks at the first items only, but for arrays and tensors."""

    def repr1(self, x: Any, level: int) -> str:
        cls = type(x)
        if hasattr(cls, "shape") and hasattr(cls, "dtype") and (shape := tuple(x.shape)):
            return f"<{cls.__name__} {list(shape)} {str(x.dtype).removeprefix('torch.')}>"
        return super().repr1(x, level)
