"""Expansion: conditions, loops, recursion, workflows and maps."""

from typing import Annotated, Any, NamedTuple, TypeVar

import pytest

from graphengine import Graph, Lazy, NodeError, Reuse, Store, WorkflowError, collect, each, node, when
from graphengine.errors import Where
from graphengine.testing import Recorder
from tests.graphengine.sample import (
    CALLS,
    add,
    big,
    divide,
    fail,
    fib,
    half,
    in_threads,
    inc,
    lazy_loop,
    loop,
    number_of,
    same,
    shout,
    tick,
    total,
    upto,
)

T = TypeVar("T")


@pytest.fixture(autouse=True)
def _fresh() -> None:
    CALLS.clear()


@pytest.fixture
def store() -> Store:
    return Store()


# --- conditions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", [True, False])
def test_when_computes_one_of_two(store: Store, flag: bool) -> None:
    with Graph() as g:
        out = when(flag, inc(1), half(fail(1)) if flag else inc(10))
        if not flag:
            out = when(flag, fail(1), inc(10))
    assert g.run(want=out, store=store) == (2 if flag else 11)
    assert CALLS == {"inc": 1}


def test_the_condition_may_be_computed(store: Store) -> None:
    @node(version=1)
    def is_even(x: int) -> bool:
        return x % 2 == 0

    with Graph() as g:
        out = [when(is_even(inc(n)), inc(n), half(n)) for n in (1, 2)]
    assert g.run(want=out, store=store) == [2, 1.0]


def test_outside_a_graph_they_are_plain_calls() -> None:
    assert when(True, 1, 2) == 1
    assert each([1, 2], inc.fn) == [2, 3]
    assert each(([1, 2], [3, 4]), lambda a, b: a * b) == [3, 8]
    assert collect([1, 2]) == [1, 2]
    assert loop(3, 1) == 4
    assert fib(10) == 55


def test_a_branch_that_is_not_taken_is_not_even_keyed(store: Store) -> None:
    with Graph() as g:
        out = when(True, 1, lazy_loop(10**9, inc(1)))
    assert g.run(want=out, store=store) == 1
    assert not CALLS


def test_nested_conditions(store: Store) -> None:
    with Graph() as g:
        out = when(True, when(False, fail(1), when(True, inc(1), fail(2))), fail(3))
    assert g.run(want=out, store=store) == 2


# --- loops and recursion ---------------------------------------------------------------------------------------------


def test_a_loop_5000_deep(store: Store) -> None:
    with Graph() as g:
        out = loop(5000, inc(0))
    assert g.run(want=out, store=store) == 5001
    assert CALLS["inc"] == 5001


def test_a_lazy_loop_5000_deep(store: Store) -> None:
    with Graph() as g:
        out = lazy_loop(5000, inc(7))
    assert g.run(want=out, store=store) == 5008


def test_keys_go_through_expansions(store: Store) -> None:
    """A loop's steps have the keys of the same steps written out, whoever computed them."""
    with Graph() as g:
        out = half(lazy_loop(10, inc(0)))
    with Graph() as plain:
        x = inc(0)
        for _ in range(10):
            x = inc(x)
        plain_out = half(x)
    assert plain.run(want=plain_out, store=store) == 5.5
    assert CALLS == {"inc": 11, "half": 1}
    assert g.run(want=out, store=store) == 5.5
    assert CALLS == {"inc": 11, "half": 1}


def test_a_longer_loop_computes_only_what_is_new(store: Store) -> None:
    for n in (10, 15):
        with Graph() as g:
            out = lazy_loop(n, inc(0))
        assert g.run(want=out, store=store) == n + 1
        assert CALLS["inc"] == n + 1


def test_loops_over_eager_values_share_by_content_too(store: Store) -> None:
    for n in (10, 15):
        with Graph() as g:
            out = loop(n, inc(0))
        assert g.run(want=out, store=store) == n + 1
        assert CALLS["inc"] == n + 1


def test_a_rerun_of_an_expansion_finds_its_result_and_not_its_inputs(store: Store) -> None:
    """What comes out is remembered: its inputs, though forgotten, are not computed again."""
    with Graph() as g:
        out = when(True, half(inc(inc(1))), 0.0)
    assert g.run(want=out, store=store) == 1.5
    for key, entry in list(store.memory.entries.items()):
        if isinstance(entry.value, int):
            del store.memory.entries[key]
    CALLS.clear()
    recorder = Recorder()
    assert g.run(want=out, store=store, listeners=[recorder]) == 1.5
    assert not CALLS
    assert recorder.computed == {}


@pytest.mark.parametrize("on", ["here", "thread", "device"])
def test_a_rerun_with_nodes_elsewhere(store: Store, on: Any) -> None:
    @node(version=1, on=on)
    def far(x: int) -> int:
        CALLS["far"] += 1
        return x

    with Graph() as g:
        out = when(True, inc(far(far(1))), 0)
    assert g.run(want=out, store=store) == 2
    assert g.run(want=out, store=store) == 2
    assert CALLS == {"far": 2, "inc": 1}


def test_recursion_that_branches_is_merged(store: Store) -> None:
    with Graph() as g:
        out = fib(30)
    assert g.run(want=out, store=store) == 832040
    assert CALLS["add"] <= 30


@node(version=1, expand=True)
def even(n: int) -> bool:
    return True if n == 0 else odd(n - 1)


@node(version=1, expand=True)
def odd(n: int) -> bool:
    return False if n == 0 else even(n - 1)


def test_mutual_recursion(store: Store) -> None:
    with Graph() as g:
        a, b = even(2001), even(2000)
    assert g.run(want=[a, b], store=store) == [False, True]


@node(version=1, expand=True)
def endless(n: int) -> int:
    CALLS["endless"] += 1
    return endless(n + 1)


@node(version=1, expand=True)
def itself(n: int) -> int:
    return inc(itself(n))


@node(version=1, expand=True)
def ping(n: int) -> int:
    return pong(n)


@node(version=1, expand=True)
def pong(n: int) -> int:
    return ping(n)


def test_endless_recursion_ends_with_an_error(store: Store) -> None:
    with Graph() as g:
        out = endless(0)
    with pytest.raises(WorkflowError, match="more than 500 expansions") as caught:
        g.run(want=out, store=store, limit=500)
    assert caught.value.problems[0].kind == "endless expansion"
    assert CALLS["endless"] == 500


@pytest.mark.parametrize("definition", [itself, ping])
def test_a_node_that_needs_itself_is_an_error(store: Store, definition: Any) -> None:
    with Graph() as g:
        out = definition(1)
    with pytest.raises(WorkflowError) as caught:
        g.run(want=out, store=store)
    assert caught.value.problems[0].kind == "needs itself"


def test_an_error_in_a_body_names_the_node(store: Store) -> None:
    @node(version=1, expand=True)
    def broken(n: int) -> int:
        if n > 2:
            raise ValueError("too much")
        return broken(n + 1)

    with Graph() as g:
        out = broken(0)
    with pytest.raises(NodeError, match=r"broken.*ValueError: too much"):
        g.run(want=out, store=store)


def test_a_wrong_graph_in_a_body_names_the_node(store: Store) -> None:
    @node(version=1, expand=True)
    def wrong(n: int) -> int:
        return inc(shout("a"))  # type: ignore[arg-type]

    with Graph() as g:
        wrong(0)
    with pytest.raises(WorkflowError, match=r"wrong/inc\.x: wants int, gets str"):
        g.run(store=store)


def test_a_body_may_use_a_lazy_input_only_as_a_reference(store: Store) -> None:
    @node(version=1, expand=True)
    def careless(x: Annotated[int, Lazy()]) -> int:
        return x + 1

    with Graph() as g:
        careless(inc(1))
    with pytest.raises(NodeError, match="is a promise of int, not a value"):
        g.run(store=store)


def test_expanding_nodes_may_return_values_references_lists_and_tuples(store: Store) -> None:
    class Both(NamedTuple):
        one: int
        two: list[int]

    globals()["Both"] = Both

    @node(version=1, expand=True)
    def both(x: int) -> Both:
        return Both(inc(x), [x, inc(x), inc(inc(x))])

    @node(version=1, expand=True)
    def value(x: int) -> list[int]:
        return [x, x]

    @node(version=1, expand=True)
    def pair(x: int) -> Both:
        return both(x)

    with Graph() as g:
        b, p = both(1), pair(5)
        outs = [b.one, total(b.two), value(3), p.one, p.two, b]
    found = g.run(want=outs, store=store)
    assert found == [2, 6, [3, 3], 6, [5, 6, 7], (2, [1, 2, 3])]
    assert type(found[-1]) is Both


def test_an_expansion_inside_a_list(store: Store) -> None:
    with Graph() as g:
        out = total([fib(5), inc(1), 3, when(True, inc(2), fail(1))])
    assert g.run(want=out, store=store) == 5 + 2 + 3 + 3


def test_outputs_of_an_expansion_by_port(store: Store) -> None:
    @node(version=1, expand=True)
    def choose(flag: bool) -> int:
        return divide(7, 2).rest if flag else divide(7, 2).quotient

    with Graph() as g:
        outs = [choose(True), choose(False)]
    assert g.run(want=outs, store=store) == [1, 3]
    assert CALLS["divide"] == 1


def test_large_values_put_into_expansions_keep_their_keys(store: Store) -> None:
    @node(version=1, expand=True)
    def pick(image: Any, n: int) -> int:
        return add(number_of(image), n)

    with Graph() as g:
        image = big(3)
        out = [pick(image, 1), number_of(image)]
    assert g.run(want=out, store=store) == [4, 3]
    assert CALLS == {"big": 1, "number_of": 1, "add": 1}


def test_volatile_goes_through_expansions(store: Store) -> None:
    with Graph() as g:
        out = inc(when(True, tick(), 0))
    first, second = g.run(want=out, store=store), g.run(want=out, store=store)
    assert first != second
    assert CALLS["inc"] == 2


def test_lazily_passed_through_many_hands(store: Store) -> None:
    @node(version=1, expand=True)
    def hand(x: Annotated[T, Lazy()], n: int) -> T:
        return x if n == 0 else hand(x, n - 1)

    with Graph() as g:
        out = number_of(hand(big(4), 50))
    with Graph() as plain:
        number_of(big(4))
    plain.run(store=store)
    CALLS.clear()
    assert g.run(want=out, store=store) == 4
    assert not CALLS


# --- each ------------------------------------------------------------------------------------------------------------


def test_each_over_literals_shares_items(store: Store) -> None:
    with Graph() as g:
        first = each([1, 2], inc)
        second = each([2, 3], inc)
    assert g.run(want=first, store=store) == [2, 3]
    assert g.run(want=second, store=store) == [3, 4]
    assert CALLS["inc"] == 3
    with Graph() as plain:
        inc(3)
    plain.run(store=store)
    assert CALLS["inc"] == 3


def test_each_over_links(store: Store) -> None:
    with Graph() as g:
        out = each([inc(1), 5, inc(inc(1))], lambda x: add(x, inc(x)))
    assert g.run(want=out, store=store) == [5, 11, 7]
    with Graph() as plain:
        x = inc(1)
        plain_out = add(x, inc(x))
    CALLS.clear()
    assert plain.run(want=plain_out, store=store) == 5
    assert not CALLS


def test_each_over_a_declared_list(store: Store) -> None:
    with Graph() as g:
        g.output("r", each(g.input("xs", list[int]), inc))
    assert g(xs=[1, 2]) == [2, 3]
    assert g.run(inputs={"xs": [1, 2]}, store=store) == {"r": [2, 3]}
    assert g.run(inputs={"xs": [2, 3]}, store=store) == {"r": [3, 4]}
    assert CALLS["inc"] >= 3
    CALLS.clear()
    assert g.run(inputs={"xs": [3, 1, 2]}, store=store) == {"r": [4, 2, 3]}
    assert not CALLS


def test_each_over_a_list_that_is_made_in_the_run(store: Store) -> None:
    with Graph() as g:
        out = each(upto(3), inc)
    recorder = Recorder()
    assert g.run(want=out, store=store) == [1, 2, 3]
    assert g.run(want=out, store=store, listeners=[recorder]) == [1, 2, 3]
    assert CALLS == {"upto": 1, "inc": 3}
    assert Reuse.COMPUTED not in recorder.why.values()


def test_each_in_step(store: Store) -> None:
    with Graph() as g:
        out = each(([1, 2, 3], upto(3)), lambda a, b: add(a, inc(b)))
        plain = each(([1, 2], [inc(1), 5]), add)
    assert g.run(want=[out, plain], store=store) == [[2, 4, 6], [3, 7]]


def test_unequal_lengths_are_told_when_they_are_known(store: Store) -> None:
    with Graph() as g, pytest.raises(WorkflowError, match=r"equally long: .*2.*3"):
        each(([1, 2], [1, 2, 3]), add)
    with Graph() as g:
        out = each(([1, 2], upto(3)), add)
    with pytest.raises(WorkflowError, match="equally long") as caught:
        g.run(want=out, store=store)
    assert caught.value.problems[0].kind == "unequal lengths"


def test_a_list_that_is_too_long_is_refused_when_it_is_known(store: Store) -> None:
    sentence = r"1,000,000 items are more than a node is mapped over \(20,000\)"
    many = list(range(1_000_000))
    with Graph(), pytest.raises(WorkflowError, match=sentence):
        each(many, inc)
    with Graph() as g:
        given = g.input("items", list[int])
        g.output("out", each(given, inc))
    with pytest.raises(WorkflowError, match=sentence) as caught:
        g.run(inputs={"items": many}, store=store)
    assert caught.value.problems[0].where == Where(node="inputs", socket="items")
    with Graph() as g:
        out = each(upto(1_000_000), inc)
    with pytest.raises(WorkflowError, match=sentence):
        g.run(want=out, store=store)


@pytest.mark.parametrize("make", [list, lambda: upto(0)], ids=["literal", "made"])
def test_each_over_an_empty_list(store: Store, make: Any) -> None:
    with Graph() as g:
        items = each(make(), inc)
        out = [items, total(items)]
    assert g.run(want=out, store=store) == [[], 0]


def test_nested_each(store: Store) -> None:
    with Graph() as g:
        out = each([[1, 2], [2, 3]], lambda row: total(each(row, inc)))
        deep = each([1, 2], lambda x: each([x, 10], lambda y: add(x, y)))
    assert g.run(want=[out, deep], store=store) == [[5, 7], [[2, 11], [4, 12]]]
    assert CALLS["inc"] == 3


def test_each_takes_in_what_is_around_it(store: Store) -> None:
    with Graph() as g:
        k = inc(100)
        out = each([1, 2], lambda x: add(x, k))
        deeper = each([1, 2], lambda x: total(each([3], lambda y: add(add(x, y), k))))
    assert g.run(want=[out, deeper], store=store) == [[102, 103], [105, 106]]
    assert CALLS["inc"] == 1


def test_each_over_expansions_and_in_them(store: Store) -> None:
    @node(version=1, expand=True)
    def squares(n: int) -> list[int]:
        return each(list(range(n)), lambda x: loop(x, x))

    with Graph() as g:
        out = [total(squares(5)), each([3, 4], fib), each(squares(3), lambda x: when(True, inc(x), fail(x)))]
    assert g.run(want=out, store=store) == [20, [2, 3], [1, 3, 5]]


def test_each_over_several_outputs(store: Store) -> None:
    with Graph() as g:
        out = each([7, 8], lambda x: divide(x, 3).rest)
        whole = each([7, 8], lambda x: divide(x, 3))
    assert g.run(want=out, store=store) == [1, 2]
    assert g.run(want=whole, store=store) == [(2, 1), (2, 2)]


def test_each_item_has_its_own_failure(store: Store) -> None:
    @node(version=1)
    def picky(x: int) -> int:
        CALLS["picky"] += 1
        if x == 2:
            raise ValueError("not two")
        return x

    with Graph() as g:
        out = each([1, 2, 3], picky)
    with pytest.raises(NodeError, match=r"picky\[1\].*not two"):
        g.run(want=out, store=store)
    assert CALLS["picky"] <= 3


def test_a_body_must_return_an_output() -> None:
    with Graph(), pytest.raises(WorkflowError, match="body of each must return a node's output"):
        each([1], lambda x: 3)


def test_mapping_volatile_items_is_volatile(store: Store) -> None:
    with Graph() as g:
        out = each([tick(), 5], inc)
    g.run(want=out, store=store)
    g.run(want=out, store=store)
    assert CALLS["inc"] == 3  # the 5 once, the tick twice


def test_large_items_of_a_made_list_are_keyed_by_list_and_place(store: Store) -> None:
    @node(version=1)
    def images(n: int) -> list[Any]:
        CALLS["images"] += 1
        return [big.fn(k) for k in range(n)]

    with Graph() as g:
        out = each(images(3), number_of)
    assert g.run(want=out, store=store) == [0, 1, 2]
    CALLS.clear()
    assert g.run(want=out, store=store) == [0, 1, 2]
    assert not CALLS


def test_collect_makes_a_list_of_links(store: Store) -> None:
    with Graph() as g:
        out = total(collect([inc(1), inc(2)]))
    assert g.run(want=out, store=store) == 5


def test_a_loop_over_a_wide_map_is_linear(store: Store) -> None:
    with Graph() as g:
        out = total(each(list(range(3000)), lambda x: add(inc(x), x)))
    assert in_threads(1, lambda _: g.run(want=out, store=store)) == [sum(2 * x + 1 for x in range(3000))]


def test_same_passes_types_through(store: Store) -> None:
    with Graph() as g:
        inc(same(same(3)))
        with pytest.raises(WorkflowError, match="wants int, gets str"):
            inc(same(shout("a")))  # type: ignore[arg-type]
    assert g.run(want="inc", store=store) == 4


def test_what_a_loop_made_is_found_though_its_beginning_was_forgotten(store: Store) -> None:
    with Graph() as g:
        out = lazy_loop(10, inc(0))
    assert g.run(want=out, store=store) == 11
    for key, entry in list(store.memory.entries.items()):
        if entry.value != 11:
            del store.memory.entries[key]
    CALLS.clear()
    assert g.run(want=out, store=store) == 11
    assert not CALLS


def test_ids_that_look_like_those_of_expansions(store: Store) -> None:
    with Graph() as g:
        loop.named("a#b")(2, 0)
        loop.named("c#7[0]")(2, 0)
    assert g.run(store=store) == {"a#b": 2, "c#7[0]": 2}
