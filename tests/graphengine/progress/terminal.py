"""Programs in a terminal of their own: a pseudo-terminal that is read as they write."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from tests import ROOT

CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
PATIENCE = 300.0
"""Seconds within which what is waited for comes, on a machine that does much else."""
RECENT = 8000
"""Characters that are looked through: bars are drawn again and again."""

SCRIPT = """\
import pathlib, sys, time
from graphengine import Context, Graph, INERT, node

GO = pathlib.Path("go")


@node(version=1, cache="never")
def slow(x: int, ctx: Context = INERT) -> int:
    step = 0
    while not GO.exists():
        step = min(step + 1, 900)
        ctx.progress(step, 1000)
        time.sleep(0.02)
    return x


with Graph("slow-graph") as g:
    g.output("x", slow(1))
"""


class Terminal:
    """A program whose standard error, and by default output, is a terminal of 100 columns."""

    def __init__(self, folder: Path, code: str, out: IO[bytes] | None = None, **env: str) -> None:
        mine, theirs = pty.openpty()
        (folder / "script.py").write_text(code)
        plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "GRAPHENGINE_PROGRESS")}
        own = {"TERM": "xterm", "COLUMNS": "100", "LINES": "30", "GRAPHENGINE_CACHE": str(folder / "cache"),
               "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "nodes")]), "OMP_NUM_THREADS": "1"}  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "script.py"], cwd=folder, env={**plain, **own, **env}, stdin=theirs, stdout=out or theirs,
            stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        self.file, self.text = mine, ""

    def read_until(self, pattern: str) -> str:
        """All that was written, once it has this in it."""
        end = time.monotonic() + PATIENCE
        while not re.search(pattern, self.text[-RECENT:]):
            assert time.monotonic() < end, f"no {pattern!r} in {self.text[-RECENT:]!r}"
            assert self._read(1.0), f"it ended without {pattern!r}: {self.text[-RECENT:]!r}"
        return self.text

    def _read(self, seconds: float) -> bool:
        """Read what there is; False at the end."""
        if select.select([self.file], [], [], seconds)[0]:
            try:
                data = os.read(self.file, 65536)
            except OSError:  # the other end was closed
                return False
            self.text += CONTROL.sub("", data.decode(errors="replace"))
            return bool(data)
        return True

    def end(self) -> str:
        """All that was written, when the program has ended well."""
        end = time.monotonic() + PATIENCE
        while self._read(1.0):
            assert time.monotonic() < end, self.text
        assert self.process.wait(PATIENCE) == 0, self.text
        os.close(self.file)
        return self.text

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
