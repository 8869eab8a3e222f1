"""What an argument adds to a key is the same before a run and during it, for one resolver answers both."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

from graphengine import File, Graph, Link, NodeError, SocketType, Store, Uses, each, node, register_type, when
from graphengine.errors import shorten
from graphengine.planning.arguments import Resolver, own_salt
from graphengine.planning.inputs import bind_inputs
from graphengine.planning.plan import take_plan
from graphengine.testing import Recorder
from tests.graphengine.sample import divide, inc, is_positive


class Speed(enum.Enum):
    FAST = "fast"


@dataclass(frozen=True)
class Weights:
    name: str


register_type(SocketType(Weights, "TestArgumentWeights", digest=lambda weights, part: f"{weights.name} {part}"))


@dataclass
class Work:
    """Holds a path beside what works by changing."""

    file: Path
    lock: Any


@node(version=1)
def takes(x: Any) -> str:
    return str(x)


@node(version=1)
def takes_typed(number: float = 2.0, speed: Speed = Speed.FAST, numbers: tuple[int, ...] = (), given: int = 7) -> str:
    return f"{number!r} {speed} {numbers} {given}"


@node(version=1)
def reads(file: Annotated[Path, File()], other: Path | None = None) -> str:
    return f"{file.read_text()} {other is None or other.read_text()}"


@node(version=1)
def reads_all(files: list[Path]) -> str:
    return " ".join(file.read_text() for file in files)


DEFAULT = Path(__file__).parents[1].joinpath("sample.py")


@node(version=1)
def reads_default(file: Path = DEFAULT, n: int = 1) -> int:
    return len(file.read_text()) + n


@node(version=1)
def path_of(text: str) -> Path:
    return Path(text)


@node(version=1)
def weights(file: Annotated[Path, File()], more: str = "") -> Weights:
    return Weights(file.name + more)


@node(version=1)
def uses(weights: Annotated[Weights, Uses("vae")]) -> str:
    return weights.name


@node(version=1)
def uses_all(weights: Annotated[list[Any], Uses("vae")], n: int = 0) -> str:
    return str(weights)


@node(version=1)
def works(work: Work) -> str:
    with work.lock:
        return work.file.read_text()


@node(version=1)
def fills(work: Work) -> str:
    work.lock.append(work.file)
    return work.file.read_text()


Build = Callable[[Graph, Path], Any]
"""Adds the node `n` to a graph, given a file."""

X = Link("inputs", "x")


def declared(kind: Any, annotation: Any, default: Any, socket: str = "x", **others: Any) -> Build:
    def build(g: Graph, _: Path) -> None:
        g.input("x", annotation, default=default)
        g.add(kind, "n", **{socket: X}, **others)

    return build


def held(value: Any) -> Build:
    def build(g: Graph, _: Path) -> None:
        g.values["v"] = value
        g.add(takes, "n", x=Link("values", "v"))

    return build


def declared_path(g: Graph, file: Path) -> None:
    g.input("x", Path, default=Path(file.name))
    g.base = file.parent
    g.add(reads, "n", file=X)


def relative(g: Graph, file: Path) -> None:
    g.base = file.parent
    g.add(reads, "n", file=file.name, other=Path(file.name))


def mixed(g: Graph, _: Path) -> None:
    g.input("x", list[int], default=[5])
    g.add(inc, "a", x=1)
    g.add(divide, "d", a=7, b=2)
    g.add(takes, "n", x=[Link("a"), 3, [4, [None, "text"]], [Link("d", "rest"), {"k": [6]}], X])


def of_port(g: Graph, _: Path) -> None:
    g.add(divide, "d", a=7, b=2)
    g.add(inc, "n", x=Link("d", "rest"), by=Link("d", "quotient"))


def of_links(g: Graph, _: Path) -> None:
    g.add(divide, "d", a=7, b=2)
    g.add(takes, "n", x=Link("d"))


def of_reference(g: Graph, file: Path) -> None:
    g.add(weights, "w", file=file)
    g.add(uses, "n", weights=Link("w"))


def of_references(g: Graph, file: Path) -> None:
    g.input("x", str, default="y")
    g.add(weights, "w", file=file, more=X)
    g.add(uses_all, "n", weights=[Link("w"), [Link("w"), 1]])


def linked_path(g: Graph, file: Path) -> None:
    g.add(path_of, "p", text=str(file))
    g.add(reads, "n", file=Link("p"), other=file)


def linked_paths(g: Graph, file: Path) -> None:
    g.add(path_of, "p", text=str(file))
    g.add(reads_all, "n", files=[Link("p"), file])


def literal(kind: Any, **arguments: Any) -> Build:
    return lambda g, _: g.add(kind, "n", **arguments)


class Thing:
    """No data."""


KNOWN: dict[str, Build] = {
    "a literal": literal(takes, x=1),
    "literals that are coerced": literal(takes_typed, number=1, speed="fast", numbers=[1, 2]),
    "a literal that can be changed": literal(takes, x={"a": [1]}),
    "a literal as its type is": literal(takes_typed, number=3.0),
    "a null": literal(takes, x=None),
    "a declared input": declared(takes, int, 3),
    "a declared input that can be changed": declared(takes, list[int], [3]),
    "a declared input that is coerced": declared(takes_typed, int, 3, "number"),
    "a null for a default": declared(takes_typed, int, None, "given", number=1.0),
    "a null that is meant": declared(takes, int, None),
    "a held value": held(frozenset({1, 2})),
    "a held dictionary": held({"a": {1}}),
    "a path": lambda g, file: g.add(reads, "n", file=file),
    "a relative path": relative,
    "a path as declared input": declared_path,
    "paths in a list": lambda g, file: g.add(reads_all, "n", files=[file, str(file)]),
    "a default path": literal(reads_default),
    "a default path beside a literal": literal(reads_default, n=2),
    "a port": of_port,
    "a link to several outputs": of_links,
    "links and literals in a list": mixed,
    "a reference to weights": of_reference,
    "references in a list": of_references,
}
"""Arguments whose part of the key is known before the run."""

FOUND: dict[str, Build] = {"a path through a link": linked_path, "paths through links in a list": linked_paths}
"""Arguments whose part of the key only the run finds."""


def volatile_in_list(g: Graph, _: Path) -> None:
    g.input("x", Any, default=Thing())
    g.add(inc, "a", x=1)
    g.add(takes, "n", x=[Link("a"), X])


def volatile_literal_in_list(g: Graph, _: Path) -> None:
    g.add(inc, "a", x=1)
    g.add(takes, "n", x=[Link("a"), [Thing()]])


VOLATILE: dict[str, Build] = {
    "a literal": literal(takes, x=Thing()),
    "a declared input": declared(takes, Any, Thing()),
    "a held value": held(Thing()),
    "a declared input in a list": volatile_in_list,
    "a literal in a list": volatile_literal_in_list,
    "paths beside it": lambda g, file: g.add(works, "n", work=Work(file, threading.Lock())),
}
"""What has no canonical form: it has a key in its run only."""


def in_workflow(part: Graph) -> Any:
    return part(i=0)


def mapped(part: Graph) -> Any:
    return each([0], lambda i: part(i=i))


def behind_condition(part: Graph) -> Any:
    return when(is_positive(1), part(i=0), None)


PART: list[Graph] = []


@node(version=1, expand=True)
def calls_part(i: int) -> Any:
    return PART[0](i=i)


def in_body(_: Graph) -> Any:
    return calls_part(0)


WAYS = [in_workflow, mapped, behind_condition, in_body]
"""How the node is reached so that its key must be found during the run."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("content")
    return tmp_path / "a.txt"


def plain_graph(build: Build, file: Path) -> Graph:
    g = Graph()
    build(g, file)
    g.output("o", Link("n"))
    return g


def expanding(build: Build, file: Path, way: Callable[[Graph], Any]) -> Graph:
    part = Graph("part")
    part.input("i", int)
    build(part, file)
    part.output("o", Link("n"))
    PART[:] = [part]
    with Graph() as g:
        g.output("o", way(part))
    return g


def reuse(graph: Graph, store: Store) -> tuple[Any, dict[str, str]]:
    """The output, and how the values of the nodes called `n` came."""
    recorder = Recorder()
    value = graph.run(store=store, listeners=[recorder])["o"]
    found = {id: why.name for id, why in recorder.why.items() if id.split("/")[-1].split("#")[0] == "n"}
    return (value[0] if isinstance(value, list) else value), found


def known_key(graph: Graph) -> bytes | None:
    plan = take_plan(graph, bind_inputs(graph, {}), None)
    plan.assign(["n"])
    return plan.keys["n"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [*KNOWN, *FOUND])
def test_a_key_known_before_a_run_is_the_key_found_during_it(kind: str, way: Any, file: Path) -> None:
    build = (KNOWN | FOUND)[kind]
    plain, reached = plain_graph(build, file), expanding(build, file, way)
    key = known_key(plain)
    assert (key is not None) == (kind in KNOWN)
    store = Store()
    value, found = reuse(reached, store)
    assert list(found.values()) == ["COMPUTED"]
    assert key is None or store.peek(key) is not None
    assert reuse(plain, store) == (value, {"n": "MEMORY"})
    assert reuse(plain, Store()) == (value, {"n": "COMPUTED"})
    assert list(reuse(reached, store)[1].values()) == ["MEMORY"]


@pytest.mark.parametrize("kind", VOLATILE)
def test_what_is_no_data_has_no_key_either_way(kind: str, file: Path) -> None:
    store = Store()
    assert known_key(plain_graph(VOLATILE[kind], file)) is None
    for graph in (plain_graph(VOLATILE[kind], file), *(expanding(VOLATILE[kind], file, way) for way in WAYS)):
        for _ in range(2):
            assert list(reuse(graph, store)[1].values()) == ["COMPUTED"]


def test_what_is_given_and_works_by_changing_is_not_guarded_beside_a_path(file: Path) -> None:
    with Graph() as g:
        fills(Work(file, [threading.Lock()]))
    assert g.run(store=Store()) == {"fills": "content"}


@pytest.mark.parametrize("way", WAYS)
def test_an_error_tells_what_was_given_either_way(way: Any, file: Path) -> None:
    def build(g: Graph, _: Path) -> None:
        g.input("x", Path, default=file)
        g.add(reads, "n", file="nothing.txt", other=X)

    told: list[Any] = []
    for graph in (plain_graph(build, file), expanding(build, file, way)):
        with pytest.raises(NodeError, match=r"there is no file or folder .*nothing\.txt") as error:
            graph.run(store=Store())
        told.append((error.value.type, error.value.inputs))
    assert told[0] == told[1] == (reads.full_name, {"file": shorten("nothing.txt"), "other": shorten(file)})


@pytest.mark.parametrize("kind", [kind for kind in KNOWN if kind not in ("a port", "a link to several outputs")])
def test_both_ways_go_through_one_resolver(kind: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there from the start is resolved by `Resolver.given` alone, and it gives the same either way."""
    given, found = Resolver.given, list[tuple[str, str, Any]]()

    def recorded(self: Resolver, kind: Any, name: str, argument: Any) -> Any:
        value = given(self, kind, name, argument)
        found.append((kind.name, name, value))
        return value

    monkeypatch.setattr(Resolver, "given", recorded)
    calls = []
    for graph in (plain_graph(KNOWN[kind], file), expanding(KNOWN[kind], file, in_workflow)):
        found.clear()
        graph.run(store=Store())
        calls.append(sorted({repr(call) for call in found}))
    assert calls[0] == calls[1] != []


def test_a_path_through_a_link_goes_through_it_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linked, names = Resolver.linked, list[str]()

    def recorded(self: Resolver, kind: Any, name: str, source: Any) -> Any:
        names.append(name)
        return linked(self, kind, name, source)

    monkeypatch.setattr(Resolver, "linked", recorded)
    plain_graph(linked_path, file).run(store=Store())
    expanding(linked_path, file, in_workflow).run(store=Store())
    assert names == ["file", "file"]


@node(version=1)
def marked(x: int) -> int:
    return x


@marked.fingerprint
def _mark_of_odd(x: int) -> str | None:
    return "odd" if x % 2 else None


def test_a_fingerprint_of_none_leaves_the_key_as_it_is_without_one() -> None:
    assert own_salt(marked, {"x": 2}, "salt") == own_salt(takes, {"x": 2}, "salt") == "salt"
    assert own_salt(marked, {"x": 3}, "salt") == ("salt", "odd")
