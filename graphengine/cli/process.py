"""The process of one command: what is set up so that it starts fast, and how it ends."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import sys
import threading
from collections.abc import Iterator

from graphengine.system.terminal import screened

LEFT = ("graphengine-preload", "graphengine-left")
"""How the names of threads begin that import or compute what nobody needs any more once a command has ended."""


@contextlib.contextmanager
def command_process() -> Iterator[None]:
    """Set this process up for one command, while the context lasts.

    Python's search for garbage is off until nodes compute: it finds nothing, and takes time from the imports. At the
    end all objects are frozen, since they end with the process. Messages of libraries about versions are silenced, and
    control characters in what is written to a terminal are shown as escapes.
    """
    pause_garbage_search()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    _open_streams()
    try:
        with screened():
            yield
    finally:
        resume_garbage_search(skip_existing=True)


def pause_garbage_search() -> None:
    """Turn Python's search for garbage off, while modules are imported."""
    gc.disable()


def resume_garbage_search(skip_existing: bool = False) -> None:
    """Turn Python's search for garbage on.

    Args:
        skip_existing: All objects that exist now stay until the process ends: they are not looked through again.
    """
    if skip_existing:
        gc.freeze()
    gc.enable()


def end_with_threads(code: int) -> None:
    """End this process at once where threads are left that import or compute; else do nothing.

    Everything came from the disk, or the run was cancelled: nobody needs their results, and Python cannot end well
    under a thread that imports or computes.
    """
    if any(thread.name.startswith(LEFT) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _open_streams() -> None:
    """Open standard streams that were closed by the parent process on the null device, so that no file gets their
    numbers. Characters that a console's encoding lacks are written as escapes."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not what a test or an embedding program has put in its place
            stream.reconfigure(errors="backslashreplace")
