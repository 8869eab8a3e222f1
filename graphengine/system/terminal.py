"""Safe text for terminals: control characters are shown as escapes instead of being sent to the terminal.

Ids, prompts, paths, errors, user names and the texts in pictures may come from strangers, and libraries log them. The
command line therefore wraps its standard streams in `Screened`. Drawing code (rich's bars and tables) writes to the
stream inside, through a `console` that cleans every text it is given.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_ACTED_ON = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]|\r(?!\n)")
"""Control characters (C0 and C1, without tab and line feed), and those that change the direction of writing."""


def printable(text: str) -> str:
    """Replace each character that a terminal acts on by its escape, such as `\\x1b`."""
    return _ACTED_ON.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class Screened:
    """A text stream around another one that writes `printable` text only; everything else is passed on.

    A carriage return at the start of a line is kept, so that progress bars of libraries can redraw themselves.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._at_start = True

    def write(self, text: str) -> int:
        """Write a text and return its length."""
        redrawn = text.startswith("\r") and self._at_start
        self._stream.write("\r" + printable(text[1:]) if redrawn else printable(text))
        if text:
            self._at_start = redrawn or text.endswith("\n")
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream)


def unscreened(stream: Any) -> Any:
    """The stream inside a `Screened` one, for drawing code that cleans texts by other means."""
    while isinstance(stream, Screened):
        stream = stream._stream
    return stream


@contextlib.contextmanager
def screened() -> Iterator[None]:
    """Screen standard output and error inside a `with` block."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Screened(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def console(stream: IO[str], width: int | None = None) -> Console:
    """A console of rich on a standard stream that writes `printable` text only.

    Args:
        stream: Standard output or error.
        width: Columns; by default those of the terminal.
    """
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class Clean(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(printable(segment.text), segment.style)

    return Clean(file=unscreened(stream), width=width)
