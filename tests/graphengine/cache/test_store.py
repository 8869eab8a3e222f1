"""Memory with a budget, and single flight: a key is computed once, for all who want it."""

import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphengine import INERT, Cancellation, Cancelled, Context, Graph, Kind, NodeError, Reuse, Store, node
from graphengine.cache import Entry, Flight, Memory
from graphengine.cache.memory import OVERHEAD
from graphengine.testing import Recorder
from graphengine.values.checksum import measure
from tests.graphengine.sample import CALLS, Big, big, in_threads, inc, joined, number_of, until


@pytest.fixture(autouse=True)
def _fresh() -> None:
    CALLS.clear()


# --- memory ----------------------------------------------------------------------------------------------------------


def size_of(value: Any) -> int:
    return measure(value).size


def entry(size: int, cost: float = 0.0) -> Entry:
    return Entry(Big(0, size - OVERHEAD), cost=cost)


def test_sizes_are_those_that_types_tell() -> None:
    assert size_of(Big(1, 12345)) >= 12345
    assert size_of([Big(1, 1000), Big(2, 1000)]) >= 2000
    assert size_of({"a": Big(1, 1000)}) >= 1000
    assert 0 < size_of(3) < 100
    assert size_of("a" * 1000) >= 1000
    assert size_of(bytearray(1000)) >= 1000


def test_a_type_whose_size_fails_loses_no_value() -> None:
    class Odd(Big):
        @property
        def bytes(self) -> int:  # type: ignore[override]
            raise RuntimeError("no idea")

        @bytes.setter
        def bytes(self, value: int) -> None: ...

    assert size_of(object.__new__(Odd)) > 0


def test_the_budget_holds() -> None:
    memory = Memory(10_000)
    for n in range(100):
        memory.put(bytes([n]), entry(900))
        assert memory.used <= 10_000
        assert memory.used == sum(e.size for e in memory.entries.values())
    assert len(memory.entries) >= 9


def test_what_is_dear_stays_longest() -> None:
    memory = Memory(10_000)
    memory.put(b"dear", entry(1000, cost=60))
    for n in range(500):
        memory.put(n.to_bytes(2, "big"), entry(1000, cost=0.01))
    assert memory.get(b"dear") is not None
    assert memory.get((499).to_bytes(2, "big")) is not None
    assert memory.get((3).to_bytes(2, "big")) is None


def test_what_is_dear_for_its_size_stays_longest() -> None:
    memory = Memory(10_000)
    memory.put(b"large", entry(5000, cost=1))
    memory.put(b"small", entry(500, cost=1))
    for n in range(20):
        memory.put(bytes([n]), entry(1000, cost=0.5))
    assert memory.get(b"large") is None
    assert memory.get(b"small") is not None


def test_even_dear_values_age() -> None:
    memory = Memory(10_000)
    memory.put(b"dear", entry(1000, cost=2))
    for n in range(2000):
        memory.put(n.to_bytes(2, "big"), entry(1000, cost=1))
    assert memory.get(b"dear") is None


def test_what_is_used_stays() -> None:
    memory = Memory(10_000)
    memory.put(b"used", entry(1000, cost=1.01))
    for n in range(2000):
        memory.put(n.to_bytes(2, "big"), entry(1000, cost=1))
        assert memory.get(b"used") is not None


def test_a_value_larger_than_the_budget_is_not_kept_and_drives_nothing_out() -> None:
    memory = Memory(10_000)
    memory.put(b"a", entry(1000))
    memory.put(b"b", entry(20_000, cost=1000))
    assert set(memory.entries) == {b"a"}


def test_resize_and_clear() -> None:
    memory = Memory(10_000)
    for n in range(10):
        memory.put(bytes([n]), entry(1000, cost=n))
    memory.resize(3000)
    assert set(memory.entries) == {bytes([n]) for n in (7, 8, 9)}
    memory.clear()
    assert memory.used == 0
    assert not memory.entries


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(300, 4000), st.floats(0, 10)), max_size=60))
@settings(max_examples=60, deadline=None)
def test_the_books_are_right(puts: list[tuple[int, int, float]]) -> None:
    memory = Memory(8000)
    for key, size, cost in puts:
        memory.put(bytes([key]), entry(size, cost))
        assert memory.used == sum(e.size for e in memory.entries.values()) <= 8000


# --- single flight, by hand ------------------------------------------------------------------------------------------


class Who:
    """One who wants keys."""

    def __init__(self) -> None:
        self.outcomes: list[Any] = []
        self.heard: list[Any] = []

    def landed(self, task: Any, outcome: Any) -> None:
        self.outcomes.append((task, outcome))

    def told(self, task: Any, kind: str, facts: dict[str, Any]) -> None:
        self.heard.append((task, kind, facts))


def test_the_first_computes_and_the_others_join() -> None:
    store, one, two = Store(), Who(), Who()
    flight = store.reserve(b"k", one, "a")
    assert isinstance(flight, Flight)
    assert store.reserve(b"k", two, "b") is None
    assert isinstance(store.reserve(b"other", two, "c"), Flight)
    flight.tell("progress", {"step": 1, "total": 2})
    assert one.heard == [("a", "progress", {"step": 1, "total": 2})]
    assert two.heard == [("b", "progress", {"step": 1, "total": 2})]
    landed = store.land(flight, 42, {"device": "cpu"}, 1.5)
    assert isinstance(landed, Entry)
    assert (landed.value, landed.made, landed.cost) == (42, {"device": "cpu"}, 1.5)
    assert two.outcomes == [("b", landed)]
    assert one.outcomes == []
    assert store.reserve(b"k", one, "d") is landed


def test_it_is_cancelled_when_the_last_has_left() -> None:
    store, one, two = Store(), Who(), Who()
    flight = store.reserve(b"k", one, 1)
    assert isinstance(flight, Flight)
    store.reserve(b"k", two, 2)
    store.leave(b"k", one)
    assert not flight.cancelled
    flight.tell("progress", {})
    assert not one.heard
    assert two.heard
    store.leave(b"k", one)
    store.leave(b"k", two)
    assert flight.cancelled
    store.leave(b"nothing", one)


def test_who_comes_after_the_last_has_left_begins_anew() -> None:
    store, one, two = Store(), Who(), Who()
    flight = store.reserve(b"k", one, 1)
    assert isinstance(flight, Flight)
    store.leave(b"k", one)
    assert store.reserve(b"k", two, 2) is None
    assert flight.cancelled
    store.land(flight, Cancelled("stopped"))
    ((task, outcome),) = two.outcomes
    assert task == 2
    assert type(outcome).__name__ == "Lost"
    assert isinstance(store.reserve(b"k", two, 2), Flight)


@pytest.mark.parametrize("error", [Cancelled("x"), MemoryError(), KeyboardInterrupt(), SystemExit()])
def test_what_is_not_the_nodes_failure_is_taken_over(error: BaseException) -> None:
    store, one, two = Store(), Who(), Who()
    flight = store.reserve(b"k", one, 1)
    assert isinstance(flight, Flight)
    store.reserve(b"k", two, 2)
    assert store.land(flight, error) is error
    assert type(two.outcomes[0][1]).__name__ == "Lost"
    assert isinstance(store.reserve(b"k", two, 2), Flight)


def test_an_exception_goes_to_all_who_wait_and_is_not_stored() -> None:
    store, one, two = Store(), Who(), Who()
    flight = store.reserve(b"k", one, 1)
    assert isinstance(flight, Flight)
    store.reserve(b"k", two, 2)
    error = ValueError("no")
    store.land(flight, error)
    assert two.outcomes == [(2, error)]
    assert isinstance(store.reserve(b"k", two, 2), Flight)


def test_one_who_listens_badly_does_not_fail_the_others() -> None:
    class Deaf(Who):
        def told(self, task: Any, kind: str, facts: dict[str, Any]) -> None:
            raise BrokenPipeError

    store, one, two = Store(), Deaf(), Who()
    flight = store.reserve(b"k", one, 1)
    assert isinstance(flight, Flight)
    store.reserve(b"k", two, 2)
    flight.tell("progress", {})
    assert two.heard


# --- single flight, with real threads --------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["here", "thread", "device"])
def test_many_threads_compute_a_key_once(on: Any) -> None:
    count, everybody_waits = [], threading.Event()

    @node(version=1, on=on)
    def slow(x: int) -> int:
        count.append(x)
        everybody_waits.wait(600)
        return x + 1

    def work(_: int) -> tuple[Any, dict[str, Reuse]]:
        with Graph() as g:
            out = inc(slow(1))
        recorder = Recorder()
        return g.run(want=out, store=store, listeners=[recorder]), recorder.why

    def watch() -> None:
        while not store.flights or any(len(flight.joined or ()) < 7 for flight in list(store.flights.values())):
            time.sleep(0.005)
        everybody_waits.set()

    store = Store()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    found = in_threads(8, work)
    assert [value for value, _ in found] == [3] * 8
    assert count == [1]
    assert sum(why.get("slow") is Reuse.COMPUTED for _, why in found) == 1
    assert sum(why.get("slow") is Reuse.JOINED for _, why in found) == 7
    assert not store.flights


def sampler(on: Any, steps: list[int], ended: threading.Event | None = None) -> Any:
    @node(version=1, on=on)
    def sample(n: int, context: Context = INERT) -> int:
        try:
            for step in range(n):
                context.progress(step, n)
                steps.append(step)
                time.sleep(0.01)
        finally:
            if ended is not None:
                ended.set()
        return n

    return sample


@pytest.mark.parametrize("on", ["here", "thread", "device"])
@pytest.mark.parametrize("leaver", [0, 1])
def test_a_computation_goes_on_while_somebody_wants_it(on: Any, leaver: int) -> None:
    steps: list[int] = []
    node_, store = sampler(on, steps), Store()
    cancellations = [Cancellation(), Cancellation()]
    recorders = [Recorder(), Recorder()]

    def work(n: int) -> Any:
        if n == 1:
            while not steps:
                time.sleep(0.001)
        if n == 2:
            while not recorders[1].of(Kind.PROGRESS):
                time.sleep(0.001)
            cancellations[leaver].cancel()
            return None
        with Graph() as g:
            out = node_(30)
        return g.run(want=out, store=store, cancellation=cancellations[n], listeners=[recorders[n]])

    found = in_threads(3, work)
    assert isinstance(found[leaver], Cancelled)
    assert found[1 - leaver] == 30
    assert steps == list(range(30))  # computed once, to its end
    assert recorders[1].of(Kind.PROGRESS)  # who joined is told of the progress too


@pytest.mark.parametrize("on", ["here", "thread", "device"])
def test_a_computation_ends_when_the_last_has_left(on: Any) -> None:
    steps, ended = list[int](), threading.Event()
    node_, store, cancellation, heard = sampler(on, steps, ended), Store(), Cancellation(), Recorder()
    at: list[int] = []

    def work(n: int) -> Any:
        if n == 2:
            while len({e.run for e in heard.of(Kind.PROGRESS)}) < 2:
                time.sleep(0.001)
            cancellation.cancel()
            at.append(len(steps))
            return None
        with Graph() as g:
            out = node_(3000)
        return g.run(want=out, store=store, cancellation=cancellation, listeners=[heard])

    found = in_threads(3, work)
    assert ended.wait(60)
    assert isinstance(found[0], Cancelled)
    assert isinstance(found[1], Cancelled)
    assert len(steps) <= at[0] + 2
    assert not store.flights


@pytest.mark.parametrize("error", [MemoryError("no more"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("on", ["here", "thread"])
def test_who_waits_takes_over_when_who_computes_is_lost(on: Any, error: BaseException) -> None:
    """Ctrl-C or lack of memory strikes the one who computes; the others compute it themselves."""
    tries: list[int] = []
    store = Store()

    @node(version=1, on=on)
    def fragile(x: int) -> int:
        tries.append(x)
        if len(tries) == 1:
            until(lambda: joined(store) == 2)
            raise error
        return x

    def work(n: int) -> Any:
        if n:
            until(lambda: tries)
        with Graph() as g:
            out = fragile(5)
        return g.run(want=out, store=store)

    found = in_threads(3, work)
    assert found[1:] == [5, 5]
    assert isinstance(found[0], KeyboardInterrupt | NodeError)
    assert len(tries) == 2
    assert not store.flights


def test_an_exception_reaches_all_who_wait_and_is_not_stored() -> None:
    tries: list[int] = []

    @node(version=1, on="thread")
    def wrong(x: int) -> int:
        tries.append(x)
        until(lambda: len(tries) > 1 or joined(store) == 3)
        raise ValueError("no")

    store = Store()

    def work(_: int) -> Any:
        with Graph() as g:
            out = wrong(5)
        return g.run(want=out, store=store)

    found = in_threads(4, work)
    assert all(isinstance(error, NodeError) and isinstance(error.__cause__, ValueError) for error in found)
    assert len(tries) == 1
    with pytest.raises(NodeError):
        work(0)
    assert len(tries) == 2


def test_whoever_waits_holds_no_slot() -> None:
    """One slot on the device: runs that wait for another's value do not keep it from being computed."""
    store, gate = Store(), threading.Event()

    @node(version=1, on="device")
    def first(x: int) -> int:
        gate.wait(5)
        return x

    @node(version=1, on="device")
    def then(x: int, by: int) -> int:
        return x + by

    def work(n: int) -> Any:
        if n == 5:
            until(lambda: joined(store) == 4)
            gate.set()
            return None
        with Graph() as g:
            out = then(first(1), n)
        return g.run(want=out, store=store)

    assert in_threads(6, work) == [1, 2, 3, 4, 5, None]


# --- budgets ---------------------------------------------------------------------------------------------------------


def test_a_tiny_budget_only_costs_time() -> None:
    store = Store(memory=3000)
    with Graph() as g:
        outs = [number_of(big(n)) for n in range(20)]
    for _ in range(3):
        assert g.run(want=outs, store=store) == list(range(20))
        assert store.memory.used <= 3000
    assert CALLS["big"] >= 20


def test_clear_forgets() -> None:
    store = Store()
    with Graph() as g:
        out = inc(1)
    g.run(want=out, store=store)
    store.clear()
    g.run(want=out, store=store)
    assert CALLS["inc"] == 2


def test_a_node_may_ask_to_be_kept_in_memory_only_or_never() -> None:
    @node(version=1, cache="never")
    def never(x: int) -> int:
        CALLS["never"] += 1
        return x

    store = Store()
    with Graph() as g:
        out = never(1)
    g.run(want=out, store=store)
    g.run(want=out, store=store)
    assert CALLS["never"] == 2
    assert not store.memory.entries


def test_what_runs_use_stays_in_memory() -> None:
    store = Store(memory=20_000)
    with Graph() as used:
        number_of(big(-1, 0.02))
    for n in range(200):
        assert used.run(store=store) == {"number_of": -1}
        with Graph() as other:
            big(n, 0.001)
        other.run(store=store)
    assert CALLS["big"] == 201
