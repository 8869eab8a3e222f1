"""The graph that is being built in the current thread, to which every node call adds a node."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol


class Builder(Protocol):
    """A graph that is being built, as node definitions see it."""

    def call(self, definition: Any, args: Sequence[Any], kwargs: Mapping[str, Any], id: str | None = None, /) -> Any:
        """Add a call of a node, and return a reference to its output."""


_building: contextvars.ContextVar[tuple[Any, ...]] = contextvars.ContextVar("graphengine_building", default=())


def building() -> Any:
    """The innermost graph that is being built in this thread (a `Builder`), or None."""
    stack = _building.get()
    return stack[-1] if stack else None


def begin_building(graph: Builder) -> None:
    """Start building a graph: node calls in this thread add nodes to it."""
    _building.set((*_building.get(), graph))


def end_building() -> None:
    """Stop building the innermost graph, and continue with the one around it."""
    _building.set(_building.get()[:-1])


@contextlib.contextmanager
def not_building() -> Iterator[None]:
    """Compute node calls inside a `with` block instead of adding them to the graph that is being built.

    It is used while a graph runs, for nodes that call other nodes.
    """
    token = _building.set(())
    try:
        yield
    finally:
        _building.reset(token)
