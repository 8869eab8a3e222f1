"""What a run looks like: views, pages, notebooks."""

from __future__ import annotations

from dataclasses import dataclass
from html.parser import HTMLParser

import pytest

from graphengine import Graph, NodeError, Result, SocketType, View, each, node, register_type, run
from graphengine.events import Reuse
from graphengine.show.report import MOST_ITEMS, ReportRecorder, Seen, result_html, views, views_html
from graphengine.show.report_page import page


@dataclass(frozen=True)
class Dot:
    """A value that is seen as a picture."""

    png: bytes = b"\x89PNG"


register_type(SocketType(Dot, "ReportDot", view=lambda dot: View(png=dot.png)))


@node(version=1)
def dot(text: str) -> Dot:
    """A dot."""
    return Dot(text.encode())


@node(version=1)
def shout(text: str) -> str:
    """Say it loudly."""
    return text + "!"


@node(version=1)
def refuse(text: str) -> str:
    """Fail."""
    raise ValueError(text)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)


def tags(text: str) -> list[str]:
    parser = _Tags()
    parser.feed(text)
    return parser.seen


EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>"


def test_views_of_plain_values() -> None:
    assert views(3) == [View(text="3")]
    assert views("text") == [View(text="text")]
    assert views([1, 2]) == [View(text="[1, 2]")]
    assert views(Dot(b"x")) == [View(png=b"x")]
    assert views([Dot(b"x"), Dot(b"y")]) == [View(png=b"x"), View(png=b"y")]


def test_long_values_are_shortened() -> None:
    many = views([Dot()] * 100)
    assert len(many) == MOST_ITEMS + 1
    assert many[-1].text == f"… and {100 - MOST_ITEMS} more"
    assert len(views("x" * 100_000)[0].text or "") < 5000
    assert len(views(list(range(100_000)))[0].text or "") < 5000


def test_everything_is_escaped() -> None:
    assert tags(views_html(EVIL)) == ["div", "pre"]
    with Graph(EVIL, EVIL) as graph:
        loud = shout.named("<b>id<i>")(graph.input("<i>name</i>", str, EVIL))
        refuse(loud)
    recorder = ReportRecorder()
    with pytest.raises(NodeError, match="onerror"):
        run(graph, listeners=[recorder])
    text = page(graph, recorder, {})
    assert not {"script", "img", "b", "i"} & set(tags(text))
    assert "onerror=alert(1)&gt;" in text
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text


def test_a_page_shows_how_each_value_came() -> None:
    with Graph() as graph:
        words = shout.named("words")("hello report")
        graph.output("dot", dot.named("point")(words))
    recorder = ReportRecorder()
    run(graph, listeners=[recorder])
    assert recorder.nodes["words"].reuse is Reuse.COMPUTED
    assert "hello report!" in page(graph, recorder, {})
    again = ReportRecorder()
    run(graph, listeners=[again])
    text = page(graph, again, {})
    assert "from memory" in text
    assert "not needed" in text
    assert text.count("<img") == 1


def test_a_node_that_became_others_is_no_node_that_was_not_needed() -> None:
    with Graph() as graph:
        graph.output("out", each(["a", "b", "c"], shout))
    recorder = ReportRecorder()
    graph.run(listeners=[recorder])
    text = page(graph, recorder, {})
    assert "became 3" in text
    assert "not needed" not in text


def test_a_result_shows_itself_in_a_notebook() -> None:
    with Graph() as graph:
        graph.output("dot", dot("for a notebook"))
    found = run(graph)
    text = found._repr_html_()
    assert "data:image/png;base64," in text
    assert "computed" in text
    assert result_html(Result({"<x>": EVIL})).count("<script") == 0


def test_the_drawing_of_a_report_shows_the_values_that_were_used() -> None:
    with Graph() as g:
        g.output("y", shout(g.input("seed", str, "zero")))
        g.output("z", shout(g.input("name", str)))
        g.output("x", shout(g.input("left", str, "as declared")))
    recorder = ReportRecorder()
    inputs = {"seed": "<five>", "name": "given"}
    run(g, inputs=inputs, listeners=[recorder])
    drawing = page(g, recorder, inputs).partition("<svg")[2].partition("</svg>")[0]
    assert "= zero" not in drawing
    assert "<five>" not in drawing
    for text in ("str = &lt;five&gt;", "str = given", "str = as declared"):
        assert text in drawing


def test_results_stand_first_and_once_then_what_was_given_and_defaults_folded() -> None:
    with Graph("A title", "What it is for.") as graph:
        words = shout.named("words")(graph.input("text", str, "by default"))
        graph.input("unused", int, 3)
        graph.output("dot", dot.named("point")(words))
    recorder = ReportRecorder()
    graph.run(inputs={"text": "given"}, listeners=[recorder])
    text = page(graph, recorder, {"text": "given"})
    places = [text.index(part) for part in (
        "<h1>A title</h1>", "What it is for.", "<img", ">given</td>", "<details><summary>1 default</summary>",
        ">unused</th>", '<div class="card times">', "<svg", "the result dot, above",
    )]  # fmt: skip
    assert places == sorted(places)
    assert text.count("<img") == 1
    assert "str = given" in text[text.index("<svg") :]
    assert "prefers-color-scheme: dark" in text


def test_mapped_results_are_a_grid_with_labels() -> None:
    with Graph() as graph:
        loud = each(graph.input("texts", list[str], ["a", "b"]), shout)
        graph.output("dots", each(loud, dot))
    recorder = ReportRecorder()
    result = run(graph, inputs={"texts": ["x", "y", "z"]}, listeners=[recorder])
    text = page(graph, recorder, {"texts": ["x", "y", "z"]})
    top = text[: text.index("<h2>Given")]
    assert top.count("<figure><img") == 3
    assert [f"<figcaption>text &#x27;{name}&#x27;</figcaption>" in top for name in "xyz"] == [True] * 3
    assert "\u00d7 3</span>" in text[text.index('class="card times"') :]
    recorder.outputs = result.outputs
    assert page(graph, recorder, {"texts": ["x", "y", "z"]}) == text


def test_each_node_has_a_bar_as_long_as_it_took() -> None:
    with Graph() as graph:
        graph.output("dot", dot(shout("bars")))
    recorder = ReportRecorder()
    recorder.nodes = {"shout": Seen("", Reuse.COMPUTED, 1.0, "x"), "dot": Seen("", Reuse.COMPUTED, 4.0, Dot())}
    text = page(graph, recorder, {})
    assert "width:25.0%" in text
    assert "width:100.0%" in text
