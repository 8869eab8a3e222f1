"""Random graphs give the same values whatever is remembered, forgotten, damaged, or run at the same time."""

import random
import threading
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphengine import DiskStore, Graph, Lazy, Store, ThreadRunner, each, node, when
from graphengine.declare.building import building
from graphengine.graph.elements import Ref
from tests.graphengine.sample import Big, in_threads

# Each node's name tells what it does, so that the values can be told apart: a wrong one is seen.


@node(version=1)
def plus(a: int, b: int) -> int:
    return (a * 31 + b + 1) % 1_000_003


@node(version=1, on="thread")
def times(a: int, by: int = 7) -> int:
    return (a * by + 3) % 1_000_003


@node(version=1, on="device", batch=("a",))
def far(a: int) -> int:
    return (a * 13 + 5) % 1_000_003


@far.many
def _(a: list[int]) -> list[int]:
    return [far.fn(x) for x in a]


class Two(NamedTuple):
    left: int
    right: int


@node(version=1)
def split(a: int) -> Two:
    return Two(a // 3, a % 1000 + 1)


@node(version=1)
def wrap(a: int) -> Big:
    return Big(a, 500)


@node(version=1)
def unwrap(big: Big, add: int = 0) -> int:
    return (big.number + add) % 1_000_003


@node(version=1)
def fold(xs: list[int]) -> int:
    value = 17
    for x in xs:
        value = (value * 37 + x) % 1_000_003
    return value


@node(version=1)
def listed(a: int) -> list[int]:
    return [a % 11 + k for k in range(a % 4)]


@node(version=1, expand=True)
def climb(n: int, x: Annotated[int, Lazy()]) -> int:
    return x if n == 0 else climb(n - 1, plus(x, n))


@node(version=1, expand=True)
def walk(x: int) -> int:
    return x if x % 5 == 0 else walk(times(x))


class Step:
    """A recipe for one node: an operation and numbers that pick what it takes."""

    def __init__(self, op: str, picks: tuple[int, int, int]) -> None:
        self.op, self.picks = op, picks

    def __repr__(self) -> str:
        return f"{self.op}{self.picks}"


OPS = ["plus", "times", "far", "split", "big", "fold", "each", "each_made", "each_body", "climb", "walk", "when"]
OPS += ["part"]
STEPS = st.builds(Step, st.sampled_from(OPS), st.tuples(*[st.integers(0, 30)] * 3))
RECIPES = st.lists(STEPS, min_size=1, max_size=14)


def part() -> Graph:
    with Graph("part") as g:
        x = g.input("x", int)
        y = g.input("y", int, default=4)
        g.output("r", plus(times(x), y))
    return g


PART = part()


def build(recipe: list[Step]) -> tuple[Any, Any]:
    """With a graph open, references; without one, the values that plain calls give: the oracle."""
    values: list[Any] = [1, 2, 3]
    for step in recipe:
        a, b, c = (values[p % len(values)] for p in step.picks)
        n = step.picks[2]
        match step.op:
            case "plus":
                new = plus(a, b)
            case "times":
                new = times(a) if n % 2 else times(a, by=n)
            case "far":
                new = far(a)
            case "split":
                left, right = split(a)
                values.append(left)
                new = right
            case "big":
                big = wrap(a)
                new = plus(unwrap(big), unwrap(big, add=n))
            case "fold":
                new = fold([a, 5, b, n])
            case "each":
                new = fold(each([a, b, n, 3], far))
            case "each_made":
                new = fold(each(listed(a), times))
            case "each_body":
                new = fold(each([a, n], lambda x, b=b: plus(x, far(b))))
            case "climb":
                new = climb(n % 6, plus(a, b))
            case "walk":
                new = walk(a)
            case "when":
                new = when(is_odd(a), plus(b, c), far(c))
            case _:
                y = n if n % 2 else 4
                new = plus(times(a), y) if building() is None else PART(x=a, y=n) if n % 2 else PART(x=a)
        values.append(new)
    return values[-1], values[len(values) // 2]


@node(version=1)
def is_odd(a: int) -> bool:
    return a % 2 == 1


def graph_of(recipe: list[Step]) -> tuple[Graph, list[Any]]:
    with Graph() as g:
        wanted = [w for w in build(recipe) if isinstance(w, Ref)]
    return g, wanted


def truth(recipe: list[Step], wanted: list[Any]) -> list[int]:
    values = build(recipe)
    return list(values) if len(wanted) == 2 else [values[0]]


RUNNER = ThreadRunner(batch=4)
QUIET = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@given(RECIPES)
@QUIET
def test_values_equal_plain_calls(recipe: list[Step]) -> None:
    g, wanted = graph_of(recipe)
    expected = truth(recipe, wanted)
    assert g.problems() == []
    assert g.run(want=wanted, store=Store(memory=0), runner=RUNNER) == expected
    store = Store()
    for _ in range(2):
        assert g.run(want=wanted, store=store, runner=RUNNER) == expected
    assert g.copy() == g
    assert not store.flights


SHARED = Store()
TINY = Store(memory=2500)


@given(RECIPES)
@QUIET
def test_a_memory_shared_by_all_graphs_changes_no_value(recipe: list[Step]) -> None:
    g, wanted = graph_of(recipe)
    expected = truth(recipe, wanted)
    for store in (SHARED, TINY):
        assert g.run(want=wanted, store=store, runner=RUNNER) == expected
    assert TINY.memory.used <= 2500


@given(RECIPES, st.integers(0, 2**32), st.booleans())
@QUIET
def test_entries_cut_short_and_forgotten_change_no_value(
    tmp_path_factory: pytest.TempPathFactory, recipe: list[Step], seed: int, exact: bool
) -> None:
    patch = pytest.MonkeyPatch()
    patch.setattr("graphengine.cache.store.WORTH_WRITING", 0.0)
    folder = tmp_path_factory.getbasetemp() / "random_store"
    try:
        g, wanted = graph_of(recipe)
        expected = truth(recipe, wanted)
        chance = random.Random(seed)
        store = Store(disk=DiskStore(folder, budget=60_000))
        for _ in range(3):
            assert g.run(want=wanted, store=store, runner=RUNNER, exact=exact) == expected
            cut(folder, chance)
            for key in list(store.memory.entries):
                if chance.random() < 0.6:
                    store.memory.entries.pop(key)
            if chance.random() < 0.5:
                store = Store(memory=chance.choice([0, 2000, 1 << 30]), disk=DiskStore(folder, budget=60_000))
    finally:
        patch.undo()


def cut(folder: Path, chance: random.Random) -> None:
    files = [f for f in folder.rglob("*") if f.is_file()]
    for file in chance.sample(files, min(len(files), 12)):
        content = file.read_bytes()
        match chance.randrange(3):
            case 0:
                file.write_bytes(content[: chance.randrange(len(content) + 1)])
            case 1:
                place = chance.randrange(len(content) or 1)
                file.write_bytes(content[:place] + b"~" + content[place + 1 :])
            case _:
                file.unlink()


@given(RECIPES, st.integers(0, 13), STEPS)
@QUIET
def test_a_graph_that_is_edited_gives_what_a_new_one_gives(recipe: list[Step], place: int, other: Step) -> None:
    """The same literals set one by one in a graph that has run, and in one that has not."""
    g, wanted = graph_of(recipe)
    store = Store()
    g.run(want=wanted, store=store, runner=RUNNER)
    literal = [(id, name) for id, n in g.nodes.items() for name, v in n.literals.items() if type(v) is int]
    if not literal or not isinstance(wanted[0], Ref):
        return
    id, socket = literal[place % len(literal)]
    g.set(id, socket, other.picks[0])
    fresh = g.copy()
    links = [w._link for w in wanted]
    assert g.run(want=links, store=store, runner=RUNNER) == fresh.run(want=links, store=Store(), runner=RUNNER)


def random_recipe(chance: random.Random) -> list[Step]:
    return [
        Step(chance.choice(OPS), (chance.randrange(31), chance.randrange(31), chance.randrange(31)))
        for _ in range(chance.randrange(3, 20))
    ]


@pytest.mark.parametrize("memory", [1 << 30, 3000])
def test_many_threads_run_mixed_graphs_on_one_store(tmp_path: Path, memory: int) -> None:
    recipes = [random_recipe(random.Random(n)) for n in range(40)]
    graphs = [graph_of(recipe) for recipe in recipes]
    expected = [truth(recipe, wanted) for recipe, (_, wanted) in zip(recipes, graphs, strict=True)]
    store = Store(memory=memory, disk=DiskStore(tmp_path))
    runner = ThreadRunner(device_threads=2, batch=4)
    wrong: list[Any] = []

    def work(n: int) -> None:
        chance = random.Random(n)
        for _ in range(25):
            k = chance.randrange(len(graphs))
            g, wanted = graphs[k]
            if g.run(want=wanted, store=store, runner=runner) != expected[k]:
                wrong.append(k)

    assert in_threads(8, work) == [None] * 8
    assert not wrong
    assert not store.flights
    runner.close()


@pytest.mark.slow
def test_many_threads_for_long_with_cancellations(tmp_path: Path) -> None:
    from graphengine import Cancellation, Cancelled

    store = Store(memory=20_000, disk=DiskStore(tmp_path))
    runner = ThreadRunner(device_threads=2, batch=4)
    cancelled = [0]

    def work(n: int) -> None:
        chance = random.Random(n)
        for k in range(150):
            recipe = random_recipe(random.Random(chance.randrange(60)))
            g, wanted = graph_of(recipe)
            cancellation = Cancellation()
            timer = threading.Timer(chance.random() * 0.01, cancellation.cancel)
            if k % 3 == 0:
                timer.start()
            try:
                found = g.run(want=wanted, store=store, runner=runner, cancellation=cancellation)
            except Cancelled:
                cancelled[0] += 1
                continue
            assert found == truth(recipe, wanted)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive()
    assert not store.flights
    runner.close()
