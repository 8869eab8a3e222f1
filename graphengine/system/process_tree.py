"""Ending a process with all that it has begun, on systems with process groups or without, in whatever session."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

import psutil


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group, and what it has begun: nodes may fork, and what they fork holds their pipe."""
    if process.returncode is not None:  # once it was waited for, its number may be another's
        return
    begun = _stopped(process.pid)
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        with contextlib.suppress(OSError):
            process.kill()
    _end(begun)


def end_own_tree(code: int) -> None:
    """End this process at once with an exit code, after what it has begun, and after its group where it leads one: by
    a signal, nobody could tell that it ended itself."""
    for _ in range(3):  # what they fork meanwhile
        _end(_begun_by(os.getpid()))
    os._exit(code)


def wait_for_end(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has ended. Where the system can, its number stays its own, so that `end_tree` still finds
    what it forked."""
    if hasattr(os, "waitid"):
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    else:
        process.wait()


def _stopped(pid: int) -> list[psutil.Process]:
    """What a process has begun, stopped together with it: whoever is stopped begins nothing more."""
    with contextlib.suppress(psutil.Error):
        psutil.Process(pid).suspend()
    found: list[psutil.Process] = []
    while new := [process for process in _begun_by(pid) if process not in found]:
        for process in new:
            with contextlib.suppress(psutil.Error):
                process.suspend()
        found += new
    return found


def _begun_by(pid: int) -> list[psutil.Process]:
    """What a process has begun, without itself: who is in the group that it leads, and whose parents lead to it or to
    those, in whatever session. Whose parents have ended, outside the group, cannot be found."""
    others: list[tuple[psutil.Process, int]] = []
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            others.append((process, process.ppid()))
            if process.pid != pid and _group(process.pid) == pid:
                found[process.pid] = process
    more = True
    while more:
        new = [(one, parent) for one, parent in others if one.pid not in found and (parent == pid or parent in found)]
        found |= {one.pid: one for one, _ in new}
        more = bool(new)
    return list(found.values())


def _group(pid: int) -> int | None:
    """The group of a process, where there are groups."""
    with contextlib.suppress(OSError, AttributeError):
        return os.getpgid(pid)
    return None


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
