"""What is computed, what is not, and what is told about it."""

import gc
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import pytest

from graphengine import (
    INERT,
    Cancellation,
    Cancelled,
    Context,
    Event,
    Graph,
    Input,
    Kind,
    Link,
    NodeError,
    Range,
    Reuse,
    Store,
    ThreadRunner,
    WorkflowError,
    each,
    node,
)
from graphengine.cache import Entry
from graphengine.testing import Recorder
from tests.graphengine.sample import (
    CALLS,
    Big,
    add,
    big,
    divide,
    fail,
    half,
    in_threads,
    inc,
    joined,
    number_of,
    same,
    show,
    tick,
    total,
    until,
    upto,
)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    CALLS.clear()


@pytest.fixture
def store() -> Store:
    return Store()


# --- what is wanted --------------------------------------------------------------------------------------------------


def test_only_what_is_wanted_is_computed(store: Store) -> None:
    with Graph() as g:
        a = inc(1)
        add(a, inc(2))
        half(1.0)
    assert g.run(want=a, store=store) == 2
    assert CALLS == {"inc": 1}


def test_each_key_is_computed_once(store: Store) -> None:
    with Graph() as g:
        sums = [add(inc(1), inc(1, by=1)) for _ in range(5)]
    assert g.run(want=sums, store=store) == [4] * 5
    assert CALLS == {"inc": 1, "add": 1}


def test_want_takes_many_forms(store: Store) -> None:
    with Graph() as g:
        a = inc(1)
        d = divide(a, 2)
        g.output("half", d.quotient)
        g.output("all", d)
    assert g.run(want=a, store=store) == 2
    assert g.run(want="inc", store=store) == 2
    assert g.run(want="half", store=store) == 1
    assert g.run(want="divide.rest", store=store) == 0
    assert g.run(want=Link("divide", "rest"), store=store) == 0
    assert g.run(want=["half", a, a], store=store) == [1, 2, 2]
    assert g.run(want=(a,), store=store) == [2]
    assert g.run(want=[], store=store) == []
    assert g.run(store=store) == {"half": 1, "all": (1, 0)}


def test_without_outputs_the_leaves_are_wanted(store: Store) -> None:
    with Graph() as g:
        add(inc(1), inc(2))
        half(3)
    assert g.run(store=store) == {"add": 5, "half": 1.5}


def test_a_wanted_input_is_its_value(store: Store) -> None:
    with Graph() as g:
        g.output("same", g.input("n", int))
    assert g.run(inputs={"n": 3}, store=store) == {"same": 3}


def test_an_empty_graph_runs() -> None:
    assert Graph().run() == {}


@pytest.mark.parametrize(
    ("inputs", "kinds", "sentence"),
    [
        ({}, {"missing input"}, "needs the input n"),
        ({"n": 1, "m": 1}, {"unknown input"}, "has no input m"),
        ({"n": 1, "sed": 1}, {"unknown input"}, "did you mean seed"),
        ({"n": "1"}, {"wrong type"}, "is not int"),
        ({"n": 11}, {"out of range"}, "outside 0..10"),
        ({"n": float("nan")}, {"wrong type"}, "is not int"),
        ({"seed": "x", "x": 1}, {"missing input", "unknown input", "wrong type"}, "n"),
    ],
)
def test_wrong_inputs_are_all_told(inputs: dict[str, Any], kinds: set[str], sentence: str) -> None:
    with Graph() as g:
        add(g.input("n", int, range=Range(0, 10)), g.input("seed", int, default=1))
    with pytest.raises(WorkflowError, match=sentence) as caught:
        g.run(inputs=inputs)
    assert {p.kind for p in caught.value.problems} == kinds
    assert not CALLS


# --- again -----------------------------------------------------------------------------------------------------------


def chain(n: int = 10) -> Graph:
    with Graph() as g:
        x = inc.named("n0")(0)
        for k in range(1, n):
            x = inc.named(f"n{k}")(x)
    return g


def test_a_second_run_computes_nothing(store: Store) -> None:
    g, recorder = chain(), Recorder()
    g.run(store=store)
    assert CALLS["inc"] == 10
    assert g.run(store=store, listeners=[recorder]) == {"n9": 10}
    assert CALLS["inc"] == 10
    assert recorder.why == {"n9": Reuse.MEMORY}  # nothing before it is touched


def test_only_what_changed_is_computed_again(store: Store) -> None:
    g, recorder = chain(), Recorder()
    g.run(store=store)
    g.set("n9", "by", 5)
    assert g.run(store=store, listeners=[recorder]) == {"n9": 14}
    assert recorder.why == {"n8": Reuse.MEMORY, "n9": Reuse.COMPUTED}
    recorder.clear()
    g.set("n5", "by", 2)
    assert g.run(store=store, listeners=[recorder]) == {"n9": 15}
    assert recorder.computed == Counter({"tests.inc": 5})
    assert recorder.why["n4"] is Reuse.MEMORY
    recorder.clear()
    g.set("n5", "by", 1)
    g.run(store=store, listeners=[recorder])
    assert recorder.why == {"n9": Reuse.MEMORY}


def test_values_are_shared_between_graphs(store: Store) -> None:
    chain().run(store=store)
    with Graph() as g:
        x = inc(0)
        for _ in range(9):
            x = inc(x)
        half(x)
    assert g.run(store=store) == {"half": 5.0}
    assert CALLS == {"inc": 10, "half": 1}


def test_an_input_that_changed_recomputes_what_depends_on_it(store: Store) -> None:
    with Graph() as g:
        add(inc(g.input("a", int)), inc(g.input("b", int)))
    recorder = Recorder()
    assert g.run(inputs={"a": 1, "b": 2}, store=store) == {"add": 5}
    assert g.run(inputs={"a": 1, "b": 3}, store=store, listeners=[recorder]) == {"add": 6}
    assert recorder.computed == Counter({"tests.inc": 1, "tests.add": 1})
    assert g.run(inputs={"a": 1, "b": 2}, store=store) == {"add": 5}
    assert CALLS["add"] == 2


def test_a_value_that_the_graph_holds_may_change(store: Store) -> None:
    g = Graph()
    g.values["v"] = 1
    g.add(inc, "i", x=Link("values", "v"))
    assert g.run(store=store) == {"i": 2}
    g.values["v"] = 5
    assert g.run(store=store) == {"i": 6}


def test_a_chain_of_many_thousands_needs_no_stack(store: Store) -> None:
    g = chain(20_000)
    assert g.run(store=store) == {"n19999": 20_000}


# --- never, and output -----------------------------------------------------------------------------------------------


def test_what_is_never_remembered_is_computed_in_every_run_with_all_after_it(store: Store) -> None:
    with Graph() as g:
        a, b = tick(), tick()
        add(inc(a), inc(inc(5)))
        same(b)
    first, second = g.run(store=store), g.run(store=store)
    assert CALLS["tick"] == 4  # two a run: never merged
    assert first != second
    assert CALLS["add"] == 2
    assert CALLS["inc"] == 2 + 2  # inc(inc(5)) once
    assert not any("tick" in str(e.value) for e in store.memory.entries.values())


def test_what_depends_on_never_does_not_fill_the_memory(store: Store) -> None:
    with Graph() as g:
        inc(tick())
    g.run(store=store)
    assert not store.memory.entries


def test_output_nodes_act_in_every_whole_run(store: Store) -> None:
    with Graph() as g:
        a = inc(1)
        show(a)
        show(a)
        b = half(2)
        g.output("b", b)
    g.run(store=store)
    assert CALLS == {"inc": 1, "show": 2, "half": 1}
    g.run(store=store)
    assert CALLS == {"inc": 1, "show": 4, "half": 1}  # its inputs from memory, it itself again
    g.run(want=b, store=store)
    assert CALLS["show"] == 4
    g.run(want="show", store=store)
    assert CALLS["show"] == 5


def test_objects_that_are_no_data_are_not_remembered(store: Store) -> None:
    @node(version=1)
    def call(f: Any, x: int = 1) -> int:
        CALLS["call"] += 1
        return f(x)  # type: ignore[no-any-return]

    with Graph() as g:
        half(inc(call(lambda x: x + 1)))
    assert g.run(store=store) == {"half": 1.5}
    assert g.run(store=store) == {"half": 1.5}
    assert CALLS == {"call": 2, "inc": 2, "half": 2}
    with Graph() as h:
        call(h.input("f", Any))
    assert h.run(inputs={"f": lambda x: x + 5}, store=store) == {"call": 6}
    assert h.run(inputs={"f": lambda x: x + 6}, store=store) == {"call": 7}


def test_a_default_that_is_no_data_is_not_remembered(store: Store) -> None:
    @node(version=1)
    def call(x: int, f: Any = inc.fn) -> int:
        return f(x)  # type: ignore[no-any-return]

    with Graph() as g:
        call(1)
    assert g.run(store=store) == {"call": 2}
    assert g.run(store=store) == {"call": 2}


def test_a_fingerprint_is_asked_in_every_run(store: Store) -> None:
    state = {"a": 1}

    @node(version=1)
    def read(name: str) -> int:
        CALLS["read"] += 1
        return state[name]

    read.fingerprint(lambda name: state[name])
    with Graph() as g:
        inc(read("a"))
    with Graph() as linked:
        inc(read(same("a")))
    for graph in (g, linked):
        CALLS.clear()
        state["a"] = 1
        fresh = Store()
        assert graph.run(store=fresh) == graph.run(store=fresh) == {"inc": 2}
        assert CALLS["read"] == 1
        state["a"] = 2
        assert graph.run(store=fresh) == {"inc": 3}
        assert CALLS["read"] == 2


# --- failing ---------------------------------------------------------------------------------------------------------


def test_a_failure_names_the_node_and_keeps_what_was_done(store: Store) -> None:
    broken = [True]

    @node(version=1)
    def sometimes(x: int, note: str = "hello") -> int:
        if broken:
            raise ValueError("not today")
        return x

    with Graph() as g:
        first = inc(inc(1))
        sometimes.named("last")(first, note="n" * 500)
    recorder = Recorder()
    with pytest.raises(NodeError) as caught:
        g.run(store=store, listeners=[recorder])
    error = caught.value
    assert (error.node, error.type) == ("last", "tests.sometimes")
    assert isinstance(error.__cause__, ValueError)
    assert error.inputs["x"] == "3"
    assert len(error.inputs["note"]) == 80
    assert str(error).startswith("node last (tests.sometimes) failed: ValueError: not today\n  with ")
    assert recorder.failed == {"last": "ValueError: not today"}
    assert recorder.events[-1].kind is Kind.RUN_FAILED
    broken.clear()
    recorder.clear()
    assert g.run(store=store, listeners=[recorder]) == {"last": 3}
    assert recorder.why == {"inc_2": Reuse.MEMORY, "last": Reuse.COMPUTED}


@pytest.mark.parametrize("on", ["here", "thread", "device"])
def test_a_failure_is_not_remembered(store: Store, on: Any) -> None:
    tries = []

    @node(version=1, on=on)
    def flaky(x: int) -> int:
        tries.append(x)
        if len(tries) < 3:
            raise OSError("again")
        return x

    with Graph() as g:
        flaky(1)
    for _ in range(2):
        with pytest.raises(NodeError, match=r"flaky.*OSError: again"):
            g.run(store=store)
    assert g.run(store=store) == {"flaky": 1}
    assert not store.flights


def test_a_failing_branch_does_not_hide_that_others_were_done(store: Store) -> None:
    with Graph() as g:
        fail(inc(1))
        half(add(inc(1), inc(2)))
    with pytest.raises(NodeError, match="no 2"):
        g.run(store=store)
    assert not store.flights
    assert g.run(want="half", store=store) == 2.5


@pytest.mark.parametrize("kind", [Kind.NODE_STARTED, Kind.NODE_FINISHED])
@pytest.mark.parametrize("on", ["here", "thread"])
def test_a_listener_that_raises_does_not_poison_the_store(store: Store, on: Any, kind: Kind) -> None:
    @node(version=1, on=on)
    def one(x: int) -> int:
        return x

    def broken(event: Event) -> None:
        if event.kind is kind:
            raise BrokenPipeError("nobody reads")

    with Graph() as g:
        one(1)
    with pytest.raises(BrokenPipeError):
        g.run(store=store, listeners=[broken])
    (again,) = in_threads(1, lambda _: g.run(store=store))
    assert again == {"one": 1}


def test_a_keyboard_interrupt_comes_through_and_leaves_the_store_usable(store: Store) -> None:
    interrupt = [True]

    @node(version=1)
    def work(x: int, context: Context = INERT) -> int:
        if interrupt:
            raise KeyboardInterrupt
        return x

    with Graph() as g:
        work(inc(1))
    with pytest.raises(KeyboardInterrupt):
        g.run(store=store)
    interrupt.clear()
    assert not store.flights
    assert g.run(store=store) == {"work": 2}
    assert CALLS["inc"] == 1


# --- cancelling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["here", "thread", "device"])
@pytest.mark.parametrize("cache", ["disk", "never"])
def test_cancelling_stops_within_one_step(store: Store, on: Any, cache: Any) -> None:
    began, ended, steps = threading.Event(), threading.Event(), []

    @node(version=1, on=on, cache=cache)
    def sampler(n: int, context: Context = INERT) -> int:
        try:
            for step in range(n):
                context.progress(step, n)
                steps.append(step)
                began.set()
                time.sleep(0.01)
        finally:
            ended.set()
        return n

    with Graph() as g:
        inc(sampler(2000))
    cancellation, recorder = Cancellation(), Recorder()
    seen: list[int] = []

    def cancel() -> None:
        began.wait()
        cancellation.cancel()
        seen.append(len(steps))

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(Cancelled):
        g.run(store=store, cancellation=cancellation, listeners=[recorder])
    thread.join()
    assert ended.wait(60)
    assert len(steps) <= seen[0] + 1
    assert recorder.events[-1].kind is Kind.RUN_FAILED
    assert not store.flights
    assert CALLS["inc"] == 0


def test_cancelled_before_it_begins_nothing_runs(store: Store) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(Cancelled):
        chain().run(store=store, cancellation=cancellation)
    assert not CALLS


def test_a_cancellation_that_comes_just_as_a_node_begins_is_not_missed() -> None:
    cancellation = Cancellation()

    class Late(Store):
        def reserve(self, *args: Any, **kwargs: Any) -> Any:
            cancellation.cancel()
            return super().reserve(*args, **kwargs)

    steps = []

    @node(version=1)
    def sampler(n: int, context: Context = INERT) -> int:
        for step in range(n):
            context.progress(step, n)
            steps.append(step)
        return n

    with Graph() as g:
        sampler(100)
    with pytest.raises(Cancelled):
        g.run(store=Late(), cancellation=cancellation)
    assert steps == []


def test_a_run_may_go_on_after_cancelling_another(store: Store) -> None:
    cancellation = Cancellation()
    g = chain(100)

    def cancel(event: Event) -> None:
        if event.kind is Kind.NODE_FINISHED and event.node == "n50":
            cancellation.cancel()

    with pytest.raises(Cancelled):
        g.run(store=store, cancellation=cancellation, listeners=[cancel])
    assert CALLS["inc"] == 51
    assert g.run(store=store) == {"n99": 100}
    assert CALLS["inc"] == 100


# --- at the same time ------------------------------------------------------------------------------------------------


def test_independent_branches_run_at_the_same_time(store: Store) -> None:
    barrier = threading.Barrier(3)

    @node(version=1, on="thread")
    def meet(x: int) -> int:
        barrier.wait(10)
        return x

    with Graph() as g:
        total([meet(1), meet(2), meet(3)])
    assert g.run(store=store) == {"total": 6}


def test_the_device_is_used_by_one_call_at_a_time(store: Store) -> None:
    running, most = [0], [0]
    lock = threading.Lock()

    @node(version=1, on="device")
    def use(x: int) -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.01)
        with lock:
            running[0] -= 1
        return x

    with Graph() as g:
        total([use(n) for n in range(6)])
    assert g.run(store=store) == {"total": 15}
    assert most[0] == 1


@pytest.mark.parametrize("on", ["thread", "device"])
def test_a_value_that_came_between_is_taken(on: Any) -> None:
    """Another run has computed it between this run's look into the memory and its reservation."""

    @node(version=1, on=on)
    def there(x: int) -> int:
        raise AssertionError("computed in vain")

    class Overtaken(Store):
        def reserve(self, key: bytes, *rest: Any) -> Any:
            with self.lock:
                self.memory.put(key, Entry(42))
            return super().reserve(key, *rest)

    with Graph() as g:
        there.named("t")(1)
        g.output("t", g["t"])
    assert g.run(store=Overtaken()) == {"t": 42}


def test_a_node_may_run_graphs_itself(store: Store) -> None:
    @node(version=1, on="device")
    def inner(x: int) -> int:
        with Graph() as part:
            leaf(x)
        return part.run(store=store)["leaf"]  # type: ignore[no-any-return]

    @node(version=1, on="device")
    def leaf(x: int) -> int:
        return x + 1

    with Graph() as g:
        inner(1)
    (found,) = in_threads(1, lambda _: g.run(store=store))
    assert found == {"inner": 2}


def test_one_graph_runs_from_several_threads_with_different_inputs(store: Store) -> None:
    with Graph() as g:
        x = g.input("n", int)
        for _ in range(30):
            x = add(inc(x), x)
        g.output("r", x)

    def expected(n: int) -> int:
        for _ in range(30):
            n = n + 1 + n
        return n

    for found in (in_threads(8, lambda n: [g(n=(n * 7 + k) % 20) for k in range(10)]) for _ in range(3)):
        assert found == [[expected((n * 7 + k) % 20) for k in range(10)] for n in range(8)]


# --- memory of values ------------------------------------------------------------------------------------------------


def test_values_that_nobody_needs_any_more_are_freed_during_the_run() -> None:
    alive: list[weakref.ref[Big]] = []
    most = [0]

    @node(version=1)
    def step(big: Big, n: int) -> Big:
        made = Big(big.number + 1)
        alive.append(weakref.ref(made))
        most[0] = max(most[0], sum(1 for r in alive if r() is not None))
        return made

    with Graph() as g:
        x = big(0)
        for n in range(50):
            x = step(x, n)
        out = number_of(x)
    gc.disable()
    try:
        assert g.run(want=out, store=Store(memory=0)) == 50
    finally:
        gc.enable()
    assert most[0] <= 3
    gc.collect()
    assert all(r() is None for r in alive)


def test_freed_in_branches_too() -> None:
    alive: weakref.WeakSet[Big] = weakref.WeakSet()
    most = [0]

    @node(version=1)
    def make(n: int, after: int = 0) -> Big:
        made = Big(n)
        alive.add(made)
        most[0] = max(most[0], len(alive))
        return made

    with Graph() as g:
        x: int = inc(0)
        for n in range(20):
            x = add(x, number_of(make(n, x)))
    g.run(store=Store(memory=0))
    assert most[0] <= 3


def test_a_result_is_kept_no_longer_than_its_holder() -> None:
    with Graph() as g:
        out = big(1)
    watched = weakref.ref(g.run(want=out, store=Store(memory=0)))
    gc.collect()
    assert watched() is None


# --- graphs used as nodes --------------------------------------------------------------------------------------------


def twice() -> Graph:
    with Graph("twice") as g:
        x = g.input("x", int)
        by = g.input("by", int, default=10)
        g.output("r", inc(inc(x, by), by))
    return g


def test_a_workflow_is_a_node(store: Store) -> None:
    part = twice()
    with Graph() as g:
        a = part(x=1)
        b = part(x=a, by=1)
        c = part(5, by=inc(0))
    assert g.run(want=[a, b, c], store=store) == [21, 23, 7]
    with pytest.raises(WorkflowError, match="needs an input x"), Graph():
        part()
    with pytest.raises(WorkflowError, match="wants int, gets float"), Graph():
        part(half(1))


def test_a_workflow_with_several_outputs(store: Store) -> None:
    with Graph("both") as part:
        x = part.input("x", int)
        part.output("up", inc(x))
        part.output("down", inc(x, by=-1))
    g = Graph()
    g.add(part, "p", x=1)
    g.add(add, "s", a=Link("p", "up"), b=Link("p", "down"))
    assert g.run(want="s", store=store) == 2
    g.add(inc, "t", x=Link("p"))
    with pytest.raises(WorkflowError, match="has several outputs"):
        g.run(want="t", store=store)


def test_keys_go_through_workflows(store: Store) -> None:
    part = twice()
    with Graph() as g:
        half(part(x=1))
    with Graph() as plain:
        half(inc(inc(1, 10), 10))
    plain.run(store=store)
    CALLS.clear()
    assert g.run(store=store) == {"half": 10.5}
    assert not CALLS


def test_null_means_the_default(store: Store) -> None:
    with Graph() as part:
        by = part.input("by", int, default=None)
        part.output("r", inc(1, by))
    assert part.run(store=store) == {"r": 2}
    assert part.run(inputs={"by": None}, store=store) == {"r": 2}
    assert part.run(inputs={"by": 5}, store=store) == {"r": 6}
    with Graph() as g:
        part()
        part(by=7)
        part(by=None)
    assert list(g.run(store=store).values()) == [2, 8, 2]


def test_a_null_stays_null_where_none_is_a_value(store: Store) -> None:
    @node(version=1)
    def tell(x: int | None = 5) -> str:
        return repr(x)

    with Graph() as g:
        g.output("r", tell(g.input("x", int, default=None)))
    assert g.run(store=store) == {"r": "None"}


def test_workflows_5000_deep(store: Store) -> None:
    g = Graph("level")
    g.output("r", inc_ref(g))
    for _ in range(5000):
        outer = Graph("level")
        outer.inputs["x"] = Input("x", int)
        outer.add(g, "inner", x=Link("inputs", "x"))
        outer.output("r", outer["inner"])
        g = outer
    assert g.run(inputs={"x": 1}, store=store, limit=10_000) == {"r": 2}
    assert g.problems() == []
    assert g.key == g.copy().key


def inc_ref(g: Graph) -> Any:
    g.input("x", int)
    return g.add(inc, "i", x=Link("inputs", "x"))


def test_a_workflow_that_holds_itself_is_told() -> None:
    g = Graph("self")
    g.add(g, "me")
    g.output("r", Link("me"))
    with pytest.raises(WorkflowError, match="is used in itself"):
        g.run()


# --- events ----------------------------------------------------------------------------------------------------------


def test_a_node_knows_whether_anybody_looks(store: Store) -> None:
    @node(version=1, cache="never")
    def looked_at(context: Context = INERT) -> bool:
        return context.watched

    assert looked_at() is False
    with Graph() as g:
        g.output("here", looked_at())
    assert g.run(store=store)["here"] is False
    assert g.run(store=store, listeners=[Recorder()])["here"] is True


def test_the_order_of_events(store: Store) -> None:
    @node(version=1)
    def slow(x: int, context: Context = INERT) -> int:
        for n in range(2):
            context.progress(n + 1, 2)
        context.preview(x)
        return x

    with Graph() as g:
        half(slow(inc(1)))
    recorder = Recorder()
    g.run(store=store, listeners=[recorder])
    assert [(e.kind.value, e.node) for e in recorder.events] == [
        ("run_started", ""),
        ("node_started", "inc"), ("node_finished", "inc"),
        ("node_started", "slow"), ("progress", "slow"), ("progress", "slow"), ("preview", "slow"),
        ("node_finished", "slow"),
        ("node_started", "half"), ("node_finished", "half"),
        ("run_finished", ""),
    ]  # fmt: skip
    progress = recorder.of(Kind.PROGRESS)
    assert [(e.step, e.total) for e in progress] == [(1, 2), (2, 2)]
    assert recorder.of(Kind.PREVIEW)[0].value == 2
    finished = recorder.of(Kind.NODE_FINISHED)[-1]
    assert (finished.value, finished.reuse, finished.type) == (1.0, Reuse.COMPUTED, "tests.half")
    assert finished.seconds is not None
    assert finished.as_dict().keys() == {"kind", "node", "reuse", "run", "seconds", "time", "type"}
    assert len({e.run for e in recorder.events}) == 1
    times = [e.time for e in recorder.events]
    assert times == sorted(times)


def test_a_result_tells_how_values_came_and_were_made(store: Store) -> None:
    from graphengine import run

    @node(version=1)
    def noted(x: int, context: Context = INERT) -> int:
        context.note(device="abacus", steps=x)
        return x

    with Graph() as g:
        g.output("r", half(noted(inc(1))))
        g.output("plain", inc(1))
    result = run(g, store=store)
    assert dict(result) == {"r": 1.0, "plain": 2}
    assert result.made["r"] == {"device": "abacus", "steps": 2}
    assert not result.made["plain"]
    assert set(result.reuse) == {"inc", "inc_2", "noted", "half"}
    assert sorted(result.reuse[id] for id in ("inc", "inc_2")) == [Reuse.COMPUTED, Reuse.JOINED]  # one of equal nodes
    assert set(result.seconds) == {id for id, reuse in result.reuse.items() if reuse is Reuse.COMPUTED}
    assert result.elapsed > 0
    again = run(g, store=store)
    assert again.made["r"] == {"device": "abacus", "steps": 2}
    assert again.reuse["half"] is Reuse.MEMORY


def test_a_node_sees_how_its_inputs_were_made(store: Store) -> None:
    seen: list[Any] = []

    @node(version=1)
    def noted(x: int, context: Context = INERT) -> int:
        context.note(by="me")
        return x

    @node(version=1)
    def look(a: int, b: int, context: Context = INERT) -> int:
        seen.append((dict(context.made), context.node, context.exact, context.device))
        return a

    with Graph() as g:
        look(noted(1), 2)
    g.run(store=store, exact=True, device="cuda:7")
    assert seen == [({"a": {"by": "me"}}, "look", True, "cuda:7")]


def test_exact_runs_share_only_with_their_like(store: Store) -> None:
    g = chain(3)
    g.run(store=store)
    g.run(store=store, exact=True)
    assert CALLS["inc"] == 6
    g.run(store=store, exact=True)
    chain(3).run(store=store, exact=True)
    assert CALLS["inc"] == 6


# --- files -----------------------------------------------------------------------------------------------------------


@node(version=1)
def lines(path: Annotated[Path, __import__("graphengine").File()]) -> list[str]:
    CALLS["lines"] += 1
    assert path.is_absolute()
    return path.read_text().splitlines()


def test_a_file_is_part_of_the_key_by_its_content(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x\ny")
    (tmp_path / "b.txt").write_text("x\ny")
    with Graph() as g:
        g.output("r", lines(g.input("path", Path)))
    for name in ("a.txt", "b.txt", str(tmp_path / "a.txt")):
        assert g.run(inputs={"path": name}, base=tmp_path, store=store) == {"r": ["x", "y"]}
    assert CALLS["lines"] == 1
    (tmp_path / "a.txt").write_text("x\nz")
    assert g.run(inputs={"path": "a.txt"}, base=tmp_path, store=store) == {"r": ["x", "z"]}
    assert CALLS["lines"] == 2


def test_a_literal_path_is_looked_at_in_every_run(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("x")
    with Graph() as g:
        lines(file)
    with Graph() as linked:
        lines(same(file))
    for graph in (g, linked):
        file.write_text("x")
        assert graph.run(store=store) == {"lines": ["x"]}
        file.write_text("y")
        assert graph.run(store=store) == {"lines": ["y"]}
    assert CALLS["lines"] == 2


def test_a_missing_file_is_told_by_the_node_and_the_nearest_name(store: Store, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_text("")
    for linked in (False, True):
        with Graph() as g:
            lines(same(tmp_path / "foto.png") if linked else tmp_path / "foto.png")
        with pytest.raises(NodeError, match=r"lines.*there is no file.*did you mean photo\.png"):
            g.run(store=store)


def test_paths_in_a_workflow_start_in_its_folder(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with Graph() as g:
        lines(Path("a.txt"))
    g.file = tmp_path / "flow.yaml"
    assert g.run(store=store) == {"lines": ["x"]}


def test_paths_may_not_leave_the_allowed_folders(store: Store, tmp_path: Path) -> None:
    allowed = tmp_path / "in"
    (allowed / "deep").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("s")
    (tmp_path / "in_not").mkdir()
    (tmp_path / "in_not" / "a.txt").write_text("s")
    (allowed / "ok.txt").write_text("x")
    (allowed / "link.txt").symlink_to(tmp_path / "secret.txt")
    (allowed / "up").symlink_to(tmp_path)
    with Graph() as g:
        g.output("r", lines(g.input("path", Path)))
    with Graph() as linked:
        linked.output("r", lines(same(linked.input("path", Path))))
    for graph in (g, linked):
        for path in ("ok.txt", "deep/../ok.txt", str(allowed / "ok.txt")):
            inputs = {"path": path if graph is g else allowed / path}
            assert graph.run(inputs=inputs, base=allowed, roots=[allowed], store=store) == {"r": ["x"]}
        for path in (
            "../secret.txt",
            str(tmp_path / "secret.txt"),
            "link.txt",
            "up/secret.txt",
            "deep/../../secret.txt",
            "../in_not/a.txt",
            "~/x",
            "/etc/passwd",
            "../nothing.txt",
        ):
            inputs = {"path": path if graph is g else allowed / path}
            with pytest.raises(NodeError, match=r"lies outside the allowed folders|there is no file") as caught:
                graph.run(inputs=inputs, base=allowed, roots=[allowed], store=store)
            if path != "~/x":
                assert "outside" in str(caught.value)
    with pytest.raises(NodeError, match="outside the allowed folders"):
        g.run(inputs={"path": "ok.txt"}, base=allowed, roots=[], store=store)


def test_a_default_path_is_resolved_and_fingerprinted_too(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("x")

    @node(version=1)
    def read(path: Annotated[Path, __import__("graphengine").File()] = Path("a.txt")) -> str:
        assert path.is_absolute()
        return path.read_text()

    with Graph() as g:
        read()
    assert g.run(store=store) == {"read": "x"}
    Path("a.txt").write_text("y")
    assert g.run(store=store) == {"read": "y"}


# --- limits of values that come through inputs -----------------------------------------------------------------------


def test_a_runner_of_ones_own(store: Store) -> None:
    runner = ThreadRunner(device_threads=2)
    barrier = threading.Barrier(2)

    @node(version=1, on="device")
    def meet(x: int) -> int:
        barrier.wait(10)
        return x

    with Graph() as g:
        total([meet(1), meet(2)])
    assert g.run(store=store, runner=runner) == {"total": 3}
    runner.close()


def test_upto_made_lists_pass_through(store: Store) -> None:
    with Graph() as g:
        total(upto(4))
    assert g.run(store=store) == {"total": 6}


# --- more of files ---------------------------------------------------------------------------------------------------


@node(version=1, expand=True)
def through(path: Path) -> list[str]:
    return lines(path)


def test_paths_in_a_workflow_that_is_a_node_start_in_its_own_folder(store: Store, tmp_path: Path) -> None:
    for name in ("inner", "outer", "run"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    with Graph("part") as part:
        part.output("literal", lines(Path("a.txt")))
        part.output("default", lines(part.input("path", Path, default=Path("a.txt"))))
        part.output("given", lines(part.input("other", Path)))
        part.output("mapped", each([Path("a.txt")], lines))
        part.output("expanded", through(Path("a.txt")))
    part.file = tmp_path / "inner" / "part.yaml"
    g = Graph()
    g.input("other", Path)
    g.add(part, "p", other=Link("inputs", "other"))
    g.add(part, "q", other=Path("a.txt"))
    g.file = tmp_path / "outer" / "flow.yaml"
    want = [f"p.{n}" for n in ("literal", "default", "given", "mapped", "expanded")]
    want += ["q.given", "q.literal", g.add(through, path=Path("a.txt"))]
    found = g.run(want=want, inputs={"other": "a.txt"}, base=tmp_path / "run", store=store)
    assert found == [["inner"], ["inner"], ["run"], [["inner"]], ["inner"], ["outer"], ["inner"], ["outer"]]


def test_a_file_that_goes_away_between_runs_is_told(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("x")
    with Graph() as g:
        out = lines(file)
        other = inc(1)
    assert g.run(want=out, store=store) == ["x"]
    file.unlink()
    with pytest.raises(NodeError, match="there is no file"):
        g.run(want=out, store=store)
    assert g.run(want=other, store=store) == 2
    file.write_text("y")
    assert g.run(want=out, store=store) == ["y"]


SCRIPT = """
import sys, time
sys.path[:0] = {path!r}
from graphengine import INERT, Context, Graph, node

@node(version=1, on={on!r})
def sampler(n: int, context: Context = INERT) -> int:
    for step in range(n):
        print("step", step, flush=True)
        time.sleep(0.02)
        context.progress(step, n)
    return n

with Graph() as g:
    out = sampler(2000)
try:
    g.run(want=out)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("on", ["here", "thread", "device"])
def test_ctrl_c_in_the_middle_of_a_step(on: str) -> None:
    program = SCRIPT.format(path=sys.path, on=on)
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", program], stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    lines_ = out.splitlines()
    assert "interrupted" in lines_, err
    assert len(lines_) < 50
    assert process.returncode == 0, err


def test_the_run_that_waits_for_another_leaves_at_once(store: Store) -> None:
    gate, began = threading.Event(), threading.Event()

    @node(version=1, on="thread")
    def held(x: int) -> int:
        began.set()
        gate.wait(10)
        return x

    cancellation = Cancellation()

    def work(n: int) -> Any:
        if n == 2:
            until(lambda: joined(store))
            cancellation.cancel()
            return None
        if n == 1:
            began.wait(5)
        with Graph() as g:
            out = held(1)
        start = time.monotonic()
        try:
            return g.run(want=out, store=store, cancellation=cancellation if n == 1 else None)
        except Cancelled:
            took = time.monotonic() - start
            gate.set()
            return took

    first, took, _ = in_threads(3, work)
    assert first == 1
    assert took < 1
