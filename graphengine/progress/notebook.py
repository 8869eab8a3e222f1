"""Progress bars in a notebook, with the latest preview: HTML below the cell that is updated in place."""

from __future__ import annotations

import base64
import html
import threading
from typing import TYPE_CHECKING, Any

from graphengine.old_names import moved
from graphengine.progress.tally import Line, Tally

EVERY = 0.25
"""Seconds between two updates."""
SIDE = 192
"""The most pixels of a preview's side on the screen."""


def is_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


class NotebookBars:
    """The bars below a cell, updated by a thread until they are hidden."""

    def __init__(self, tally: Tally) -> None:
        from IPython.display import display

        self._tally = tally
        self._over = threading.Event()
        self._seen: Any = None
        self._picture = ""
        show: Any = display
        self._handle = show(self._drawn(), raw=True, display_id=True)
        self._thread = threading.Thread(target=self._draw, name="graphengine-notebook", daemon=True)
        self._thread.start()

    def hide(self) -> None:
        """Remove the bars."""
        self._over.set()
        self._thread.join()
        self._handle.update({"text/html": "", "text/plain": ""}, raw=True)

    def _draw(self) -> None:
        while not self._over.wait(EVERY):
            self._handle.update(self._drawn(), raw=True)

    def _drawn(self) -> dict[str, str]:
        """The bars as HTML, and as text for programs that show none."""
        lines = self._tally.lines()
        rows = "".join(map(_row, lines))
        page = (
            '<div style="display:flex;flex-wrap:wrap;gap:1em;align-items:center;max-width:48em;font-size:.9em">'
            f'<table style="flex:1 1 20em;border:0;margin:0">{rows}</table>{self._preview()}</div>'
        )
        return {"text/html": page, "text/plain": "; ".join(line.text.strip() for line in lines)}

    def _preview(self) -> str:
        latest = self._tally.preview
        if latest is not None and latest is not self._seen:
            from graphengine.show.report import views

            self._seen = latest
            self._picture = "".join(
                f'<img alt="preview" style="width:{SIDE}px;max-width:100%;height:auto" '
                f'src="data:image/png;base64,{base64.b64encode(view.png).decode()}">'
                for view in views(latest[1])[:1]
                if view.png is not None
            )
        return self._picture


def _row(line: Line) -> str:
    cell = "border:0;padding:.1em .6em .1em 0;white-space:nowrap;background:none;color:inherit"
    bar = "" if line.total is None else f' value="{line.done}" max="{line.total}"'
    inner = "padding-left:1em;" if line.label.startswith(" ") else ""
    text = " · ".join(part for part in (line.count, line.rate, line.time) if part)
    return (
        f'<tr style="background:none"><td style="{cell};{inner}text-align:left">{html.escape(line.label.strip())}</td>'
        f'<td style="{cell};width:40%"><progress style="width:100%"{bar}></progress></td>'
        f'<td style="{cell};text-align:left">{html.escape(text)}</td></tr>'
    )


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)  # names that were renamed
