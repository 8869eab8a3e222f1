"""Ending a process together with its descendants, in whatever group or session they are; whether it is stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

import psutil


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a group, and all its descendants.

    Nodes may fork, and a forked process would keep the worker's pipe open.
    """
    if process.returncode is not None:  # it was waited for, so that its number may belong to another process now
        return
    descendants = _suspend_tree(process.pid)
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        with contextlib.suppress(OSError):
            process.kill()
    _kill(descendants)


def end_own_tree(code: int) -> None:
    """Kill this process's descendants and the group that it leads, then end it at once with an exit code.

    The exit code shows that it ended itself; with a signal that could not be seen.
    """
    for _ in range(3):  # they may fork meanwhile
        _kill(_descendants(os.getpid()))
    os._exit(code)


def is_stopped(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process was stopped by a signal (SIGSTOP) and not continued; not where a debugger holds it."""
    if process.returncode is None:
        with contextlib.suppress(psutil.Error):
            return bool(psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    return False


def wait_for_end(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has ended.

    Where the system allows it, the process stays a zombie: its number is not given to another process, and `end_tree`
    still finds its descendants.
    """
    if hasattr(os, "waitid"):
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    else:
        process.wait()


def _suspend_tree(pid: int) -> list[psutil.Process]:
    """Suspend a process and its descendants, which are returned: a suspended process cannot fork."""
    with contextlib.suppress(psutil.Error):
        psutil.Process(pid).suspend()
    suspended: list[psutil.Process] = []
    while new := [process for process in _descendants(pid) if process not in suspended]:
        for process in new:
            with contextlib.suppress(psutil.Error):
                process.suspend()
        suspended += new
    return suspended


def _descendants(pid: int) -> list[psutil.Process]:
    """The processes in the group that a process leads, and all whose chain of parents leads to it or to one of these.

    A process outside the group whose parents have ended cannot be found.
    """
    all_processes: list[tuple[psutil.Process, int]] = []
    descendants: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            all_processes.append((process, process.ppid()))
            if process.pid != pid and _group(process.pid) == pid:
                descendants[process.pid] = process
    more = True
    while more:
        children = [
            process
            for process, parent in all_processes
            if process.pid not in descendants and (parent == pid or parent in descendants)
        ]
        descendants |= {process.pid: process for process in children}
        more = bool(children)
    return list(descendants.values())


def _group(pid: int) -> int | None:
    """The process group of a process; None on systems without groups."""
    with contextlib.suppress(OSError, AttributeError):
        return os.getpgid(pid)
    return None


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
