"""Progress bars in a terminal, by rich; all runs of a process share one display."""

from __future__ import annotations

import functools
import sys
import threading

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from graphengine.progress.tally import Tally
from graphengine.system.terminal import Screened, unscreened

MOST_LINES = 12
"""The most bars that are drawn at once."""


def show(tally: Tally) -> bool:
    """Draw a tally until it is hidden; returns False if the terminal cannot show bars."""
    return _screen().show(tally)


def hide(tally: Tally) -> None:
    """Stop drawing a tally; after the last one, no bar is left."""
    _screen().hide(tally)


@functools.cache
def _screen() -> _Screen:
    return _Screen()


class _Screen:
    """The bars in this process's terminal."""

    def __init__(self) -> None:
        self._tallies: list[Tally] = []
        self._live: Live | None = None
        self._lock = threading.Lock()

    def show(self, tally: Tally) -> bool:
        with self._lock:
            self._tallies.append(tally)
            if self._live is None:
                console = _Console(file=unscreened(sys.stderr))
                if not console.is_terminal or console.is_dumb_terminal:
                    self._tallies.remove(tally)
                    return False
                self._live = Live(
                    console=console, get_renderable=self._table, refresh_per_second=8, transient=True,
                    # Printed text appears above the bars; output that goes to a file is not redirected.
                    redirect_stdout=_is_terminal(sys.stdout), redirect_stderr=_is_terminal(sys.stderr),
                )  # fmt: skip
                before: dict[str, object] = {"stdout": sys.stdout, "stderr": sys.stderr}
                self._live.start(refresh=True)
                # Text printed above the bars is screened as without them.
                for name, old in before.items():
                    if isinstance(old, Screened) and getattr(sys, name) is not old:
                        setattr(sys, name, Screened(getattr(sys, name)))
            return True

    def hide(self, tally: Tally) -> None:
        with self._lock:
            if tally in self._tallies:
                self._tallies.remove(tally)
            if self._live is not None and not self._tallies:
                self._live.stop()
                self._live = None

    def _table(self) -> Table:
        """The table of bars, which rich draws on a thread of its own."""
        table = Table.grid(padding=(0, 1, 0, 0), expand=True)
        table.add_column(no_wrap=True)
        table.add_column(ratio=1, min_width=8)
        for _ in range(3):
            table.add_column(no_wrap=True, justify="right")
        lines = [line for tally in list(self._tallies) for line in tally.lines()]
        for line in lines[:MOST_LINES]:
            bar = ProgressBar(total=line.total, completed=line.done, pulse=line.total is None)
            table.add_row(Text(_short(line.label)), bar, line.count, Text(line.rate, "cyan"), Text(line.time, "yellow"))
        if len(lines) > MOST_LINES:
            table.add_row(Text(f"and {len(lines) - MOST_LINES} more"))
        return table


class _Console(Console):
    """A console that never hides the cursor, which a killed process could not show again."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


def _short(label: str, length: int = 32) -> str:
    """Shorten a label to leave room for its bar, and replace characters that a terminal acts on."""
    text = "".join(character if character.isprintable() else "�" for character in label)
    return text if len(text) <= length else f"{text[: length // 2]}…{text[-(length // 2 - 1) :]}"


def _is_terminal(stream: object) -> bool:
    try:
        return bool(stream.isatty())  # type: ignore[attr-defined]
    except (AttributeError, ValueError):
        return False
