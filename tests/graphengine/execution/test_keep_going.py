"""One failure does not lose what is finished."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated, Any

import pytest

from graphengine import File, Graph, NodeError, Store, each, load, node

RUNS: list[str] = []


@node(version=1)
def good(x: int) -> int:
    RUNS.append(f"good {x}")
    return x


@node(version=1)
def bad(x: int) -> int:
    RUNS.append(f"bad {x}")
    raise ValueError(f"no {x}")


@node(version=1)
def odd(x: int) -> int:
    RUNS.append(f"odd {x}")
    if x % 2 == 0:
        raise ValueError(f"{x} is even")
    return x


@node(version=1)
def twice(x: int) -> int:
    RUNS.append(f"twice {x}")
    return 2 * x


@node(version=1)
def total(xs: list[int]) -> int:
    RUNS.append("total")
    return sum(xs)


@pytest.fixture(autouse=True)
def fresh() -> None:
    RUNS.clear()


def _graph() -> Graph:
    with Graph() as g:
        g.output("first", good(1))
        g.output("late", twice(bad(2)))
        g.output("second", good(3))
    return g


def test_what_was_made_before_a_failure_is_handed_out_and_nothing_more_is_begun() -> None:
    with pytest.raises(NodeError, match="no 2") as told:
        _graph().run(store=Store())
    made = {"good 1": ("first", 1), "good 3": ("second", 3)}
    assert told.value.failures == (told.value,)
    assert RUNS[-1] == "bad 2"
    assert dict(told.value.result) == dict(made[run] for run in RUNS[:-1])


def test_with_keep_going_all_that_does_not_depend_on_a_failure_is_computed() -> None:
    g = _graph()
    with g:
        g.output("worse", bad(4))
    with pytest.raises(NodeError) as told:
        g.run(store=Store(), keep_going=True)
    assert dict(told.value.result) == {"first": 1, "second": 3}
    assert {str(error.__cause__) for error in told.value.failures} == {"no 2", "no 4"}
    assert told.value.failures[0] is told.value
    assert sorted(RUNS) == ["bad 2", "bad 4", "good 1", "good 3"]


def test_what_is_remembered_is_handed_out_after_a_failure() -> None:
    with Graph() as g:
        g.output("late", bad(2))
        g.output("first", good(1))
    store = Store()
    g.run(want="first", store=store)
    with pytest.raises(NodeError) as told:
        g.run(store=store)
    assert dict(told.value.result) == {"first": 1}


def test_what_runs_is_finished_and_what_waits_is_not_begun() -> None:
    begun, failed = threading.Event(), threading.Event()

    @node(version=1, on="device")
    def slow(x: int) -> int:
        RUNS.append(f"slow {x}")
        begun.set()
        assert failed.wait(30)
        return x

    @node(version=1, on="thread")
    def fails(x: int) -> int:
        assert begun.wait(30)
        raise ValueError("no")

    class Listens:
        def __call__(self, event: Any) -> None:
            if event.kind == "node_failed":
                failed.set()

    with Graph() as g:
        g.output("one", slow(1))
        g.output("two", slow(2))
        g.output("bad", fails(3))
    with pytest.raises(NodeError, match="no") as told:
        g.run(store=Store(), listeners=[Listens()])
    assert len(RUNS) == 1  # one thread for the device: the other call waited
    assert len(told.value.result) == 1


@pytest.mark.parametrize("keep_going", [False, True])
def test_an_error_stands_in_the_place_of_an_item(keep_going: bool) -> None:
    with Graph() as g:
        g.output("o", each([1, 2, 3, 4], odd, keep_going=True))
    found = g.run(store=Store(), keep_going=keep_going)["o"]
    assert [found[0], found[2]] == [1, 3]
    assert [str(item.__cause__) for item in (found[1], found[3])] == ["2 is even", "4 is even"]
    assert all(isinstance(item, NodeError) for item in (found[1], found[3]))


def test_what_takes_the_whole_list_is_not_computed() -> None:
    with Graph() as g:
        items = each([1, 2, 3], odd, keep_going=True)
        g.output("items", items)
        g.output("sum", total(items))
    with pytest.raises(NodeError, match="2 is even") as told:
        g.run(store=Store(), keep_going=True)
    result = told.value.result
    assert list(result) == ["items"]
    assert [type(item) for item in result["items"]] == [int, NodeError, int]
    assert "total" not in RUNS


@pytest.mark.parametrize("tolerant", [True, False])
def test_an_item_that_depends_on_a_failed_item_is_not_computed(tolerant: bool) -> None:
    with Graph() as g:
        items = each([1, 2, 3], odd, keep_going=True)
        g.output("o", each(items, twice, keep_going=True) if tolerant else each(items, twice))
    if tolerant:
        found = g.run(store=Store())["o"]
        assert (found[0], found[2]) == (2, 6)
        assert str(found[1].__cause__) == "2 is even"
    else:
        with pytest.raises(NodeError, match="2 is even") as told:
            g.run(store=Store(), keep_going=True)
        assert not told.value.result
    assert sorted(run for run in RUNS if run.startswith("twice")) == ["twice 1", "twice 3"]


def test_a_body_of_several_nodes_fails_by_item() -> None:
    with Graph() as g:
        g.output("o", each([1, 2, 3], lambda x: twice(odd(x)), keep_going=True))
    found = g.run(store=Store())["o"]
    assert (found[0], found[2]) == (2, 6)
    assert str(found[1].__cause__) == "2 is even"


def test_a_body_that_expands_fails_by_item() -> None:
    @node(version=1, expand=True)
    def halves(x: int) -> int:
        if x == 2:
            raise ValueError("no two")
        return twice(x)

    with Graph() as g:
        g.output("o", each([1, 2, 3], halves, keep_going=True))
    found = g.run(store=Store())["o"]
    assert (found[0], found[2]) == (2, 6)
    assert "no two" in str(found[1])


def test_each_keeps_going_outside_a_graph_and_in_a_file(tmp_path: Any) -> None:
    found = each([1, 2], odd, keep_going=True)
    assert found[0] == 1
    assert isinstance(found[1], NodeError)
    from graphengine.declare import registry

    (tmp_path / "kept_pack").mkdir()
    (tmp_path / "kept_pack" / "a.py").write_text(
        "from graphengine import node\n@node(version=1)\ndef odd(x: int) -> int:\n"
        "    if x == 2: raise ValueError('no')\n    return x\n"
    )
    assert registry.load_folder(tmp_path / "kept_pack") == []
    g = Graph()
    g.place("kept_pack.odd", {"x": [1, 2]}, "o", each=["x"], keep_going=True)
    g.outputs["o"] = g.link("o")
    g.save(tmp_path / "w.yaml")
    again = load(tmp_path / "w.yaml")
    assert again.nodes["o"].keep_going
    found = again.run(store=Store())["o"]
    assert found[0] == 1
    assert isinstance(found[1], NodeError)


@node(version=1)
def needs_a_file(path: Annotated[Path, File()]) -> str:
    return path.read_text()


@node
def signed(x: int) -> int:
    return x


@signed.fingerprint
def _signature(x: int) -> str:
    raise OSError("no signature today")


@pytest.mark.parametrize("wrong", ["a missing file", "a fingerprint that fails"])
def test_a_node_whose_key_cannot_be_made_is_a_failure_like_others(wrong: str) -> None:
    """By default it ends the run before anything is computed."""
    store = Store()
    with Graph() as g:
        g.output("first", good(1))
        g.output("late", needs_a_file("nowhere.txt") if wrong == "a missing file" else twice(signed(2)))
        g.output("second", good(3))
    with pytest.raises(NodeError) as early:
        g.run(store=store)
    assert early.value.result is None
    assert RUNS == []
    with pytest.raises(NodeError) as caught:
        g.run(store=store, keep_going=True)
    assert caught.value.node == early.value.node
    assert dict(caught.value.result.outputs) == {"first": 1, "second": 3}
    with pytest.raises(NodeError):  # what is known by then makes no difference
        g.run(store=store)
