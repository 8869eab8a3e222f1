"""Flow: conditions, and mapping over lists. All these nodes work outside graphs as plain calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar, cast, overload

from graphengine.declare.building import building
from graphengine.declare.definition import NodeDef, node
from graphengine.declare.sockets import Doc, Lazy
from graphengine.errors import GraphEngineError, NodeError, WorkflowError, as_exception, shorten
from graphengine.graph.build import GraphBuilder
from graphengine.graph.data import GraphData
from graphengine.graph.elements import INPUTS, Input, Link, Ref
from graphengine.pack import Pack
from graphengine.values.socket_types import type_name

__pack__ = Pack("flow", distribution="graphengine")

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
R = TypeVar("R")


@node(version=1, expand=True)
def when(condition: bool, then: Annotated[T, Lazy()], otherwise: Annotated[T, Lazy()]) -> T:
    """Choose one of two inputs by a condition; the other is not computed."""
    return then if condition else otherwise


@node(version=1, expand=True)
def switch(
    choice: Annotated[int | str, Doc("Which case: its number from 0, or its name.")],
    cases: Annotated[list[T], Lazy(), Doc("Only the one that is taken is computed.")],
    names: Annotated[tuple[str, ...], Doc("The cases' names, in their order, to choose by.")] = (),
) -> T:
    """Choose one of several inputs by number or by name; the others are not computed."""
    for sentence in _wrong_switch({"choice": choice, "cases": cases, "names": names}):
        raise NoCase(sentence)
    return cases[names.index(choice) if isinstance(choice, str) else choice]


class NoCase(GraphEngineError, ValueError):
    """A `switch` has no such case, or its cases and their names do not go together."""


@switch.check
def _wrong_switch(inputs: Mapping[str, Any]) -> Iterator[str]:
    cases, names, choice = inputs.get("cases"), inputs.get("names", ()), inputs.get("choice")
    if isinstance(cases, list | tuple) and not cases:
        yield "it has no cases"
    elif isinstance(cases, list | tuple) and names and len(names) != len(cases):
        yield f"it has {len(cases)} case{'s' * (len(cases) != 1)} and {len(names)} name{'s' * (len(names) != 1)}"
    elif twice := [name for number, name in enumerate(names) if name in names[:number]]:
        yield f"two cases are called {twice[0]!r:.80}"
    elif isinstance(choice, str) and choice not in names:
        yield f"no case is called {choice!r:.80}; there are {', '.join(names) or 'no names'}"
    elif isinstance(choice, int) and isinstance(cases, list | tuple) and not 0 <= choice < len(cases):
        yield f"there is no case {choice} of {len(cases)}, which are numbered from 0"


@node(version=1)
def collect(items: list[T]) -> list[T]:
    """Collect several values into a list."""
    return items


@overload
def each(items: list[T], body: Callable[[T], R], /, *, keep_going: Literal[True]) -> list[R | NodeError]: ...


@overload
def each(
    items: tuple[list[A], list[B]], body: Callable[[A, B], R], /, *, keep_going: Literal[True]
) -> list[R | NodeError]: ...


@overload
def each(
    first: list[A], second: list[B], body: Callable[[A, B], R], /, *, keep_going: Literal[True]
) -> list[R | NodeError]: ...


@overload
def each(items: list[T], body: Callable[[T], R], /) -> list[R]: ...


@overload
def each(first: list[A], second: list[B], body: Callable[[A, B], R], /) -> list[R]: ...


@overload
def each(first: list[A], second: list[B], third: list[C], body: Callable[[A, B, C], R], /) -> list[R]: ...


@overload
def each(items: tuple[list[A], list[B]], body: Callable[[A, B], R], /) -> list[R]: ...


def each(*items_and_body: Any, keep_going: bool = False) -> list[Any]:
    """Call `body` for each item of a list, or of several lists in step: `each(items, body)`, `each(xs, ys, body)`.

    Outside a graph it is a list comprehension. Inside one it adds a mapped node: `body` is called once, with
    references, and what it builds is computed for each item. Items that are literals, references or links keep
    their own keys.

    Args:
        keep_going: Where an item fails, its `NodeError` stands in its place, and the others are computed. What takes
            the whole list depends on the failure and is not computed.
    """
    *lists, body = items_and_body
    in_tuple = len(lists) == 1 and isinstance(lists[0], tuple)
    if in_tuple:
        lists = list(lists[0])
    if not lists or not callable(body) or isinstance(body, Ref):
        raise TypeError("each takes one list or more, and last the function that is called for their items")
    graph = building()
    for number, values in enumerate(lists):
        if (wrong := _no_list(values, graph is not None)) is not None:
            place = f"what stands at {number} in the tuple of lists" if in_tuple else f"argument {number + 1}"
            hint = "; a tuple holds lists that are gone through in step: write [...] for one list" if in_tuple else ""
            raise TypeError(f"each goes through lists, but {place} is {wrong}{hint}")
    if graph is None:
        return [_called(body, row) if keep_going else body(*row) for row in zip(*lists, strict=True)]
    part = type(graph)(getattr(body, "__name__", "each").replace("<lambda>", "each"))
    part.outer = graph
    names = ["item"] if len(lists) == 1 else [f"item_{n + 1}" for n in range(len(lists))]
    for name, values in zip(names, lists, strict=True):
        part.inputs[name] = Input(name, _item_type(values))
    with part:
        made = body(*(Ref(part, Link(INPUTS, name), part.inputs[name].type) for name in names))
    if not isinstance(made, Ref):
        raise WorkflowError(f"the body of each must return a node's output, not {made!r:.60}")
    part.output("result", made)
    captured = {name: Ref(graph, link, part.inputs[name].type) for link, name in part.captured.items()}
    args = dict(zip(names, lists, strict=True)) | captured
    single = _single_call(part, names)
    if single is None:
        return cast("list[Any]", _mapped(graph, part, names, args, keep_going))
    kind, sockets, literals = single
    named = {socket: args[name] for socket, name in sockets.items()}
    mapped = [socket for socket, name in sockets.items() if name in names]
    return cast("list[Any]", _mapped(graph, kind, mapped, named | literals, keep_going))


def _called(body: Callable[..., R], row: tuple[Any, ...]) -> R | NodeError:
    try:
        return body(*row)
    except NodeError as error:
        return error
    except BaseException as raised:
        cause = as_exception(raised)
        name = getattr(body, "__name__", "each")
        return NodeError(name, name, {f"item {n}": value for n, value in enumerate(row)}, cause)


def _single_call(part: GraphData, names: list[str]) -> tuple[NodeDef[..., Any], dict[str, str], dict[str, Any]] | None:
    """If a body is a single call of a node on its inputs: the node, the body's inputs by socket, and the literals."""
    if len(part.nodes) != 1 or part.outputs["result"].port:
        return None
    ((id, call),) = part.nodes.items()
    plain = all(link.node == INPUTS for _, link in call.links) and not call.lists and not call.each
    used = [link.port for _, link in call.links]
    if not plain or isinstance(call.kind, str | GraphData):
        return None
    if part.outputs["result"].node != id or set(names) - set(used):
        return None
    return call.kind, {socket: link.port for socket, link in call.links}, call.literals


def _mapped(
    graph: GraphBuilder, kind: NodeDef[..., Any] | GraphData, each: list[str], args: dict[str, Any], keep_going: bool
) -> Ref:
    return graph.checked_node(graph.place(kind, args, each=each, keep_going=keep_going))


def _no_list(values: Any, in_graph: bool) -> str | None:
    """A text that shows an argument of `each` that is no list; None if it is one.

    Outside a graph, any iterable is accepted.
    """
    from graphengine.graph.type_inference import item_type

    if isinstance(values, Ref):
        return f"{values._link}, which is {type_name(values._type)}" if item_type(values._type) is None else None
    if isinstance(values, list | tuple) or (not in_graph and hasattr(type(values), "__iter__")):
        return None
    return f"{shorten(values)} ({type_name(type(values))})"


def _item_type(values: Any) -> Any:
    from graphengine.graph.type_inference import common_type, item_type

    if isinstance(values, Ref):
        return item_type(values._type)
    return common_type([v._type if isinstance(v, Ref) else type(v) for v in values])
