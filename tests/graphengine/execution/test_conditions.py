"""Conditions and loops in files: workflows that use themselves behind `when`, and `switch`."""

from pathlib import Path
from typing import Any

import pytest

from graphengine import Graph, Link, NodeError, Store, WorkflowError, each, load, loads, node, run, save, switch, when
from graphengine.provenance.describe import without_folders
from graphengine.service.jobs.request import Files, JobRequest, body_of, request_of
from graphengine.workflow.files import dumps, to_document
from tests.graphengine.sample import CALLS, add, inc, is_positive, same, shout, upto

COUNTDOWN = """
version: 1
title: countdown
inputs: {n: {type: int, default: 3}, sum: {type: int, default: 0}}
nodes:
  total: {node: tests.add, from: {a: inputs.sum, b: inputs.n}}
  less: {node: tests.inc, from: {x: inputs.n}, with: {by: -1}}
  more: {node: tests.is_positive, from: {x: less}}
  again: {workflow: countdown.yaml, from: {n: less, sum: total}}
  result: {node: when, from: {condition: more, then: again, otherwise: total}}
outputs: {sum: result}
"""


@node(version=1)
def fails_below(n: int) -> int:
    """A number, unless it is below 20."""
    if n < 20:
        raise ValueError(f"{n} is too small")
    return n


@pytest.fixture(autouse=True)
def _fresh() -> None:
    CALLS.clear()


@pytest.fixture
def countdown(tmp_path: Path) -> Graph:
    (tmp_path / "countdown.yaml").write_text(COUNTDOWN)
    return load(tmp_path / "countdown.yaml")


def test_a_workflow_uses_itself_until_its_condition_is_met(countdown: Graph) -> None:
    assert countdown.problems() == []
    assert countdown() == 6
    assert countdown(n=10) == 55
    assert countdown(n=1) == 1
    assert countdown(n=500) == 125_250


def test_only_what_is_taken_is_computed(countdown: Graph) -> None:
    countdown.run(inputs={"n": 4}, store=Store())
    assert CALLS["add"] == 4


@pytest.mark.parametrize("format", ["yaml", "json"])
def test_it_is_embedded_once_by_name(countdown: Graph, format: str) -> None:
    document = to_document(countdown, embed=True, pin=True)
    assert list(document) == ["version", "title", "inputs", "workflows", "nodes", "outputs"]
    assert list(document["workflows"]) == ["countdown"]
    assert document["nodes"]["again"]["workflow"] == "countdown"
    assert document["workflows"]["countdown"]["nodes"]["again"]["workflow"] == "countdown"
    again = loads(dumps(document, format), f"w.{format}")
    assert again.problems() == []
    assert again(n=7) == 28
    assert to_document(again, embed=True, pin=True) == document


def test_two_files_may_use_each_other(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        text = COUNTDOWN.replace("countdown.yaml", f"{other}.yaml").replace("title: countdown\n", "")
        (tmp_path / f"{one}.yaml").write_text(text)
    graph = load(tmp_path / "a.yaml")
    assert graph.problems() == []
    assert graph(n=5) == 15
    document = to_document(graph, embed=True)
    assert sorted(document["workflows"]) == ["a", "b"]
    assert loads(dumps(document))(n=5) == 15
    save(graph, tmp_path / "other.yaml")
    assert load(tmp_path / "other.yaml")(n=5) == 15


def test_it_goes_into_jobs_and_pictures(countdown: Graph, tmp_path: Path) -> None:
    files = Files(tmp_path / "files")
    request = request_of(body_of(JobRequest(countdown, {"n": 4}), files), files)
    assert list(run(request.graph, inputs=request.inputs).outputs.values()) == [10]
    plain, given, _ = without_folders(countdown, {"n": 4}, tmp_path)
    assert loads(dumps(to_document(plain, embed=True)))(**given) == 10


def test_it_is_built_in_python_as_well(tmp_path: Path) -> None:
    g = Graph("sum")
    with g:
        n, total = g.input("n", int), g.input("sum", int, 0)
        here = add(total, n)
        less = inc(n, by=-1)
        again = g.place(g, {"n": less, "sum": here}, "again")
        g.output("sum", when(is_positive(less), again, here))  # type: ignore[arg-type]
    assert g.problems() == []
    assert g(n=4) == 10
    g.save(tmp_path / "w.yaml")
    assert load(tmp_path / "w.yaml")(n=4) == 10


def test_a_use_that_no_condition_guards_is_refused(tmp_path: Path, countdown: Graph) -> None:
    wrong = COUNTDOWN.replace("outputs: {sum: result}", "outputs: {sum: result, all: again.sum}")
    wrong = wrong.replace("then: again,", "then: again.sum,")
    (tmp_path / "countdown.yaml").write_text(wrong)
    problem = next(p for p in load(tmp_path / "countdown.yaml").problems() if p.severity == "error")
    assert (problem.kind, problem.where.node, problem.where.line) == ("needs itself", "again", 9)
    assert "behind a `when`" in problem.hint


def test_what_acts_does_not_stand_in_a_loop(tmp_path: Path) -> None:
    shown = "  shown: {node: tests.shown, from: {x: total}}\n  again:"
    (tmp_path / "countdown.yaml").write_text(COUNTDOWN.replace("  again:", shown))
    problems = [p.kind for p in load(tmp_path / "countdown.yaml").problems() if p.severity == "error"]
    assert problems == ["needs itself"]


def test_an_endless_loop_ends_with_a_sentence(countdown: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphengine.execution.expand.DEEPEST", 200)
    countdown.set("less", "by", 1)
    with pytest.raises(WorkflowError, match="countdown uses itself more than 200 levels deep") as caught:
        countdown()
    assert str(caught.value).startswith("again/again/again/…(197 more)…/again/again/again#")
    (problem,) = caught.value.problems
    assert str(problem.where.node).count("again") > 200


def test_the_path_of_a_node_that_fails_deep_in_a_loop_is_short(countdown: Graph) -> None:
    countdown.add(fails_below, "check", n=Link("inputs", "n"))
    countdown.set("total", "b", Link("check"))
    with pytest.raises(NodeError) as caught:
        countdown(n=60)
    assert str(caught.value).startswith("node again/again/again/…(")
    assert len(str(caught.value)) < 300
    assert caught.value.node.count("again/") > 20


# --- switch ---


@pytest.mark.parametrize(("choice", "expected"), [(0, 2), (2, 4), ("middle", 3), ("last", 4)])
def test_a_switch_computes_only_the_case_that_is_taken(choice: Any, expected: int) -> None:
    cases = [1, 2, 3]
    assert switch(choice, cases, ("first", "middle", "last")) == expected - 1
    with Graph() as g:
        choice_input = g.input("choice", int | str, choice)
        g.output("taken", switch(choice_input, [inc(n) for n in cases], ("first", "middle", "last")))
    assert g.problems() == []
    assert g.run(store=Store())["taken"] == expected
    assert CALLS["inc"] == 1


def test_a_switch_in_a_file_with_values_among_the_cases() -> None:
    graph = loads("""
version: 1
inputs: {style: {type: str, default: b}}
nodes:
  one: {node: tests.inc, with: {x: 1}}
  taken:
    node: switch
    from: {choice: inputs.style, cases: [one, {value: 7}]}
    with: {names: [a, b]}
  after: {node: tests.inc, from: {x: taken}}
outputs: {y: after}
""")
    assert graph.problems() == []
    assert graph.run(store=Store()) == {"y": 8}
    assert CALLS["inc"] == 1  # `after`
    assert graph(style="a") == 3


@pytest.mark.parametrize(
    ("choice", "told"),
    [(3, "there is no case 3 of 2"), (-1, "there is no case -1"), ("x", "no case is called 'x'; there are a, b")],
)
def test_a_case_that_is_not_there_is_told(choice: Any, told: str) -> None:
    with Graph(), pytest.raises(WorkflowError, match=told):
        switch(choice, [inc(1), inc(2)], ("a", "b"))
    with Graph() as g:
        given = g.input("given", int | str)
        g.output("taken", switch(given, [inc(1), inc(2)], ("a", "b")))
    with pytest.raises(WorkflowError, match=told):
        g(given=choice)
    with Graph() as g:
        g.output("taken", switch(same(choice), [inc(1), inc(2)], ("a", "b")))
    with pytest.raises(NodeError, match=rf"^node switch \(flow\.switch\) failed: {told}") as caught:
        g()
    assert "promise" not in str(caught.value)
    with pytest.raises(ValueError, match=told):
        switch(choice, [1, 2], ("a", "b"))


@pytest.mark.parametrize(
    ("cases", "names", "told"),
    [
        ("one", "a, a", "it has 1 case and 2 names"), ("one, one", "a", "it has 2 cases and 1 name"),
        ("one, one", "a, a", "two cases are called 'a'"), ("", "", "it has no cases"),
    ],
)  # fmt: skip
def test_cases_and_names_that_do_not_go_together_are_told_by_validation(cases: str, names: str, told: str) -> None:
    graph = loads(
        "version: 1\nnodes:\n  one: {node: tests.inc, with: {x: 1}}\n"
        f"  taken: {{node: switch, with: {{choice: 0, names: [{names}]}}, from: {{cases: [{cases}]}}}}\n"
    )
    (problem,) = map(str, graph.problems())
    assert problem == f"line 4: taken: {told}"


def test_a_switch_over_a_list_that_a_node_makes_and_a_mapped_one() -> None:
    with Graph() as g:
        g.output("made", switch(1, upto(3)))
        g.output("mapped", switch(1, each([1, 2, 3], inc)))
        g.output("each", each([0, 1], lambda n: switch(n, [inc(5), inc(6)])))
    assert g() == {"made": 1, "mapped": 3, "each": [6, 7]}


def test_a_switch_has_the_type_of_its_cases() -> None:
    with Graph(), pytest.raises(WorkflowError, match="wants int, gets"):
        inc(switch(0, [shout("a"), inc(1)]))
