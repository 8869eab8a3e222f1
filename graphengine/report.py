"""Runs as a person looks at them: one HTML page without anything outside it, and pieces of HTML for notebooks.

Ids, prompts and texts are data: everything is escaped, and the page forbids scripts.
"""

from __future__ import annotations

import base64
import html
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphengine.events import Event, Kind, Reuse
from graphengine.types import View, socket_type

if TYPE_CHECKING:
    from graphengine.evaluate import Result
    from graphengine.graph import Graph

MOST_ITEMS = 16
"""Items of a list that are shown."""
MOST_TEXT = 4000
"""Characters of a text that are shown."""

COLOURS = {
    Reuse.COMPUTED: "#f4c095",
    Reuse.MEMORY: "#bcd8b8",
    Reuse.DISK: "#b9d3ea",
    Reuse.JOINED: "#d9c4e8",
}
WORDS = {
    Reuse.COMPUTED: "computed",
    Reuse.MEMORY: "from memory",
    Reuse.DISK: "from disk",
    Reuse.JOINED: "joined another run's",
}

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222;
  background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
section { border-top: 1px solid #ddd; padding: .6rem 0; }
section h3 { font-size: 1rem; margin: .2rem 0; } .type { color: #777; font-weight: normal; }
.how { border-radius: .3rem; padding: 0 .4rem; font-weight: normal; font-size: .85rem; }
.views { display: flex; flex-wrap: wrap; gap: .5rem; align-items: flex-start; }
.views img { max-width: 100%; image-rendering: auto; border: 1px solid #ccc; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; padding: .4rem .6rem; margin: 0; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .15rem .8rem .15rem 0; vertical-align: top; }
.graph svg { max-width: 100%; height: auto; } .error { color: #a00; }
"""


@dataclass
class Seen:
    """What was heard of a node; `known` says whether its value was, too."""

    type: str
    reuse: Reuse | None = None
    seconds: float | None = None
    value: Any = None
    error: str = ""
    known: bool = True


class Recorder:
    """A listener that keeps what a report shows: every node's value, how it came and how long it took."""

    def __init__(self) -> None:
        self.nodes: dict[str, Seen] = {}
        self.elapsed: float | None = None
        self.error = ""
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            if event.kind is Kind.NODE_FINISHED:
                self.nodes[event.node] = Seen(event.type, event.reuse, event.seconds, event.value)
            elif event.kind is Kind.NODE_FAILED:
                self.nodes[event.node] = Seen(event.type, error=event.error or "it failed")
            elif event.kind in (Kind.RUN_FINISHED, Kind.RUN_FAILED):
                self.elapsed, self.error = event.seconds, event.error or ""


def views(value: Any) -> list[View]:
    """A value as a person looks at it: as its type says, lists item by item (the first ones), the rest as text."""
    kind = socket_type(type(value))
    if kind is not None and kind.view is not None:
        shown = kind.view(value)
        return list(shown)[:MOST_ITEMS] if isinstance(shown, list) else [shown]
    if isinstance(value, list | tuple) and value and not all(isinstance(v, int | float | str | bool) for v in value):
        names = getattr(type(value), "_fields", None)
        found: list[View] = []
        for n, item in enumerate(value[:MOST_ITEMS]):
            if names is not None:
                found.append(View(text=f"{names[n]}:"))
            found += views(item)
        if len(value) > MOST_ITEMS:
            found.append(View(text=f"… and {len(value) - MOST_ITEMS:,} more"))
        return found
    if isinstance(value, list) and len(value) > 100:
        return [View(text=f"{value[:100]!r:.{MOST_TEXT}} … and {len(value) - 100:,} more")]
    text = value if isinstance(value, str) else repr(value)
    if len(text) > MOST_TEXT:
        text = f"{text[:MOST_TEXT]} … ({len(text):,} characters)"
    return [View(text=text)]


def page(graph: Graph, recorder: Recorder, inputs: Mapping[str, Any], title: str = "", more: str = "") -> str:
    """The report of a run: one HTML page that needs no network and runs no script; `more` is HTML for it."""
    from graphengine.draw import svg

    title = title or graph.name
    notes, colours = {}, {}
    for id in graph.nodes:
        seen = recorder.nodes.get(id)
        notes[id] = _fate(id, seen, recorder)
        if seen is not None:
            colours[id] = "#e8a0a0" if seen.error else COLOURS.get(seen.reuse or Reuse.COMPUTED, "#fff")
    took = f"<p>{recorder.elapsed:.2f} s</p>" if recorder.elapsed is not None else ""
    wrong = f"<p class=error>{html.escape(recorder.error)}</p>" if recorder.error else ""
    described = f"<p>{html.escape(graph.description)}</p>" if graph.description else ""
    body = "\n".join(
        [
            f"<h1>{html.escape(title)}</h1>{described}{wrong}{took}",
            _inputs(graph, inputs),
            f'<div class="graph">{svg(graph, notes=notes, colours=colours, inputs=inputs)}</div>',
            more,
            "<h2>Nodes</h2>",
            *_sections(graph, recorder),
        ]
    )
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _fate(id: str, seen: Seen | None, recorder: Recorder) -> str:
    """What became of a node, in words."""
    if seen is not None:
        return "failed" if seen.error else how(seen.reuse, seen.seconds)
    if parts := sum(map(_inside(id), recorder.nodes)):
        return f"became {parts}"
    return "not reached" if recorder.error else "not needed"


def _inside(id: str) -> Callable[[str], bool]:
    """Whether a node is an item of another one, or of what that became."""
    return lambda other: other.startswith((f"{id}/", f"{id}["))


def how(reuse: Reuse | None, seconds: float | None) -> str:
    """How a value came and how long it took, in words."""
    word = WORDS.get(reuse, "") if reuse is not None else ""
    return f"{word}, {_seconds(seconds)}" if seconds is not None and reuse is Reuse.COMPUTED else word


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _inputs(graph: Graph, inputs: Mapping[str, Any]) -> str:
    if not graph.inputs:
        return ""
    rows = []
    for name, declared in graph.inputs.items():
        value = inputs.get(name, declared.default)
        shown = html.escape(str(value) if isinstance(value, str) else repr(value))[:MOST_TEXT]
        given = "" if name in inputs else "default"
        rows.append(f"<tr><th>{html.escape(name)}</th><td>{shown}</td><td>{given}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _sections(graph: Graph, recorder: Recorder) -> Iterator[str]:
    from graphengine.keys import topological

    order = topological(graph)
    inner = [id for id in recorder.nodes if id not in graph.nodes]  # items, expansions, workflows used as nodes
    for id in [*order, *inner]:
        seen = recorder.nodes.get(id)
        type_ = seen.type if seen is not None else graph.nodes[id].type
        head = f'<h3>{html.escape(id)} <span class="type">{html.escape(type_)}</span> '
        if seen is None:
            if any(map(_inside(id), inner)):
                continue  # what it became is shown
            yield f"<section>{head}{_fate(id, None, recorder)}</h3></section>"
        elif seen.error:
            yield f'<section>{head}</h3><p class="error">{html.escape(seen.error)}</p></section>'
        else:
            colour = COLOURS.get(seen.reuse or Reuse.COMPUTED, "#fff")
            told = f'<span class="how" style="background:{colour}">{how(seen.reuse, seen.seconds)}</span>'
            value = views_html(seen.value) if seen.known else ""
            yield f"<section>{head}{told}</h3>{value}</section>"


def views_html(value: Any) -> str:
    """A value as HTML."""
    return f'<div class="views">{"".join(map(_view, views(value)))}</div>'


def _view(view: View) -> str:
    if view.png is not None:
        alt = html.escape(view.text or "picture", quote=True)
        return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(view.png).decode()}">'
    return f"<pre>{html.escape(view.text or '')}</pre>"


def result_html(result: Result) -> str:
    """The outputs of a run and how its values came, for a notebook."""
    outputs = "".join(
        f"<div><b>{html.escape(name)}</b>{views_html(value)}</div>" for name, value in result.outputs.items()
    )
    rows = "".join(
        f"<tr><td>{html.escape(id)}</td><td>{html.escape(how(reuse, result.seconds.get(id)))}</td></tr>"
        for id, reuse in result.reuse.items()
        if id
    )
    return (
        f"<div>{outputs}<details><summary>{len(result.reuse)} nodes, {_seconds(result.elapsed)}</summary>"
        f"<table>{rows}</table></details></div>"
    )
