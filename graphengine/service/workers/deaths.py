"""How a worker ended, in words and as a `Fault`; the kernel's count of kills for lack of memory."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from graphengine.service.retry import Fault, fault_of_exit, signal_name


@dataclass(frozen=True, slots=True)
class End:
    """The end of a worker.

    Attributes:
        why: A sentence without a subject, such as "it ended with exit code 1".
        fault: What it is counted against.
    """

    why: str
    fault: Fault = Fault.UNKNOWN


def end_of_process(code: int, memory_kills: int = 0) -> End:
    """The end of a worker's process.

    Args:
        code: Its exit code; of a signal its number, negative.
        memory_kills: How many processes the kernel has killed for lack of memory since the worker was given its calls.
    """
    fault = fault_of_exit(code, memory_kills)
    if code >= 0:
        return End(f"it ended with exit code {code}", fault)
    name = signal_name(code) or f"signal {-code}"
    memory = ": the machine, or its container, was out of memory" if name == "SIGKILL" and fault is Fault.CALL else ""
    return End(f"it was ended by {name}{memory}", fault)


class MemoryKills:
    """Counts how many processes the kernel has killed for lack of memory, in the group of a process.

    The count is that of the process's control group (version 2, else 1), else that of the whole machine.

    Args:
        pid: The process.
        root: Where `proc` and `sys` lie.
    """

    def __init__(self, pid: int, root: Path = Path("/")) -> None:
        self._file = next((file for file in _counts(pid, root) if _killed(file) is not None), None)

    def count(self) -> int:
        """How many processes the kernel has killed; 0 where it does not count them."""
        return 0 if self._file is None else _killed(self._file) or 0


def _counts(pid: int, root: Path) -> list[Path]:
    """Files that may hold the kernel's count, the best first."""
    found: list[Path] = []
    groups = root / "sys" / "fs" / "cgroup"
    with contextlib.suppress(OSError):  # there is no such file on other systems
        for line in (root / "proc" / str(pid) / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            own = path.strip("/")
            if not controllers:
                found += [groups / own / "memory.events", groups / "memory.events"]
            elif "memory" in controllers.split(","):
                v1 = groups / "memory"  # in a container, the path may be the one outside of it
                found += [v1 / own / "memory.oom_control", v1 / "memory.oom_control"]
    return [*found, root / "proc" / "vmstat"]


def _killed(file: Path) -> int | None:
    """The kernel's count in a file; None if there is none in it."""
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    return None
