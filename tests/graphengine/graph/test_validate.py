"""Everything that is wrong with a graph is told at once, with where, expected, found and the nearest right name."""

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pytest

from graphengine import INERT, Choices, Context, File, Graph, Link, Problem, Range, WorkflowError, each, loads, node
from tests.graphengine.sample import add, big, divide, half, inc, number_of, same, shout, total, upto

T = TypeVar("T")
N = TypeVar("N", bound=float)


class Mode(Enum):
    FAST = "fast"
    SLOW = "slow"


@node(version=1)
def draw(
    prompt: str,
    steps: Annotated[int, Range(1, 100)] = 20,
    scale: Annotated[float, Range(0, 20)] = 7.5,
    scheduler: Annotated[str, Choices("DDIM", "Euler", "EulerAncestral")] = "DDIM",
    mode: Mode = Mode.FAST,
    sizes: Annotated[list[int], Range(8, 1024)] = [64],  # noqa: B006
    file: Annotated[Path | None, File()] = None,
    context: Context = INERT,
) -> str:
    return prompt


@node(version=1)
def larger(a: N, b: N) -> N:
    return max(a, b)


@node(version=1)
def first(items: list[T]) -> T:
    return items[0]


@node(version=1)
def pair(width: int, height: int) -> int:
    return width * height


@pair.check
def _(given: dict[str, Any]) -> Any:
    if "width" in given and "height" in given and given["width"] * given["height"] > 100:
        yield "width x height is more than 100"


Case = tuple[str, Callable[[Graph], Any], dict[str, Any]]

CASES: list[Case] = [
    ("unknown node", lambda g: g.add("drow", "n"), {"kind": "unknown node", "found": "drow", "node": "n"}),
    ("nearest node", lambda g: g.add("collct", "n"), {"kind": "unknown node", "nearest": ("collect",)}),
    ("nearest full name", lambda g: g.add("flow.colect", "n"),
     {"kind": "unknown node", "nearest": ("flow.collect", "flow.when")}),
    ("unknown socket", lambda g: g.add(draw, "n", prompt="a", stps=3),
     {"kind": "unknown socket", "node": "n", "socket": "stps", "nearest": ("steps",)}),
    ("unknown socket, far", lambda g: g.add(inc, "n", x=1, zzz=3), {"kind": "unknown socket", "hint": "it has x, by"}),
    ("the context is no socket", lambda g: g.add(draw, "n", prompt="a", context=3), {"kind": "unknown socket"}),
    ("missing socket", lambda g: g.add(inc, "n"),
     {"kind": "missing input", "node": "n", "socket": "x", "expected": "int"}),
    ("wrong literal", lambda g: g.add(inc, "n", x="1"),
     {"kind": "wrong type", "socket": "x", "expected": "int", "found": "'1' (str)"}),
    ("bool is no int", lambda g: g.add(inc, "n", x=True), {"kind": "wrong type", "found": "True (bool)"}),
    ("float is no int", lambda g: g.add(inc, "n", x=1.0), {"kind": "wrong type", "found": "1.0 (float)"}),
    ("none is no int", lambda g: g.add(inc, "n", x=None), {"kind": "wrong type", "found": "None (null)"}),
    ("list for one", lambda g: g.add(inc, "n", x=[1]), {"kind": "wrong type"}),
    ("one for a list", lambda g: g.add(total, "n", xs=1), {"kind": "wrong type", "expected": "list[int]"}),
    ("wrong item", lambda g: g.add(total, "n", xs=[1, "a"]), {"kind": "wrong type"}),
    ("link of another type", lambda g: (g.add(shout, "s", text="a"), g.add(inc, "n", x=Link("s"))),
     {"kind": "type mismatch", "node": "n", "socket": "x", "expected": "int", "found": "str",
      "what": "wants int, gets str from s"}),
    ("list of links of another type", lambda g: (g.add(shout, "s", text="a"), g.add(total, "n", xs=[1, Link("s")])),
     {"kind": "type mismatch", "expected": "list[int]", "found": "list[int | str]"}),
    ("a port of another type", lambda g: (g.add(divide, "d", a=1, b=1), g.add(shout, "n", text=Link("d", "rest"))),
     {"kind": "type mismatch", "what": "wants str, gets int from d.rest"}),
    ("the whole of several outputs", lambda g: (g.add(divide, "d", a=1, b=1), g.add(inc, "n", x=Link("d"))),
     {"kind": "type mismatch", "found": "Division"}),
    ("float to int", lambda g: (g.add(half, "s", x=1), g.add(inc, "n", x=Link("s"))), {"kind": "type mismatch"}),
    ("below", lambda g: g.add(draw, "n", prompt="a", steps=0),
     {"kind": "out of range", "socket": "steps", "expected": "1..100", "found": "0"}),
    ("above", lambda g: g.add(draw, "n", prompt="a", scale=20.001), {"kind": "out of range", "found": "20.001"}),
    ("far above", lambda g: g.add(draw, "n", prompt="a", steps=10**30), {"kind": "out of range"}),
    ("an item above", lambda g: g.add(draw, "n", prompt="a", sizes=[64, 100_000]),
     {"kind": "out of range", "expected": "8..1024", "found": "100000"}),
    ("an item above beside a link", lambda g: (g.add(inc, "s", x=1), g.add(draw, "n", prompt="", sizes=[Link("s"), 0])),
     {"kind": "out of range", "found": "0"}),
    ("nan", lambda g: g.add(draw, "n", prompt="a", scale=float("nan")), {"kind": "not a number", "found": "nan"}),
    ("infinity", lambda g: g.add(half, "n", x=float("-inf")), {"kind": "not a number", "found": "-inf"}),
    ("not a choice", lambda g: g.add(draw, "n", prompt="a", scheduler="Euller"),
     {"kind": "not a choice", "found": "'Euller'", "nearest": ("Euler",)}),
    ("not a member", lambda g: g.add(draw, "n", prompt="a", mode="fats"),
     {"kind": "not a choice", "socket": "mode", "expected": "one of fast, slow", "nearest": ("fast",)}),
    ("a validator", lambda g: g.add(pair, "n", width=20, height=20),
     {"kind": "invalid", "node": "n", "what": "width x height is more than 100"}),
    ("dangling link", lambda g: (g.add(inc, "first", x=1), g.add(inc, "n", x=Link("frst"))),
     {"kind": "dangling link", "node": "n", "socket": "x", "found": "frst", "nearest": ("first",)}),
    ("dangling in a list", lambda g: g.add(total, "n", xs=[1, [Link("gone")]]), {"kind": "dangling link"}),
    ("dangling port", lambda g: (g.add(divide, "d", a=1, b=1), g.add(inc, "n", x=Link("d", "rst"))),
     {"kind": "dangling link", "nearest": ("d.rest",), "hint": "it has quotient, rest"}),
    ("a port of a single output", lambda g: (g.add(inc, "d", x=1), g.add(inc, "n", x=Link("d", "value"))),
     {"kind": "dangling link", "hint": "it has one output: write d"}),
    ("dangling input", lambda g: (g.input("seed", int),
                                  g.add(inc, "n", x=Link("inputs", "sed"), by=Link("inputs", "seed"))),
     {"kind": "dangling link", "found": "inputs.sed", "nearest": ("inputs.seed",)}),
    ("dangling value", lambda g: g.add(inc, "n", x=Link("values", "v")),
     {"kind": "dangling link", "what": "the graph has no values.v"}),
    ("dangling output", lambda g: (g.add(inc, "n", x=1), g.output("o", Link("m"))),
     {"kind": "dangling link", "node": "output o"}),
    ("a link of an unknown node", lambda g: (g.add("unheard", "u"), g.add(inc, "n", x=Link("u"))),
     {"kind": "unknown node", "node": "u"}),
    ("cycle", lambda g: (g.add(inc, "a", x=Link("b")), g.add(inc, "b", x=Link("a"))), {"kind": "cycle"}),
    ("cycle of one", lambda g: g.add(inc, "a", x=Link("a")), {"kind": "cycle", "node": "a"}),
    ("cycle through a list", lambda g: (g.add(total, "a", xs=[1, Link("b")]), g.add(inc, "b", x=Link("a"))),
     {"kind": "cycle"}),
    ("cycle of generic nodes", lambda g: (g.add(same, "a", x=Link("b")), g.add(same, "b", x=Link("a"))),
     {"kind": "cycle"}),
    ("unequal lengths", lambda g: g.add(add, "n", each=["a", "b"], a=[1, 2], b=[1, 2, 3]),
     {"kind": "unequal lengths", "node": "n"}),
    ("mapped over no list", lambda g: g.add(inc, "n", each=["x"], x=1), {"kind": "type mismatch", "expected": "list"}),
    ("mapped over a link that is no list", lambda g: (g.add(inc, "s", x=1), g.add(inc, "n", each=["x"], x=Link("s"))),
     {"kind": "type mismatch", "expected": "list", "found": "int"}),
    ("mapped over nothing", lambda g: g.add(inc, "n", each=["y"], x=1), {"kind": "unknown socket", "socket": "y"}),
    ("a mapped item", lambda g: g.add(inc, "n", each=["x"], x=[1, "a"]), {"kind": "wrong type"}),
    ("mapped items of another type", lambda g: (g.add(upto, "s", n=3),
                                                g.add(shout, "n", each=["text"], text=Link("s"))),
     {"kind": "type mismatch", "expected": "str", "found": "int"}),
    ("what a mapped node makes is a list", lambda g: (g.add(inc, "s", each=["x"], x=[1]), g.add(inc, "n", x=Link("s"))),
     {"kind": "type mismatch", "found": "list[int]"}),
    ("generic out", lambda g: (g.add(same, "s", x="a"), g.add(inc, "n", x=Link("s"))),
     {"kind": "type mismatch", "found": "str"}),
    ("generic chain", lambda g: (g.add(shout, "z", text=""), g.add(same, "s", x=Link("z")),
                                 g.add(same, "t", x=Link("s")), g.add(inc, "n", x=Link("t"))),
     {"kind": "type mismatch", "found": "str"}),
    ("generic item", lambda g: (g.add(upto, "u", n=1), g.add(first, "f", items=Link("u")),
                                g.add(shout, "n", text=Link("f"))),
     {"kind": "type mismatch", "found": "int"}),
    ("bound", lambda g: (g.add(shout, "z", text=""), g.add(larger, "n", a=Link("z"), b=1)),
     {"kind": "type mismatch", "socket": "a", "found": "str"}),
    ("bound literal", lambda g: g.add(larger, "n", a="x", b=1), {"socket": "a"}),
    ("two types for one variable", lambda g: (g.add(shout, "z", text=""), g.add("flow.when", "w", condition=True,
     then=Link("z"), otherwise=1), g.add(inc, "n", x=Link("w"))), {"kind": "type mismatch", "found": "str | int"}),
    ("an input's default", lambda g: (g.input("x", int, default="a"), g.add(inc, "n", x=Link("inputs", "x"))),
     {"kind": "wrong type", "node": "inputs", "socket": "x"}),
    ("an input's type", lambda g: (g.input("x", str), g.add(inc, "n", x=Link("inputs", "x"))),
     {"kind": "type mismatch", "found": "str"}),
    ("an input that may be null where it must not", lambda g: (g.input("x", int, default=None),
     g.add(inc, "n", x=Link("inputs", "x"))), {"kind": "type mismatch", "found": "int | null"}),
    ("a value's type", lambda g: (g.values.update(v="a"), g.add(inc, "n", x=Link("values", "v"))),
     {"kind": "type mismatch", "found": "str"}),
]  # fmt: skip


@pytest.mark.parametrize(("build", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_kind_of_problem(build: Callable[[Graph], Any], expected: dict[str, Any]) -> None:
    g = Graph()
    build(g)
    errors = [p for p in g.problems() if p.severity == "error"]
    assert len(errors) == 1, errors
    problem = errors[0]
    for name, value in expected.items():
        found = getattr(problem.where if name in ("node", "socket") else problem, name)
        assert found == value, (name, problem)
    with pytest.raises(WorkflowError) as caught:
        g.run()
    assert problem in caught.value.problems


GOOD: list[tuple[str, Callable[[Graph], Any]]] = [
    ("int for float", lambda g: g.add(half, "n", x=1)),
    ("the edges of a range", lambda g: g.add(draw, "n", prompt="", steps=100, scale=0)),
    ("a member by value", lambda g: g.add(draw, "n", prompt="", mode="slow")),
    ("a tuple for a list", lambda g: g.add(total, "n", xs=(1, 2))),
    ("null for an optional", lambda g: g.add(draw, "n", prompt="", file=None)),
    ("null input for a default", lambda g: (g.input("s", int, default=None), g.add(draw, "n", prompt="",
                                                                                steps=Link("inputs", "s")))),
    ("empty list", lambda g: g.add(total, "n", xs=[])),
    ("mapped empty", lambda g: (g.add(inc, "m", each=["x"], x=[]), g.add(total, "n", xs=Link("m")))),
    ("generic", lambda g: (g.add(upto, "u", n=2), g.add(first, "f", items=Link("u")), g.add(inc, "n", x=Link("f")))),
    ("bound", lambda g: (g.add(larger, "l", a=1, b=2.5), g.add(half, "n", x=Link("l")))),
    ("wide variable", lambda g: (g.add("when", "w", condition=True, then=1, otherwise=2.5),
                                 g.add(half, "n", x=Link("w")))),
    ("generic list of links", lambda g: (g.add(big, "b", number=1), g.add("collect", "c", items=[Link("b"), Link("b")]),
                                         g.add(number_of, "n", each=["big"], big=Link("c")))),
]  # fmt: skip


@pytest.mark.parametrize("build", [case[1] for case in GOOD], ids=[case[0] for case in GOOD])
def test_what_is_right_has_no_problems(build: Callable[[Graph], Any]) -> None:
    g = Graph()
    build(g)
    assert g.problems() == []
    g.check()


def test_all_problems_come_at_once() -> None:
    g = Graph()
    g.input("unused", int, default=3)
    g.add(inc, "a", x="1", by=Link("nowhere"), more=1)
    g.add("unheard_of", "b")
    g.add(draw, "c", steps=0, scale=float("inf"), scheduler="x")
    kinds = sorted((p.where.node or "", p.kind) for p in g.problems())
    assert kinds == [
        ("a", "dangling link"), ("a", "unknown socket"), ("a", "wrong type"), ("b", "unknown node"),
        ("c", "missing input"), ("c", "not a choice"), ("c", "not a number"), ("c", "out of range"),
        ("inputs", "unused input"),
    ]  # fmt: skip
    with pytest.raises(WorkflowError) as caught:
        g.run()
    assert len(caught.value.problems) == 9
    assert len(str(caught.value).splitlines()) == 9


def test_a_warning_stops_nothing() -> None:
    g = Graph()
    g.input("unused", int, default=3)
    g.add(inc, "a", x=1)
    (problem,) = g.problems()
    assert (problem.severity, problem.kind) == ("warning", "unused input")
    assert str(problem) == "warning: inputs.unused: nothing uses this input"
    g.check()
    assert g.run() == {"a": 2}


def test_problems_in_a_graph_that_is_a_node() -> None:
    part = Graph("part")
    part.add(inc, "wrong", x="a")
    part.output("r", Link("wrong"))
    g = Graph()
    g.add(part, "p")
    g.add(part, "q")
    (problem,) = g.problems()  # told once, at the first of its places
    assert problem.where.node == "p/wrong"
    with pytest.raises(WorkflowError, match=r"p/wrong\.x"):
        g.run()


def test_a_part_that_goes_wrong_later_is_told() -> None:
    with Graph("part") as part:
        part.output("r", inc(1))
    with Graph() as g:
        out = part()
    assert g.run(want=out) == 2
    part.set("inc", "x", "oops")
    with pytest.raises(WorkflowError, match="is not int"):
        g.run(want=out)


def test_ten_thousand_nodes_are_checked_quickly() -> None:
    import time

    with Graph() as g:
        x = inc(0)
        for _ in range(10_000):
            x = inc(x)
    start = time.process_time()
    assert g.problems() == []
    assert time.process_time() - start < 2


def test_problems_have_file_and_line() -> None:
    text = """\
version: 1
nodes:
  a:
    node: flow.colect
  b:
    node: flow.when
    with:
      condition: 3
      then: 1
      otherwise: 2
  c:
    node: flow.collect
    from:
      items: [a, nope]
"""
    g = loads(text)
    g.file = Path("flow.yaml")
    found = {(p.kind, p.where.line) for p in g.problems()}
    assert ("unknown node", 3) in found or ("unknown node", 4) in found
    assert ("wrong type", 8) in found
    assert ("dangling link", 14) in found
    assert all(str(p).startswith("flow.yaml:") for p in g.problems())


def test_as_text_and_as_data() -> None:
    g = Graph()
    g.add(draw, "n", prompt="a", stps=3)
    (problem,) = g.problems()
    assert str(problem) == "n.stps: tests.draw has no input stps; did you mean steps?"
    assert problem.as_dict() == {
        "kind": "unknown socket", "what": "tests.draw has no input stps", "where": {"node": "n", "socket": "stps"},
        "nearest": ["steps"], "severity": "error",
    }  # fmt: skip
    assert Problem("k", "w").at(file="f", line=3).where.line == 3
    assert str(Problem("k", "w", hint="do it").at(file="f", line=3)) == "f:3: w (do it)"


def test_each_is_checked_when_it_is_written() -> None:
    with Graph():
        with pytest.raises(WorkflowError, match="wants str, gets int"):
            each(upto(3), shout)  # type: ignore[arg-type]
        assert repr(each(upto(3), inc)) == "<promise of list[int] from inc>"
        assert repr(each(upto(3), lambda x: half(x))) == "<promise of list[float] from half>"
        assert repr(each([1, 2], lambda x: same(half(x)))) == "<promise of list[float] from each>"


def test_a_validator_that_fails_is_told_unless_something_else_is_wrong() -> None:
    @node
    def judged(x: int, y: int = 0) -> int:
        return x + y

    @judged.check
    def _(given: dict[str, Any]) -> list[str]:
        return ["too much"] if given["y"] > 3 else []

    g = Graph()
    g.add(judged, "a", x=1)
    (problem,) = g.problems()
    assert (problem.kind, problem.severity) == ("validator failed", "error")
    assert "KeyError: 'y'" in str(problem)
    g.set("a", "y", 4)
    assert [p.kind for p in g.problems()] == ["invalid"]
    g.set("a", "y", "text")
    assert [p.kind for p in g.problems()] == ["wrong type"]
