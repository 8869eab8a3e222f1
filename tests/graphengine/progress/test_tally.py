"""What is counted of a run, and how it is said."""

from __future__ import annotations

import pytest

from graphengine import Graph, Store, each, node
from graphengine.events import Event, Kind, Reuse
from graphengine.execution.evaluate import Evaluation
from graphengine.progress.tally import Tally, clock, pace


@node(version=1)
def one_more(x: int) -> int:
    return x + 1


def started(node: str) -> Event:
    return Event(Kind.NODE_STARTED, 1, node)


def finished(node: str) -> Event:
    return Event(Kind.NODE_FINISHED, 1, node, reuse=Reuse.COMPUTED)


def test_lines_of_a_run() -> None:
    tally = Tally("title", lambda: 5)
    assert [line.text for line in tally.lines()] == ["title  0/5 nodes  0:00"]
    tally(started("a"))
    assert [line.label.strip() for line in tally.lines()] == ["title", "a"]
    tally(finished("a"))
    tally(started("b"))
    tally(Event(Kind.PROGRESS, 1, "b", step=3, total=4))
    whole, b = tally.lines()
    assert (whole.done, whole.total, whole.count) == (1, 5, "1/5 nodes")
    assert (b.done, b.total, b.count, b.rate) == (3, 4, "3/4 steps", "")  # one step says nothing of the rate


def test_the_rate_is_counted_from_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    tally = Tally("title", lambda: 1)
    tally(started("a"))
    now = 150.0  # preparing takes long
    tally(Event(Kind.PROGRESS, 1, "a", step=1, total=21))
    now = 152.0
    tally(Event(Kind.PROGRESS, 1, "a", step=11, total=21))
    whole, a = tally.lines()
    assert (a.rate, a.time) == ("5.0 steps/s", "0:02 left")
    assert whole.time == "0:52 (0:02 left)"


def test_events_in_any_order_are_counted_once() -> None:
    """What a run told before it was listened to is told again while it goes on."""
    tally = Tally("title")
    for event in (finished("a"), started("a"), finished("a"), started("b"), started("b")):
        tally(event)
    assert tally.lines()[0].count == "1/2 nodes"


def test_many_nodes_at_once_are_few_lines() -> None:
    tally = Tally("title")
    for n in range(50):
        tally(started(f"a[{n}]"))
    assert len(tally.lines()) == 2
    for n in range(50):
        tally(Event(Kind.PROGRESS, 1, f"a[{n}]", step=1, total=4))
    assert [line.label.strip() for line in tally.lines()][-1] == "and 46 more"


def test_a_run_knows_of_the_items_that_come(monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[int] = []
    drives: list[Evaluation] = []
    init = Evaluation.__init__

    def noted(self: Evaluation, *args: object, **options: int) -> None:
        drives.append(self)
        init(self, *args, **options)

    monkeypatch.setattr(Evaluation, "__init__", noted)
    with Graph() as g:
        first = each([1, 2, 3, 4], one_more)
        g.output("out", each(first, one_more))
    seen: set[str] = set()

    def listen(event: Event) -> None:
        if event.kind is Kind.NODE_FINISHED:
            seen.add(event.node)
            known.append(drives[0].expected())

    g.run(store=Store(), listeners=[listen])
    assert known == [8] * 8 == [len(seen)] * 8


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (7.4, "0:07"), (754, "12:34"), (3723, "1:02:03")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_pace() -> None:
    assert (pace(4), pace(0.25)) == ("4.0 steps/s", "4.0 s/step")
