"""Runs in this process end, and say so: a node that does not look whether it was cancelled holds up nobody, and
whatever raises around a node ends that node."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from graphengine import (
    INERT,
    Context,
    Graph,
    NodeError,
    Pack,
    SocketType,
    Store,
    ThreadRunner,
    node,
    register_type,
    run,
)  # fmt: skip
from graphengine.errors import Cancelled, Exhausted
from graphengine.events import Event, Kind
from graphengine.execution import runner  # fmt: skip
from graphengine.execution.launcher import Cancellation
from graphengine.system import threads  # fmt: skip

ON = ("here", "thread", "device")

_begun: threading.Semaphore
_release: threading.Event


@pytest.fixture(autouse=True)
def _nodes_end_with_their_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    global _begun, _release
    _begun, _release = threading.Semaphore(0), threading.Event()
    monkeypatch.setattr(runner, "CALL_GRACE", 0.2)
    monkeypatch.setattr(threads, "RUN_GRACE", 0.2)
    yield
    _release.set()


def _wait(x: int) -> int:
    _begun.release()
    if x == 1:
        _release.wait(60)  # and never looks whether it is wanted
    return x


waits: dict[str, Any] = {on: node(version=1, on=on, name=f"wait_{on}")(_wait) for on in ON}  # type: ignore[call-overload]


def begun() -> None:
    assert _begun.acquire(timeout=60)


def graph_of(kind: Any, **inputs: Any) -> Graph:
    graph = Graph()
    graph.add(kind, "n", **inputs)
    return graph


def in_background(work: Callable[[], Any]) -> Callable[[], Any]:
    """Do work on a thread; what is returned waits for what it gives or raises."""
    found: list[Any] = []

    def go() -> None:
        try:
            found.append(work())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=go, daemon=True)
    thread.start()

    def ended() -> Any:
        thread.join(30)
        assert found, "it hangs"
        return found[0]

    return ended


@pytest.mark.parametrize("on", ON)
def test_a_cancelled_run_ends_at_once_and_its_place_is_free(on: str, caplog: pytest.LogCaptureFixture) -> None:
    mine, store, cancellation = ThreadRunner(device_threads=1, threads=1), Store(), Cancellation()
    events: list[Event] = []
    with caplog.at_level(logging.WARNING):
        hung = in_background(
            lambda: run(
                graph_of(waits[on], x=1), store=store, runner=mine, cancellation=cancellation, listeners=[events.append]
            )
        )
        begun()
        cancellation.cancel()
        assert isinstance(hung(), Cancelled)
        assert in_background(lambda: run(graph_of(waits[on], x=2), store=store, runner=mine)["n"])() == 2
    assert [event.kind for event in events] == [Kind.RUN_STARTED, Kind.NODE_STARTED, Kind.RUN_FAILED]
    (told,) = [record.message for record in caplog.records if record.name == threads.__name__]
    assert "was cancelled and does not end (it is at " in told
    assert in_background(mine.close)() is None  # nobody waits for what was left


@pytest.mark.parametrize("on", ON)
def test_who_joined_what_was_left_computes_it_anew(on: str) -> None:
    mine, store, cancellation = ThreadRunner(), Store(), Cancellation()
    hung = in_background(lambda: run(graph_of(waits[on], x=1), store=store, runner=mine, cancellation=cancellation))
    begun()
    cancellation.cancel()
    joined = in_background(lambda: run(graph_of(waits[on], x=1), store=store, runner=mine)["n"])
    begun()  # a second computation of it
    assert isinstance(hung(), Cancelled)
    _release.set()
    assert joined() == 1


def test_what_others_want_is_not_left() -> None:
    mine, store, cancellation = ThreadRunner(), Store(), Cancellation()
    joined = threading.Event()
    hung = in_background(
        lambda: run(graph_of(waits["device"], x=1), store=store, runner=mine, cancellation=cancellation)
    )
    begun()

    class Joining(Store):
        def reserve(self, *arguments: Any) -> Any:
            found = store.reserve(*arguments)
            joined.set()
            return found

    other = in_background(lambda: run(graph_of(waits["device"], x=1), store=Joining(), runner=mine)["n"])
    assert joined.wait(60)
    cancellation.cancel()
    assert isinstance(hung(), Cancelled)
    time.sleep(3 * runner.CALL_GRACE)
    _release.set()
    assert other() == 1
    assert not _begun.acquire(blocking=False)  # it was computed once


def test_a_run_inside_a_node_that_can_be_cancelled_uses_its_thread() -> None:
    inner = Cancellation()

    @node(version=1, on="device")
    def outer(x: int) -> int:
        return int(run(graph_of(waits["device"], x=x), store=Store(), runner=mine, cancellation=inner)["n"]) + 1

    mine = ThreadRunner(device_threads=1)
    assert in_background(lambda: run(graph_of(outer, x=2), store=Store(), runner=mine)["n"])() == 3


# --- whatever raises around a node ends that node ---------------------------------------------------------------------


class Weird:
    """A class of which everything fails."""


def _fails(*_: Any) -> Any:
    raise RuntimeError("no size")


@pytest.mark.parametrize("on", ON)
def test_a_value_whose_size_cannot_be_told(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import graphengine.cache.store

    @node(version=1, on=on)
    def makes() -> Weird:
        return Weird()

    class Entry(graphengine.cache.store.Entry):
        def __init__(self, value: Any, *more: Any) -> None:
            super().__init__(value, *more)
            if isinstance(value, Weird):
                raise RuntimeError("no size")

    monkeypatch.setattr(graphengine.cache.store, "Entry", Entry)
    error = in_background(lambda: run(graph_of(makes), store=Store()))()
    assert isinstance(error, NodeError)
    assert "no size" in str(error)


def test_an_environment_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    @node(version=1, on="device")
    def one(x: int) -> int:
        return x

    def environment() -> dict[str, Any]:
        raise ImportError("libsomething.so: cannot open shared object file")

    monkeypatch.setitem(one.fn.__globals__, "__pack__", Pack("broken", environment=environment))
    error = in_background(lambda: run(graph_of(one, x=3), store=Store()))()
    assert isinstance(error, NodeError)
    assert "node n (broken.one) failed: ImportError: libsomething.so" in str(error)


@pytest.mark.parametrize("on", ON[1:])
def test_without_a_thread_a_run_ends_and_the_next_one_goes_on(on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, store, start = ThreadRunner(), Store(), threading.Thread.start

    def none(thread: threading.Thread) -> None:
        if thread.name.startswith("graphengine") or thread.name.endswith("-run"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        error = in_background(lambda: run(graph_of(waits[on], x=2), store=store, runner=mine))()
        assert isinstance(error, NodeError)
        assert isinstance(error.__cause__, Exhausted)
        assert "this process cannot start a thread: can't start new thread" in str(error)
        alone = in_background(lambda: run(graph_of(waits[on], x=2), store=store, cancellation=Cancellation()))()
        assert isinstance(alone, Exhausted)
    assert run(graph_of(waits[on], x=2), store=store, runner=mine)["n"] == 2


def test_what_raises_where_a_call_lands_ends_its_run() -> None:
    class Full(Store):
        def land(self, flight: Any, outcome: Any, *more: Any) -> Any:
            if outcome == 2:
                raise MemoryError("nothing is left")
            return super().land(flight, outcome, *more)

    error = in_background(lambda: run(graph_of(waits["device"], x=2), store=Full()))()
    assert isinstance(error, NodeError)
    assert isinstance(error.__cause__, MemoryError)


def test_an_idle_thread_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "IDLE", 0.05)
    mine = ThreadRunner()

    @node(version=1, on="device", cache="never")
    def whose(ctx: Context = INERT) -> Any:
        return threading.current_thread()

    first = run(graph_of(whose), store=Store(), runner=mine)["n"]
    first.join(30)
    assert not first.is_alive()
    assert run(graph_of(whose), store=Store(), runner=mine)["n"] is not first


register_type(SocketType(Weird, "Weird", size=_fails))
