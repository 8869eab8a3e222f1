"""Runs as a person looks at them: what is kept of one, and its values as HTML. (`report_page` is the whole page.)

Ids, prompts and texts are data: everything is escaped.
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
from graphengine.values.types import View, socket_type


class Results(Protocol):
    """What is shown of a run."""

    outputs: dict[str, Any]
    reuse: dict[str, Reuse]
    seconds: dict[str, float]
    elapsed: float


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


@dataclass
class Seen:
    """What was heard of a node; `known` says whether its value was, too."""

    type: str
    reuse: Reuse | None = None
    seconds: float | None = None
    value: Any = None
    error: str = ""
    known: bool = True


class ReportRecorder:
    """A listener that keeps what a report shows: every node's value, how it came and how long it took.

    Attributes:
        outputs: The run's outputs by name, which whoever has them puts here; else they are looked for among the nodes.
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


def how(reuse: Reuse | None, seconds: float | None) -> str:
    """How a value came and how long it took, in words."""
    word = WORDS.get(reuse, "") if reuse is not None else ""
    return f"{word}, {duration(seconds)}" if seconds is not None and reuse is Reuse.COMPUTED else word


def duration(seconds: float) -> str:
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
        f"<div>{outputs}<details><summary>{len(result.reuse)} nodes, {duration(result.elapsed)}</summary>"
        f"<table>{rows}</table></details></div>"
    )


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)  # names that were renamed
