"""Keys hold what decides a result, and nothing else."""

import enum
import os
from dataclasses import dataclass, make_dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphengine import Added, File, FileError, Graph, NodeDefinitionError, SocketType, Store, Uses, node, register_type
from graphengine.keys import files as files_module
from graphengine.keys.call_key import node_key
from graphengine.keys.files import fingerprint, resolve
from graphengine.testing import Recorder
from graphengine.values.canonical import NotData, canonical, digest
from tests.graphengine.sample import CALLS, Big, Division, add, divide, half, inc, same, total, until


@pytest.fixture(autouse=True)
def _fresh() -> None:
    CALLS.clear()


def computed_after(first: Graph, second: Graph) -> dict[str, int]:
    """What a run of the second graph computes after one of the first."""
    store, recorder = Store(), Recorder()
    first.run(store=store)
    second.run(store=store, listeners=[recorder])
    return {name.removeprefix("tests."): count for name, count in recorder.computed.items()}


# --- the canonical form ----------------------------------------------------------------------------------------------


class Mode(enum.Enum):
    ONE = 1
    TWO = 2


class Text(str, enum.Enum):  # noqa: UP042
    ONE = "1"


class Number(enum.IntEnum):
    ONE = 1


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 0


@dataclass(frozen=True)
class Place:
    x: int
    y: int = 0


class Array:
    """What the engine knows of an array, without numpy."""

    def __init__(self, content: bytes, dtype: str, shape: tuple[int, ...]) -> None:
        self.content, self.dtype, self.shape = content, dtype, shape

    def tobytes(self) -> bytes:
        return self.content


OTHER_MODE: Any = enum.Enum("Mode", {"ONE": 1}, module="another")  # type: ignore[misc]
OTHER_POINT: Any = make_dataclass("Point", ["x", "y"], namespace={"__module__": "another"})

DIFFERENT = [
    1, 1.0, True, "1", b"1", None, 0, 0.0, -0.0, False, "", b"", [], [1], [1.0], ["1"], [[1]], [1, 1], [None], {},
    {"a": 1}, {"a": 1.0}, {"b": 1}, {1: "a"}, {"1": "a"}, {"a": {}}, Mode.ONE, Mode.TWO, Text.ONE, Number.ONE,
    Path("1"), Path("1/2"), Point(1), Point(1, 1), Place(1), "None", "[1]", "('list', 1)", ["list", 1], [("list", 1)],
    1e100, 10**100, float("inf"), "\ud800", "é", "e\u0301", Big(1), Big(2), Big(1, 2000),
    Division(1, 2), [1, 2], {1, 2}, OTHER_MODE.ONE, OTHER_POINT(1, 0),
    Array(b"12", "uint8", (2,)), Array(b"12", "int8", (2,)), Array(b"12", "uint8", (1, 2)), Array(b"13", "uint8", (2,)),
]  # fmt: skip


def test_different_values_have_different_forms() -> None:
    forms = {}
    for value in DIFFERENT:
        form = digest(canonical(value))
        assert form not in forms, (value, forms.get(form))
        forms[form] = value


def test_equal_values_have_equal_forms() -> None:
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1})
    assert canonical([1, 2]) == canonical((1, 2))
    assert canonical({1, 2, 3}) == canonical(frozenset({3, 2, 1}))
    assert canonical(Point(1)) == canonical(Point(1, 0))
    assert canonical(Path("a/b")) == canonical(PurePosixPath("a//b"))
    assert canonical(Big(1)) == canonical(Big(1))


@pytest.mark.parametrize("value", [object(), len, lambda: 1, {1, object()}, [object()], {"a": open}, Point(object())])  # type: ignore[arg-type]
def test_what_is_no_data_has_none(value: Any) -> None:
    with pytest.raises(NotData):
        canonical(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def strictly_equal(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(strictly_equal, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(strictly_equal(a[k], b[k]) for k in a)
    return repr(a) == repr(b)


@given(JSON, JSON)
@settings(max_examples=200, deadline=None)
def test_forms_are_equal_exactly_where_values_are(a: Any, b: Any) -> None:
    assert (digest(canonical(a)) == digest(canonical(b))) == strictly_equal(a, b)


# --- Merkle ----------------------------------------------------------------------------------------------------------


def test_ids_titles_and_places_are_no_part() -> None:
    with Graph() as one:
        add(inc(1), inc(2))
    two = Graph("a title", "a description")
    two.ui = {"x": 1}
    two.add(inc, "zweiter", x=2)
    two.add(inc, "erster", x=1)
    two.add(add, "summe", a=two["erster"], b=two["zweiter"])
    assert computed_after(one, two) == {}


def test_literals_and_links_are() -> None:
    with Graph() as one:
        add(inc(1), inc(2))
    with Graph() as swapped:
        add(inc(2), inc(1))
    with Graph() as other:
        add(inc(1), inc(3))
    assert computed_after(one, swapped) == {"add": 1}
    assert computed_after(one, other) == {"inc": 1, "add": 1}


def test_a_default_left_out_or_written_is_the_same() -> None:
    @node(version=1)
    def scaled(x: int, by: float = 1, mode: Mode = Mode.ONE, sizes: list[float] = [1, 2]) -> float:  # noqa: B006
        return x * by

    with Graph() as one:
        scaled(1)
    for given_ in ({"by": 1}, {"by": 1.0}, {"mode": Mode.ONE}, {"sizes": [1, 2]}, {"sizes": (1.0, 2.0)}):
        with Graph() as two:
            scaled(1, **given_)  # type: ignore[arg-type]
        assert computed_after(one, two) == {}, given_
    with Graph() as three:
        scaled(1, by=2)
    assert computed_after(one, three) == {"scaled": 1}


def test_1_and_1_0_are_one_where_a_float_is_wanted_and_two_where_anything_is() -> None:
    for definition, count in ((half, 0), (same, 1)):
        with Graph() as one:
            definition(1)
        with Graph() as two:
            definition(1.0)
        assert sum(computed_after(one, two).values()) == count


def test_an_enum_by_value_or_by_member_is_the_same() -> None:
    @node(version=1)
    def pick(mode: Mode) -> str:
        assert isinstance(mode, Mode)
        return mode.name

    with Graph() as one:
        pick(Mode.TWO)
    two = Graph()
    two.add(pick, mode=2)
    assert computed_after(one, two) == {}


def test_ports_are_part() -> None:
    with Graph() as one:
        inc(divide(7, 2).rest)
    with Graph() as two:
        inc(divide(7, 2).quotient)
    assert computed_after(one, two) == {"inc": 1}


def test_lists_of_links() -> None:
    with Graph() as one:
        total([inc(1), 5, inc(2)])
    with Graph() as two:
        total([inc(1), inc(2), 5])
    assert computed_after(one, one) == {}
    assert computed_after(one, two) == {"total": 1}


def test_versions_and_names_are_part() -> None:
    def f(x: int) -> int:
        return x

    keys = {
        node_key(node(**options)(f), {"x": 1})
        for options in ({"version": 1}, {"version": 2}, {"version": 1, "name": "g"}, {})  # type: ignore[arg-type]
    }
    assert len(keys) == 4
    assert node_key(inc, {"x": 1}) == node_key(inc, {"x": 1, "by": 1})
    assert node_key(inc, {"x": 1}, b"salt") != node_key(inc, {"x": 1})


def test_nothing_is_kept_for_a_salt() -> None:
    node_key(inc, {"x": 1})
    kept = inc.key_template
    assert node_key(inc, {"x": 1}, b"one") != node_key(inc, {"x": 1}, b"two") != node_key(inc, {"x": 1})
    assert inc.key_template is kept


def test_a_declared_input_is_its_value() -> None:
    with Graph() as one:
        inc(one.input("x", int, default=1))
    with Graph() as two:
        inc(1)
    assert computed_after(one, two) == {}


# --- references to weights -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    parts: tuple[tuple[str, str], ...]
    source: str = ""


register_type(
    SocketType(
        Weights, "TestModel",
        digest=lambda w, part: digest_of_weights(w, part),
    )
)  # fmt: skip


def digest_of_weights(weights: Weights, part: str | None) -> str:
    if ("unet", "alive") in weights.parts and part != "vae":
        raise NotData("an object of this process")
    return repr(weights.parts) if part is None else dict(weights.parts)[part]


@node(version=1)
def load(source: str, vae: str = "v1", unet: str = "u1") -> Weights:
    CALLS["load"] += 1
    return Weights((("vae", vae), ("unet", unet)), source)


@node(version=1)
def with_vae(model: Weights, vae: str) -> Weights:
    CALLS["with_vae"] += 1
    return Weights((("vae", vae), model.parts[1]), model.source)


@node(version=1)
def decode(model: Annotated[Weights, Uses("vae")], x: int) -> str:
    CALLS["decode"] += 1
    return f"{dict(model.parts)['vae']} {x}"


@node(version=1)
def whole(model: Weights, x: int) -> str:
    CALLS["whole"] += 1
    return f"{model.parts} {x}"


@node(version=1)
def both(models: Annotated[list[Weights], Uses("vae")]) -> str:
    CALLS["both"] += 1
    return " ".join(dict(m.parts)["vae"] for m in models)


def test_a_reference_is_keyed_by_its_digest_not_by_its_making() -> None:
    with Graph() as one:
        whole(load("here"), 1)
    with Graph() as two:
        whole(with_vae(load("there", vae="v0"), "v1"), 1)
    with Graph() as three:
        whole(load("here", unet="u2"), 1)
    assert "whole" not in computed_after(one, two)
    assert computed_after(one, three)["whole"] == 1


def test_only_the_part_that_is_used_enters_a_key() -> None:
    with Graph() as one:
        m = load("a")
        decode(m, 1)
        both([m, m])
    with Graph() as other_unet:
        m = load("a", unet="u2")
        decode(m, 1)
        both([m, load("b")])
    with Graph() as other_vae:
        m = load("a", vae="v2")
        decode(m, 1)
        both([m, load("b")])
    assert {k for k in computed_after(one, other_unet) if k != "load"} == set()
    assert {k for k in computed_after(one, other_vae) if k != "load"} == {"decode", "both"}


@pytest.mark.parametrize("outside", [False, True])
def test_a_reference_to_what_is_no_data_is_of_this_run_only(outside: bool) -> None:
    held = load("a", unet="alive")
    with Graph() as graph:
        model = held if outside else load("a", unet="alive")
        changed = with_vae(model, "v2")
        whole(changed, 1)
        decode(changed, 1)
    store = Store()
    for _ in range(2):
        CALLS.clear()
        graph.run(store=store)
        assert (CALLS["whole"], CALLS["decode"]) == (1, 1)
    assert not store.memory.entries


def test_references_as_literals_and_inputs() -> None:
    model = Weights((("vae", "v1"), ("unet", "u9")))
    with Graph() as one:
        decode(load("x"), 1)
    with Graph() as two:
        decode(model, 1)
    with Graph() as three:
        decode(three.input("m", Weights, default=model), 1)
    assert computed_after(one, two) == {}
    assert computed_after(one, three) == {}


def test_references_are_made_once_while_nothing_changes() -> None:
    with Graph() as g:
        out = decode(load("a"), g.input("n", int))
    store = Store()
    for n in range(3):
        assert g.run(want=out, inputs={"n": n}, store=store) == f"v1 {n}"
    assert CALLS["decode"] == 3


# --- files -----------------------------------------------------------------------------------------------------------


@node(version=1)
def read(path: Annotated[Path, File()]) -> str:
    CALLS["read"] += 1
    return "".join(sorted(f.name for f in path.iterdir())) if path.is_dir() else path.read_text()


def test_fingerprints_are_of_content_not_of_paths(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("same")
    (tmp_path / "c").write_text("other")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b") != fingerprint(tmp_path / "c")
    (tmp_path / "link").symlink_to(tmp_path / "c")
    assert fingerprint(tmp_path / "link") == fingerprint(tmp_path / "c")


def test_folders_have_fingerprints(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder / "sub").mkdir(parents=True)
        (tmp_path / folder / "a").write_text("x")
        (tmp_path / folder / "sub" / "b").write_text("y")
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")
    (tmp_path / "two" / "sub" / "b").rename(tmp_path / "two" / "sub" / "c")
    assert fingerprint(tmp_path / "one") != fingerprint(tmp_path / "two")
    with Graph() as g:
        out = read(tmp_path / "one")
    store = Store()
    assert g.run(want=out, store=store) == "asub"
    (tmp_path / "one" / "new").write_text("z")
    assert g.run(want=out, store=store) == "anewsub"


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("one")
    before, stat, clock = fingerprint(file), os.stat(file), tmp_path / "clock"

    def the_clock_of_files_has_moved() -> bool:
        clock.write_text("")
        return os.stat(clock).st_ctime_ns > stat.st_ctime_ns

    until(the_clock_of_files_has_moved)
    file.write_text("two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fingerprint(file) != before


def test_the_hash_of_a_large_file_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHENGINE_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "large"
    file.write_bytes(b"x" * files_module.REMEMBERED)
    monkeypatch.setattr(files_module, "FINE", -1)  # it is as old as its hash needs to be remembered
    first = fingerprint(file)
    reads = []
    monkeypatch.setattr(files_module.hashlib, "file_digest", lambda *a: reads.append(a))
    monkeypatch.setattr(files_module, "_known", {})  # as in another process
    assert fingerprint(file) == first
    assert not reads
    monkeypatch.undo()
    monkeypatch.setenv("GRAPHENGINE_CACHE", str(tmp_path / "cache"))
    with open(file, "r+b") as f:
        f.write(b"y")
    assert fingerprint(file) != first


@pytest.mark.parametrize("damage", [b"", b"SQLite format 3\0" + b"x" * 5000, b"noise"])
def test_a_damaged_memory_of_hashes_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes) -> None:
    monkeypatch.setenv("GRAPHENGINE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "hashes.sqlite").write_bytes(damage)
    file = tmp_path / "large"
    file.write_bytes(b"x" * files_module.REMEMBERED)
    assert len(fingerprint(file)) == 64


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        fingerprint(tmp_path / "nothing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(FileError):
        resolve("loop", File(), tmp_path)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "y" * 300])
def test_what_is_no_path_is_told(tmp_path: Path, path: str) -> None:
    with pytest.raises(FileError):
        resolve(path, File(), tmp_path)


def test_names_are_handed_on(tmp_path: Path) -> None:
    rule = File("weights", names=True)
    (tmp_path / "tiny").mkdir()
    assert resolve("stabilityai/sdxl", rule, tmp_path) == "stabilityai/sdxl"
    assert resolve("tiny", rule, tmp_path) == tmp_path / "tiny"
    with pytest.raises(FileError, match="there is no file"):
        resolve("./nothing", rule, tmp_path)
    with pytest.raises(FileError, match="there is no file"):
        resolve("model.safetensors", rule, tmp_path)
    with pytest.raises(FileError, match="outside"):
        resolve("../../etc", rule, tmp_path, [tmp_path])


def test_a_file_to_write_need_not_exist_but_must_lie_inside(tmp_path: Path) -> None:
    rule = File(write=True)
    assert resolve("new.png", rule, tmp_path, [tmp_path]) == tmp_path / "new.png"
    (tmp_path / "out").symlink_to("/")
    for path in ("../new.png", "out/new.png", "/new.png"):
        with pytest.raises(FileError, match="outside"):
            resolve(path, rule, tmp_path, [tmp_path])


def test_a_users_home_is_known_unless_roots_are_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").write_text("")
    assert resolve("~/a", File(), Path("/")) == tmp_path / "a"
    with pytest.raises(FileError):
        resolve("~/a", File(), tmp_path / "x", [tmp_path / "x"])


@dataclass(frozen=True)
class Scroll:
    """A value whose codec says when it is read."""

    text: str


READ: list[str] = []


def _encode_scroll(scroll: Scroll) -> bytes:
    READ.append(scroll.text)
    return scroll.text.encode()


register_type(SocketType(Scroll, "TestScroll", encode=_encode_scroll, decode=lambda data: Scroll(data.decode())))


@node(version=1)
def scroll_length(scroll: Scroll, more: int) -> int:
    """The length of a scroll."""
    return len(scroll.text) + more


def test_a_large_input_is_read_once_however_many_nodes_take_it() -> None:
    """It is hashed for the keys of all of them when it comes."""
    READ.clear()
    with Graph() as graph:
        scroll = graph.input("scroll", Scroll)
        for n in range(10):
            graph.output(f"length{n}", scroll_length(scroll, n))
    result = graph.run(inputs={"scroll": Scroll("long")}, store=Store())
    assert list(result.values()) == list(range(4, 14))
    assert READ == ["long"]


# --- inputs that are added later --------------------------------------------------------------------------------------


@node(version=1)
def with_added(number: int, factor: Annotated[int | None, Added()] = None) -> int:
    """Multiply a number, as it can only lately."""
    return number * (factor or 1)


def test_an_added_input_is_no_part_of_the_key_at_its_default() -> None:
    """That older keys stay is what `tests/written_before` holds, of nodes with such inputs."""
    tokens = {"number": canonical(3)}
    plain = node_key(with_added, tokens)
    assert node_key(with_added, tokens | {"factor": canonical(None)}) == plain
    keys = {node_key(with_added, tokens | {"factor": canonical(factor)}) for factor in (1, 2)}
    assert len(keys | {plain}) == 3


def test_an_added_input_needs_a_default() -> None:
    def without(number: Annotated[int, Added()]) -> int:
        return number

    with pytest.raises(NodeDefinitionError, match="an added input has a default"):
        node(without).sockets  # noqa: B018
