"""Pictures of graphs: complete, well-formed whatever stands in the graph, the same each time, and fast enough."""

import re
import time
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings

from graphengine import Graph, Link, Node, loads
from graphengine.show.draw import dot, mermaid, svg
from graphengine.show.layout import layout
from tests.graphengine.workflow.test_files import TEXT, graphs
from tests.graphengine.workflow_pack import scale

SVG = "{http://www.w3.org/2000/svg}"
EVIL = '</text><script>alert(1)</script><b onload="x">\n`${}"; n0 -> n1 \x00\u2028]]>--%%{init}%%'


def texts(picture: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(picture).iter(f"{SVG}text")]


def test_everything_is_in_the_picture() -> None:
    graph = loads(TEXT)
    shown = texts(svg(graph, notes={"double": "1.5 s, computed"}))
    for text in ("double", "wf.scale", "value", "factor = 2", "mode = good", "value (each)", "first", "number",
                 "float = 1.5", "needed", "list[int]", "1.5 s, computed", "all", "str"):  # fmt: skip
        assert text in shown, text
    assert "int" in shown  # the type of pair.first, on the edge
    for text in (mermaid(graph), dot(graph)):
        assert all(name in text for name in ("double", "wf.scale", "list[int]", "needed"))
    assert mermaid(graph).count("-->") == dot(graph).count(" -> ") == 8


def test_colours_and_nothing_else_come_in_by_colours() -> None:
    graph = loads(TEXT)
    assert 'fill="#ff8800"' in svg(graph, colours={"double": "#ff8800"})
    for evil in ('red" onload="x', "url(http://x)", "#12"):
        assert evil not in svg(graph, colours={"double": evil})
        assert evil not in mermaid(graph, colours={"double": evil})
        assert evil not in dot(graph, colours={"double": evil})


def evil_graph() -> Graph:
    graph = Graph(EVIL)
    graph.input(EVIL, str, EVIL)
    graph.nodes[EVIL] = Node(EVIL, {EVIL: Link("inputs", EVIL), "x": EVIL}, ui={EVIL: EVIL})
    graph.nodes["b"] = Node(scale, {EVIL: Link(EVIL, EVIL), "value": Link("<i>nix")})
    graph.outputs[EVIL] = Link(EVIL, EVIL)
    return graph


def test_texts_are_no_markup() -> None:
    picture = svg(evil_graph(), notes={"b": EVIL})
    tags = {element.tag.removeprefix(SVG) for element in ET.fromstring(picture).iter()}
    assert tags <= {"svg", "title", "rect", "g", "path", "text", "circle"}
    assert not any("onload" in element.attrib for element in ET.fromstring(picture).iter())
    chart = mermaid(evil_graph(), notes={"b": EVIL})
    allowed = re.compile(
        r"flowchart LR|  n\d+(\[\"|\(\[\"|\{\{\")[^\"<>`]*((<br>)[^\"<>`]*)*(\"\]|\"\]\)|\"\}\})"
        r"|  n\d+ -->\|\"[^\"<>`|]*\"\| n\d+|  style n\d+ fill:#[0-9a-f]{6}"
    )
    assert [line for line in chart.splitlines() if not allowed.fullmatch(line)] == []
    quoted = r'"(?:[^"\\\n]|\\.)*"'
    plain = re.sub(quoted, '""', dot(evil_graph(), notes={"b": EVIL}))
    assert "script" not in plain
    assert plain.count(" -> ") == 4


def test_cycles_and_dangling_links_are_drawn() -> None:
    graph = Graph()
    graph.nodes["a"] = Node(scale, {"value": Link("b")})
    graph.nodes["b"] = Node(scale, {"value": Link("a"), "factor": Link("b")})
    graph.nodes["c"] = Node(scale, {"value": Link("nix"), "factor": Link("values", "nox")})
    picture = svg(graph)
    assert picture.count("stroke-dasharray") == 2
    assert {"a", "b", "c", "nix", "values.nox", "missing"} <= set(texts(picture))


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_any_graph_is_drawn_well_formed_and_the_same_each_time(graph: Graph) -> None:
    ET.fromstring(svg(graph))
    assert (svg(graph), mermaid(graph), dot(graph)) == (svg(graph), mermaid(graph), dot(graph))


@pytest.mark.parametrize("empty", [Graph(), loads("version: 1\nnodes: {}")])
def test_an_empty_graph(empty: Graph) -> None:
    ET.fromstring(svg(empty))


def test_boxes_do_not_overlap_and_edges_run_forward() -> None:
    sizes = [(60.0 + 7 * (n % 5), 20.0 + 11 * (n % 4)) for n in range(60)]
    edges = [(s, t, 5.0, 5.0) for s in range(60) for t in range(s + 1, 60) if (s * 7 + t * 3) % 19 == 0]
    placed = layout(sizes, edges, [40.0] * len(edges))
    boxes = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(placed.corners, sizes, strict=True)]
    for n, (x1, y1, x2, y2) in enumerate(boxes):
        assert x1 >= 0
        assert x2 <= placed.width
        assert y1 >= 0
        assert y2 <= placed.height
        assert not any(x1 < b[2] and b[0] < x2 and y1 < b[3] and b[1] < y2 for b in boxes[:n])
    for (source, target, *_), route in zip(edges, placed.routes, strict=True):
        assert route[0][0] == boxes[source][2]
        assert route[-1][0] == boxes[target][0]
        assert [x for x, _ in route] == sorted(x for x, _ in route)


@pytest.mark.parametrize("span", [1, 30, 1000])
def test_a_thousand_nodes(span: int) -> None:
    graph = Graph()
    for n in range(1000):
        sources = {f"s{k}": Link(f"n{max(0, n - 1 - (n * 7 * k) % span)}") for k in range(2)}
        graph.nodes[f"n{n}"] = Node("x", sources if n else {})
    start = time.process_time()
    assert len(ET.fromstring(svg(graph)).findall(f"{SVG}g")) > 1000
    assert time.process_time() - start < 10
