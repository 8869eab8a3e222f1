"""Calls of many graphs go to one runner, and many calls of one node with a batched form become one."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from graphengine import (
    INERT,
    Cancellation,
    Cancelled,
    Context,
    Graph,
    Kind,
    NodeError,
    Runner,
    Store,
    ThreadRunner,
    node,
)
from graphengine.testing import Recorder
from tests.graphengine.sample import in_threads, inc, until

SAMPLED: list[list[int]] = []
SINGLE: list[int] = []
GATE = threading.Event()
HOLDS = threading.Event()


@node(version=1, on="device")
def hold(x: int) -> int:
    """Keeps the device busy until the gate opens, so that calls gather behind it."""
    HOLDS.set()
    GATE.wait(10)
    return x


@node(version=1, on="device", batch=("seed", "prompt"))
def sample(model: str, prompt: str, seed: int = 0, context: Context = INERT) -> str:
    SINGLE.append(seed)
    if seed == 13:
        raise ValueError("thirteen")
    return f"{model} {prompt} {seed}"


@sample.many
def _(model: str, prompt: list[str], seed: list[int], context: list[Context]) -> Sequence[Any]:
    assert isinstance(model, str)
    assert len(prompt) == len(seed) == len(context)
    SAMPLED.append(list(seed))
    for step in range(20):
        for one in context:
            if not one.cancelled:
                one.progress(step, 20)
        time.sleep(0.005 if any(s >= 1000 for s in seed) else 0)
    found: list[Any] = []
    for one, text, number in zip(context, prompt, seed, strict=True):
        if one.cancelled:
            found.append(Cancelled("stopped"))
        elif number == 13:
            found.append(ValueError("thirteen"))
        else:
            found.append(f"{model} {text} {number}")
    return found


@sample.group
def _(model: str, prompt: str, seed: int = 0) -> int:
    return len(prompt)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    SAMPLED.clear()
    SINGLE.clear()
    HOLDS.clear()
    GATE.clear()


@pytest.fixture
def runner() -> Iterator[ThreadRunner]:
    made = ThreadRunner(batch=8)
    yield made
    GATE.set()
    made.close()


def gathered(runner: Runner, store: Store, works: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run all at once, behind a call that holds the device until they have gathered."""

    def work(n: int) -> Any:
        if n == len(works):
            with Graph() as g:
                hold(time.monotonic_ns())
            return g.run(runner=runner, store=store)
        if n > len(works):
            while len(runner._device._waiting) < len(works) and not GATE.is_set():  # type: ignore[attr-defined]
                time.sleep(0.002)
                if time.monotonic() > deadline:
                    break
            GATE.set()
            return None
        assert HOLDS.wait(10)
        return works[n]()

    deadline = time.monotonic() + 3
    return in_threads(len(works) + 2, work)[: len(works)]


def picture(seed: int, prompt: str = "ab", model: str = "m", **options: Any) -> Callable[[], Any]:
    def work() -> Any:
        with Graph() as g:
            out = sample(model, prompt, seed)
        return g.run(want=out, **options)

    return work


def test_calls_of_two_graphs_are_seen_joined(runner: ThreadRunner) -> None:
    store, options = Store(), {}
    options = {"runner": runner, "store": store}
    found = gathered(runner, store, [picture(1, **options), picture(2, "cd", **options)])
    assert found == ["m ab 1", "m cd 2"]
    assert [sorted(seeds) for seeds in SAMPLED] == [[1, 2]]
    assert SINGLE == []


def test_one_graphs_calls_are_joined_up_to_the_limit(runner: ThreadRunner) -> None:
    with Graph() as g:
        outs = [sample("m", "ab", seed) for seed in range(20, 40)]
    store = Store()
    GATE.set()
    assert g.run(want=outs, runner=runner, store=store) == [f"m ab {s}" for s in range(20, 40)]
    assert all(len(seeds) <= 8 for seeds in SAMPLED)
    assert sum(map(len, SAMPLED)) + len(SINGLE) == 20
    assert max(map(len, SAMPLED)) == 8


def test_the_values_tell_with_how_many_they_were_made(runner: ThreadRunner) -> None:
    from graphengine import run

    with Graph() as g:
        for n in range(3):
            g.output(str(n), sample("m", "ab", n))
    store = Store()

    def work() -> Any:
        return run(g, runner=runner, store=store)

    def three() -> Any:
        with Graph() as other:
            outs = [sample("m", "ab", n) for n in (7, 8)]
        return other.run(want=outs, runner=runner, store=store)

    found = gathered(runner, store, [work, three])[0]
    together = {s: len(seeds) for seeds in SAMPLED for s in seeds}
    for n in range(3):
        assert found.made[str(n)].get("batch", 1) == together.get(n, 1)


def test_only_equal_calls_are_joined(runner: ThreadRunner) -> None:
    store = Store()
    options: dict[str, Any] = {"runner": runner, "store": store}
    works = [
        picture(1, **options), picture(2, **options),
        picture(3, model="n", **options),
        picture(4, prompt="long", **options), picture(5, prompt="text", **options),
    ]  # fmt: skip
    assert gathered(runner, store, works) == ["m ab 1", "m ab 2", "n ab 3", "m long 4", "m text 5"]
    assert sorted(map(sorted, SAMPLED)) == [[1, 2], [4, 5]]
    assert SINGLE == [3]


def test_exact_runs_are_never_joined(runner: ThreadRunner) -> None:
    store = Store()
    options: dict[str, Any] = {"runner": runner, "store": store}
    works = [picture(n, exact=n < 3, **options) for n in range(5)]
    assert gathered(runner, store, works) == [f"m ab {n}" for n in range(5)]
    assert sorted(SINGLE) == [0, 1, 2]
    assert [sorted(s) for s in SAMPLED] == [[3, 4]]


def test_an_error_of_one_reaches_only_its_run(runner: ThreadRunner) -> None:
    store = Store()
    options: dict[str, Any] = {"runner": runner, "store": store}
    one, bad, two = gathered(runner, store, [picture(n, **options) for n in (1, 13, 2)])
    assert (one, two) == ("m ab 1", "m ab 2")
    assert isinstance(bad, NodeError)
    assert isinstance(bad.__cause__, ValueError)
    assert [sorted(s) for s in SAMPLED] == [[1, 2, 13]]
    assert not store.flights


@pytest.mark.parametrize("cancelled", [0, 1, 2])
def test_a_cancelled_item_does_not_harm_the_others(runner: ThreadRunner, cancelled: int) -> None:
    store, cancellation, recorder = Store(), Cancellation(), Recorder()

    def stop(event: Any) -> None:
        if event.kind is Kind.PROGRESS and event.step == 5:
            cancellation.cancel()

    options: dict[str, Any] = {"runner": runner, "store": store}
    works = [
        picture(1000 + n, **options | ({"cancellation": cancellation, "listeners": [stop]} if n == cancelled else {}))
        for n in range(3)
    ]
    works[(cancelled + 1) % 3] = picture(1000 + (cancelled + 1) % 3, listeners=[recorder], **options)
    found = gathered(runner, store, works)
    assert isinstance(found.pop(cancelled), Cancelled)
    assert found == [f"m ab {1000 + n}" for n in range(3) if n != cancelled]
    assert sum(map(len, SAMPLED)) == 3
    assert recorder.of(Kind.PROGRESS)[-1].step == 19
    assert not store.flights


def test_one_cancelled_while_it_waits_is_left_out(runner: ThreadRunner) -> None:
    store, cancellation = Store(), Cancellation()
    options: dict[str, Any] = {"runner": runner, "store": store}

    def cancel() -> Any:
        until(lambda: len(runner._device._waiting) == 2)  # type: ignore[attr-defined]
        cancellation.cancel()
        with Graph() as g:
            out = sample("m", "ab", 3)
        return g.run(want=out, **options)

    works = [picture(1, **options), picture(2, cancellation=cancellation, **options), cancel]
    one, stopped, three = gathered(runner, store, works)
    assert (one, three) == ("m ab 1", "m ab 3")
    assert isinstance(stopped, Cancelled)
    assert 2 not in [s for seeds in SAMPLED for s in seeds] + SINGLE


@node(version=1, on="device", batch=("seed",))
def careless(seed: int, context: Context = INERT) -> int:
    return seed


@careless.many
def _(seed: list[int], context: list[Context]) -> Sequence[Any]:
    """Written by somebody who lets the first cancellation end all."""
    SAMPLED.append(list(seed))
    for _step in range(100):
        for one in context:
            one.check_cancelled()
        time.sleep(0.002)
    return seed


def test_a_batched_form_that_is_ended_by_one_cancellation_is_called_again_for_the_others(runner: ThreadRunner) -> None:
    store, cancellation = Store(), Cancellation()

    def work(seed: int, **options: Any) -> Callable[[], Any]:
        with Graph() as g:
            out = careless(seed)
        return lambda: g.run(want=out, runner=runner, store=store, **options)

    def cancel() -> None:
        while not SAMPLED:
            time.sleep(0.002)
        cancellation.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    found = gathered(runner, store, [work(1), work(2, cancellation=cancellation), work(3)])
    thread.join()
    assert (found[0], found[2]) == (1, 3)
    assert isinstance(found[1], Cancelled)
    assert [sorted(s) for s in SAMPLED] == [[1, 2, 3], [1, 3]]


@node(version=1, on="device", batch=("seed",))
def strict(seed: int, context: Context = INERT) -> int:
    if seed == 13:
        raise ValueError("thirteen")
    return seed


@strict.many
def _(seed: list[int], context: list[Context]) -> Sequence[Any]:
    """Written by somebody who lets one wrong item end all."""
    SAMPLED.append(list(seed))
    for one in context:
        one.note(together=len(seed))
    if 13 in seed:
        raise ValueError("there is a thirteen")
    return seed


def test_a_batched_form_that_fails_is_called_again_for_each(runner: ThreadRunner) -> None:
    from graphengine import run

    store, made = Store(), list[Any]()

    def work(seed: int) -> Callable[[], Any]:
        with Graph() as g:
            g.output("out", strict(seed))

        def result() -> Any:
            found = run(g, runner=runner, store=store)
            made.append(found.made["out"])
            return found["out"]

        return result

    one, bad, three = gathered(runner, store, [work(1), work(13), work(3)])
    assert (one, three) == (1, 3)
    assert isinstance(bad, NodeError)
    assert str(bad.__cause__) == "thirteen"
    assert [sorted(s) for s in SAMPLED] == [[1, 3, 13]]
    assert len(made) == 2
    assert [facts for facts in made if "together" in facts or "batch" in facts] == []
    assert not store.flights


@node(version=1, on="device", batch=("seed",))
def short(seed: int) -> int:
    return seed


@short.many
def _(seed: list[int]) -> Sequence[Any]:
    return seed[1:]


def test_a_batched_form_with_too_few_results_fails_all(runner: ThreadRunner) -> None:
    store = Store()

    def work(seed: int) -> Callable[[], Any]:
        with Graph() as g:
            out = short(seed)
        return lambda: g.run(want=out, runner=runner, store=store)

    for error in gathered(runner, store, [work(1), work(2)]):
        assert isinstance(error, NodeError)
        assert "short.many returned 1 results for 2 items" in str(error)


@node(version=1, on="device", batch=("seed",))
def ungrouped(seed: int) -> int:
    return seed


@ungrouped.many
def _(seed: list[int]) -> Sequence[Any]:
    raise AssertionError("not joined")


@ungrouped.group
def _(seed: int) -> Any:
    raise RuntimeError("no group")


def test_a_group_function_that_fails_hangs_nobody(runner: ThreadRunner) -> None:
    store = Store()

    def work(seed: int) -> Callable[[], Any]:
        with Graph() as g:
            out = ungrouped(seed)
        return lambda: g.run(want=out, runner=runner, store=store)

    assert gathered(runner, store, [work(1), work(2)]) == [1, 2]


def test_without_a_batch_size_nothing_is_joined() -> None:
    runner, store = ThreadRunner(), Store()
    GATE.set()
    with Graph() as g:
        outs = [sample("m", "ab", seed) for seed in range(5)]
    g.run(want=outs, runner=runner, store=store)
    assert SAMPLED == []
    assert sorted(SINGLE) == list(range(5))
    runner.close()


def test_what_waits_for_a_batched_value_goes_on(runner: ThreadRunner) -> None:
    with Graph() as g:
        outs = [inc(len_of(sample("m", "x" * n, n))) for n in range(1, 12)]
    GATE.set()
    assert g.run(want=outs, runner=runner, store=Store()) == [len(f"m {'x' * n} {n}") + 1 for n in range(1, 12)]


@node(version=1)
def len_of(text: str) -> int:
    return len(text)


def test_values_made_in_a_batch_are_shared(runner: ThreadRunner) -> None:
    store, recorder = Store(), Recorder()
    options: dict[str, Any] = {"runner": runner, "store": store}
    gathered(runner, store, [picture(1, **options), picture(2, **options)])
    assert picture(1, listeners=[recorder], **options)() == "m ab 1"
    assert not recorder.computed
