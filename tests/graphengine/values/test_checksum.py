"""What values hold: checksums that see every change in place, sizes of all that is kept in memory, copies."""

from __future__ import annotations

import array
import functools
import io
import logging
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import pytest
import torch

from graphengine import Graph, Reuse, Store, node
from graphengine.cache import Entry, Memory
from graphengine.testing import Recorder
from graphengine.values.checksum import checksum, copied, measure
from tests.graphengine.sample import Big


@dataclass
class Pair:
    """A value as people define them."""

    pixels: Any
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Frozen:
    pixels: Any


class Own:
    """A class with everything: a list, itself, a lock, a function, a property that keeps what it computed."""

    __slots__ = ("__dict__", "slot")

    def __init__(self, number: int = 0) -> None:
        self.items, self.me, self.lock, self.slot = [number, [number]], self, threading.Lock(), [1]
        self.work = lambda: number

    @functools.cached_property
    def total(self) -> int:
        return len(self.items)


class Curve:
    """A value that can be called."""

    def __init__(self, points: Any) -> None:
        self.points = points

    def __call__(self, x: float) -> float:
        return float(sum(p * x**n for n, p in enumerate(self.points)))


class Keeper:
    """Keeps what is large where its attributes do not show it."""

    def __init__(self, content: Any = None) -> None:
        self.__dict__["hidden"] = content

    @functools.cached_property
    def kept(self) -> bytes:
        return bytes(200_000)

    def method(self) -> int:
        return 1

    def filled(self) -> Keeper:
        assert self.kept
        return self

    def remembering(self) -> Any:
        memory = functools.lru_cache(maxsize=8)(lambda n: bytes(200_000 + n))
        memory(1)
        return memory


class Telling(Keeper):
    def __getstate__(self) -> int:
        return 1


class Reducing(Keeper):
    def __reduce__(self) -> Any:
        return (Reducing, ())


class Two(NamedTuple):
    left: Any
    right: Any


class Sub(dict[str, Any]):
    more: Any = None


def inference(*shape: int) -> torch.Tensor:
    with torch.inference_mode():
        return torch.zeros(*shape)


def setting(*where: Any, to: Any = 7) -> Callable[[Any], None]:
    return lambda value: value.__setitem__(where if len(where) > 1 else where[0], to)


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "list": (lambda: [1, 2], lambda v: v.append(3)),
    "list of numbers, another type": (lambda: [1, 2], setting(0, to=1.0)),
    "list of numbers, order": (lambda: [1, 2], list.reverse),
    "list of texts": (lambda: ["a", "b"], setting(1, to="c")),
    "mixed list": (lambda: ["a", 1, None], setting(2, to=False)),
    "nested": (lambda: {"a": [{"b": (1, [2])}]}, lambda v: v["a"][0]["b"][1].append(1)),
    "dictionary": (lambda: {"a": 1}, lambda v: v.update(a=2)),
    "order of a dictionary": (lambda: {"a": 1, "b": 2}, lambda v: v.update(a=v.pop("a"))),
    "ordered dictionary": (lambda: OrderedDict(a=1, b=2), lambda v: v.move_to_end("a")),
    "counter": (lambda: Counter("abc"), lambda v: v.update("a")),
    "set": (lambda: {1, "a"}, lambda v: v.add(2)),
    "deque": (lambda: deque([1]), lambda v: v.append(2)),
    "subclass": (lambda: Sub(a=1), lambda v: setattr(v, "more", [1])),
    "bytearray": (lambda: bytearray(b"abc"), setting(0)),
    "array.array": (lambda: array.array("d", [1.0]), setting(0)),
    "memoryview": (lambda: memoryview(bytearray(b"abc")), setting(0)),
    "BytesIO": (lambda: io.BytesIO(b"abc"), lambda v: v.write(b"x")),
    "named tuple": (lambda: Two(1, [1]), lambda v: v.right.append(1)),
    "dataclass": (lambda: Pair(1), lambda v: setattr(v, "pixels", 2)),
    "list in a dataclass": (lambda: Pair(1), lambda v: v.tags.append("x")),
    "frozen dataclass": (lambda: Frozen(np.zeros(3)), lambda v: v.pixels.fill(1)),
    "own class": (Own, lambda v: v.items[1].append(1)),
    "slot": (Own, lambda v: v.slot.append(1)),
    "array": (lambda: np.zeros((3, 4)), lambda v: v.__iadd__(1)),
    "array, flipped": (lambda: np.arange(12), lambda v: v.__setitem__(slice(None), v[::-1].copy())),
    "array, rolled": (lambda: np.arange(12), lambda v: v.__setitem__(slice(None), np.roll(v, 1))),
    "channels swapped": (lambda: np.arange(12).reshape(2, 2, 3), lambda v: v.__setitem__(..., v[..., ::-1].copy())),
    "strided array": (lambda: np.arange(24).reshape(4, 6).T[::-1, ::2], setting(0, 0)),
    "through its base": (lambda: np.arange(24).reshape(4, 6)[1:], lambda v: v.base.fill(9)),
    "through a view": (lambda: np.arange(24), lambda v: v[3:].fill(9)),
    "shape": (lambda: np.arange(24), lambda v: setattr(v, "shape", (4, 6))),
    "no axis": (lambda: np.array(1.0), lambda v: v.fill(2)),
    "dates": (lambda: np.zeros(3, "datetime64[s]"), setting(0, to=np.datetime64(5, "s"))),
    "array of objects": (lambda: np.array([[1], "a"], dtype=object), lambda v: v[0].append(1)),
    "fields": (lambda: np.zeros(3, [("a", "i4"), ("b", "f8")]), lambda v: v["b"].fill(1)),
    "tensor": (lambda: torch.zeros(3, 4), lambda v: v.add_(1)),
    "tensor by numpy": (lambda: torch.zeros(3, 4), lambda v: v.numpy().fill(1)),
    "tensor by asarray": (lambda: torch.zeros(3, 4), lambda v: np.asarray(v).fill(1)),
    "tensor by data": (lambda: torch.zeros(3, 4), lambda v: v.data.fill_(1)),
    "tensor by DLPack": (lambda: torch.zeros(3, 4), lambda v: np.from_dlpack(v).fill(1)),
    "tensor by storage": (lambda: torch.zeros(3, 4), lambda v: v.untyped_storage().fill_(1)),
    "strided tensor": (lambda: torch.arange(24).reshape(4, 6).t()[1:, ::2], lambda v: v[1].fill_(1)),
    "channels last": (lambda: torch.zeros(1, 3, 4, 4).to(memory_format=torch.channels_last), lambda v: v[0, 2].add_(1)),
    "inference mode": (lambda: inference(3), lambda v: v.numpy().fill(1)),
    "bfloat16": (lambda: torch.zeros(3, dtype=torch.bfloat16), lambda v: v.data.fill_(1)),
    "number tensor": (lambda: torch.tensor(1.0), lambda v: v.add_(1)),
    "parameter": (lambda: torch.nn.Parameter(torch.zeros(3)), lambda v: v.data.fill_(1)),
    "gradient": (lambda: torch.ones(3, requires_grad=True), lambda v: (v * 2).sum().backward()),
    "sparse tensor": (lambda: torch.eye(3).to_sparse(), lambda v: v._values().fill_(2)),
    "generator": (torch.Generator, lambda v: torch.rand(1, generator=v)),
    "numpy's generator": (lambda: np.random.default_rng(0), lambda v: v.random()),
    "picture": (lambda: PIL.Image.new("RGB", (70, 50)), lambda v: v.putpixel((69, 49), (1, 0, 0))),
    "palette": (lambda: PIL.Image.new("P", (7, 5)), lambda v: v.putpalette([1] * 768)),
    "info of a picture": (lambda: PIL.Image.new("L", (7, 5)), lambda v: v.info.update(a=1)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_in_place_changes_the_checksum(name: str) -> None:
    make, change = CHANGES[name]
    value = make()
    before = checksum(value)
    assert before is not None
    assert checksum(value) == before
    change(value)
    assert checksum(value) != before


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "memoryview"])  # nothing copies one
def test_what_is_done_to_a_copy_is_not_done_to_the_value(name: str) -> None:
    make, change = CHANGES[name]
    value = make()
    before = checksum(value)
    twin = copied(value)
    assert type(twin) is type(value)
    change(make() if name == "through its base" else twin)
    assert checksum(value) == before


def test_what_cannot_be_changed_has_no_checksum() -> None:
    for value in (1, 1.5, "a", b"a", None, (1, "a", (2.0,)), frozenset({1}), np.float32(1), range(3), len, Own):
        assert checksum(value) is None


def test_what_a_property_keeps_is_no_change() -> None:
    value = Own()
    before = checksum(value)
    assert value.total == 2
    assert checksum(value) == before


def test_a_tool_may_change_itself() -> None:
    model = torch.nn.Linear(3, 3)
    holder = {"model": model, "steps": 3}
    before = checksum(holder)
    model.weight.data.fill_(0)
    assert checksum(holder) == before
    assert copied(holder)["model"] is model


@pytest.mark.parametrize("make", [
    lambda: Curve([1, 2]), lambda: Curve(np.ones(3)), lambda: (Curve([1]), 2), lambda: np.poly1d([1, 2]),
    lambda: (lambda c: {"curve": c, "points": c.points, "again": [c.points, c]})(Curve([[1], [2]])),
    lambda: functools.partial(sum, [1, 2]), lambda: {"model": torch.nn.Linear(2, 2), "a": (x := [1]), "b": x},
    lambda: {"work": Own().work, "a": (x := [1]), "b": x}, lambda: frozenset({Curve((1, 2))}),
    lambda: {Keeper([1]).method: 1, "a": (x := [1]), "b": x}, lambda: [Keeper().filled(), (x := [1]), x],
    lambda: [Telling([1]), (x := [1]), x], lambda: Keeper().remembering(),
], ids=range(13))  # fmt: skip
def test_the_size_of_a_value_adds_nothing_to_its_checksum(make: Callable[[], Any]) -> None:
    value = make()
    assert measure(value).sum == checksum(value)
    assert Entry(value).sound


def test_a_value_that_can_be_called_is_a_result() -> None:
    @node(version=1)
    def curve_made(kind: str) -> Any:
        if kind == "spline":
            from scipy.interpolate import CubicSpline

            return CubicSpline([0, 1, 2], [0, 1, 4])
        return np.poly1d([1, 0]) if kind == "polynomial" else Curve([0, 1])

    @node(version=1)
    def curve_at(curve: Any, x: float) -> float:
        return float(curve(x))

    for kind in ("own", "polynomial", "spline"):
        if kind == "spline":
            pytest.importorskip("scipy")
        with Graph() as g:
            curve = curve_made(kind)
            wanted = [curve_at(curve, 1.0), curve_at(curve, 2.0), curve]
        store = Store()
        for _ in range(2):
            first, _, found = g.run(want=wanted, store=store)
            assert first == pytest.approx(1)
            assert float(found(1.0)) == pytest.approx(1)


def _masked() -> Any:
    return np.ma.MaskedArray([1.0, 2.0, 3.0], [True, False, False])


def _sparse(kind: str) -> Callable[[], Any]:
    def make() -> Any:
        sparse = pytest.importorskip("scipy.sparse")
        return getattr(sparse, kind)(np.eye(3))

    return make


@pytest.mark.parametrize(("make", "read"), [
    (_masked, lambda v: v.filled()), (_masked, repr), (_masked, lambda v: (v.mean(), v[1:], v.mask, v.fill_value)),
    (_masked, lambda v: v + 1), (_sparse("csr_matrix"), lambda v: v.has_sorted_indices),
    (_sparse("csc_array"), lambda v: v.has_canonical_format), (_sparse("csr_array"), lambda v: (v @ v, v.T, repr(v))),
    (_sparse("coo_array"), lambda v: v.tocsr().sum()), (_sparse("bsr_array"), lambda v: v.has_canonical_format),
], ids=range(9))  # fmt: skip
def test_what_a_library_keeps_when_asked_is_no_change(make: Callable[[], Any], read: Callable[[Any], Any]) -> None:
    @node(version=1)
    def lazily_made() -> Any:
        return make()

    @node(version=1)
    def lazily_read(value: Any, n: int) -> int:
        read(value)
        return n

    with Graph() as g:
        value = lazily_made()
        wanted = [lazily_read(value, 1), lazily_read(value, 2), lazily_read(make(), 3)]
    recorder = Recorder()
    assert list(g.run(want=wanted, store=Store(), listeners=[recorder])) == [1, 2, 3]
    assert list(recorder.why.values()) == [Reuse.COMPUTED] * 4
    given = copied(make())
    before = measure(given).sum
    read(given)
    assert measure(given).sum == before
    twin = copied(given)
    before = checksum(twin)
    read(twin)
    assert checksum(twin) == before


def test_what_is_set_of_a_library_s_object_is_a_change() -> None:
    value = _masked()
    before = measure(value).sum
    value.fill_value = 7.0
    assert checksum(value) != before
    value.mask = False
    assert checksum(value) != before


def test_a_copy_of_a_tensor_of_inference_mode_may_be_changed() -> None:
    copied(inference(3)).add_(1)


def test_a_copy_of_a_read_only_array_may_be_changed() -> None:
    value = np.zeros(3)
    value.flags.writeable = False
    copied(Pair(value)).pixels.fill(1)
    assert value.sum() == 0


def test_a_view_counts_what_it_keeps() -> None:
    whole = np.zeros((1000, 1000), np.uint8)
    tensor = torch.zeros(1000, 1000, dtype=torch.uint8)
    for value in (
        whole[:8, :8], whole.T[:8][::2], tensor[:8, :8], tensor.numpy()[:8, :8], Pair(tensor[0]), [whole[0], whole[1]],
        np.lib.stride_tricks.as_strided(whole, (2, 2)), np.frombuffer(bytes(1_000_000), np.uint8)[:8],
    ):  # fmt: skip
        assert 1_000_000 <= measure(value).size < 1_100_000


def _closure() -> Any:
    content = bytes(200_000)
    return lambda: content


@pytest.mark.parametrize("value", [
    memoryview(bytearray(200_000))[:4], io.BytesIO(bytes(200_000)).getbuffer()[:8], memoryview(bytes(200_000))[::2][:4],
    memoryview(np.zeros(200_000, np.uint8)[:100].data)[:4], np.frombuffer(memoryview(bytearray(200_000))[:8], np.uint8),
    memoryview(array.array("b", bytes(200_000)))[:1], Keeper().filled(), Keeper(bytes(200_000)).method,
    bytearray(200_000).copy, [1, _closure()], Pair(_closure()), Telling(bytes(200_000)), Reducing(bytes(200_000)),
    Telling(bytearray(200_000)).method, Keeper().remembering(), Telling().filled(),
    functools.partial(Keeper(bytes(200_000)).method), Curve(memoryview(bytearray(200_000))[:4]),
    Keeper(_closure()), {Keeper(bytes(200_000)).method}, functools.cache(Keeper(bytes(200_000)).method),
], ids=range(21))  # fmt: skip
def test_what_is_kept_out_of_sight_counts(value: Any) -> None:
    assert 200_000 <= measure(value).size < 300_000


def test_what_a_module_keeps_does_not_count() -> None:
    for value in (measure, logging.getLogger("graphengine").info, Keeper.method, len, functools.wraps, np.zeros):
        assert measure([value]).size < 5_000
        assert not measure([value]).unseen


def test_sizes_are_those_of_what_is_held() -> None:
    assert measure(Own()).size < 10_000
    assert measure(Pair(bytes(100_000))).size > 100_000
    assert measure(PIL.Image.new("RGB", (100, 100))).size >= 40_000
    assert measure(torch.nn.Linear(100, 100)).size >= 40_400
    assert measure({"a": [Pair(Big(1, 50_000))]}).size >= 50_000
    assert measure(list(range(1000))).size >= 28_000


def test_what_shows_nothing_of_itself_is_not_kept() -> None:
    memory = Memory(1 << 40)

    for value in ((n for n in range(3)), [iter(range(3)), threading.Thread()], io.TextIOWrapper(io.BytesIO())):
        memory.put(b"k", Entry(value))
    assert set(memory.entries) <= {b"k"}
    assert measure(n for n in range(3)).unseen
    assert not measure(Own()).unseen


@pytest.mark.parametrize(
    "kind", ["own", "dataclass", "picture", "view", "buffer", "property", "method", "closure", "state"]
)
def test_hundreds_of_runs_stay_inside_the_budget(kind: str) -> None:
    def own(number: int) -> Own:
        value = Own(number)
        value.items.append(bytearray(100_000))
        return value

    make: dict[str, Callable[[int], Any]] = {
        "own": own,
        "dataclass": lambda n: Pair(np.zeros(100_000, np.uint8), [str(n)]),
        "picture": lambda n: PIL.Image.new("L", (400, 250)),
        "view": lambda n: np.zeros((1000, 100), np.uint8)[:1],
        "buffer": lambda n: memoryview(bytearray(100_000))[:4],
        "property": lambda n: Keeper(n).filled(),
        "method": lambda n: Keeper(bytes(100_000)).method,
        "closure": lambda n: _closure(),
        "state": lambda n: Telling(bytes(100_000)),
    }

    @node(version=1)
    def made(n: int) -> Any:
        return make[kind](n)

    store = Store(memory=1_000_000)
    for n in range(200):
        with Graph() as graph:
            graph.output("value", made(n))
        graph.run(store=store)
        assert store.memory.used <= 1_000_000
        assert len(store.memory.entries) <= 10
    assert len(store.memory.entries) >= 3


class Point:
    """Can be in a set, and be changed."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers


def test_sets_in_sets_are_walked_once_each() -> None:
    nested = frozenset([Point([1])])
    for _ in range(40):
        nested = frozenset([(nested, 1), (nested, 2)])
    assert checksum(nested) == checksum(nested)
    assert measure(lambda: nested).size > 0


def test_what_can_be_changed_in_a_frozen_set_is_seen() -> None:
    point = Point([1])
    frozen = frozenset([point])
    before = checksum(frozen)
    point.numbers.append(2)
    assert before is not None
    assert checksum(frozen) != before


def test_what_leads_to_half_of_the_program_has_no_size(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [[n] for n in range(1000)]
    assert not measure(lambda: many).unseen
    monkeypatch.setattr("graphengine.values.checksum.MOST_ASIDE", 100)
    assert measure(lambda: many).unseen
    assert measure(threading.current_thread()).unseen
