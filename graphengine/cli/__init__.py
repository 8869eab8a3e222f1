"""The command line, `graphengine`: one module for each command, imported when that command is given.

Exit codes: 0 done; 1 a node failed; 2 the workflow, an input or the command itself is wrong, nothing was run;
3 a file or a model cannot be read or written; 130 cancelled; 141 the reader of the output went away.
"""

from __future__ import annotations

import gc
import io
import os
import sys
import threading
from collections.abc import Sequence

from graphengine.system.terminal import screened


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    # Until something is computed, Python's search for garbage finds nothing and takes time from the imports.
    gc.disable()
    _open_streams()
    try:
        with screened():
            return _main(arguments)
    finally:
        gc.freeze()  # all that was imported ends with the process: to take it apart first would take long
        gc.enable()


def _open_streams() -> None:
    """Let standard streams that whoever started this has closed lead nowhere; no file gets their numbers. What a
    console's encoding does not have is written as an escape."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not what a test or an embedding program has put in its place
            stream.reconfigure(errors="backslashreplace")


def _main(arguments: Sequence[str] | None) -> int:
    # What libraries think of each other's versions is of no use to who wants a picture.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        from graphengine.cli.app import start  # here: Ctrl-C comes also while this is imported

        start(given)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt as error:
        print(f"cancelled {error}".rstrip(), file=sys.stderr)
        code = 130
    else:
        code = 0
    if any(thread.name.startswith(("graphengine-preload", "graphengine-left")) for thread in threading.enumerate()):
        # All came from the disk, or the run was cancelled: nobody needs what is still being imported or computed, and
        # Python cannot end well under a thread that imports or computes. Nothing else is under way.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
