"""Nodes as people write them: inputs of any name, async functions, partials, callable objects and methods."""

import asyncio
import functools
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

from graphengine import Context, Graph, Lazy, NodeDefinitionError, NodeError, Store, WorkflowError, each, node
from graphengine.declare.context import INERT
from tests.graphengine.sample import inc


def value(made: Any) -> Any:
    """What a graph of one call gives."""
    with Graph() as g:
        g.output("value", made())
    return g()


def add(a: int, b: int = 10) -> int:
    return a + b


@node
def look_up(id: int, each: int = 1, self: int = 1, kind: int = 1, args: int = 1, name: int = 1, graph: int = 1) -> int:
    return id * each * self * kind * args * name * graph


NAMES = ["id", "each", "self", "kind", "args", "name", "graph"]


@pytest.mark.parametrize("name", NAMES)
def test_an_input_may_have_any_name(name: str) -> None:
    given: dict[str, Any] = {"id": 1, name: 5}
    assert look_up(**given) == 5
    assert value(lambda: look_up(**given)) == 5
    assert value(lambda: look_up.named("x")(**given)) == 5
    assert value(lambda: each([5], lambda n: look_up(**(given | {name: n})))) == [5]
    with Graph() as g:
        g.output("value", look_up(**({"id": 1} | {name: g.input(name, int)})))
    assert g(**{name: 5}) == 5
    with Graph() as outer:
        outer.output("value", g(**{name: 6}))
    assert outer() == 6


def test_inputs_called_as_arguments_of_add_are_given_by_set_and_replace() -> None:
    g = Graph()
    g.add(look_up, "x")
    g.set("x", "id", 4)
    g.set("x", "each", 2)
    assert g.run(want="x") == 8
    g.replace("x", look_up, id=5, self=2)
    assert g.run(want="x") == 20  # `each` is kept


class Power:
    def __init__(self, exponent: int) -> None:
        self.exponent = exponent

    def __call__(self, x: int) -> int:
        """Raise."""
        return int(x**self.exponent)

    @node
    def scaled(self, x: int, by: int = 2) -> int:
        """Scale."""
        return x * by + self.exponent

    @node(version=3, on="thread")
    async def waited(self, x: int) -> int:
        await asyncio.sleep(0)
        return x + self.exponent

    @classmethod
    @node
    def made(cls, x: int) -> str:
        return f"{cls.__name__} {x}"

    @node
    @staticmethod
    def alone(x: int) -> int:
        return -x

    @node(expand=True)
    def raised(self, n: int, x: Annotated[int, Lazy()]) -> int:
        return x if n == 0 else self.raised(n - 1, self.scaled(x))

    def bare(self, x: int) -> int:
        return x - self.exponent


CALLABLES: dict[str, tuple[Any, int]] = {
    "partial by position": (lambda: node(functools.partial(add, 1))(b=2), 3),
    "partial by name": (lambda: node(functools.partial(add, b=5))(1), 6),
    "a name by name, another value": (lambda: node(functools.partial(add, b=5))(1, b=6), 7),
    "partial of a partial": (lambda: node(functools.partial(functools.partial(add, 1), 2))(), 3),
    "partial of an object": (lambda: node(functools.partial(Power(2), 3))(), 9),
    "object": (lambda: node(Power(2))(3), 9),
    "bound method": (lambda: node(Power(2).bare)(3), 1),
    "decorated method": (lambda: Power(1).scaled(3, by=4), 13),
    "static method": (lambda: Power(1).alone(3), -3),
    "static method of the class": (lambda: Power.alone(3), -3),
    "expanding method": (lambda: Power(0).raised(3, 1), 8),
    "async method": (lambda: Power(2).waited(3), 5),
}


@pytest.mark.parametrize("name", CALLABLES)
def test_callables_are_nodes(name: str) -> None:
    make, expected = CALLABLES[name]
    assert make() == expected  # called by itself
    assert value(make) == expected


def test_a_class_method_is_a_node() -> None:
    assert value(lambda: Power.made(3)) == "Power 3"


def test_what_was_given_beforehand_is_part_of_the_key() -> None:
    store, results = Store(), []
    for n in (1, 2):
        for made in (node(functools.partial(add, n))(b=1), node(functools.partial(add, b=n))(1), node(Power(n))(3)):
            results.append(made)
    assert results == [2, 2, 3, 3, 3, 9]
    again = []
    for n in (1, 2):
        for make in (
            lambda n=n: node(functools.partial(add, n))(b=1),
            lambda n=n: node(functools.partial(add, b=n))(1),
            lambda n=n: node(Power(n))(3),
        ):
            with Graph() as g:
                g.output("value", make())
            again.append(g.run(store=store)["value"])
    assert again == results


def test_names_and_help_are_those_of_what_is_called() -> None:
    assert node(functools.partial(add, 1)).full_name == add.__module__.partition(".")[0] + ".add"
    assert node(Power(2)).name == "Power"
    assert node(Power(2)).doc == "Raise."
    assert Power(2).scaled.doc == "Scale."
    assert list(Power(2).scaled.sockets) == ["x", "by"]
    assert list(node(functools.partial(add, b=3)).sockets) == ["a", "b"]
    assert node(functools.partial(add, b=3)).sockets["b"].default == 3
    assert (Power(2).waited.version, Power(2).waited.on) == (3, "thread")


def test_a_batched_form_of_a_method_is_bound_as_well() -> None:
    class Adder:
        base = 100

        @node(batch=("x",), on="device")
        def plus(self, x: int) -> int:
            return self.base + x

        @plus.many
        def _(self, x: list[int]) -> list[int]:
            return [self.base + n for n in x]

    bound = Adder().plus
    assert bound.many_fn is not None
    assert bound.many_fn(x=[1, 2]) == [101, 102]


def test_code_made_by_exec_is_a_node() -> None:
    space: dict[str, Any] = {}
    exec("def f(x: int) -> int: return x + 1", space)
    assert value(lambda: node(space["f"])(1)) == 2


# --- async ---


@node
async def fetched(x: int, context: Context = INERT) -> str:
    """Fetch."""
    await asyncio.sleep(0)
    context.progress(1, 1)
    return f"{x} {threading.current_thread() is threading.main_thread()} {asyncio.get_running_loop().is_running()}"


@node
async def failing(x: int) -> int:
    await asyncio.sleep(0)
    raise ValueError(f"no {x}")


def test_an_async_node_runs_on_a_thread_of_its_own_with_an_event_loop() -> None:
    assert fetched.on == "thread"
    assert fetched.doc == "Fetch."
    assert value(lambda: fetched(1)) == "1 False True"
    assert value(lambda: each([1, 2], fetched)) == ["1 False True", "2 False True"]


def test_an_async_node_is_an_ordinary_call_outside_a_graph_also_where_a_loop_runs() -> None:
    assert fetched(1) == "1 True True"

    async def notebook() -> str:
        return fetched(2)

    assert asyncio.run(notebook()) == "2 False True"


def test_an_async_node_that_raises_is_named() -> None:
    with pytest.raises(NodeError, match=r"failing.*no 3"):
        value(lambda: failing(3))


def test_many_async_nodes_wait_at_the_same_time() -> None:
    barrier = threading.Barrier(4, timeout=60)

    @node(cache="never")
    async def meet(n: int) -> int:
        await asyncio.to_thread(barrier.wait)
        return n

    assert value(lambda: each([1, 2, 3, 4], meet)) == [1, 2, 3, 4]


# --- what is refused, in one true sentence ---


def many(x: int) -> Iterator[int]:
    yield x


async def many_later(x: int) -> AsyncIterator[int]:
    yield x


@dataclass
class Size:
    width: int


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        (many, "many yields"),
        (many_later, "many_later yields"),
        (Size, "the class Size cannot be a node"),
        (3, "3 cannot be a node"),
        (classmethod(add), "put @node under @classmethod"),
    ],
)
def test_what_cannot_be_a_node_is_refused(what: Any, sentence: str) -> None:
    with pytest.raises(NodeDefinitionError, match=sentence):
        node(what)


def test_an_expanding_node_is_not_async() -> None:
    async def grow(x: int) -> int:
        return x

    with pytest.raises(NodeDefinitionError, match="grow builds a graph"):
        node(expand=True)(grow)


def test_a_method_of_a_class_says_that_it_needs_its_object() -> None:
    with Graph(), pytest.raises(NodeDefinitionError, match="taken from its object"):
        Power.scaled(Power(2), 3)


def test_a_wrong_argument_of_a_method_is_told() -> None:
    with Graph(), pytest.raises(WorkflowError, match=r"scaled\.x"):
        Power(2).scaled("a")  # type: ignore[arg-type]


def test_a_function_without_a_signature_is_told() -> None:
    with pytest.raises(NodeDefinitionError, match="max: its signature cannot be read"):
        node(max)


# --- several lists in step ---


def test_several_lists_are_mapped_in_step() -> None:
    three = node(lambda_three)
    assert each([1, 2], [10, 20], lambda a, b: a + b) == [11, 22]
    assert value(lambda: each([1, 2], [10, 20], node(add))) == [11, 22]
    assert value(lambda: each([1, 2], [10, 20], [3, 4], lambda a, b, c: three(a, b, c))) == [14, 26]
    assert value(lambda: each(([1, 2], [10, 20]), lambda a, b: three(a, b, 0))) == [11, 22]
    with Graph(), pytest.raises(TypeError, match="each takes one list or more, and last the function"):
        each([1, 2], [3, 4])  # type: ignore[call-overload]


def lambda_three(a: int, b: int, c: int) -> int:
    return a + b + c


class Dispatching:
    """Has a method that chooses by the class of its first argument."""

    @functools.singledispatchmethod
    def method(self, x: int) -> int:
        return x


@pytest.mark.parametrize(
    "made",
    [
        lambda: functools.singledispatch(add), lambda: functools.partial(functools.singledispatch(add), b=1),
        lambda: Dispatching().method,
    ],
)  # fmt: skip
def test_what_chooses_by_the_first_arguments_class_is_refused(made: Any) -> None:
    with pytest.raises(NodeDefinitionError, match=r"cannot be a node: it is made by singledispatch, .* that calls it$"):
        node(made())
    caching = functools.lru_cache(add)
    assert value(lambda: node(name="cached_add")(caching)(1)) == 11


@pytest.mark.parametrize(
    ("lists", "told"),
    [
        (((1, 2),), r"what stands at 0 in the tuple of lists is 1 \(int\); .*write \[\.\.\.\] for one list"),
        ((5,), r"argument 1 is 5 \(int\)"), (([1], 5), r"argument 2 is 5 \(int\)"),
    ],
)  # fmt: skip
def test_each_says_which_argument_is_no_list(lists: tuple[Any, ...], told: str) -> None:
    def body(*items: Any) -> Any:
        raise AssertionError

    with pytest.raises(TypeError, match=f"^each goes through lists, but {told}"):
        each(*lists, body)
    with Graph(), pytest.raises(TypeError, match=f"^each goes through lists, but {told}"):
        each(*lists, body)


def test_each_refuses_what_is_no_list_in_a_graph() -> None:
    with Graph() as g:
        number = g.input("number", int, 3)
        for wrong, told in (
            (number, r"inputs\.number, which is int"),
            (inc(number), "inc, which is int"),
            ("ab", r"'ab' \(str\)"),
            ({1: 2}, r"{1: 2} \(dict\)"),
        ):
            with pytest.raises(TypeError, match=f"^each goes through lists, but argument 1 is {told}$"):
                each(wrong, inc)
        g.output("fine", each(g.input("more", list[int] | None, [1]), inc))
    assert each("ab", str.upper) == ["A", "B"]


SHIFTED = """
import functools, sys
from graphengine import Graph, node, run

{padding}

def add(a: int, b: int) -> int:
    return a + b

plus_two = functools.partial(add, b=2)

@node
def shifted(x: int) -> int:
    return plus_two(x)

with Graph() as g:
    g.output("y", shifted(1))

from graphengine.planning.inputs import bind_inputs
from graphengine.planning.plan import take_plan
plan = take_plan(g, bind_inputs(g, {{}}), None)
plan.assign(list(g.nodes))
print(next(iter(plan.keys.values())).hex())
"""


def test_a_partial_that_code_uses_gives_the_same_key_in_every_process(tmp_path: Path) -> None:
    keys = set()
    for n, padding in enumerate(["", "kept = [object() for _ in range(100_000)]"]):  # other addresses
        script = tmp_path / str(n) / "script.py"
        script.parent.mkdir()
        script.write_text(SHIFTED.format(padding=padding))
        done = subprocess.run([sys.executable, str(script)], check=True, capture_output=True, text=True)
        keys.add(done.stdout)
    assert len(keys) == 1
