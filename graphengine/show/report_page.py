"""The report of a run as one HTML page, which needs no network and runs no script.

Ids, prompts and texts may come from strangers: everything is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphengine.errors import shorten
from graphengine.events import Reuse
from graphengine.graph.data import Node
from graphengine.graph.elements import INPUTS, Link, has_links
from graphengine.show.report import (
    COLOURS,
    MOST_TEXT,
    WORDS,
    ReportRecorder,
    Seen,
    duration,
    how,
    view_html,
    views,
    views_html,
)

if TYPE_CHECKING:
    from graphengine.graph.data import GraphData

TIMES = "\u00d7"
MOST_CELLS = 64
"""The most items of a grid that are shown."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b2430; --dim: #667085; --line: #e2e6ec;
  --well: #f1f3f6; --bad: #b42318; --bar: #e7eaef; }
@media (prefers-color-scheme: dark) {
  :root { --page: #0f141b; --card: #171e27; --ink: #e6eaf0; --dim: #93a0b2; --line: #2a3441; --well: #1e2732;
    --bad: #ff8f85; --bar: #26303c; }
  .graph svg { filter: invert(.93) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; margin: 0;
  background: var(--page); color: var(--ink); }
main { max-width: 64rem; margin: 0 auto; padding: clamp(1rem, 4vw, 3rem) clamp(.8rem, 3vw, 2rem); }
h1 { font-size: clamp(1.5rem, 4vw, 2.2rem); line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: .85rem; letter-spacing: .08em; text-transform: uppercase; color: var(--dim); margin: 2.5rem 0 .8rem; }
.about { margin: 0; max-width: 44rem; overflow-wrap: anywhere; }
.meta { color: var(--dim); margin: .3rem 0 1.6rem; }
.error { color: var(--bad); white-space: pre-wrap; overflow-wrap: anywhere; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .8rem;
  padding: clamp(.8rem, 2.5vw, 1.3rem); margin: 0 0 1rem; overflow-wrap: anywhere; }
.results .card { text-align: center; } .results h3 { margin: .7rem 0 0; font-size: 1rem; font-weight: 600; }
img { max-width: 100%; height: auto; border-radius: .4rem; display: block; }
.large img { width: min(100%, 34rem); margin: 0 auto; }
.grid { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fill, minmax(min(45%, 9rem), 1fr)); margin: 0; }
.results .grid { grid-template-columns: repeat(auto-fit, minmax(min(45%, 14rem), 1fr)); }
.grid figure { margin: 0; min-width: 0; } .grid img { width: 100%; }
figcaption { color: var(--dim); font-size: .85rem; text-align: center; margin-top: .3rem; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--well); border-radius: .4rem; margin: 0;
  padding: .5rem .7rem; font: .85rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace; text-align: left; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .3rem .8rem .3rem 0;
  vertical-align: top; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; } th { font-weight: 600;
  width: 12rem; max-width: 40vw; } tr:last-child > * { border-bottom: 0; }
summary { cursor: pointer; color: var(--dim); margin: .6rem 0; } .wide { overflow-x: auto; }
.times { display: grid; grid-template-columns: fit-content(38%) 1fr max-content; gap: .45rem .8rem; align-items: center;
  font-size: .92rem; } .times span { min-width: 0; overflow-wrap: anywhere; } .times .how { color: var(--dim); }
.track { background: var(--bar); border-radius: 1rem; height: .7rem; overflow: hidden; }
.track div { display: block; height: 100%; border-radius: 1rem; min-width: .3rem; }
.graph { overflow-x: auto; } .graph svg { display: block; height: auto; max-width: none; width: max(100%, 46rem); }
.node h3 { font-size: 1rem; margin: 0 0 .5rem; } .type { color: var(--dim); font-weight: normal; font-size: .88rem; }
.tag { border-radius: 1rem; padding: .1rem .6rem; font-weight: normal; font-size: .8rem; color: #1b2430;
  white-space: nowrap; }
.views { display: flex; flex-wrap: wrap; gap: .6rem; align-items: flex-start; } .views pre { flex: 1 1 100%; }
.views img { max-height: 20rem; }
@media (max-width: 480px) { th, td { display: block; border: 0; } th { width: auto; max-width: none;
  padding-bottom: 0; } .times { font-size: .85rem; gap: .4rem .5rem; } }
"""


def page(graph: GraphData, recorder: ReportRecorder, inputs: Mapping[str, Any], title: str = "", more: str = "") -> str:
    """Make the report of a run as an HTML page.

    Args:
        graph: The graph that was run.
        recorder: The listener that recorded the run.
        inputs: The inputs that were given.
        title: The title; by default the graph's.
        more: Further HTML, placed after the times.
    """
    title = title or graph.name
    outputs = dict(recorder.outputs) or _outputs(graph, recorder)
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="about">{html.escape(graph.description)}</p>' if graph.description else "",
        f'<p class="meta">{_summary(recorder)}</p>',
        f'<p class="card error">{html.escape(recorder.error)}</p>' if recorder.error else "",
        _results(graph, outputs, inputs),
        _inputs(graph, inputs),
        _times(graph, recorder),
        f'<div class="wide">{more}</div>' if more else "",
        f'<h2>Graph</h2><div class="card graph">{_drawing(graph, recorder, inputs)}</div>',
        "<h2>Nodes</h2>",
        *_nodes(graph, recorder, inputs, outputs),
    ]
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{html.escape(title)}</title><style>{STYLE}</style></head>'
        f"<body><main>\n{_lines(body)}\n</main></body></html>\n"
    )


def _lines(parts: Sequence[str]) -> str:
    return "\n".join(part for part in parts if part)


def _summary(recorder: ReportRecorder) -> str:
    """The number of nodes computed and reused, and the time of the run."""
    counts = {reuse: sum(seen.reuse is reuse for seen in recorder.nodes.values()) for reuse in Reuse}
    parts = [f"{count} {WORDS[reuse]}" for reuse, count in counts.items() if count]
    if recorder.elapsed is not None:
        parts.append(duration(recorder.elapsed))
    return " · ".join(parts)


# --- results ----------------------------------------------------------------------------------------------------------


def _outputs(graph: GraphData, recorder: ReportRecorder) -> dict[str, Any]:
    """The values of the outputs whose nodes were recorded."""
    links = graph.outputs or {id: Link(id) for id in graph.leaves()}
    values = {}
    for name, link in links.items():
        seen = recorder.nodes.get(link.node)
        items = _items(link.node, recorder)
        if seen is not None and seen.known and not seen.error:
            values[name] = getattr(seen.value, link.port, seen.value) if link.port else seen.value
        elif items and all(item.known and not item.error for item in items.values()):
            values[name] = [item.value for item in items.values()]
    return values


def _results(graph: GraphData, outputs: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    if not outputs:
        return ""
    parts = []
    for name, value in outputs.items():
        link = graph.outputs.get(name)
        labels = _labels(graph, link.node, inputs) if link is not None else []
        shown = _grid(value, labels) if _is_grid(value) else f'<div class="large">{views_html(value)}</div>'
        if not _is_grid(value) and (found := views(value)) and len(found) == 1 and found[0].png is not None:
            shown = f'<div class="large">{view_html(found[0])}</div>'
        parts.append(f'<div class="card">{shown}<h3>{html.escape(name)}</h3></div>')
    return f'<section class="results">{_lines(parts)}</section>'


def _is_grid(value: Any) -> bool:
    """Whether a value has several views with a picture among them."""
    return len(found := views(value)) > 1 and any(view.png is not None for view in found)


def _grid(values: Any, labels: Sequence[str]) -> str:
    """Pictures side by side, each with its label."""
    items = values if isinstance(values, list | tuple) else [values]
    cells = []
    for n, item in enumerate(items[:MOST_CELLS]):
        label = labels[n] if n < len(labels) else ""
        caption = f"<figcaption>{html.escape(label)}</figcaption>" if label else ""
        cells += [f"<figure>{view_html(view)}{caption}</figure>" for view in views(item)]
    more = f"<p>and {len(items) - MOST_CELLS:,} more</p>" if len(items) > MOST_CELLS else ""
    return f'<div class="grid">{"".join(cells)}</div>{more}'


def _labels(graph: GraphData, id: str, inputs: Mapping[str, Any]) -> list[str]:
    """Labels for the items of a mapped node: the values that it was mapped over, if they are known."""
    for _ in range(len(graph.nodes)):
        node = graph.nodes.get(id)
        if node is None or not node.each:
            return []
        lists = {name: _list(graph, node, name, inputs) for name in node.each}
        known = {name: values for name, values in lists.items() if values is not None}
        if known:
            return [
                ", ".join(f"{name} {shorten(value, 40)}" for name, value in zip(known, values, strict=True))
                for values in zip(*known.values(), strict=False)
            ]
        link = node.args.get(node.each[0])
        if type(link) is not Link:
            return []
        id = link.node
    return []


def _list(graph: GraphData, node: Node, name: str, inputs: Mapping[str, Any]) -> list[Any] | None:
    value = node.args.get(name)
    if type(value) is Link and value.node == INPUTS and value.port in graph.inputs:
        value = inputs.get(value.port, graph.inputs[value.port].default)
    return value if isinstance(value, list) and not has_links(value) else None


# --- inputs and times -------------------------------------------------------------------------------------------------


def _inputs(graph: GraphData, inputs: Mapping[str, Any]) -> str:
    """The given inputs, and the defaults of the others, folded."""
    if not graph.inputs:
        return ""
    given = {name: inputs[name] for name in graph.inputs if name in inputs}
    defaults = {name: declared.default for name, declared in graph.inputs.items() if name not in inputs}
    parts = [_table(given)] if given else []
    if defaults:
        noun = "default" if len(defaults) == 1 else "defaults"
        parts.append(f"<details><summary>{len(defaults)} {noun}</summary>{_table(defaults)}</details>")
    return f'<h2>Given</h2><div class="card">{_lines(parts)}</div>'


def _table(values: Mapping[str, Any]) -> str:
    rows = []
    for name, value in values.items():
        text = value if isinstance(value, str) else "model's own" if value is None else shorten(value, MOST_TEXT)
        rows.append(f"<tr><th>{html.escape(name)}</th><td>{html.escape(text[:MOST_TEXT])}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _times(graph: GraphData, recorder: ReportRecorder) -> str:
    """A bar for each node, by its time; the items of a mapped node share one."""
    rows: list[tuple[str, float, str]] = []
    for id in _order(graph):
        seen, items = recorder.nodes.get(id), _inner(id, recorder)
        if seen is not None and not seen.error:
            rows.append((id, seen.seconds or 0.0, how(seen.reuse, seen.seconds)))
        elif items:
            seconds = sum(item.seconds or 0.0 for item in items.values())
            rows.append((f"{id} {TIMES} {len(items)}", seconds, "reused"))
    longest = max((seconds for _, seconds, _ in rows), default=0.0)
    if not longest:
        return ""
    cells = []
    for name, seconds, told in rows:
        if seconds:
            colour = COLOURS[Reuse.COMPUTED]
            bar = f'<div style="width:{100 * seconds / longest:.1f}%;background:{colour}"></div>'
            told = duration(seconds)
        else:
            bar = ""
        cells += [f"<span>{html.escape(name)}</span>", f'<div class="track">{bar}</div>',
                  f'<span class="how">{html.escape(told)}</span>']  # fmt: skip
    return f'<h2>Time</h2><div class="card times">{"".join(cells)}</div>'


# --- graph and nodes --------------------------------------------------------------------------------------------------


def _drawing(graph: GraphData, recorder: ReportRecorder, inputs: Mapping[str, Any]) -> str:
    from graphengine.show.draw import svg

    notes, colours = {}, {}
    for id in graph.nodes:
        seen = recorder.nodes.get(id)
        notes[id] = _fate(id, seen, recorder)
        if seen is not None:
            colours[id] = "#e8a0a0" if seen.error else COLOURS.get(seen.reuse or Reuse.COMPUTED, "#fff")
    return svg(graph, notes=notes, colours=colours, inputs=inputs)


def _fate(id: str, seen: Seen | None, recorder: ReportRecorder) -> str:
    """Words for what happened to a node."""
    if seen is not None:
        return "failed" if seen.error else how(seen.reuse, seen.seconds)
    if parts := len(_inner(id, recorder)):
        return f"became {parts}"
    return "not reached" if recorder.error else "not needed"


def _inner(id: str, recorder: ReportRecorder) -> dict[str, Seen]:
    """The items of a mapped node, or the nodes that an expanding node became."""
    return {other: seen for other, seen in recorder.nodes.items() if other.startswith((f"{id}/", f"{id}["))}


def _items(id: str, recorder: ReportRecorder) -> dict[str, Seen]:
    """The items of a mapped node, in order."""
    items = {int(other[len(id) + 1 : -1]): seen for other, seen in recorder.nodes.items() if _is_item(id)(other)}
    return {f"{id}[{n}]": items[n] for n in sorted(items)}


def _is_item(id: str) -> Callable[[str], bool]:
    return lambda other: other.startswith(f"{id}[") and other.endswith("]") and other[len(id) + 1 : -1].isdecimal()


def _order(graph: GraphData) -> list[str]:
    from graphengine.graph.order import topological

    return list(topological(graph))


def _nodes(
    graph: GraphData, recorder: ReportRecorder, inputs: Mapping[str, Any], outputs: Mapping[str, Any]
) -> Iterator[str]:
    """A section for each node with its value; values that are results are shown at the top only."""
    top = {link.node: name for name, link in graph.outputs.items() if name in outputs}
    told: set[str] = set()
    for id in _order(graph):
        seen, items = recorder.nodes.get(id), _items(id, recorder)
        if seen is None and items and not any(item.error for item in items.values()):
            told |= items.keys()
            values = [item.value for item in items.values() if item.known]
            shown = _above(top[id]) if id in top else _grid(values, _labels(graph, id, inputs)) if values else ""
            type_ = next(iter(items.values())).type
            yield _node(id, f"{type_} {TIMES} {len(items)}", "", shown)
        elif seen is None:
            if not _inner(id, recorder):  # else the nodes that it became are shown
                yield _node(id, graph.nodes[id].type, _fate(id, None, recorder), "")
        else:
            yield _seen(id, seen, top.get(id))
    for id, seen in recorder.nodes.items():
        if id not in graph.nodes and id not in told:
            yield _seen(id, seen, None)


def _seen(id: str, seen: Seen, output: str | None) -> str:
    if seen.error:
        return _node(id, seen.type, "failed", f'<p class="error">{html.escape(seen.error)}</p>', "#e8a0a0")
    value = _above(output) if output is not None else views_html(seen.value) if seen.known else ""
    return _node(id, seen.type, how(seen.reuse, seen.seconds), value, COLOURS.get(seen.reuse or Reuse.COMPUTED, "#ddd"))


def _above(output: str) -> str:
    return f'<p class="type">the result {html.escape(output)}, above</p>'


def _node(id: str, type_: str, told: str, value: str, colour: str = "#d5dae1") -> str:
    tag = f' <span class="tag" style="background:{colour}">{html.escape(told)}</span>' if told else ""
    return (
        f'<section class="card node"><h3>{html.escape(id)} <span class="type">{html.escape(type_)}</span>{tag}</h3>'
        f"{value}</section>"
    )
