"""Worker processes on this machine: one supervised process with one pipe of its own each.

The standard pools lose every pending job when one process is killed, and a queue that two processes share starves one
when the other dies inside it; here a death is the end of one process, or of its pipe.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Protocol

from graphengine.errors import Exhausted
from graphengine.service.retry import Fault
from graphengine.service.workers.deaths import End, MemoryKills, end_of_process
from graphengine.service.workers.streams import show
from graphengine.service.workers.wire import Blobs, Message, pack, unpack
from graphengine.system.channel import start_with_pipe
from graphengine.system.process_tree import end_tree, is_stopped, wait_for_end
from graphengine.system.threads import start

LAST_WORDS = 0.5
"""Seconds in which the last output of a process that was ended is shown."""

OnMessage = Callable[["Handle", Message, Blobs], None]
OnLost = Callable[["Handle", End], None]
Orders = SimpleQueue[bytes | None]


class Handle(Protocol):
    """A worker as the service sees it, wherever it is.

    Each start calls `on_message` with every message of the worker, and `on_lost` once when it has ended for any reason.
    """

    name: str
    device: str

    def start(self, on_message: OnMessage, on_lost: OnLost) -> None:
        """Start the worker, also again after it was lost."""

    def send(self, message: Message, blobs: Mapping[str, bytes]) -> None:
        """Send a message to the worker; one that cannot reach it any more is dropped."""

    def kill(self) -> None:
        """End the worker at once."""

    def is_stopped(self) -> bool:
        """Whether its process is known to be stopped by a signal (SIGSTOP), so that nothing in it goes on."""


class LocalWorker:
    """A worker that is a process of this machine.

    Args:
        name: Unique in its service.
        device: As torch writes it.
        threads: How many threads it computes with; None as torch chooses.
        store: The folder of the disk store that it shares with the service.
        packs: Folders of nodes to load.
        helps: It computes each group of calls on a thread of its own.
    """

    def __init__(
        self,
        name: str,
        device: str = "cpu",
        threads: int | None = None,
        store: str | None = None,
        packs: tuple[str, ...] = (),
        helps: bool = False,
    ) -> None:
        self.name, self.device, self.threads = name, device, threads
        self.config: Message = {"device": device, "store": store, "packs": list(packs), "helps": helps}
        self.process: subprocess.Popen[bytes] | None = None
        self._orders: Orders = SimpleQueue()
        self._showing: threading.Thread | None = None
        self._memory: MemoryKills | None = None
        self._killed = 0

    def start(self, on_message: OnMessage, on_lost: OnLost) -> None:
        try:
            connection, pipe, self.process = self._started()
        except OSError as error:  # no process, file or memory is to be had now: it is tried again
            on_lost(self, End(f"it cannot be started: {error.strerror or error}", Fault.NOBODY))
            return
        orders: Orders = SimpleQueue()
        self._orders, self._memory = orders, MemoryKills(self.process.pid)
        self.send(self.config, {})
        try:
            self._showing = self._thread(show, self.process.stdout, self.name)
            writing = self._thread(_write, connection, orders)
            self._thread(_watch, pipe, self.process)
            self._thread(self._listen, connection, self.process, orders, writing, on_message, on_lost)
        except Exhausted as error:
            end_tree(self.process)
            self.process.wait()
            orders.put(None)
            connection.close()
            on_lost(self, End(f"it cannot be started: {error}", Fault.NOBODY))

    def _thread(self, work: Callable[..., None], *arguments: object) -> threading.Thread:
        return start(functools.partial(work, *arguments), f"graphengine-{self.name}")

    def _started(self) -> tuple[Connection, socket.socket, subprocess.Popen[bytes]]:
        environment = dict(os.environ)
        if self.threads is not None:  # set before it first computes: torch cannot change it for all threads later
            environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads))
        command = [sys.executable, "-P", "-m", "graphengine.service.workers.worker"]
        here, process = start_with_pipe(command, environment)
        with here:
            return Connection(here.dup().detach()), here.dup(), process

    def _listen(
        self,
        connection: Connection,
        process: subprocess.Popen[bytes],
        orders: Orders,
        writing: threading.Thread,
        on_message: OnMessage,
        on_lost: OnLost,
    ) -> None:
        why = "a message of it could not be worked on"
        try:
            while True:
                message, blobs = unpack(connection.recv_bytes())
                on_message(self, message, blobs)
        except (EOFError, OSError):
            why = ""
        except Exception as error:  # it is malformed, or too large for the memory
            why = f"a message of it cannot be read: {type(error).__name__}: {error}"
        finally:  # in any case: its calls wait for this
            end_tree(process)  # it may have closed its pipe and linger
            code = process.wait()
            orders.put(None)
            on_lost(self, End(why, Fault.NOBODY) if why else end_of_process(code, self._memory_kills()))
        writing.join()  # its descriptor must not be closed while it writes: the number may be another file's by then
        connection.close()

    def _memory_kills(self) -> int:
        """How many processes the kernel has killed for lack of memory since calls were sent last."""
        return 0 if self._memory is None else self._memory.count() - self._killed

    def send(self, message: Message, blobs: Mapping[str, bytes]) -> None:
        if message.get("op") == "calls" and self._memory is not None:
            self._killed = self._memory.count()
        self._orders.put(pack(message, blobs))

    def kill(self) -> None:
        if self.process is not None:
            end_tree(self.process)
        if self._showing is not None:
            self._showing.join(LAST_WORDS)

    def is_stopped(self) -> bool:
        return self.process is not None and is_stopped(self.process)


def _watch(pipe: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """Close the pipe when a process has ended, so that the listener sees it even if a forked child holds its end."""
    with pipe:
        wait_for_end(process)
        end_tree(process)
        with contextlib.suppress(OSError):
            pipe.shutdown(socket.SHUT_RDWR)  # what lies in it is still read


def _write(connection: Connection, orders: Orders) -> None:
    """Write messages to a worker, on a thread of its own: a message that the worker does not read must not block the
    sender, who may be about to end that worker."""
    with contextlib.suppress(OSError):  # it is gone; the listener tells
        while (order := orders.get()) is not None:
            connection.send_bytes(order)
