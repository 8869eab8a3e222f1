"""Progress bars of runs, in terminals and notebooks: steps, rate and time left.

`graphengine.run` shows them by itself (`graphengine.execution.display` finds `begin` by its entry point). Programs that
receive events of runs elsewhere, such as jobs of a service, pass them to `Bars`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType

from graphengine.execution.display import Waiting, is_watched, on_terminal
from graphengine.progress.tally import Tally

__all__ = ["Bars", "Drawn", "begin"]


class Drawn(Tally):
    """A tally that is drawn from `open` to `close`, and then removed from the screen."""

    _end: Callable[[], None] | None = None

    def open(self) -> bool:
        """Start drawing in the notebook or terminal; returns False if there is neither."""
        if self.previews:
            from graphengine.progress.notebook import NotebookBars

            self._end = NotebookBars(self).hide
        elif on_terminal():
            from graphengine.progress import terminal

            if terminal.show(self):
                self._end = lambda: terminal.hide(self)
        return self._end is not None

    def close(self) -> None:
        """Stop drawing, and remove the bars."""
        end, self._end = self._end, None
        if end is not None:
            end()


def begin(title: str, total: Callable[[], int] | None = None, since: float | None = None) -> Drawn | None:
    """Start drawing the bars of a run; returns the listener for its events, or None if nothing can be drawn.

    Args:
        title: The name of the run.
        total: Returns the most nodes that the run may need.
        since: When the run began, by `time.monotonic`.
    """
    drawn = Drawn(title, total, since, previews=_in_notebook())
    return drawn if drawn.open() else None


class Bars(Drawn):
    """Bars for runs whose events come from elsewhere: a listener that is a context manager, or is closed by `close`.

    They appear after half a second, in a terminal or a notebook.

    Args:
        title: The text before the upper bar.
        total: The most nodes that a run may need; None if that is unknown.
    """

    def __init__(self, title: str, total: int | None = None) -> None:
        super().__init__(title, None if total is None else lambda: total, previews=_in_notebook())
        self._waiting = Waiting(self._begin) if is_watched() else None

    def _begin(self) -> Callable[[], None] | None:
        return super().close if self.open() else None

    def close(self) -> None:
        """Stop drawing, and remove the bars."""
        if self._waiting is not None:
            self._waiting.close()

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def _in_notebook() -> bool:
    if "ipykernel" not in sys.modules:
        return False
    from graphengine.progress.notebook import is_notebook

    return is_notebook()
