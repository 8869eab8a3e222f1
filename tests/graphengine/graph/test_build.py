"""Graphs are built by calling and by data, and are equal by content."""

import operator
import threading
import time
from typing import Annotated, Any

import pytest

from graphengine import Graph, Link, Range, Ref, WorkflowError, each, node
from tests.graphengine.sample import (
    CALLS,
    Division,
    add,
    big,
    divide,
    half,
    in_threads,
    inc,
    number_of,
    shout,
    total,
    upto,
)


def chain() -> Graph:
    with Graph() as g:
        a = inc(1)
        b = inc(a, by=2)
        add(a, b)
    return g


# --- by calling ------------------------------------------------------------------------------------------------------


def test_calls_add_nodes_and_links() -> None:
    g = chain()
    assert list(g.nodes) == ["inc", "inc_2", "add"]
    assert g.nodes["inc_2"].args == {"x": Link("inc"), "by": 2}
    assert g.nodes["add"].args == {"a": Link("inc"), "b": Link("inc_2")}
    assert g.nodes["add"].type == "tests.add"


def test_a_parameter_may_be_called_kind() -> None:
    @node(version=1)
    def named(kind: str) -> str:
        return kind

    with Graph() as g:
        named("a")
    assert g.run() == {"named": "a"}


def test_the_innermost_graph_wins() -> None:
    with Graph() as outer:
        inc(1)
        with Graph() as inner:
            inc(2)
            inc(3)
        inc(4)
    assert [n.args["x"] for n in outer.nodes.values()] == [1, 4]
    assert [n.args["x"] for n in inner.nodes.values()] == [2, 3]
    assert inc(1) == 2


def test_a_graph_that_raised_is_no_longer_being_built() -> None:
    with pytest.raises(ZeroDivisionError), Graph():
        1 / 0  # noqa: B018
    assert inc(1) == 2


def test_threads_do_not_see_each_others_graphs() -> None:
    step = threading.Barrier(4)

    def build(n: int) -> Graph:
        with Graph() as g:
            for k in range(20):
                step.wait()
                inc(100 * n + k)
        return g

    outside: list[Any] = []
    with Graph() as mine:
        graphs = in_threads(4, build)
        other = threading.Thread(target=lambda: outside.append(inc(1)))
        other.start()
        other.join()
    assert outside == [2]
    assert not mine.nodes
    for n, g in enumerate(graphs):
        assert [m.args["x"] for m in g.nodes.values()] == [100 * n + k for k in range(20)]


def test_a_wrong_link_raises_where_it_is_written_and_adds_nothing() -> None:
    with Graph() as g:
        text = shout("a")
        with pytest.raises(WorkflowError, match=r"inc\.x: wants int, gets str") as caught:
            inc(text)  # type: ignore[arg-type]
        with pytest.raises(WorkflowError):
            inc("a")  # type: ignore[arg-type]
        with pytest.raises(WorkflowError):
            inc()  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="unexpected keyword"):
            inc(1, bye=2)  # type: ignore[call-arg]
        with pytest.raises(WorkflowError):
            total([1, text])  # type: ignore[list-item]
        with pytest.raises(WorkflowError):
            each([text], inc)  # type: ignore[list-item]
    (problem,) = caught.value.problems
    assert (problem.kind, problem.expected, problem.found) == ("type mismatch", "int", "str")
    assert list(g.nodes) == ["shout"]
    assert g.problems() == []


def test_several_outputs_unpack_and_have_names() -> None:
    with Graph() as g:
        result = divide(7, 2)
        quotient, rest = result
        assert isinstance(result.rest, Ref)
        add(quotient, result.rest)
        add(result[0] if False else quotient, rest)
    assert g.nodes["add"].args == {"a": Link("divide", "quotient"), "b": Link("divide", "rest")}
    assert g.run(want=result) == Division(3, 1)
    assert type(g.run(want=result)) is Division
    assert g.run(want=[quotient, rest]) == [3, 1]


VALUE_USES = {
    "bool": bool,
    "if": lambda r: 1 if r else 2,
    "and": lambda r: r and 1,
    "not": lambda r: not r,
    "len": len,
    "iteration": list,
    "unpacking": lambda r: operator.methodcaller("x")(*r),
    "int": int,
    "float": float,
    "index": lambda r: [1, 2][r],
    "item": lambda r: r[0],
    "in": lambda r: 1 in r,
    "call": lambda r: r(),
    "add": lambda r: r + 1,
    "added": lambda r: 1 + r,
    "to a text": lambda r: "a" + r,
    "subtract": lambda r: 1 - r,
    "multiply": lambda r: 2 * r,
    "divide": lambda r: r / 2,
    "floor": lambda r: r // 2,
    "modulo": lambda r: r % 2,
    "power": lambda r: r**2,
    "negative": lambda r: -r,
    "abs": abs,
    "less": lambda r: r < 1,
    "equal": lambda r: r == 1,
    "unequal": lambda r: r != 1,
    "in a formatted text": lambda r: f"a {r}",
    "format": lambda r: "{}".format(r),  # noqa: UP032
    "sum": lambda r: sum([r]),
    "max": lambda r: max([r, 1]),
    "range": range,
    "attribute": lambda r: r.upper(),
    "round": round,
    "invert": lambda r: ~r,
}


@pytest.mark.parametrize("use", VALUE_USES.values(), ids=VALUE_USES)
def test_a_reference_used_as_a_value_says_what_it_is(use: Any) -> None:
    with Graph():
        ref = inc(1)
        with pytest.raises((TypeError, AttributeError), match=r"inc is a promise of int, not a value: .*run the graph"):
            use(ref)


def test_references_can_be_kept_in_containers() -> None:
    with Graph():
        a, b = inc(1), inc(2)
        assert len({a, b, a}) == 2
        assert {a: 1}[a] == 1
        assert repr(a) == "<promise of int from inc>"
        assert hasattr(a, "nothing") is False
        assert [a, b].index(a) == 0


def test_references_of_another_graph_are_refused() -> None:
    with Graph():
        a = inc(1)
    with Graph() as g, pytest.raises(WorkflowError, match="belongs to another graph"):
        inc(a)
    assert not g.nodes
    with pytest.raises(WorkflowError, match="another graph"):
        g.run(want=a)


def test_declared_inputs_and_outputs_make_it_a_function() -> None:
    with Graph("twice") as g:
        x = g.input("x", int)
        by = g.input("by", int, default=10, help="how much", range=Range(0, 20))
        g.output("result", inc(inc(x, by), by))
    assert g(1) == g(x=1) == 21
    assert g(1, 2) == g(1, by=2) == 5
    assert g.run(inputs={"x": 0}) == {"result": 20}
    with pytest.raises(WorkflowError, match="needs the input x"):
        g()
    with pytest.raises(TypeError, match="takes 2 inputs, 3 were given"):
        g(1, 2, 3)
    with pytest.raises(TypeError, match="multiple values"):
        g(1, x=2)


def test_an_output_must_come_from_a_node() -> None:
    with Graph() as g, pytest.raises(WorkflowError, match="must be a node's output"):
        g.output("result", 3)


# --- as data ---------------------------------------------------------------------------------------------------------


def test_the_same_graph_as_data() -> None:
    g = Graph()
    g.add(inc, "a", x=1)
    g.add(inc, "b", by=2)
    g.connect("b", "x", "a")
    g.add(add, "c")
    g.connect("c", "a", g["a"])
    g.connect("c", "b", Link("b"))
    assert g == chain()
    assert g.key == chain().key
    assert g.run(want="c") == 6


def test_connect_reads_ports_and_inputs() -> None:
    g = Graph()
    g.input("n", int)
    g.add(divide, "d", b=2)
    g.connect("d", "a", "inputs.n")
    g.add(inc, "i")
    g.connect("i", "x", "d.rest")
    assert g.run(want="i", inputs={"n": 7}) == 2
    assert g.run(want="d.quotient", inputs={"n": 7}) == 3


def test_set_replaces_a_literal_or_a_link() -> None:
    g = chain()
    assert g.run(want="add") == 6
    g.set("inc", "x", 10)
    assert g.run(want="add") == 24
    g.set("add", "a", 0)
    assert g.run(want="add") == 13
    g.set("add", "b", g["inc"])
    assert g.run(want="add") == 11


def test_replace_keeps_links_and_known_arguments() -> None:
    @node(version=1)
    def triple(x: int) -> int:
        return 3 * x

    g = chain()
    g.replace("inc_2", triple)
    assert g.nodes["inc_2"].args == {"x": Link("inc")}
    assert g.run(want="add") == 8
    g.replace("inc_2", triple, x=5)
    assert g.run(want="add") == 17
    g.replace("inc", shout, text="a")
    with pytest.raises(WorkflowError, match=r"add\.a: wants int, gets str"):
        g.run(want="add")


def test_remove_leaves_dangling_links_that_are_told() -> None:
    g = chain()
    g.run()
    g.remove("inc_2")
    (problem,) = g.problems()
    assert (problem.kind, problem.where.node, problem.where.socket) == ("dangling link", "add", "b")
    with pytest.raises(WorkflowError, match="there is no node inc_2"):
        g.run()


def test_an_edit_by_data_is_checked_before_it_runs() -> None:
    CALLS.clear()
    g = chain()
    g.run()
    before = dict(CALLS)
    g.set("inc", "x", "a")
    with pytest.raises(WorkflowError, match="is not int"):
        g.run()
    g.set("inc", "x", 1)
    g.connect("inc", "x", "inc_2")
    with pytest.raises(WorkflowError, match="nodes need each other"):
        g.run()
    assert dict(CALLS) == before


def test_a_cycle_made_by_adding_forward_links_is_told() -> None:
    g = Graph()
    g.add(inc, "a", x=Link("b"))
    g.add(inc, "b", x=Link("a"))
    with pytest.raises(WorkflowError, match="nodes need each other"):
        g.run(want="b")


def test_forward_links_are_fine() -> None:
    g = Graph()
    g.add(inc, "a", x=Link("b"))
    g.add(inc, "b", x=1)
    assert g.run(want="a") == 3


@pytest.mark.parametrize("id", ["a.b", "", "a b", "a/b", "inputs", "values", "a\nb", "tab\t"])
def test_bad_ids_are_refused(id: str) -> None:
    g = Graph()
    with pytest.raises(WorkflowError) as caught:
        g.add(inc, id, x=1)
    assert caught.value.problems[0].kind == "bad id"


def test_duplicate_ids_are_refused_and_free_ones_found() -> None:
    g = Graph()
    g.add(inc, "inc_2", x=0)
    with pytest.raises(WorkflowError) as caught:
        g.add(inc, "inc_2", x=1)
    assert caught.value.problems[0].kind == "duplicate id"
    for x in range(3):
        g.add(inc, x=x)
    assert list(g.nodes) == ["inc_2", "inc", "inc_3", "inc_4"]


def test_unknown_names_are_told_with_the_nearest() -> None:
    g = chain()
    for use in (lambda: g["inc_3"], lambda: g.set("inc_3", "x", 1), lambda: g.remove("inc_3"), lambda: g.run("inc_3")):
        with pytest.raises(WorkflowError, match=r"has no node inc_3; did you mean inc_2"):
            use()


@pytest.mark.parametrize("want", ["inc.rest", Link("nope"), Link("inc", "rest"), "divide.rst", Link("inputs", "n")])
def test_wanting_an_output_that_is_not_there_is_told(want: Any) -> None:
    g = chain()
    g.add(divide, a=1, b=1)
    with pytest.raises(WorkflowError):
        g.run(want=want)


def test_a_declared_output_that_dangles_is_told() -> None:
    g = chain()
    g.run()
    g.output("bad", Link("nope"))
    assert [p.kind for p in g.problems()] == ["dangling link"]
    with pytest.raises(WorkflowError, match="there is no node nope"):
        g.run()


def test_merge_renames_what_is_taken() -> None:
    g, other = chain(), chain()
    other.input("n", int)
    other.connect("inc", "x", "inputs.n")
    other.values["v"] = 5
    other.connect("inc_2", "by", "values.v")
    other.output("sum", other["add"])
    ids = g.merge(other)
    assert set(ids) == set(other.nodes)
    assert len(g.nodes) == 6
    assert set(ids.values()).isdisjoint(chain().nodes)
    assert g.run(inputs={"n": 1}) == {"sum": 2 + 7}
    assert g.run(want=["add", ids["add"]], inputs={"n": 1}) == [6, 9]


def test_merge_with_a_prefix() -> None:
    g = chain()
    assert g.merge(chain(), "other_") == {id: f"other_{id}" for id in ("inc", "inc_2", "add")}


def test_subgraph_is_what_is_needed() -> None:
    g = chain()
    g.input("unused", int)
    part = g.subgraph("inc_2")
    assert list(part.nodes) == ["inc", "inc_2"]
    assert not part.inputs
    assert part.run(want="inc_2") == g.run(want="inc_2", inputs={"unused": 1})
    part.set("inc", "x", 7)
    assert g.nodes["inc"].args["x"] == 1


def test_a_copy_is_independent() -> None:
    g = chain()
    g.output("sum", g["add"])
    g.ui["x"] = 1
    twin = g.copy()
    assert twin == g
    assert list(twin.nodes) == list(g.nodes)
    twin.set("inc", "x", 100)
    twin.output("more", twin["inc"])
    assert twin != g
    assert g.run() == {"sum": 6}
    assert list(g.outputs) == ["sum"]


def test_copy_and_merge_are_linear() -> None:
    g = Graph()
    for n in range(5000):
        g.add(inc, x=n)
    start = time.process_time()
    g.copy()
    assert time.process_time() - start < 2


def test_equal_by_content_not_by_ids() -> None:
    one, two = Graph("one"), Graph("two", "described")
    one.add(inc, "a", x=1)
    one.add(inc, "b", x=Link("a"))
    two.add(inc, "q", x=Link("p"))
    two.add(inc, "p", x=1)
    two.ui = {"p": [0, 0]}
    assert one == two
    two.set("p", "x", 2)
    assert one != two
    assert one != 3
    assert len({one, two}) == 2  # may be kept in sets: by identity


@pytest.mark.parametrize(
    "change",
    [
        lambda g: g.set("a", "x", 1.0),
        lambda g: g.set("a", "x", True),
        lambda g: g.set("a", "x", "1"),
        lambda g: g.replace("a", half),
        lambda g: g.add(inc, x=1),
        lambda g: g.connect("b", "x", "c"),
        lambda g: g.connect("l", "xs", "a"),
        lambda g: g.output("result", g["a"]),
        lambda g: g.output("other", g["b"]),
        lambda g: g.input("n", float, default=1),
        lambda g: g.input("n", int, default=2),
        lambda g: g.input("n", int),
        lambda g: g.input("n", int, default=1, range=Range(0, 1)),
        lambda g: g.input("m", int),
        lambda g: g.remove("l"),
        lambda g: g.values.update(v=4),
    ],
)
def test_checksum_that_differs_is_unequal(change: Any) -> None:
    def make() -> Graph:
        g = Graph()
        g.input("n", int, default=1)
        g.values["v"] = 3
        g.add(inc, "a", x=1)
        g.add(inc, "c", x=2)
        g.add(inc, "b", x=Link("a"), by=Link("inputs", "n"))
        g.add(total, "l", xs=[Link("a"), 5, Link("values", "v")])
        g.output("result", g["b"])
        return g

    one, two = make(), make()
    assert one == two
    change(two)
    assert one != two


def test_the_networkx_view() -> None:
    import networkx

    g = chain()
    view = g.networkx()
    assert set(view.nodes) == set(g.nodes)
    assert view.nodes["inc"]["node"] is g.nodes["inc"]
    assert sorted((a, b, d["socket"]) for a, b, d in view.edges(data=True)) == [
        ("inc", "add", "a"), ("inc", "inc_2", "x"), ("inc_2", "add", "b"),
    ]  # fmt: skip
    assert list(networkx.topological_sort(view)) == ["inc", "inc_2", "add"]


def test_consumers_and_leaves() -> None:
    g = chain()
    assert g.consumers() == {"inc": ["inc_2", "add"], "inc_2": ["add"], "add": []}
    assert g.leaves() == ["add"]
    assert "inc" in g
    assert "nope" not in g


def test_types_of_outputs_follow_what_is_linked() -> None:
    with Graph() as g:
        numbers = upto(3)
        images = each(numbers, big)
        each(images, number_of)
    assert g.output_type(Link("big")) == list[type(big(1))]  # type: ignore[misc]
    assert g.output_type(Link("number_of")) == list[int]


def test_declared_limits_hold_for_the_inputs_of_a_run() -> None:
    @node(version=1)
    def seeded(seed: Annotated[int, Range(0, 10)] = 0) -> int:
        return seed

    with Graph() as g:
        g.output("r", seeded(g.input("seed", int, default=0)))
    assert g(seed=3) == 3
    with pytest.raises(WorkflowError, match=r"outside 0\.\.10"):
        g(seed=11)


def test_a_second_output_of_one_name_is_told() -> None:
    with Graph() as g:
        first, second = inc(1), inc(2)
        g.output("o", first)
        g.output("o", first)
        with pytest.warns(UserWarning, match=r"^the output o was inc and is inc_2 from now on; give one of them"):
            g.output("o", second)
    assert g() == 3
