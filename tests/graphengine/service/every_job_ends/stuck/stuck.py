"""Nodes that do not end, in each way and place; and nodes around which something raises."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphengine import INERT, Context, SocketType, node, register_type


def _stuck(how: str, mark: str) -> str:
    Path(mark).touch()
    if how == "gil":  # nothing else of this process goes on
        ctypes.PyDLL(None).sleep(600)
    elif how == "read":
        os.read(os.pipe()[0], 1)
    while how == "loop" or (how == "sleep" and Path(mark).exists()):
        time.sleep(0.02)
    return how


@node(version=1)
def stuck_here(how: str, mark: str) -> str:
    """Hang where a job's own thread would compute it."""
    return _stuck(how, mark)


@node(version=1, on="thread")
def stuck_thread(how: str, mark: str) -> str:
    """Hang on a thread that waits."""
    return _stuck(how, mark)


@node(version=1, on="device")
def stuck_device(how: str, mark: str) -> str:
    """Hang on a worker."""
    return _stuck(how, mark)


@node(version=1, cache="never")
def process_here(x: int, seconds: float = 0.0) -> int:
    """Which process computes it."""
    time.sleep(seconds)
    return os.getpid()


@node(version=1, on="thread", cache="never")
def process_thread(x: int, seconds: float = 0.0) -> int:
    """Which process computes it."""
    time.sleep(seconds)
    return os.getpid()


@node(version=1, on="device", cache="never")
def process_device(x: int, seconds: float = 0.0) -> int:
    """Which process computes it."""
    time.sleep(seconds)
    return os.getpid()


@node(version=1, cache="never")
def holds_lock(mark: str, until: str) -> int:
    """Hold the interpreter's lock until somebody writes into a FIFO; which process computes it."""
    Path(mark).touch()
    ctypes.PyDLL(None).open(until.encode(), os.O_RDONLY)
    return os.getpid()


def _sessions(how: str, mark: str) -> None:
    """Start a process in a session of its own, or one that starts such a process; the number is in the file."""
    if how == "child":
        process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        Path(mark).write_text(f"{process.pid} ")
    else:
        code = "import subprocess as s, sys; p = s.Popen(['sleep', '1000'], start_new_session=True); "
        code += "open(sys.argv[1], 'w').write(f'{p.pid} '); p.wait()"
        subprocess.Popen([sys.executable, "-c", code, mark], start_new_session=how == "grandchild")
    while how != "of its group":
        time.sleep(0.02)
    while not (Path(mark).exists() and Path(mark).read_text().endswith(" ")):
        time.sleep(0.02)
    os._exit(3)


@node(version=1)
def sessions_here(how: str, mark: str) -> str:
    """Start processes in sessions of their own, and hang or end."""
    _sessions(how, mark)
    return how


@node(version=1, on="device")
def sessions_device(how: str, mark: str) -> str:
    """The same on a worker."""
    _sessions(how, mark)
    return how


def _writes(x: int) -> None:
    """Write in each way what a terminal would act on."""
    print("printed \x1b[31m and more")
    os.write(1, b"written \x1b]0;title\x07\n")
    os.write(2, b"an error \x1b[2J\n")
    subprocess.run(["printf", r"of a child \033[H\n"], check=True)
    logging.getLogger("stuck").warning("logged \x1b[5m")
    print("without an end \x9b", end="", file=sys.stderr)


@node(version=1)
def writes_here(x: int) -> int:
    """Write control characters to standard output and error."""
    _writes(x)
    return x


@node(version=1, on="device")
def writes_device(x: int) -> int:
    """The same on a worker."""
    _writes(x)
    return x


@node(version=1)
def ends_process(x: int, mark: str, seconds: float = 0.0) -> int:
    """End the process that computes it, after a while."""
    Path(mark).touch()
    time.sleep(seconds)
    os._exit(3)


@node(version=1, on="device", batch=("x",))
def stuck_together(x: int, mark: str) -> int:
    """Hang where 1 is among what is computed together."""
    return _together([x], mark)[0]


@stuck_together.many
def _together(x: Sequence[int], mark: str) -> list[int]:
    if 1 in x:
        Path(mark).write_text(str(len(x)))
        time.sleep(600)
    return list(x)


@node(version=1, output=True)
def keeps_making(value: Any, folder: str, ctx: Context = INERT) -> str:
    """Say what a picture saved from the value would carry."""
    return ",".join(ctx.making("value", value))


class Thorny:
    """A value around which something raises."""

    def __init__(self, where: str = "") -> None:
        self.where = where


def _encode(value: Thorny) -> bytes:
    if value.where == "encode":
        raise ZeroDivisionError("while it was encoded")
    return value.where.encode()


def _decode(data: bytes) -> Thorny:
    if data == b"decode":
        raise ZeroDivisionError("while it was decoded")
    return Thorny(data.decode())


def _needs(value: Thorny, part: str | None) -> frozenset[str]:
    if value.where == "needs":
        raise ZeroDivisionError("while it was asked what it needs")
    return frozenset()


register_type(SocketType(Thorny, "Thorny", encode=_encode, decode=_decode, needs=_needs))


@node(version=1, on="device")
def makes_thorny(where: str) -> Thorny:
    """A value that raises there."""
    return Thorny(where)


@node(version=1, cache="never")
def thorny_here(where: str) -> Thorny:
    """The same, made in place."""
    return Thorny(where)


@node(version=1, on="device")
def takes_thorny(value: Thorny) -> str:
    """Where it raises."""
    return value.where


class Speechless(Exception):
    """An exception that cannot say what it is."""

    def __str__(self) -> str:
        raise ZeroDivisionError("while it was told")


@node(version=1, on="device")
def raises_speechless(x: int) -> int:
    """Fail without words."""
    raise Speechless


@node(version=1, on="device")
def notes_an_object(x: int, ctx: Context = INERT) -> int:
    """Note what is no data."""
    ctx.note(what=object())
    return x


@node(version=1, on="device", batch=("x",))
def grouped_by_arrays(x: int) -> int:
    """A number, whose group is an array."""
    return x


@grouped_by_arrays.many
def _grouped(x: Sequence[int]) -> list[int]:
    return list(x)


@grouped_by_arrays.group
def _array(x: int) -> Any:
    import numpy as np

    return np.zeros(3)
