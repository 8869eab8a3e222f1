"""The command line, `graphengine`: one module for each command, imported when that command is given.

What the exit codes mean stands in `EXIT_CODES` of `graphengine.cli.common`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from graphengine.cli.process import command_process, end_with_threads


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: Those of the command line, without the program's name; by default this process's.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    with command_process():
        code = _run(given)
        end_with_threads(code)
        return code


def _run(arguments: list[str]) -> int:
    try:
        from graphengine.cli.app import start  # here: Ctrl-C comes also while this is imported

        start(arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt as error:
        print(f"cancelled {error}".rstrip(), file=sys.stderr)
        return 130  # CANCELLED of `common`, which may not be imported yet
    return 0
