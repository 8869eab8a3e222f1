"""What is done once for a run: each node is validated, and again only where a change may have made it wrong."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

import pytest

from graphengine import Graph, Store, WorkflowError, loads, node
from graphengine.graph import validate
from graphengine.graph.data import GraphData
from graphengine.graph.elements import Input, Link

T = TypeVar("T")
EACH = "inner/add", "outer/number", "outer/inner", "outer/add"


@node(version=1)
def number(x: int = 1) -> int:
    return x


@node(version=1)
def text(x: int = 1) -> str:
    return str(x)


@node(version=1)
def add(x: int, y: int = 0) -> int:
    return x + y


@node(version=1)
def same(value: T) -> T:
    return value


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each node was validated, by its id; of a part that is used as a node as `PART/ID`."""
    found: Counter[str] = Counter()
    real = validate.node_problems

    def counting(graph: GraphData, id: str) -> list[Any]:
        found[f"{graph.title}/{id}".lstrip("/")] += 1
        return real(graph, id)

    monkeypatch.setattr(validate, "node_problems", counting)
    return found


def run(graph: Graph, **inputs: Any) -> Any:
    return graph.run(inputs=inputs, store=Store())


def chain() -> Graph:
    with Graph() as g:
        x = g.input("x", int, 1)
        g.output("result", add(add(number(x), 2), 3))
    return g


def test_a_graph_built_by_calls_validates_each_node_once(validated: Counter[str]) -> None:
    g = chain()
    assert run(g) == {"result": 6}
    assert validated == {"number": 1, "add": 1, "add_2": 1}


@pytest.mark.parametrize("validation", [Graph.problems, Graph.check, run])
def test_what_was_validated_is_not_validated_again(validated: Counter[str], validation: Any) -> None:
    g = Graph()
    g.add(number, "one")
    g.add(add, "sum", x=g["one"])
    validation(g)
    assert validated == {"one": 1, "sum": 1}
    assert list(run(g).values()) == [1]
    assert list(run(g).values()) == [1]
    assert validated == {"one": 1, "sum": 1}


def test_a_file_is_validated_once_with_what_is_used_in_it(validated: Counter[str], tmp_path: Path) -> None:
    with Graph("inner") as inner:
        inner.output("out", add(inner.input("x", int)))
    with Graph("outer") as outer:
        outer.output("out", add(inner(number(3)), 4))
    outer.save(tmp_path / "outer.yaml")
    validated.clear()
    g = loads((tmp_path / "outer.yaml").read_text())
    assert run(g) == {"out": 7}
    assert validated == dict.fromkeys(EACH, 1)


def test_a_graph_used_as_a_node_is_validated_once(validated: Counter[str]) -> None:
    with Graph("inner") as inner:
        inner.output("out", add(inner.input("x", int)))
    with Graph("outer") as outer:
        outer.output("out", add(inner(number(3)), 4))
    assert run(outer) == {"out": 7}
    assert run(outer) == {"out": 7}
    assert validated == dict.fromkeys(EACH, 1)


def test_a_literal_that_changed_validates_its_node_alone(validated: Counter[str]) -> None:
    g = chain()
    run(g)
    validated.clear()
    g.set("add", "y", 5)
    assert run(g) == {"result": 9}
    assert validated == {"add": 1}


def test_another_node_in_its_place_validates_what_takes_from_it(validated: Counter[str]) -> None:
    g = chain()
    run(g)
    validated.clear()
    g.replace("number", add, x=7)
    assert run(g) == {"result": 12}
    assert validated == {"number": 1, "add": 1}


def test_a_new_input_validates_what_takes_it(validated: Counter[str]) -> None:
    g = chain()
    run(g)
    validated.clear()
    g.input("x", int, 4)
    assert run(g) == {"result": 9}
    assert validated == {"number": 1}


def test_a_wrong_graph_is_validated_whenever_it_is_run(validated: Counter[str]) -> None:
    g = Graph()
    g.add(text, "words")
    g.add(add, "sum", x=g["words"])
    for _ in range(3):
        with pytest.raises(WorkflowError, match="sum"):
            run(g)
    assert validated["sum"] >= 3
    g.replace("words", number)
    assert list(run(g).values()) == [1]


# --- what makes a graph wrong after it was found right ----------------------------------------------------------------


def generic() -> Graph:
    """A chain in which a type comes through generic nodes, at the end of which stands one that wants an int."""
    with Graph() as g:
        x = g.input("x", int, 1)
        g.output("result", add(same(same(number(x)))))
    run(g)
    return g


def used() -> tuple[Graph, Graph]:
    """A graph whose output is taken in another one, both found right."""
    with Graph("inner") as inner:
        inner.output("out", number(inner.input("x", int, 1)))
    with Graph("outer") as outer:
        outer.output("result", add(same(inner(2))))
    assert run(outer) == {"result": 2}
    return inner, outer


def test_another_type_upstream_of_generic_nodes_is_found() -> None:
    g = generic()
    g.replace("number", text)
    with pytest.raises(WorkflowError, match="wants int, gets str"):
        run(g)


def test_a_node_that_is_gone_is_found() -> None:
    g = generic()
    g.remove("same")
    with pytest.raises(WorkflowError, match="there is no node same"):
        run(g)


def test_a_cycle_that_a_new_link_closes_is_found() -> None:
    g = chain()
    run(g)
    g.set("number", "x", g["add_2"])
    with pytest.raises(WorkflowError, match="need each other"):
        run(g)


def test_a_cycle_that_a_new_node_closes_is_found() -> None:
    g = chain()
    g.set("number", "x", Link("late"))
    g.add(add, "late", x=g["add_2"])
    with pytest.raises(WorkflowError, match="need each other"):
        run(g)


@pytest.mark.parametrize("declare", [
    lambda g: g.input("x", str, "a"),
    lambda g: g.inputs.__setitem__("x", Input("x", str, False, "a")),
    lambda g: g.inputs.pop("x"),
])
def test_an_input_declared_otherwise_is_found(declare: Any) -> None:
    for g in (chain(), generic()):
        declare(g)
        with pytest.raises(WorkflowError, match=r"number"):
            run(g)


def test_an_input_of_another_type_before_the_first_run_is_found() -> None:
    with Graph() as g:
        x = g.input("x", int, 1)
        g.output("result", add(same(x)))
    g.input("x", str, "a")
    with pytest.raises(WorkflowError, match="wants int, gets str"):
        run(g)


def test_a_default_that_does_not_fit_is_found() -> None:
    g = chain()
    run(g)
    g.inputs["y"] = Input("y", int, False, "none")
    with pytest.raises(WorkflowError, match="its default"):
        run(g, y=3)


def test_an_output_that_leads_nowhere_is_found() -> None:
    g = chain()
    run(g)
    g.outputs["more"] = Link("nobody")
    with pytest.raises(WorkflowError, match="no node nobody"):
        run(g)


def test_a_value_of_another_type_is_found() -> None:
    g = Graph()
    g.values["seed"] = 3
    g.add(same, "through", value=Link("values", "seed"))
    g.add(add, "sum", x=g["through"])
    assert list(run(g).values()) == [3]
    g.values["seed"] = "a"
    with pytest.raises(WorkflowError, match="wants int, gets str"):
        run(g)


def test_a_validator_that_came_later_is_asked() -> None:
    @node(version=1)
    def even(x: int) -> int:
        return x

    with Graph() as g:
        g.output("result", even(3))
    run(g)

    @even.check
    def check(given: dict[str, Any]) -> list[str]:
        return ["it is odd"] if given["x"] % 2 else []

    with pytest.raises(WorkflowError, match="it is odd"):
        run(g)


@pytest.mark.parametrize("change", [
    lambda inner: inner.replace("number", text),
    lambda inner: inner.output("out", inner.add(text)),
    lambda inner: inner.outputs.__setitem__("out", inner.add(text)._link),
    lambda inner: inner.set("number", "x", "a"),
    lambda inner: inner.input("more", int),
    lambda inner: inner.inputs.pop("x"),
])
@pytest.mark.filterwarnings("ignore:the output out was")
@pytest.mark.parametrize("between", [False, True])
def test_a_graph_used_as_a_node_that_is_wrong_now_is_found(change: Any, between: bool) -> None:
    inner, outer = used()
    with Graph("outermost") as outermost:
        outermost.output("out", add(outer()))
    assert run(outermost) == {"out": 2}
    change(inner)
    if between:  # one that found all changes does not keep others from finding them
        with contextlib.suppress(WorkflowError):
            run(inner, more=1, x=1) if "more" in inner.inputs else run(inner)
        with pytest.raises(WorkflowError):
            run(outer)
    for _ in range(2):
        with pytest.raises(WorkflowError):
            run(outermost)
    with pytest.raises(WorkflowError):
        run(outer)


def test_a_change_inside_that_one_user_found_is_found_by_the_other() -> None:
    """Both use it; for one of them what it makes now is right as well."""
    with Graph("inner") as inner:
        inner.output("out", number(1))
    with Graph("any") as anything:
        anything.output("out", same(inner()))
    with Graph("int") as int_only:
        int_only.output("out", add(inner()))
    with Graph("above") as above:
        above.output("out", add(anything()))
    assert [run(anything), run(int_only), run(above)] == [{"out": 1}] * 3
    inner.replace("number", text)
    assert run(anything) == {"out": "1"}
    for wrong in (int_only, above):
        with pytest.raises(WorkflowError, match="wants int, gets str"):
            run(wrong)


def test_a_part_that_changed_before_it_was_validated_is_found() -> None:
    with Graph("inner") as inner:
        inner.output("out", number(1))
    with Graph("outer") as outer:
        outer.output("out", add(inner()))
    inner.replace("number", text)
    with pytest.raises(WorkflowError, match="wants int, gets str"):
        run(outer)
