"""A script's and a notebook's own nodes, packs that are loaded by hand, and values of their own classes in files."""

import dataclasses
import enum
import functools
import importlib
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pytest

from graphengine import Choices, Graph, PackError, WorkflowError, load, load_pack, node
from graphengine.api import loads
from graphengine.cache.tree import from_tree, packed, to_tree, unpacked
from graphengine.declare import registry
from graphengine.errors import NotStorable
from graphengine.workflow.files import dumps, to_document
from tests import ROOT

PATHS = [str(ROOT), str(ROOT / "nodes")]


def program(folder: Path, code: str, **environment: str) -> str:
    """What a script prints; the installed packs are left out of it, so that it is quick."""
    (folder / "script.py").write_text(textwrap.dedent(code))
    own = {"PYTHONPATH": ":".join(PATHS), "PATH": "", **environment}
    done = subprocess.run(
        [sys.executable, "script.py"], capture_output=True, text=True, timeout=120, cwd=folder, env=own
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SCRIPT = """
    import enum
    from dataclasses import dataclass
    from pathlib import Path
    from graphengine import Graph, load, node

    class Mode(enum.Enum):
        FAST = "fast"
        SLOW = "slow"

    @dataclass
    class Size:
        width: int
        height: int = 3

    @node
    def twice(x: int) -> int:
        return 2 * x

    @node
    def area(size: Size, mode: Mode = Mode.SLOW) -> str:
        return f"{size.width * size.height} {mode.name}"
"""


def test_a_scripts_own_nodes_are_saved_and_loaded_in_the_same_program_and_in_the_next(tmp_path: Path) -> None:
    code = (
        SCRIPT
        + """
    if not Path("own.yaml").exists():
        with Graph() as g:
            mode = g.input("mode", Mode, Mode.FAST)
            g.output("y", twice(4))
            g.output("area", area(Size(2), mode))
        g.save("own.yaml")
        assert load("own.yaml") == g
    print(load("own.yaml")(), load("own.yaml")(mode="SLOW")["area"])
    """
    )
    expected = "{'y': 8, 'area': '6 FAST'} 6 SLOW"
    assert program(tmp_path, code) == expected
    assert "main.twice" in (tmp_path / "own.yaml").read_text()
    assert "type: main.Mode" in (tmp_path / "own.yaml").read_text()
    assert program(tmp_path, code) == expected  # before any node is used
    problems = load(tmp_path / "own.yaml").problems()  # another program
    assert any("only that program has; put it into a .py file" in p.what for p in problems)


def test_a_module_beside_a_script_has_nodes_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    source = "from graphengine import node\n@node\ndef inc(x: int) -> int: return x + 1\n"
    (tmp_path / "mine" / "more.py").write_text(source)
    code = """
    from graphengine import Graph, load
    from mine.more import inc
    with Graph() as g:
        g.output("y", inc(4))
    g.save("own.json")
    print(load("own.json")(), next(iter(load("own.json").nodes.values())).type)
    """
    assert program(tmp_path, code) == "5 mine.inc"


@node
def halve(x: int) -> int:
    return x // 2


def scaling(factor: int) -> Any:
    @node
    def scale(x: int) -> int:
        return x * factor

    return scale


def test_what_no_name_leads_back_to_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    for made in (scaling(2), node(name="part")(functools.partial(halve.fn, 3))):
        with Graph() as g:
            g.output("y", made(**({"x": 1} if made.sockets else {})))
        with pytest.raises(WorkflowError, match=r"(?s)tests\.(scale|part) stands under no name .*define it there, or"):
            g.save(tmp_path / "w.yaml")
    assert not (tmp_path / "w.yaml").exists()


def test_a_cell_that_was_run_again_is_told_unless_it_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules[__name__]
    first, same, other = (node(scaling(factor).fn) for factor in (2, 2, 3))
    monkeypatch.setattr(module, "scale", first, raising=False)
    with Graph() as g:
        g.output("y", first(4))
    g.save(tmp_path / "w.yaml")
    assert load(tmp_path / "w.yaml")() == 8
    monkeypatch.setattr(module, "scale", same)
    g.save(tmp_path / "w.yaml")
    monkeypatch.setattr(module, "scale", other)
    with pytest.raises(WorkflowError, match=r"tests\.scale is another node by now .*build the graph again"):
        g.save(tmp_path / "w.yaml")


# --- packs that are loaded by hand ---


@pytest.fixture
def pack(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / f"own_{abs(hash(tmp_path)) % 10**9}"
    folder.mkdir()
    (folder / "a.py").write_text(
        "from graphengine import node\nfrom .helper import FACTOR\n@node\ndef times(x: int) -> int: return FACTOR * x\n"
    )
    (folder / "helper.py").write_text("FACTOR = 3\n")
    yield folder
    registry._registry.folders.pop(folder.name, None)
    registry._forget(f"{registry.FOLDERS}.{folder.name}")


def test_a_pack_is_loaded_by_hand_and_read_again_only_when_it_changed(pack: Path) -> None:
    nodes = load_pack(pack)
    assert set(nodes) == {"times"}
    assert nodes["times"](2) == 6
    assert load_pack(str(pack))["times"] is nodes["times"]
    (pack / "helper.py").write_text("FACTOR = 5\n")
    assert load_pack(pack)["times"](2) == 10
    assert pack in registry.folders()


def test_one_file_is_a_pack(tmp_path: Path, pack: Path) -> None:
    file = tmp_path / f"{pack.name}_file.py"
    file.write_text("from graphengine import node\n@node\ndef neg(x: int) -> int: return -x\n")
    assert load_pack(file)["neg"].full_name == f"{file.stem}.neg"
    (tmp_path / "w.yaml").write_text(f"nodes: {{a: {{node: {file.stem}.neg, with: {{x: 2}}}}}}\nversion: 1\n")
    assert load(tmp_path / "w.yaml", packs=[file, pack]).run(want="a") == -2


def test_a_pack_that_does_not_load_is_told(tmp_path: Path, pack: Path) -> None:
    with pytest.raises(PackError, match="there is no such folder"):
        load_pack(tmp_path / "nowhere")
    (pack / "b.py").write_text("from helper import FACTOR\n")
    with pytest.raises(PackError, match=r"No module named 'helper'; helper lies beside it .*`from \.helper import"):
        load_pack(pack)
    (tmp_path / "w.yaml").write_text("version: 1\nnodes: {}\n")
    with pytest.raises(PackError, match=r"from \.helper import"):
        load(tmp_path / "w.yaml", packs=[pack])


def test_a_scripts_node_is_named_as_the_pack_has_it_once_that_is_loaded(tmp_path: Path, pack: Path) -> None:
    text = "version: 1\nnodes: {a: {node: main.times, with: {x: 2}}}\n"
    (before,) = map(str, loads(text).problems())
    assert "write PACK.times in the file" in before
    load_pack(pack)
    (told,) = map(str, loads(text).problems())
    assert f"loaded as a pack it is {pack.name}.times: write that in the file" in told
    assert "put it into" not in told


def test_a_script_that_saves_when_it_is_loaded_as_a_pack(tmp_path: Path, pack: Path) -> None:
    file = tmp_path / f"{pack.name}_saves.py"
    file.write_text(f"""
from dataclasses import dataclass
from graphengine import Graph, load, node

@dataclass
class Size:
    width: int

@node
def split(x: int, size: Size | None = None) -> int:
    return x * 2

with Graph() as g:
    g.output("y", split(4, g.input("size", Size, Size(3))))
g.save({str(tmp_path / "w.yaml")!r})
AGAIN = load({str(tmp_path / "w.yaml")!r})()
""")
    split = load_pack(file)["split"]
    assert split.fn.__globals__["AGAIN"] == 8
    assert load(tmp_path / "w.yaml").run(progress=False)["y"] == 8
    text = "version: 1\ninputs: {s: {type: main.Size, default: null}}\n"
    assert f"did you mean {file.stem}.Size" in str(loads(text).problems()[0])


def test_the_environment_names_packs(tmp_path: Path, pack: Path) -> None:
    code = f"""
    from graphengine import load
    from graphengine.declare import registry
    open("w.yaml", "w").write("version: 1\\nnodes: {{a: {{node: {pack.name}.times, with: {{x: 2}}}}}}\\n")
    print(load("w.yaml").run(want="a"), *registry.failures())
    """
    told = program(tmp_path, code, GRAPHENGINE_PACKS=f"{pack}:{tmp_path}/nowhere")
    assert told == f"6 node pack {tmp_path}/nowhere: there is no such folder (GRAPHENGINE_PACKS names it)"


# --- values of classes of one's own ---


class Mode(enum.Enum):
    FAST = "fast"
    SLOW = "slow"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Sides(enum.Flag):
    LEFT = 1
    RIGHT = 2


class Point(NamedTuple):
    x: int
    y: float


@dataclass(frozen=True)
class Inner:
    """Declared as a field of another."""

    mode: Mode
    points: tuple[Point, ...] = ()


@dataclass
class Settings:
    size: tuple[int, int]
    inner: Inner
    array: Any = None
    made: list[int] = dataclasses.field(default_factory=list, init=False)

    @functools.cached_property
    def area(self) -> int:
        return self.size[0] * self.size[1]


@dataclass(slots=True)
class Slim:
    n: int


@node
def described(
    settings: Settings,
    mode: Mode = Mode.SLOW,
    level: Level | None = None,
    sides: Sides = Sides.LEFT,
    slim: Slim | None = None,
    size: tuple[int, int] = (1, 1),
) -> str:
    array = None if settings.array is None else float(settings.array.sum())
    return f"{settings.size} {settings.inner} {array} {mode} {level} {sides} {slim} {size}"


@node
def anything(value: Any, more: list[Any] | None = None) -> str:
    return f"{value!r} {more!r}"


described.sockets  # noqa: B018 - declares its types


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return bool(a.dtype == b.dtype and a.shape == b.shape and (a == b).all())
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    return bool(a == b)


SETTINGS = Settings((2, 3), Inner(Mode.FAST, (Point(1, 2.5),)), np.arange(6, dtype=np.int16).reshape(2, 3))
VALUES: list[Any] = [
    SETTINGS, Inner(Mode.SLOW), Mode.FAST, Level.HIGH, Sides.LEFT | Sides.RIGHT, Sides(0), Point(1, 2.0), Slim(3),
    np.arange(3.0)[::-1], np.array("text"), np.array([True, False]), np.float32(1.5), np.int64(7), np.bool_(True),
    b"\x00\xff", {1, 2}, frozenset({"a"}), {1: "a", (2, 3): np.zeros(2)}, [SETTINGS, {"a": (Mode.SLOW, b"")}],
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_values_are_written_and_read_as_what_they_are(value: Any) -> None:
    assert same(unpacked(packed(value)), value)


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_literals_of_every_sort_round_trip_through_files(tmp_path: Path, value: Any, suffix: str) -> None:
    with Graph() as g:
        g.output("a", anything(value, [1, value]))
    g.save(tmp_path / f"w.{suffix}")
    again = load(tmp_path / f"w.{suffix}")
    assert again.problems() == []
    assert again() == g() == f"{value!r} {[1, value]!r}"


def test_what_a_socket_declares_is_written_plainly(tmp_path: Path) -> None:
    with Graph() as g:
        plain = Settings((2, 3), Inner(Mode.FAST))
        g.output("a", described(plain, Mode.FAST, Level.HIGH, slim=Slim(4), size=(5, 6)))
    assert to_document(g)["nodes"]["described"]["with"] == {
        "settings": {"size": [2, 3], "inner": {"mode": "fast", "points": []}, "array": None},
        "mode": "fast", "level": 2, "slim": {"n": 4}, "size": [5, 6],
    }  # fmt: skip
    g.save(tmp_path / "w.yaml")
    assert load(tmp_path / "w.yaml")() == g()


def test_a_dataclass_may_be_written_by_hand_and_is_checked() -> None:
    text = "version: 1\nnodes: {a: {node: tests.described, with: {settings: {size: [1, 2], inner: {mode: MODE}}}}}"
    graph = loads(text.replace("MODE", "SLOW"))
    assert graph.problems() == []
    assert graph.run(want="a").startswith("(1, 2) Inner(mode=<Mode.SLOW: 'slow'>, points=())")
    wrong = loads(text.replace("MODE", "medium")).problems()
    assert [p.where.socket for p in wrong] == ["settings"]


def test_inputs_are_saved_as_what_they_are(tmp_path: Path) -> None:
    with Graph() as g:
        mode = g.input("mode", Mode, Mode.FAST)
        size = g.input("size", tuple[int, int], (2, 3))
        level = g.input("level", Level | None, None)
        g.output("a", described(Settings((1, 1), Inner(Mode.SLOW)), mode, level, size=size))
    document = to_document(g)
    assert document["inputs"] == {
        "mode": {"type": "tests.Mode", "default": "fast"},
        "size": {"type": "tuple[int, int]", "default": [2, 3]},
        "level": {"type": "tests.Level | null", "default": None},
    }
    again = loads(dumps(document))
    assert [i.type for i in again.inputs.values()] == [Mode, tuple[int, int], Level | None]
    assert again() == g()
    assert again(mode="slow", size=[4, 5], level="HIGH") == g(mode=Mode.SLOW, size=(4, 5), level=Level.HIGH)
    with pytest.raises(WorkflowError, match="is not one of fast, slow"):
        again(mode="fats")


# --- enums ---


@node
def choose(mode: Mode, modes: list[Mode] | None = None, one: Annotated[Mode, Choices(Mode.FAST)] = Mode.FAST) -> str:
    return f"{mode} {modes} {one}"


@node(expand=True)
def choose_later(mode: Mode) -> str:
    assert type(mode) is Mode
    return choose(mode)


@pytest.mark.parametrize("written", ["fast", "FAST", Mode.FAST])
def test_an_enum_takes_members_values_and_names(written: Any) -> None:
    with Graph() as g:
        g.output("a", choose(written, [written, Mode.SLOW], written))
        g.output("b", choose_later(written))
    assert g.problems() == []
    assert g()["a"] == "Mode.FAST [<Mode.FAST: 'fast'>, <Mode.SLOW: 'slow'>] Mode.FAST"
    assert g()["b"] == "Mode.FAST None Mode.FAST"


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: choose("fats"), "'fats' is not one of fast, slow"),
        (lambda: choose(3), "3 is not one of fast, slow"),
        (lambda: choose(True), "True is not one of fast, slow"),
        (lambda: choose("fast", one="slow"), "'slow' is not one of fast"),
        (lambda: choose(halve(3)), "it is one of fast, slow"),
    ],
)
def test_what_is_no_member_is_told_with_the_choices(build: Callable[[], Any], told: str) -> None:
    with Graph(), pytest.raises(WorkflowError, match=told):
        build()


@pytest.mark.parametrize("annotation", [str, Mode, Literal["fast", "slow"], Literal["fast"], Mode | str])
def test_links_from_inputs_with_choices_fit_an_enum(annotation: Any) -> None:
    with Graph() as g:
        g.output("a", choose(g.input("mode", annotation, "fast", choices=Choices("fast", "slow")), ["slow"]))
    assert g.problems() == []
    assert g() == "Mode.FAST [<Mode.SLOW: 'slow'>] Mode.FAST"


def test_a_list_of_texts_fits_a_list_of_members() -> None:
    with Graph() as g:
        g.output("a", choose("fast", g.input("modes", list[str], ["slow", "FAST"])))
    assert g() == "Mode.FAST [<Mode.SLOW: 'slow'>, <Mode.FAST: 'fast'>] Mode.FAST"


@pytest.mark.parametrize("annotation", [int, Literal["fast", "medium"], Level])
def test_links_from_other_inputs_do_not_fit_an_enum(annotation: Any) -> None:
    with Graph() as g, pytest.raises(WorkflowError, match="wants Mode"):
        choose(g.input("mode", annotation))


# --- numbers of numpy ---


@node
def single(x: np.float32) -> np.float32:
    return np.float32(x / 2)


@node
def small(x: np.int8) -> np.int8:
    return x


@node
def halved(x: float) -> float:
    return x / 2


@node
def counted(x: int) -> int:
    return x


def test_numbers_of_numpy_fit_what_they_are() -> None:
    with Graph() as g:
        g.output("single", single(np.float32(3)))
        g.output("linked", halved(single(3)))
        g.output("float", halved(np.float32(3)))
        g.output("whole", counted(np.int64(3)))
        g.output("small", counted(small(100)))
    found = g()
    assert found == {"single": 1.5, "linked": 0.75, "float": 1.5, "whole": 3, "small": 100}
    assert type(found["single"]) is np.float32
    assert type(found["float"]) is float


@pytest.mark.parametrize("build", [lambda: small(300), lambda: small(1.5), lambda: counted(single(3)),
                                   lambda: single("a"), lambda: single(True)])  # fmt: skip
def test_what_is_no_such_number_is_refused(build: Callable[[], Any]) -> None:
    with Graph(), pytest.raises(WorkflowError):
        build()


# --- what has no form ---


@dataclass
class Undeclared:
    x: int


class Table(dict[str, int]):
    pass


@dataclass
class Grown(dict):  # type: ignore[type-arg]
    x: int = 1


@node
def grown(x: Grown) -> int:
    return x.x


grown.sockets  # noqa: B018


def with_more() -> Slim | Settings:
    value = Settings((1, 2), Inner(Mode.FAST))
    value.note = "more"  # type: ignore[attr-defined]
    return value


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Undeclared(1), "name the class in the annotations of a node"),
        (with_more(), "it holds note, which are no fields"),
        (Grown(), "make it a dataclass of such values, or"),
        (Table(), "make it a dataclass of such values, or"),
        (np.array([object()]), "an array of Python objects"),
        (Settings((1, 2), Inner(Mode.FAST), array=len), "builtin_function_or_method has no form"),
    ],
)
def test_what_has_no_form_is_told_with_the_remedy(tmp_path: Path, value: Any, told: str) -> None:
    with pytest.raises(NotStorable, match=told):
        to_tree(value, lambda name, content: None)
    with Graph() as g:
        g.output("a", anything(value))
    with pytest.raises(WorkflowError, match=told):
        g.save(tmp_path / "w.yaml")


@pytest.mark.parametrize(
    "tree",
    [
        {"fields": ["subprocess", "Popen"], "dict": {"args": {"json": "true"}}},
        {"fields": ["this", "d"], "dict": {}},
        {"fields": [__name__, "Undeclared"], "dict": {"x": {"json": 1}}},
        {"fields": [__name__, "Point"], "dict": {"x": {"json": 1}}},
        {"fields": [__name__, "Slim"], "dict": {"y": {"json": 1}}},
        {"named": [__name__, "Slim"], "tuple": [{"json": 1}]},
        {"member": "FAST", "of": [__name__, "Slim"]},
        {"number": "ndarray", "of": {"json": 1}},
        {"number": "save", "of": {"json": 1}},
    ],
    ids=str,
)
def test_a_file_makes_only_what_a_node_declares(tree: Any) -> None:
    before = set(sys.modules)
    with pytest.raises((LookupError, ValueError)):
        from_tree(tree, lambda name: b"")
    assert set(sys.modules) == before


def test_a_damaged_value_is_a_problem(tmp_path: Path) -> None:
    with Graph() as g:
        g.output("a", anything(SETTINGS))
    g.save(tmp_path / "w.yaml")
    held = next(tmp_path.glob("*.packed"))
    held.write_bytes(held.read_bytes()[:-1])
    assert load(tmp_path / "w.yaml").problems()[0].kind == "bad value"


def test_two_modules_of_a_pack_may_have_classes_of_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = tmp_path / "twofold"
    pack.mkdir()
    (pack / "__init__.py").write_text("")
    for module, member in (("early", "red"), ("late", "blue")):
        (pack / f"{module}.py").write_text(
            "import enum\nfrom graphengine import node\n\n"
            f"class Tone(enum.Enum):\n    ONLY = {member!r}\n\n"
            f"@node(version=1)\ndef {module}_tone(tone: Tone = Tone.ONLY) -> Tone:\n    return tone\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("twofold", "twofold.early", "twofold.late"):
        monkeypatch.setitem(sys.modules, name, importlib.import_module(name))
    graphs = {}
    for name in ("early", "late"):
        module = sys.modules[f"twofold.{name}"]
        with Graph() as g:
            g.output("tone", getattr(module, f"{name}_tone")(g.input("tone", module.Tone, module.Tone.ONLY)))
        graphs[module.Tone] = g
    for tone, g in graphs.items():
        again = loads(dumps(to_document(g)))
        assert again.inputs["tone"].type is tone
        assert again(tone=tone.ONLY.value) is tone.ONLY
        assert unpacked(packed(tone.ONLY)) is tone.ONLY
