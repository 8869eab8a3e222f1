"""Output of workers: lines of their standard streams are shown on this process's standard error, without control
characters of terminals, and logged."""

from __future__ import annotations

import codecs
import contextlib
import logging
import os
import re
import sys
from typing import IO

from graphengine.system.terminal import printable, unscreened

LONGEST_LINE = 100_000
"""The most characters of a line that are kept in memory until it ends."""

_ENDS = re.compile(r"(?<=\n)|(?=\r(?!\n))")
"""Places where a line ends, or is drawn again from its beginning."""

log = logging.getLogger(__name__)


def show(stream: IO[bytes], name: str) -> None:
    """Show and log what a worker writes, a line at a time, until nobody can write any more.

    Bars that libraries draw over themselves, by a carriage return that begins a line, are shown and not logged.

    Args:
        stream: The output of the worker and of the processes that it has started.
        name: The worker's name, for the log.
    """
    decoder, rest, at_start = codecs.getincrementaldecoder("utf-8")("replace"), "", True
    with stream:
        while data := os.read(stream.fileno(), 1 << 16):
            *lines, rest = _ENDS.split(rest + decoder.decode(data))
            if len(rest) > LONGEST_LINE:
                lines, rest = [*lines, rest], ""
            for line in lines:
                at_start = _show(line, name, at_start)
        _show(rest, name, at_start)


def _show(line: str, name: str, at_start: bool) -> bool:
    """Show and log a line; returns whether the next may be drawn over it, or begins on a line of its own."""
    redrawn, text = line.startswith("\r") and line != "\r\n", printable(line.strip("\r\n"))
    if not redrawn and text.strip():
        log.info("%s: %s", name, text)
    before = ("\r" if at_start else "\n") if redrawn else ""
    end = "\n" if line.endswith("\n") else ""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # there is no such stream, or it is closed
        unscreened(sys.stderr).write(before + text + end)
        sys.stderr.flush()
    return redrawn or bool(end) or (at_start and not line)
