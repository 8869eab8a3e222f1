"""Records of runs, and what they say about the next one."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from graphengine import DiskStore, Graph, SocketType, Store, WorkflowError, each, node, register_type, run, when
from graphengine.results.history import last_run, record, record_file, why


@node(version=1)
def slow(a: int, b: int = 0) -> int:
    """Takes long enough to be kept."""
    time.sleep(0.004)
    return a + b


@node(version=1)
def quick(a: int) -> int:
    """Takes no time."""
    return a + 1


@node(cache="never")
def clock() -> int:
    """Never the same."""
    return time.time_ns()


def graph_of() -> Graph:
    with Graph("history") as graph:
        a = graph.input("a", int, 1)
        first = slow.named("first")(a)
        second = slow.named("second")(first, graph.input("b", int, 2))
        graph.output("out", second)
    return graph


def states(graph: Graph, folder: Path, **inputs: object) -> dict[str, tuple[str, tuple[str, ...]]]:
    store = Store(disk=DiskStore(folder / "store"))
    return {reason.node: (reason.state, reason.differs) for reason in why(graph, inputs, store, folder)}


def done(graph: Graph, folder: Path, **inputs: object) -> None:
    result = run(graph, inputs=inputs, store=Store(disk=DiskStore(folder / "store")))
    record(graph, inputs, result, folder)


def test_what_differs_from_the_last_run(tmp_path: Path) -> None:
    graph = graph_of()
    assert states(graph, tmp_path)["first"] == ("runs", ("there is no record of a run of this workflow",))
    done(graph, tmp_path)
    assert states(graph, tmp_path) == {"first": ("not needed", ()), "second": ("disk", ())}
    assert states(graph, tmp_path, b=3) == {"first": ("disk", ()), "second": ("runs", ("b was 2, is 3",))}
    assert states(graph, tmp_path, a=5) == {
        "first": ("runs", ("a was 1, is 5",)), "second": ("runs", ("a comes from first, which runs",)),
    }  # fmt: skip


def test_memory_is_told_from_disk(tmp_path: Path) -> None:
    graph, store = graph_of(), Store()
    run(graph, store=store)
    assert [reason.state for reason in why(graph, {}, store, tmp_path)] == ["not needed", "memory"]


def test_a_change_of_the_graph(tmp_path: Path) -> None:
    graph = graph_of()
    done(graph, tmp_path)
    graph.replace("second", quick)
    found = states(graph, tmp_path)
    assert found["second"][0] == "runs"
    assert "the node itself or its pack has changed" in found["second"][1]
    graph.add(slow, "third", a=7)
    graph.output("more", graph["third"])
    assert states(graph, tmp_path)["third"] == ("runs", ("it is new: the last run did not have it",))


def test_what_was_too_quick_to_be_kept(tmp_path: Path) -> None:
    with Graph("quick") as graph:
        graph.output("out", quick.named("q")(graph.input("a", int, 1)))
    done(graph, tmp_path)
    state, (reason,) = states(graph, tmp_path)["q"]
    assert state == "runs"
    assert reason.startswith("all is as it was; its value was not kept, as it took ")


def test_what_only_the_run_can_know(tmp_path: Path) -> None:
    with Graph("late") as graph:
        items = each([1, 2], lambda n: slow(n))
        never = slow.named("never")(clock())
        late = slow.named("late")(when(True, 1, never))
        graph.output("items", items)
        graph.output("late", late)
        graph.output("never", never)
    found = {reason.node: reason.state for reason in why(graph, {}, Store(), tmp_path)}
    # `late` may depend on the clock or not: which, only the condition says.
    assert found == {"slow": "later", "clock": "always", "never": "always", "when": "later", "late": "always"}


def test_a_damaged_record_is_no_record(tmp_path: Path) -> None:
    graph = graph_of()
    done(graph, tmp_path)
    file = record_file(graph, tmp_path)
    assert last_run(graph, tmp_path) is not None
    for content in (b"", b"[]", b'{"format": 1, "nodes": {"first": {}}}', b"\xff", b'{"format": 2, "nodes": {}}'):
        file.write_bytes(content)
        assert last_run(graph, tmp_path) is None
        assert states(graph, tmp_path)["second"][0] == "disk"


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    done(graph_of(), tmp_path)
    assert last_run(graph_of(), tmp_path) is None


def test_wrong_inputs_are_told(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match="no input c"):
        states(graph_of(), tmp_path, c=1)


@dataclass(frozen=True)
class Brush:
    """A reference to weights."""

    parts: tuple[str, ...]


class Canvas:
    """A value without a codec."""


register_type(SocketType(Brush, "HistoryBrush", digest=lambda brush, part: repr(brush.parts)))


@node(version=1)
def load_brush(source: str) -> Brush:
    return Brush((source,))


@node(version=1)
def with_style(brush: Brush, style: str, scale: float = 1.0) -> Brush:
    return Brush((*brush.parts, f"{style} {scale}"))


@node(version=1)
def stroke(brush: Brush) -> str:
    time.sleep(0.004)
    return " ".join(brush.parts)


@node(version=1)
def canvas(x: int) -> Canvas:
    time.sleep(0.004)
    return Canvas()


@node(version=1)
def hang_up(canvas: Canvas) -> int:
    time.sleep(0.004)
    return 1


def test_what_changed_in_a_reference_is_named(tmp_path: Path) -> None:
    with Graph("brushes") as graph:
        brush = load_brush.named("model")(graph.input("source", str, "flat"))
        first = with_style.named("first")(brush, "ink", graph.input("ink", float, 0.8))
        second = with_style.named("second")(first, "oil", graph.input("oil", float, 0.5))
        graph.output("out", stroke.named("out")(second))
    done(graph, tmp_path)
    told = "brush comes from second: "
    assert states(graph, tmp_path, ink=0.6)["out"] == ("runs", (f"{told}first.scale was 0.8, is 0.6",))
    assert states(graph, tmp_path, oil=1)["out"] == ("runs", (f"{told}second.scale was 0.5, is 1.0",))
    both = states(graph, tmp_path, oil=1, source="round")["out"][1]
    assert both == (f"{told}second.scale was 0.5, is 1.0; model.source was 'flat', is 'round'",)
    graph.set("first", "style", "chalk")
    assert states(graph, tmp_path)["out"][1] == (f"{told}first.style was 'ink', is 'chalk'",)


def test_a_type_without_a_codec_is_named(tmp_path: Path) -> None:
    with Graph("canvases") as graph:
        graph.output("out", canvas.named("made")(1))
    done(graph, tmp_path)
    why_not = "all is as it was; its value was not kept: Canvas has no codec, so it stays in its process"
    assert states(graph, tmp_path)["made"] == ("runs", (why_not,))
    with Graph("handed in") as graph:
        graph.output("out", hang_up.named("hung")(graph.input("canvas", Canvas)))
    done(graph, tmp_path, canvas=Canvas())
    told = states(graph, tmp_path, canvas=Canvas())["hung"]
    assert told[1] == ("canvas is a Canvas, which has no codec: it is computed in each run",)


LOCK = threading.Lock()


@node
def behind_a_lock(x: int) -> int:
    with LOCK:
        time.sleep(0.004)
        return x


def test_what_cannot_be_followed_is_named(tmp_path: Path) -> None:
    with Graph("locked") as graph:
        graph.output("out", behind_a_lock.named("out")(1))
    done(graph, tmp_path)
    state, (told,) = states(graph, tmp_path)["out"]
    assert state == "runs"
    assert "kept in its process only" in told
    assert "test_history.LOCK (an object of _thread.lock)" in told
