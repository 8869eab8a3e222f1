"""Parts of a run's report: a recorder of its events, and values as HTML. (`report_page` makes the page.)

Ids, prompts and texts may come from strangers: everything is escaped.
"""

from __future__ import annotations

import base64
import html
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from graphengine.events import Event, Kind, Reuse
from graphengine.old_names import moved
from graphengine.values.socket_types import View, socket_type


class Results(Protocol):
    """The results of a run, as `result_html` shows them."""

    outputs: dict[str, Any]
    reuse: dict[str, Reuse]
    seconds: dict[str, float]
    elapsed: float


MOST_ITEMS = 16
"""The most items of a list that are shown."""
MOST_TEXT = 4000
"""The most characters of a text that are shown."""

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


@dataclass
class Seen:
    """What a recorder knows of a node; `known` says whether that includes its value."""

    type: str
    reuse: Reuse | None = None
    seconds: float | None = None
    value: Any = None
    error: str = ""
    known: bool = True


class ReportRecorder:
    """A listener that keeps what a report shows: each node's value, how it was obtained, and how long it took.

    Attributes:
        nodes: By node id.
        outputs: The run's outputs by name, if the caller assigns them; else the report finds them among the nodes.
        elapsed: The seconds that the run took.
        error: The run's error message, or ''.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, Seen] = {}
        self.outputs: Mapping[str, Any] = {}
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
    """Views of a value: those of its type, or of the first items of a list; without either, its text."""
    if isinstance(value, View):
        return [value]
    registered = socket_type(type(value))
    if registered is not None and registered.view is not None:
        shown = registered.view(value)
        return list(shown)[:MOST_ITEMS] if isinstance(shown, list) else [shown]
    if isinstance(value, list | tuple) and value and not all(isinstance(v, int | float | str | bool) for v in value):
        names = getattr(type(value), "_fields", None)
        items: list[View] = []
        for n, item in enumerate(value[:MOST_ITEMS]):
            if names is not None:
                items.append(View(text=f"{names[n]}:"))
            items += views(item)
        if len(value) > MOST_ITEMS:
            items.append(View(text=f"… and {len(value) - MOST_ITEMS:,} more"))
        return items
    if isinstance(value, list) and len(value) > 100:
        return [View(text=f"{value[:100]!r:.{MOST_TEXT}} … and {len(value) - 100:,} more")]
    text = value if isinstance(value, str) else repr(value)
    if len(text) > MOST_TEXT:
        text = f"{text[:MOST_TEXT]} … ({len(text):,} characters)"
    return [View(text=text)]


def how(reuse: Reuse | None, seconds: float | None) -> str:
    """Words for how a value was obtained and how long it took."""
    word = WORDS.get(reuse, "") if reuse is not None else ""
    return f"{word}, {duration(seconds)}" if seconds is not None and reuse is Reuse.COMPUTED else word


def duration(seconds: float) -> str:
    """Write a number of seconds as `1.5 ms` or `1.50 s`."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def views_html(value: Any) -> str:
    """A value as HTML."""
    return f'<div class="views">{"".join(map(view_html, views(value)))}</div>'


def view_html(view: View) -> str:
    """One view as HTML."""
    if view.png is not None:
        alt = html.escape(view.text or "picture", quote=True)
        return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(view.png).decode()}">'
    return f"<pre>{html.escape(view.text or '')}</pre>"


def result_html(result: Results) -> str:
    """HTML of a run's outputs and of how its values were obtained, for a notebook."""
    outputs = "".join(
        f"<div><b>{html.escape(name)}</b>{views_html(value)}</div>" for name, value in result.outputs.items()
    )
    rows = "".join(
        f"<tr><td>{html.escape(id)}</td><td>{html.escape(how(reuse, result.seconds.get(id)))}</td></tr>"
        for id, reuse in result.reuse.items()
        if id
    )
    return (
        f"<div>{outputs}<details><summary>{len(result.reuse)} nodes, {duration(result.elapsed)}</summary>"
        f"<table>{rows}</table></details></div>"
    )


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)  # names that were renamed
