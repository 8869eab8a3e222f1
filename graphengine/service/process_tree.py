"""Ending a process with all that it has begun, on systems with process groups or without."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

import psutil


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group, and what it has forked: nodes may fork, and what they fork holds their pipe."""
    if process.returncode is not None:  # once it was waited for, its number may be another's
        return
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        _end(_descendants(process.pid))
        with contextlib.suppress(OSError):
            process.kill()


def end_own_tree(code: int) -> None:
    """End this process at once with an exit code, after its group where it leads one, else after its children: by a
    signal, nobody could tell that it ended itself."""
    me = os.getpid()
    if not hasattr(os, "getpgrp"):
        _end(_descendants(me))
    elif os.getpgrp() == me:
        for _ in range(3):  # what they fork meanwhile
            _end(_members(me))
    os._exit(code)


def wait_for_end(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has ended. Where the system can, its number stays its own, so that `end_tree` still finds
    what it forked."""
    if hasattr(os, "waitid"):
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    else:
        process.wait()


def _descendants(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return list(psutil.Process(pid).children(recursive=True))
    return []


def _members(group: int) -> list[psutil.Process]:
    """The processes of a group, without its leader."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if pid != group and os.getpgid(pid) == group:
                found.append(psutil.Process(pid))
    return found


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
