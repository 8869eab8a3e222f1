"""Drawings of graphs: Mermaid, Graphviz DOT, and SVG with a layout of its own.

Graphs may come from strangers: every text is escaped, and the ids in a drawing are numbers. A graph with cycles or
dangling links is drawn too.
"""

from __future__ import annotations

import html
import itertools
import re
import unicodedata
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphengine.graph.data import GraphData, Node
from graphengine.graph.elements import INPUTS, VALUES, Link, has_links
from graphengine.graph.type_inference import output_type
from graphengine.show.layout import Layout, layout
from graphengine.values.socket_types import is_named_tuple, type_name

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
TITLE, SMALL = 13, 11
ROW, HEAD, PAD = 17, 40, 10
LONGEST = 34
"""The most characters of a text in a box; the tooltip shows all of it."""

# A type's colour is chosen by a hash of its name; all are dark enough for text on white.
PALETTE = ("#2563eb", "#0d9488", "#c2410c", "#7c3aed", "#be185d", "#4d7c0f", "#b45309", "#0369a1", "#9f1239", "#475569")
INK, DIM, BORDER, RED = "#1e293b", "#64748b", "#94a3b8", "#dc2626"
_COLOUR = re.compile(r"#[0-9a-fA-F]{3,8}|[a-zA-Z]{3,24}")


@dataclass
class _Box:
    """A box of the drawing: a node, an input, a value, an output, or a missing node."""

    kind: str
    title: str
    type: str = ""
    rows: list[tuple[str, str]] = field(default_factory=list)  # an input and its literal ('' if it is linked)
    ports: list[str] = field(default_factory=list)
    note: str = ""
    colour: str = ""

    def text(self) -> str:
        return f"{self.title}: {self.type}" if self.type else self.title


@dataclass(frozen=True)
class _Edge:
    source: int
    target: int
    port: str
    socket: str
    type: str


@dataclass
class _Drawing:
    boxes: list[_Box] = field(default_factory=list)
    edges: list[_Edge] = field(default_factory=list)


def _drawing(
    graph: GraphData,
    notes: Mapping[str, str] | None,
    colours: Mapping[str, str] | None,
    inputs: Mapping[str, Any] | None = None,
) -> _Drawing:
    drawing = _Drawing()
    at: dict[tuple[str, str], int] = {}

    def box(key: tuple[str, str], new: _Box) -> int:
        at[key] = len(drawing.boxes)
        drawing.boxes.append(new)
        return at[key]

    for name, declared in graph.inputs.items():
        given = inputs is not None and name in inputs
        value = inputs[name] if inputs is not None and given else declared.default
        used = "" if declared.required and not given else f" = {_short(value)}"
        box((INPUTS, name), _Box("input", name, f"{type_name(declared.type)}{used}"))
    for name in graph.values:
        box((VALUES, name), _Box("value", name, _type(graph, Link(VALUES, name))))
    for id, node in graph.nodes.items():
        box(("node", id), _node_box(id, node, (notes or {}).get(id, ""), (colours or {}).get(id, "")))

    def source(link: Link) -> int:
        key = (link.node, link.port) if link.node in (INPUTS, VALUES) else ("node", link.node)
        if key not in at:
            box(key, _Box("missing", str(link) if key[0] != "node" else link.node, "missing"))
        return at[key]

    for id, node in graph.nodes.items():
        for socket, link in node.sources():
            start = source(link)
            port = "" if drawing.boxes[start].kind != "node" else link.port
            if port and port not in drawing.boxes[start].ports:
                drawing.boxes[start].ports.append(port)
            drawing.edges.append(_Edge(start, at["node", id], port, socket, _type(graph, link)))
    for name, link in graph.outputs.items():
        start = source(link)
        end = box(("output", name), _Box("output", name))
        if link.port and drawing.boxes[start].kind == "node" and link.port not in drawing.boxes[start].ports:
            drawing.boxes[start].ports.append(link.port)
        drawing.edges.append(_Edge(start, end, link.port, "", _type(graph, link)))
    return drawing


def _node_box(id: str, node: Node, note: str, colour: str) -> _Box:
    rows = []
    for name, value in node.args.items():
        linked = type(value) is Link or (type(value) is list and has_links(value))
        mapped = " (each)" if name in node.each else ""
        rows.append((name, mapped if linked else f" = {_short(value)}{mapped}"))
    ports = [port for port in node.kind.outputs if port] if not isinstance(node.kind, str) else []
    return _Box(
        "unknown" if isinstance(node.kind, str) else "node", id, node.type or "?", rows, ports, note,
        colour if _COLOUR.fullmatch(colour) else "",
    )  # fmt: skip


def _type(graph: GraphData, link: Link) -> str:
    try:
        annotation = output_type(graph, link)
    except Exception:  # an invalid graph is drawn too
        return "any"
    return "outputs" if is_named_tuple(annotation) else type_name(annotation)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else "null" if value is None else repr(value)
    return text.replace("\n", " ⏎ ")


def _cut(text: str, length: int = LONGEST) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


# --- Mermaid and DOT --------------------------------------------------------------------------------------------------

_SHAPES = {"input": ("([", "])"), "value": ("([", "])"), "output": ("([", "])"), "missing": ("{{", "}}")}


def mermaid(graph: GraphData, notes: Mapping[str, str] | None = None, colours: Mapping[str, str] | None = None) -> str:
    """Draw a graph as a Mermaid flowchart.

    Args:
        graph: The graph.
        notes: By node id, a line to show in its box.
        colours: By node id, the colour of its box, as CSS writes it.
    """
    drawing = _drawing(graph, notes, colours)
    lines = ["flowchart LR"]
    for number, box in enumerate(drawing.boxes):
        opening, closing = _SHAPES.get(box.kind, ("[", "]"))
        texts = [_cut(box.title, 60), _cut(box.type, 60), _cut(box.note, 60)]
        label = "<br>".join(_for_mermaid(text) for text in texts if text)
        lines.append(f'  n{number}{opening}"{label}"{closing}')
    for edge in drawing.edges:
        lines.append(f'  n{edge.source} -->|"{_for_mermaid(_cut(edge.type, 40))}"| n{edge.target}')
    for number, box in enumerate(drawing.boxes):
        fill = box.colour or {"missing": "#fee2e2", "unknown": "#fee2e2"}.get(box.kind, "")
        if fill:
            lines.append(f"  style n{number} fill:{fill}")
    return "\n".join(lines) + "\n"


def _for_mermaid(text: str) -> str:
    # Mermaid's entities, so that neither Mermaid nor a browser reads a text as markup.
    return "".join(c if c.isalnum() or c in " _.,:()[]=/|-+@…⏎" else f"#{ord(c)};" for c in _visible(text))


def dot(graph: GraphData, notes: Mapping[str, str] | None = None, colours: Mapping[str, str] | None = None) -> str:
    """Draw a graph in Graphviz's DOT language; the arguments are those of `mermaid`."""
    drawing = _drawing(graph, notes, colours)
    lines = [
        "digraph workflow {", "  rankdir=LR;",
        '  node [shape=box, style="rounded,filled", fillcolor=white, fontname="sans-serif", fontsize=11];',
        '  edge [fontname="sans-serif", fontsize=9];',
    ]  # fmt: skip
    for number, box in enumerate(drawing.boxes):
        texts = [_cut(box.title, 60), _cut(box.type, 60), _cut(box.note, 60)]
        label = "\\n".join(_for_dot(text) for text in texts if text)
        bad = box.kind in ("missing", "unknown")
        fill = box.colour or ("#fee2e2" if bad else "white" if box.kind == "node" else "#f1f5f9")
        lines.append(f'  n{number} [label="{label}", fillcolor="{fill}"];')
    for edge in drawing.edges:
        end = f', headlabel="{_for_dot(_cut(edge.socket, 40))}"' if edge.socket else ""
        lines.append(f'  n{edge.source} -> n{edge.target} [label="{_for_dot(_cut(edge.type, 40))}"{end}];')
    return "\n".join([*lines, "}"]) + "\n"


def _for_dot(text: str) -> str:
    return _visible(text).replace("\\", "\\\\").replace('"', '\\"')


def _visible(text: str) -> str:
    """Replace line breaks and characters that XML cannot hold."""
    bad = ("Cc", "Cs", "Zl", "Zp")
    return "".join("�" if unicodedata.category(c) in bad or c in "\ufffe\uffff" else c for c in text)


# --- SVG --------------------------------------------------------------------------------------------------------------


def svg(
    graph: GraphData,
    notes: Mapping[str, str] | None = None,
    colours: Mapping[str, str] | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> str:
    """Draw a graph as SVG, which can be a file of its own or a part of an HTML page.

    Args:
        graph: The graph.
        notes: By node id, a line to show in its box (a time, how its value was obtained).
        colours: By node id, the colour of its box's head, as CSS writes it.
        inputs: Values of inputs, shown instead of their defaults.
    """
    drawing = _drawing(graph, notes, colours, inputs)
    sizes = [_size(box) for box in drawing.boxes]
    placed = layout(
        sizes,
        [(e.source, e.target, _out_y(drawing.boxes[e.source], e.port), _in_y(drawing.boxes[e.target], e.socket))
         for e in drawing.edges],
        [_room(edge) for edge in drawing.edges],
    )  # fmt: skip
    width, height = round(placed.width), round(placed.height)
    title = _x(_cut(graph.title, 80) or "workflow")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="{_x(FONT)}" font-size="{TITLE}">',
        f"<title>{title}</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#f8fafc"/>',
    ]
    parts += [_edge(edge, placed, number) for number, edge in enumerate(drawing.edges)]
    parts += [_box_svg(box, *placed.corners[n], *sizes[n]) for n, box in enumerate(drawing.boxes)]
    parts += [_label(edge, placed, number) for number, edge in enumerate(drawing.edges)]
    return "\n".join([*parts, "</svg>"])


def _x(text: str) -> str:
    return html.escape(_visible(text), quote=True)


def _width(text: str, size: int) -> float:
    """Estimate the width of a text in pixels, rather too wide than too narrow."""
    wide = sum(1 for c in text if unicodedata.east_asian_width(c) in "WF")
    return (len(text) - wide) * size * 0.58 + wide * size


def _size(box: _Box) -> tuple[float, float]:
    lines = [(_cut(box.title), TITLE * 1.06), (_cut(box.type), SMALL), (_cut(box.note), SMALL)]
    rows = [_width(_cut(name + literal), SMALL) for name, literal in box.rows]
    ports = [_width(_cut(port), SMALL) + 14 for port in box.ports]
    widest = max([_width(text, round(size)) for text, size in lines] + rows + ports)
    if box.kind not in ("node", "unknown"):
        return max(90.0, widest + 2 * PAD + 8), 42.0 if box.type else 26.0
    return max(120.0, widest + 2 * PAD + 6), HEAD + (len(box.rows) + len(box.ports) + bool(box.note)) * ROW + 8


def _in_y(box: _Box, socket: str) -> float:
    if box.kind not in ("node", "unknown"):
        return _size(box)[1] / 2
    row = next((n for n, (name, _) in enumerate(box.rows) if name == socket), 0)
    return HEAD + row * ROW + ROW / 2 + 4


def _out_y(box: _Box, port: str) -> float:
    if box.kind not in ("node", "unknown"):
        return _size(box)[1] / 2
    return HEAD / 2 if port not in box.ports else HEAD + (len(box.rows) + box.ports.index(port)) * ROW + ROW / 2 + 4


def _colour(edge: _Edge) -> str:
    return PALETTE[zlib.crc32(edge.type.encode("utf-8", "replace")) % len(PALETTE)]


def _edge(edge: _Edge, placed: Layout, number: int) -> str:
    points = placed.routes[number]
    colour = RED if number in placed.backward else _colour(edge)
    dashed = ' stroke-dasharray="5 4"' if number in placed.backward else ""
    x, y = points[-1]
    # The last piece is straight, so that edges that arrive close together do not cross each other's labels.
    points = [*points[:-1], (x - _room(edge), y)]
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    if number in placed.backward:
        (x1, y1), (middle, low), (x2, y2) = points
        path += f"C{x1 + 60:.1f} {y1:.1f} {x1 + 60:.1f} {low:.1f} {middle:.1f} {low:.1f}"
        path += f"C{x2 - 60:.1f} {low:.1f} {x2 - 60:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    else:
        for (x1, y1), (x2, y2) in itertools.pairwise(points):
            bend = max((x2 - x1) / 2, 24)
            path += f"C{x1 + bend:.1f} {y1:.1f} {x2 - bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    path += f"H{x - 4:.1f}"
    head = f"M{x:.1f} {y:.1f}l-8 -4v8z"
    return (
        f'<g><path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6" stroke-opacity=".75"{dashed}/>'
        f'<path d="{head}" fill="{colour}"/></g>'
    )


def _room(edge: _Edge) -> float:
    """The length of an edge's last straight piece, which holds its label and the arrow."""
    return _width(_cut(edge.type, 22), SMALL - 1) + 20


def _label(edge: _Edge, placed: Layout, number: int) -> str:
    text = _cut(edge.type, 22)
    right, y = placed.routes[number][-1]
    width = _room(edge) - 16
    x = right - 11 - width / 2
    return (
        f'<g font-size="{SMALL - 1}"><rect x="{x - width / 2:.1f}" y="{y - 7:.1f}" width="{width:.1f}" height="14" '
        f'rx="7" fill="#f8fafc" fill-opacity=".92"/><text x="{x:.1f}" y="{y + 3.5:.1f}" text-anchor="middle" '
        f'fill="{_colour(edge)}">{_x(text)}</text></g>'
    )


def _box_svg(box: _Box, x: float, y: float, width: float, height: float) -> str:
    if box.kind not in ("node", "unknown"):
        return _round_box(box, x, y, width, height)
    wrong = box.kind == "unknown"
    border, head = (RED, "#fee2e2") if wrong else (BORDER, "#e2e8f0")
    head = box.colour or head
    parts = [
        f'<g transform="translate({x:.1f} {y:.1f})"><title>{_x(_cut(box.text(), 400))}</title>',
        f'<rect width="{width:.1f}" height="{height:.1f}" rx="8" fill="#ffffff" stroke="{border}"/>',
        f'<path d="M0 {HEAD}V8a8 8 0 0 1 8-8H{width - 8:.1f}a8 8 0 0 1 8 8V{HEAD}z" fill="{head}" stroke="{border}"/>',
        _text(box.title, PAD, 17, INK, bold=True),
        _text(box.type, PAD, 32, "#475569", SMALL),
    ]
    line = HEAD + 16
    for name, literal in box.rows:
        if not literal.startswith(" ="):
            parts.append(f'<circle cx="0" cy="{line - 4}" r="3" fill="#ffffff" stroke="{BORDER}"/>')
        parts.append(_text(name + literal, PAD, line, DIM if literal.startswith(" =") else INK, SMALL))
        line += ROW
    for port in box.ports:
        parts.append(_text(port, width - PAD, line, INK, SMALL, end=True))
        line += ROW
    if box.note:
        parts.append(_text(box.note, PAD, line, DIM, SMALL))
    return "".join([*parts, "</g>"])


def _round_box(box: _Box, x: float, y: float, width: float, height: float) -> str:
    fill, border = {
        "missing": ("#fee2e2", RED), "output": ("#dcfce7", "#16a34a"), "value": ("#fef9c3", "#ca8a04"),
    }.get(box.kind, ("#dbeafe", "#3b82f6"))  # fmt: skip
    lines = [(box.title, INK, TITLE), (box.type, DIM, SMALL)]
    shown = [line for line in lines if line[0]]
    tip = _x(_cut(f"{box.kind} {box.text()}", 400))
    parts = [
        f'<g transform="translate({x:.1f} {y:.1f})"><title>{tip}</title>',
        f'<rect width="{width:.1f}" height="{height:.1f}" rx="{min(height / 2, 18):.1f}" fill="{fill}" '
        f'stroke="{border}"/>',
    ]
    for number, (text, colour, size) in enumerate(shown):
        at = height / 2 + 4 + (number - (len(shown) - 1) / 2) * 15
        parts.append(_text(text, width / 2, at, colour, size, bold=number == 0, middle=True))
    return "".join([*parts, "</g>"])


def _text(
    text: str, x: float, y: float, colour: str, size: int = TITLE, *, bold: bool = False, end: bool = False,
    middle: bool = False,
) -> str:
    anchor = ' text-anchor="end"' if end else ' text-anchor="middle"' if middle else ""
    weight = ' font-weight="600"' if bold else ""
    scale = "" if size == TITLE else f' font-size="{size}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}"{scale}{weight}{anchor}>{_x(_cut(text))}</text>'
