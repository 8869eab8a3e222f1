"""What is done once for a run: each node is validated, and again only where a change may have made it wrong; the
declared inputs are bound."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pytest
import typer

import graphengine
from graphengine import File, Graph, Store, WorkflowError, loads, node
from graphengine.cli.run import command
from graphengine.graph import validate
from graphengine.graph.data import GraphData
from graphengine.graph.elements import Input, Link
from graphengine.planning import inputs as planning
from graphengine.planning.inputs import BoundInputs
from graphengine.planning.plan import Plan
from graphengine.provenance.describe import describe
from graphengine.provenance.steps import steps
from graphengine.results import history
from graphengine.results.history import last_run
from graphengine.results.record import read

T = TypeVar("T")
EACH = "inner/add_once", "outer/number", "outer/inner", "outer/add_once"


@node(version=1)
def number(x: int = 1) -> int:
    return x


@node(version=1)
def text(x: int = 1) -> str:
    return str(x)


@node(version=1)
def add_once(x: int, y: int = 0) -> int:
    return x + y


@node(version=1)
def content(path: Annotated[Path, File()]) -> str:
    return path.read_text()


@node(version=1)
def once_in_a_file(x: int) -> int:
    """A node that a file names: no other module of tests may have one of that name."""
    return x


LENT: list[Any] = []


@node(version=1)
def keep(items: Any) -> int:
    LENT.append(items)  # which somebody may write into later
    return len(items)


@node(version=1)
def write_once(after: int) -> int:
    LENT[0].append(after)
    return after


@node(version=1)
def total_once(items: Any, after: int) -> int:
    return sum(items)


@node(version=1)
def same_once(value: T) -> T:
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
        g.output("result", add_once(add_once(number(x), 2), 3))
    return g


def test_a_graph_built_by_calls_validates_each_node_once(validated: Counter[str]) -> None:
    g = chain()
    assert run(g) == {"result": 6}
    assert validated == {"number": 1, "add_once": 1, "add_once_2": 1}


@pytest.mark.parametrize("validation", [Graph.problems, Graph.check, run])
def test_what_was_validated_is_not_validated_again(validated: Counter[str], validation: Any) -> None:
    g = Graph()
    g.add(number, "one")
    g.add(add_once, "sum", x=g["one"])
    validation(g)
    assert validated == {"one": 1, "sum": 1}
    assert list(run(g).values()) == [1]
    assert list(run(g).values()) == [1]
    assert validated == {"one": 1, "sum": 1}


def test_a_file_is_validated_once_with_what_is_used_in_it(validated: Counter[str], tmp_path: Path) -> None:
    with Graph("inner") as inner:
        inner.output("out", once_in_a_file.named("within")(inner.input("x", int)))
    with Graph("outer") as outer:
        outer.output("out", once_in_a_file.named("last")(inner(once_in_a_file.named("first")(3))))
    outer.save(tmp_path / "outer.yaml")
    validated.clear()
    g = loads((tmp_path / "outer.yaml").read_text())
    assert run(g) == {"out": 3}
    assert validated == {"inner/within": 1, "outer/first": 1, "outer/inner": 1, "outer/last": 1}


def test_a_graph_used_as_a_node_is_validated_once(validated: Counter[str]) -> None:
    with Graph("inner") as inner:
        inner.output("out", add_once(inner.input("x", int)))
    with Graph("outer") as outer:
        outer.output("out", add_once(inner(number(3)), 4))
    assert run(outer) == {"out": 7}
    assert run(outer) == {"out": 7}
    assert validated == dict.fromkeys(EACH, 1)


def test_a_literal_that_changed_validates_its_node_alone(validated: Counter[str]) -> None:
    g = chain()
    run(g)
    validated.clear()
    g.set("add_once", "y", 5)
    assert run(g) == {"result": 9}
    assert validated == {"add_once": 1}


def test_another_node_in_its_place_validates_what_takes_from_it(validated: Counter[str]) -> None:
    g = chain()
    run(g)
    validated.clear()
    g.replace("number", add_once, x=7)
    assert run(g) == {"result": 12}
    assert validated == {"number": 1, "add_once": 1}


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
    g.add(add_once, "sum", x=g["words"])
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
        g.output("result", add_once(same_once(same_once(number(x)))))
    run(g)
    return g


def used() -> tuple[Graph, Graph]:
    """A graph whose output is taken in another one, both found right."""
    with Graph("inner") as inner:
        inner.output("out", number(inner.input("x", int, 1)))
    with Graph("outer") as outer:
        outer.output("result", add_once(same_once(inner(2))))
    assert run(outer) == {"result": 2}
    return inner, outer


def test_another_type_upstream_of_generic_nodes_is_found() -> None:
    g = generic()
    g.replace("number", text)
    with pytest.raises(WorkflowError, match="wants int, gets str"):
        run(g)


def test_a_node_that_is_gone_is_found() -> None:
    g = generic()
    g.remove("same_once")
    with pytest.raises(WorkflowError, match="there is no node same_once"):
        run(g)


def test_a_cycle_that_a_new_link_closes_is_found() -> None:
    g = chain()
    run(g)
    g.set("number", "x", g["add_once_2"])
    with pytest.raises(WorkflowError, match="need each other"):
        run(g)


def test_a_cycle_that_a_new_node_closes_is_found() -> None:
    g = chain()
    g.set("number", "x", Link("late"))
    g.add(add_once, "late", x=g["add_once_2"])
    with pytest.raises(WorkflowError, match="need each other"):
        run(g)


@pytest.mark.parametrize(
    "declare",
    [
        lambda g: g.input("x", str, "a"),
        lambda g: g.inputs.__setitem__("x", Input("x", str, False, "a")),
        lambda g: g.inputs.pop("x"),
    ],
)
def test_an_input_declared_otherwise_is_found(declare: Any) -> None:
    for g in (chain(), generic()):
        declare(g)
        with pytest.raises(WorkflowError, match=r"number"):
            run(g)


def test_an_input_of_another_type_before_the_first_run_is_found() -> None:
    with Graph() as g:
        x = g.input("x", int, 1)
        g.output("result", add_once(same_once(x)))
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
    g.add(same_once, "through", value=Link("values", "seed"))
    g.add(add_once, "sum", x=g["through"])
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


@pytest.mark.parametrize(
    "change",
    [
        lambda inner: inner.replace("number", text),
        lambda inner: inner.output("out", inner.add(text)),
        lambda inner: inner.outputs.__setitem__("out", inner.add(text)._link),
        lambda inner: inner.set("number", "x", "a"),
        lambda inner: inner.input("more", int),
        lambda inner: inner.inputs.pop("x"),
    ],
)
@pytest.mark.filterwarnings("ignore:the output out was")
@pytest.mark.parametrize("between", [False, True])
def test_a_graph_used_as_a_node_that_is_wrong_now_is_found(change: Any, between: bool) -> None:
    inner, outer = used()
    with Graph("outermost") as outermost:
        outermost.output("out", add_once(outer()))
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
        anything.output("out", same_once(inner()))
    with Graph("int") as int_only:
        int_only.output("out", add_once(inner()))
    with Graph("above") as above:
        above.output("out", add_once(anything()))
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
        outer.output("out", add_once(inner()))
    inner.replace("number", text)
    with pytest.raises(WorkflowError, match="wants int, gets str"):
        run(outer)


# --- inputs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> list[GraphData]:
    """The graphs whose inputs were bound, one for each time."""
    found: list[GraphData] = []
    real = planning.bind_inputs

    def counting(graph: GraphData, *given: Any) -> BoundInputs:
        found.append(graph)
        return real(graph, *given)

    monkeypatch.setattr(planning, "bind_inputs", counting)
    return found


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[GraphData]:
    """The graphs of which a plan was brought up to date, one for each time."""
    found: list[GraphData] = []
    real = Plan.sync

    def counting(self: Plan, *given: Any) -> None:
        found.append(self.graph)
        real(self, *given)

    monkeypatch.setattr(Plan, "sync", counting)
    return found


def test_a_shipped_workflow_is_validated_and_bound_once_for_a_picture(
    validated: Counter[str], bound: list[GraphData], plans: list[GraphData], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("GRAPHENGINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    sets = ["prompt=a red circle", "steps=1", "seed=3"]
    with pytest.raises(typer.Exit) as ended:
        command("text_to_image", set=sets, backend="inline", out=tmp_path / "out")
    assert ended.value.exit_code == 0
    (picture,) = (tmp_path / "out").glob("*.png")
    assert str(picture) in capsys.readouterr().out
    assert set(validated.values()) == {1}, validated
    assert len(bound) == 1
    assert len(plans) == 2  # for the run, and for its history; what the picture tells of weights is of the run's plan
    record = read(picture)
    assert set(record["inputs"]) == {"prompt", "steps", "seed"}
    assert [weight["type"] for weight in record["weights"].values()] == ["Model"]
    assert len(last_run(bound[0], tmp_path / "cache") or ()) == len(validated)


def test_each_run_binds_once(bound: list[GraphData]) -> None:
    g = chain()
    for count in (1, 2):
        assert run(g, x=4) == {"result": 9}
        assert bound == [g] * count


def test_what_was_bound_is_taken_by_all_who_tell_of_a_run(bound: list[GraphData], tmp_path: Path) -> None:
    g = chain()
    inputs = planning.bind_inputs(g, {"x": 4})
    bound.clear()
    result = graphengine.run(g, inputs=inputs, store=Store())
    told = describe(g, inputs, "result", result.made["result"])
    step = steps(g, inputs, "result")
    history.record(g, inputs, result, tmp_path)
    assert [reason.state for reason in history.why(g, inputs, Store(), tmp_path)] == ["runs"] * 3
    assert not bound
    plain = {"x": 4}
    assert told == describe(g, plain, "result", result.made["result"])
    assert step == steps(g, plain, "result")


def test_what_was_bound_to_a_graph_that_changed_is_bound_again(bound: list[GraphData]) -> None:
    g = chain()
    inputs = planning.bind_inputs(g, {"x": 4})
    g.input("z", int, 1)
    assert graphengine.run(g, inputs=inputs, store=Store())["result"] == 9
    assert bound == [g, g]
    g.input("x", str, "a")
    with pytest.raises(WorkflowError, match=r"number"):
        graphengine.run(g, inputs=inputs, store=Store())
    with pytest.raises(WorkflowError, match="is not str"):
        planning.bound_inputs(g, inputs)


def test_relative_paths_start_where_they_did_when_they_were_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("here")
    with Graph() as g:
        g.output("text", content(g.input("path", Path)))
    inputs = planning.bind_inputs(g, {"path": Path("a.txt")}, tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    assert graphengine.run(g, inputs=inputs, store=Store())["text"] == "here"
    assert describe(g, inputs, "text", {})["files"][0]["name"] == "a.txt"


def test_a_run_that_begins_again_binds_anew(bound: list[GraphData]) -> None:
    """What was bound for it was changed in place: it is taken again from what was given, for all who have it."""
    LENT.clear()
    with Graph() as g:
        items = g.input("items", Any)
        g.output("sum", total_once(items, write_once(keep(items))))
    inputs = planning.bind_inputs(g, {"items": [1, 2]})
    bound.clear()
    assert graphengine.run(g, inputs=inputs, store=Store())["sum"] == 3
    assert LENT[0] == [1, 2, 2]  # at first
    assert bound == [g]
    assert inputs["items"].value == [1, 2]
