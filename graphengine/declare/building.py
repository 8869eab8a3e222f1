"""The graph that is being built in a thread: what nodes that are called are added to."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol


class Builder(Protocol):
    """A graph that is being built, as nodes that are called see it."""

    def call(self, kind: Any, args: Sequence[Any], kwargs: Mapping[str, Any], id: str | None = None, /) -> Any:
        """Add a node by a call, and return the promise of its output."""


_building: contextvars.ContextVar[tuple[Any, ...]] = contextvars.ContextVar("graphengine_building", default=())


def building() -> Any:
    """The innermost graph that is being built in this thread (a `Builder`); None where none is."""
    stack = _building.get()
    return stack[-1] if stack else None


def begin_building(graph: Builder) -> None:
    """Add nodes that are called from now on to a graph."""
    _building.set((*_building.get(), graph))


def end_building() -> None:
    """Go on with the graph that was being built before."""
    _building.set(_building.get()[:-1])


@contextlib.contextmanager
def not_building() -> Iterator[None]:
    """While a graph runs, nodes that nodes call are computed, whatever is being built around it."""
    token = _building.set(())
    try:
        yield
    finally:
        _building.reset(token)
