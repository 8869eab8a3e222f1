"""What is changed in place never reaches another node, run, caller or file; who does it is named."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from graphengine import DiskStore, Graph, NodeError, Reuse, Store, ThreadRunner, each, node
from graphengine.errors import InputChanged
from graphengine.testing import Recorder
from graphengine.values.checksum import checksum, copied
from tests.graphengine.sample import in_threads
from tests.graphengine.values.test_checksum import CHANGES, Own, Pair

MADE: Counter[str] = Counter()
KEPT = np.zeros(8)
PLACES = ["here", "thread", "device"]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    MADE.clear()
    yield
    KEPT.fill(0)


@pytest.fixture
def store() -> Store:
    return Store()


def making(name: str, on: Any = "here") -> Any:
    @node(version=1, on=on)
    def made(name: str) -> Any:
        MADE["made"] += 1
        return CHANGES[name][0]()

    return made(name)


def sum_node(on: Any = "here") -> Any:
    @node(version=1, on=on)
    def sum_of(value: Any) -> str:
        MADE["sum_of"] += 1
        return (checksum(value) or b"").hex()

    return sum_of


def changing(on: Any = "here") -> Any:
    @node(version=1, on=on)
    def change(value: Any, name: str) -> Any:
        MADE["change"] += 1
        CHANGES[name][1](value)
        return value

    return change


def right(name: str) -> set[str]:
    """The checksums of the value as it was made, and of a copy, which may lie in memory otherwise."""
    value = CHANGES[name][0]()
    return {(checksum(one) or b"").hex() for one in (value, copied(value))}


# Numbers in memory of their own, a class with a lock: two of a kind have different checksums or cannot be told apart.
ROUTES = [name for name in CHANGES if name not in ("memoryview", "own class", "slot", "through its base")]


# --- after a node ---


@pytest.mark.parametrize("name", ROUTES)
def test_a_node_that_changes_its_input_is_named_and_nobody_gets_what_it_did(name: str, store: Store) -> None:
    with Graph() as g:
        value = making(name)
        g.output("changed", changing()(value, name))
        g.output("sum", sum_node()(value))
    with pytest.raises(NodeError, match="changed its input value in place") as caught:
        g.run(store=store)
    assert caught.value.node == "change"
    assert isinstance(caught.value.__cause__, InputChanged)
    assert g.run("sum", store=store) in right(name)
    with pytest.raises(NodeError, match="changed its input value in place"):
        g.run(store=store)


@pytest.mark.parametrize("on", PLACES)
def test_wherever_it_computes(on: str, store: Store) -> None:
    for name in ("array", "list", "tensor by numpy"):
        with Graph() as g:
            value = making(name, on)
            g.output("changed", changing(on)(value, name))
            g.output("sum", sum_node(on)(value))
        with pytest.raises(NodeError, match="changed its input value in place"):
            g.run(store=store)
        assert g.run("sum", store=store) in right(name)


def test_in_lists_of_links_ports_and_mapped_nodes(store: Store) -> None:
    @node(version=1)
    def arrays(count: int) -> list[np.ndarray]:  # type: ignore[type-arg]
        return [np.full(3, n) for n in range(count)]

    @node(version=1)
    def bump(value: Any) -> float:
        value += 1
        return float(value.sum())

    @node(version=1)
    def bump_first(values: list[Any]) -> float:
        values[0] += 1
        return float(values[0].sum())

    @node(version=1)
    def total(values: Any) -> float:
        return float(sum(value.sum() for value in values))

    with Graph() as mapped:
        values = arrays(3)
        mapped.output("bumped", each(values, bump))
        mapped.output("total", total(values))
    with pytest.raises(NodeError, match="changed its input value"):
        mapped.run(store=store)
    assert mapped.run("total", store=store) == 9.0
    with Graph() as listed:
        items = [making("array"), making("array")]
        listed.output("bumped", bump_first([*items]))
        listed.output("total", total([*items]))
    with pytest.raises(NodeError, match="changed its input values"):
        listed.run(store=store)
    assert listed.run("total", store=store) == 0.0


def test_in_the_body_of_an_expanding_node(store: Store) -> None:
    @node(version=1, expand=True)
    def body(value: Any) -> Any:
        value.append(1)
        return sum_node()(value)

    with Graph() as g:
        value = making("list")
        g.output("body", body(value))
        g.output("sum", sum_node()(value))
    with pytest.raises(NodeError, match="changed its input value") as caught:
        g.run(store=store)
    assert caught.value.node == "body"
    assert g.run("sum", store=store) in right("list")


def test_joined_calls_are_computed_again_each_by_itself(store: Store) -> None:
    gate = threading.Event()

    @node(version=1, on="device")
    def first(n: int) -> int:
        gate.wait(10)
        return n

    @node(version=1, on="device", batch=["seed"])
    def draw(value: Any, seed: int) -> float:
        MADE["draw"] += 1
        if seed == 2:
            value += 1
        return float(value.sum()) + seed

    @draw.many
    def _(value: Any, seed: list[int]) -> list[float]:
        MADE["many"] += 1
        value += 1
        return [float(value.sum()) + one for one in seed]

    runner = ThreadRunner(batch=8)

    def work(n: int) -> Any:
        if n == 0:
            with Graph() as g:
                g.output("r", first(0))
        else:
            if n == 3:
                gate.set()
                return None
            with Graph() as g:
                g.output("r", draw(making("array"), n))
        return g.run("r", store=store, runner=runner)

    found = in_threads(4, work)
    assert found[0] == 0
    assert found[1] == 1.0
    assert isinstance(found[2], NodeError)
    assert isinstance(found[2].__cause__, InputChanged)


def test_only_the_guilty_one_of_several_that_held_a_value_is_named(store: Store) -> None:
    """All hold the value at once; what is not guilty is computed again, and right."""
    together = threading.Barrier(3)

    def meet() -> None:
        try:
            together.wait(3)
        except threading.BrokenBarrierError:  # computed again, alone
            return

    @node(version=1, on="thread")
    def reads(value: Any, n: int) -> float:
        MADE[f"reads {n}"] += 1
        meet()
        meet()
        return float(value.sum()) + n

    @node(version=1, on="thread")
    def writes(value: Any) -> float:
        meet()
        value += 1
        meet()
        return float(value.sum())

    def work(n: int) -> Any:
        with Graph() as g:
            value = making("array")
            g.output("r", writes(value) if n == 2 else reads(value, n))
        return g.run("r", store=store)

    found = in_threads(3, work)
    assert found[:2] == [0.0, 1.0]
    assert isinstance(found[2], NodeError)
    assert isinstance(found[2].__cause__, InputChanged)
    assert found[2].node == "writes"


def test_what_has_acted_does_not_act_again_when_a_run_begins_again(store: Store) -> None:
    acted: list[float] = []

    @node(version=1, output=True)
    def tell(value: float) -> float:
        ACTED.append(value)
        return value

    ACTED = acted

    @node(version=1)
    def buffer(n: int) -> Any:
        KEPT.fill(n)
        return KEPT

    @node(version=1)
    def mean(value: Any, after: float) -> float:
        return float(value.mean())

    with Graph() as g:
        one = buffer(1)
        done = tell(2.5)
        two = buffer(2)
        g.output("means", [mean(one, mean(two, done))][0])
    assert g.run("means", store=store) == 1.0
    assert acted == [2.5]


# --- a value that its maker keeps ---


@pytest.mark.parametrize("on", ["here", "device"])  # on threads it would write into it while it returns it
def test_a_buffer_that_a_node_keeps_and_reuses(on: str, store: Store) -> None:
    @node(version=1, on=on)  # type: ignore[call-overload]
    def frame(n: int) -> Any:
        KEPT.fill(n)
        return torch.from_numpy(KEPT) if n % 2 else KEPT

    @node(version=1)
    def mean(value: Any) -> float:
        return float(value.mean())

    @node(version=1)
    def means(values: list[Any]) -> list[float]:
        return [float(value.mean()) for value in values]

    with Graph() as g:
        frames = [frame(n) for n in range(4)]
        g.output("means", means([*frames]))
        g.output("single", [mean(frames[1])][0])
        g.output("frame", frames[2])
    for _ in range(2):
        found = g.run(store=store)
        assert found["means"] == [0.0, 1.0, 2.0, 3.0]
        assert found["single"] == 1.0
        assert found["frame"].mean() == 2.0
    KEPT.fill(9)
    assert [float(value.mean()) for value in g.run(frames, store=store)] == [0.0, 1.0, 2.0, 3.0]


def test_a_result_that_is_its_input_or_a_view_of_it(store: Store) -> None:
    @node(version=1)
    def view(value: Any) -> Any:
        return value[1:]

    with Graph() as g:
        value = making("array")
        part = view(value)
        g.output("changed", changing()(part, "array"))
        g.output("sum", sum_node()(value))
    with pytest.raises(NodeError, match="changed its input value") as caught:
        g.run(store=store)
    assert caught.value.node == "change"
    assert g.run("sum", store=store) in right("array")


# --- to a caller ---


@pytest.mark.parametrize("name", [*ROUTES, "own class", "slot"])
def test_what_a_caller_gets_is_theirs_to_change(name: str, store: Store) -> None:
    with Graph() as g:
        value = making(name)
        g.output("value", value)
        g.output("sum", sum_node()(value))
    first = g.run(store=store)
    before = checksum(g.run("value", store=store)) if name not in ("own class", "slot") else None
    CHANGES[name][1](first["value"])
    again = g.run(store=store)
    assert MADE == {"made": 1, "sum_of": 1}
    assert again["value"] is not first["value"]
    if before is not None:
        assert checksum(again["value"]) == before


def test_what_a_caller_gave_is_neither_changed_nor_frozen_nor_kept(store: Store) -> None:
    @node(version=1)
    def through(value: Any) -> Any:
        return value

    @node(version=1)
    def bump(value: Any) -> float:
        (value.pixels if isinstance(value, Pair) else value).__iadd__(1)
        return 0.0

    for given, array in ((a := np.zeros(3), a), (p := Pair(np.zeros(3)), p.pixels), ([b := np.zeros(3)], b)):
        with Graph() as g:
            value = g.input("value", Any)
            g.output("same", through(value))
        out = g.run("same", {"value": given}, store=store)
        array += 1
        assert array.sum() == 3.0
        assert float(np.asarray(getattr(out, "pixels", out)).sum()) == 0.0
        assert float(np.asarray(getattr(g.run("same", {"value": given}, store=store), "pixels", array)).sum()) == 3.0
    for given in (np.zeros(3), Pair(np.zeros(3)), torch.zeros(3)):
        with Graph() as h:
            h.output("bumped", bump(h.input("value", Any)))
        before = checksum(given)
        with pytest.raises(NodeError, match="changed its input value"):
            h.run(inputs={"value": given}, store=store)
        assert checksum(given) == before
        with Graph() as literal:
            literal.output("bumped", bump(given))
        with pytest.raises(NodeError, match="changed its input value"):
            literal.run(store=store)
        assert checksum(given) == before


def test_events_and_tools_that_a_caller_gave_are_the_very_same(store: Store) -> None:
    @node(version=1)
    def tell(event: Any, model: Any) -> int:
        event.set()
        model.weight.data.fill_(2)
        return 1

    event, model = threading.Event(), torch.nn.Linear(2, 2)
    with Graph() as g:
        g.output("r", tell(g.input("event", Any), g.input("model", Any)))
    assert g.run("r", {"event": event, "model": model}, store=store) == 1
    assert event.is_set()
    assert float(model.weight.detach().sum()) == 8.0


def test_what_cannot_be_copied_is_handed_out_and_computed_anew(store: Store) -> None:
    @node(version=1)
    def numbers(n: int) -> Any:
        return iter(range(n))

    with Graph() as g:
        g.output("numbers", numbers(3))
    assert list(g.run("numbers", store=store)) == [0, 1, 2]
    assert list(g.run("numbers", store=store)) == [0, 1, 2]


# --- before it is written ---


def test_what_was_changed_is_not_written(tmp_path: Path) -> None:
    from graphengine.cache import Entry

    entry = Entry([1, 2])
    entry.value.append(3)
    disk = DiskStore(tmp_path / "store")
    assert not disk.put(b"k" * 16, entry)
    assert disk.get(b"k" * 16) is None


def test_the_disk_holds_what_landed(tmp_path: Path) -> None:
    store = Store(disk=DiskStore(tmp_path / "store"))

    @node(version=1)
    def slow() -> Any:
        import time

        time.sleep(0.01)
        return [1, 2]

    with Graph() as g:
        value = slow()
        g.output("changed", changing()(value, "list"))
    with pytest.raises(NodeError):
        g.run(store=store)
    recorder = Recorder()
    assert g.run(value, store=Store(disk=DiskStore(tmp_path / "store")), listeners=[recorder]) == [1, 2]
    assert recorder.why == {"slow": Reuse.DISK}


def test_pictures_of_pil_and_own_classes_in_a_chain(store: Store) -> None:
    @node(version=1)
    def blank(n: int) -> PIL.Image.Image:
        return PIL.Image.new("RGB", (n, n))

    @node(version=1)
    def dot(picture: PIL.Image.Image) -> PIL.Image.Image:
        twin = picture.copy()
        twin.putpixel((0, 0), (255, 0, 0))
        return twin

    @node(version=1)
    def holder(picture: PIL.Image.Image) -> Any:
        own = Own(1)
        own.items.append(picture)
        return own

    with Graph() as g:
        g.output("held", holder(dot(blank(8))))
    held = g.run("held", store=store)
    held.items[-1].putpixel((0, 0), (0, 0, 0))
    assert g.run("held", store=store).items[-1].getpixel((0, 0)) == (255, 0, 0)


# --- defaults ---


@dataclass
class Defaulted:
    seen: list[int] = field(default_factory=list)


def _defaults(on: Any, **options: Any) -> Any:
    @node(on=on, **options)
    def added_to_default(n: int, acc: list[int] = [], more: Defaulted = Defaulted()) -> int:  # noqa: B006, B008
        acc.append(n)
        more.seen.append(n)
        return sum(acc) + 100 * sum(more.seen)

    return added_to_default


@pytest.mark.parametrize("options", [{"version": 1}, {}], ids=["version", "code"])
@pytest.mark.parametrize("on", PLACES)
def test_a_default_that_a_node_changes_is_that_of_no_other_call(on: str, options: Any, store: Store) -> None:
    adding = _defaults(on, **options)
    with Graph() as g:
        wanted = [adding(5), adding(7), adding(5, more=Defaulted())]
        mapped = each([1, 2, 3], lambda n: adding(n))
    assert list(g.run(want=wanted, store=store)) == [505, 707, 505]
    assert list(g.run(want=mapped, store=store)) == [101, 202, 303]
    assert list(g.run(want=wanted, store=Store())) == [505, 707, 505]


def test_a_default_is_that_of_no_other_call_in_expansions_references_and_batches(store: Store) -> None:
    @node(version=1, expand=True)
    def expanded_default(n: int, acc: list[int] = []) -> int:  # noqa: B006
        acc.append(n)
        return passed_default(sum(acc))

    @node(version=1)
    def passed_default(n: int) -> int:
        return n

    @node(version=1, on="device", batch=("n", "own"))
    def batched_default(n: int, acc: list[int] = [], own: list[int] = []) -> int:  # noqa: B006
        return n

    @batched_default.many
    def _(n: list[int], acc: list[int], own: list[list[int]]) -> list[int]:
        for one, mine in zip(n, own, strict=True):
            acc.append(one)
            mine.append(one)
        return [len(mine) + 10 * len(acc) for mine in own]

    for _n in range(2):
        with Graph() as g:
            wanted = [expanded_default(5), expanded_default(7)]
            batched = each([1, 2], batched_default)
        assert list(g.run(want=wanted, store=Store())) == [5, 7]
        assert list(g.run(want=batched, store=Store(), runner=ThreadRunner(batch=8))) == [21, 21]


def test_a_default_with_paths_is_guarded_like_a_literal(store: Store, tmp_path: Path) -> None:
    here = [tmp_path / "first"]

    @node(version=1)
    def path_defaulted(n: int, files: list[Path] = here) -> int:
        files.append(Path(str(n)))
        return len(files)

    with Graph() as g:
        wanted = [path_defaulted(5), path_defaulted(7)]
    for _ in range(2):
        with pytest.raises(NodeError, match="changed its input files in place"):
            g.run(want=wanted, store=store)
    assert here == [tmp_path / "first"]


def test_a_method_s_default_and_one_that_cannot_be_copied(store: Store) -> None:
    class Maker:
        @node(version=1)
        def from_default(self, n: int, acc: list[int] = []) -> int:  # noqa: B006
            acc.append(n)
            return sum(acc)

    lock = threading.Lock()

    @node(version=1)
    def with_lock(n: int, lock: Any = lock) -> bool:
        return lock is held

    held, maker = lock, Maker()
    with Graph() as g:
        wanted = [maker.from_default(5), maker.from_default(7), with_lock(1)]
    assert list(g.run(want=wanted, store=store)) == [5, 7, True]


def test_what_a_default_is_changed_to_between_runs_is_seen(store: Store) -> None:
    acc = [1]

    @node
    def total_of_default(n: int, acc: list[int] = acc) -> int:
        return n + sum(acc)

    with Graph() as g:
        wanted = total_of_default(5)
    assert g.run(want=wanted, store=store) == 6
    acc.append(10)
    assert g.run(want=wanted, store=store) == 16
    assert total_of_default.compute is not total_of_default.fn


def test_a_node_with_plain_defaults_is_called_as_it_is() -> None:
    @node(version=1)
    def plainly_defaulted(n: int, scale: float = 1.0, name: str = "a", both: tuple[int, int] = (1, 2)) -> int:
        return n

    assert plainly_defaulted.compute is plainly_defaulted.fn


def test_a_node_that_changes_its_default_is_kept_on_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    @node
    def slow_default(n: int, acc: list[int] = []) -> int:  # noqa: B006
        acc.append(n)
        time.sleep(0.005)
        return sum(acc)

    with Graph() as g:
        wanted = [slow_default(5), slow_default(7)]
    for expected in (Reuse.COMPUTED, Reuse.DISK):
        recorder = Recorder()
        found = list(g.run(want=wanted, store=Store(disk=DiskStore(tmp_path)), listeners=[recorder]))
        assert found == [5, 7]
        assert set(recorder.why.values()) == {expected}
    assert not caplog.records
