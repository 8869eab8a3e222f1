"""Where runs meet what is around them: the graph being built, the caller's objects, folders, other runs' threads."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import pytest

from graphengine import INERT, Context, File, FileError, Graph, Link, NodeError, Store, WorkflowError, each, node
from graphengine.execution.run import salt_of
from tests.graphengine.sample import CALLS, add, inc, same, tick, total


@pytest.fixture
def store() -> Store:
    return Store()


@node(version=1)
def through(x: int) -> int:
    return inc(x)


@node(version=1)
def read_all(paths: Annotated[list[Path], File()]) -> str:
    return ",".join(path.read_text() for path in paths)


@node(version=1)
def read_folder(folder: Annotated[Path, File("folder")]) -> str:
    return ",".join(sorted(path.name for path in folder.iterdir()))


SHOWN: list[int] = []


@node(version=1, output=True)
def show_it(x: int) -> int:
    SHOWN.append(x)
    return x


@node(version=1, expand=True)
def twice_random() -> int:
    return add(tick(), 0)


# --- what is being built around a run ---


def test_a_run_inside_a_with_block_computes(store: Store) -> None:
    with Graph() as g:
        r = through(1)
        assert g.run(want=r, store=store) == 2
    assert list(g.nodes) == ["through"]
    assert g.run(want="through", store=store) == 2


# --- what belongs to the caller ---


def test_an_input_that_was_changed_in_place_is_another_input(store: Store) -> None:
    @node(version=1)
    def value(table: dict[str, int]) -> int:
        return table["x"]

    g = Graph()
    with g:
        g.output("r", value(g.input("table", dict[str, int])))
    table = {"x": 1}
    assert g.run(inputs={"table": table}, store=store) == {"r": 1}
    table["x"] = 7
    assert g.run(inputs={"table": table}, store=store) == {"r": 7}


def test_a_literal_is_what_it_was_when_it_was_given(store: Store) -> None:
    @node(version=1)
    def value(table: dict[str, int]) -> int:
        return table["x"]

    table = {"x": 1}
    with Graph() as g:
        value(table)
    table["x"] = 7
    assert g.run(store=store) == {"value": 1}


def test_what_is_done_to_a_result_is_not_done_to_the_memory(store: Store) -> None:
    with Graph() as g:
        each([1, 2], inc)
    g.run(store=store)["each" if "each" in g.nodes else next(iter(g.nodes))].append(99)
    assert list(g.run(store=store).values()) == [[2, 3]]


def test_a_promise_inside_a_dictionary_is_refused() -> None:
    with Graph(), pytest.raises(WorkflowError, match="inside a dictionary"):
        same({"a": inc(1)})


# --- folders ---


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text("A")
    (tmp_path / "secret").write_text("S")
    return tmp_path / "in"


def test_a_path_in_a_list_beside_links_is_checked_and_fingerprinted(root: Path, store: Store) -> None:
    g = Graph()
    with g:
        g.output("r", read_all([g.input("first", Path), root / "a"]))
    assert g.run(inputs={"first": root / "a"}, roots=[root], store=store) == {"r": "A,A"}
    (root / "a").write_text("B")
    assert g.run(inputs={"first": root / "a"}, roots=[root], store=store) == {"r": "B,B"}
    with pytest.raises(NodeError, match="outside the allowed folders"):
        g.run(inputs={"first": root.parent / "secret"}, roots=[root], store=store)


def test_a_folder_with_a_link_that_leads_out_is_refused(root: Path, store: Store) -> None:
    with Graph() as g:
        read_folder(root)
    assert g.run(roots=[root], store=store) == {"read_folder": "a"}
    (root / "b").symlink_to(root.parent / "secret")
    with pytest.raises(NodeError, match="b in it leads out of them") as caught:
        g.run(roots=[root], store=store)
    assert isinstance(caught.value.__cause__, FileError)


def test_a_device_is_no_file(store: Store) -> None:
    with Graph() as g:
        read_all([Path("/dev/zero")])
    with pytest.raises(NodeError, match="neither a file nor a folder"):
        g.run(store=store)


# --- what acts, and what is never remembered, inside expansions ---


def test_expansions_in_which_something_is_never_remembered_are_not_shared(store: Store) -> None:
    CALLS.clear()
    with Graph() as g:
        a, b = twice_random.named("a")(), twice_random.named("b")()
    first, second = g.run(want=[a, b], store=store)
    assert first != second


@pytest.mark.parametrize("several", [False, True])
def test_what_acts_in_a_mapped_body_acts_with_the_whole_graph(store: Store, several: bool) -> None:
    SHOWN.clear()
    with Graph() as g:
        number = inc(0)
        each([1, 2], (lambda i: show_it(inc(i))) if several else show_it)
        g.output("r", number)
    assert g.run(store=store) == {"r": 1}
    assert sorted(SHOWN) == ([2, 3] if several else [1, 2])
    SHOWN.clear()
    g.run(want="r", store=store)
    assert not SHOWN


def test_what_acts_in_a_workflow_used_as_a_node_acts_though_nothing_comes_out_of_it(store: Store) -> None:
    SHOWN.clear()
    part = Graph("part")
    with part:
        show_it(part.input("x", int))
    g = Graph()
    g.add(inc, "i", x=1)
    g.add(part, "p", x=Link("i"))
    g.outputs["r"] = Link("i")
    assert g.run(store=store) == {"r": 2}
    assert SHOWN == [2]


# --- order ---


def test_what_comes_first_is_computed_first_and_what_is_begun_is_ended(store: Store) -> None:
    order: list[str] = []

    @node(version=1, on="device")
    def draw(i: int) -> int:
        time.sleep(0.01)  # meanwhile the run hears of what has ended before
        order.append(f"draw {i}")
        return i

    @node(version=1, on="device")
    def develop(i: int) -> int:
        order.append(f"develop {i}")
        return i

    with Graph() as g:
        total(each([0, 1, 2, 3, 4, 5, 6, 7], lambda i: develop(draw(i))))
    g.run(store=store)
    draws = [step for step in order if step.startswith("draw")]
    assert draws == [f"draw {i}" for i in range(8)]
    assert [step for step in order if step.startswith("develop")] == [f"develop {i}" for i in range(8)]
    assert order.index("develop 0") < order.index("draw 7")


# --- exact runs ---


def test_exact_runs_on_another_device_share_nothing(store: Store) -> None:
    @node(version=1, on="device")
    def where(x: int, ctx: Context = INERT) -> str:
        return ctx.device

    with Graph() as g:
        where(1)
    found = [g.run(store=store, exact=True, device=device)["where"] for device in ("cpu", "cuda:0")]
    assert found == ["cpu", "cuda:0"]
    assert salt_of(g, "cpu") != salt_of(g, "cuda:0")


# --- what a runner is told ---


def test_calls_carry_the_keys_of_their_inputs(store: Store) -> None:
    calls: list[Any] = []

    class Watching:
        def submit(self, given: Any) -> None:
            from graphengine.execution.runner import compute

            calls.extend(given)
            for call in given:
                compute([call])

        def close(self) -> None: ...

    @node(version=1, on="device")
    def work(x: int, k: int = 3) -> int:
        return x

    with Graph() as g:
        work(inc(1), k=5)
    g.run(store=store, runner=Watching())
    (call,) = calls
    assert call.tokens["k"] == 5
    assert call.tokens["x"] in store.memory.entries
