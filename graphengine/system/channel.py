"""Private connections between processes of one user on one machine: Unix sockets, or loopback ports with a secret.

A service listens beside its queue file (`Listener`, `connected`). On Linux it uses a Unix socket, whose mode is set
before any process can open it. Elsewhere (Windows, macOS, a path too long for a socket) it uses a port of the loopback
address, which every user of the machine can reach, and a secret in a file that only its owner can read. A worker
process gets its own pipe in the same two ways (`start_with_pipe`, `pipe_from`).
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import socket
import socketserver
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"
SECRET_BYTES = 32
CONNECTING = 30.0
"""Seconds within which a worker process must connect."""


def socket_file(file: Path) -> Path:
    """The path of the Unix socket of the service that runs a queue's jobs."""
    return file.with_name(file.name + ".sock")


def port_file(file: Path) -> Path:
    """The path of the file with the service's loopback port and secret, used where there is no Unix socket."""
    return file.with_name(file.name + ".port")


def listens(file: Path) -> bool:
    """Whether a service listens beside a queue file, or was killed while it did."""
    return socket_file(file).exists() or port_file(file).exists()


class Listener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A server beside a queue file, with one thread for each client.

    Args:
        file: The queue file.
        handle: Called with each client that belongs to the same user.

    Raises:
        OSError: Neither a Unix socket nor a port can be opened.
    """

    request_queue_size = 128  # a client that comes while it is full is refused at once, as if no service ran
    daemon_threads = True

    def __init__(self, file: Path, handle: Callable[[socketserver.StreamRequestHandler], None]) -> None:
        self._secret, self.file, self._inode = b"", socket_file(file), -1

        class Handler(socketserver.StreamRequestHandler):
            server: Listener

            def handle(self) -> None:
                with contextlib.suppress(OSError, ValueError, RecursionError):
                    if self.server.knows(self.rfile):
                        handle(self)

        for old in (socket_file(file), port_file(file)):
            with contextlib.suppress(OSError):
                old.unlink()  # left by a killed service: the queue's lease allows one service at a time
        try:
            self.address_family = _unix_sockets()
            super().__init__(str(socket_file(file)), Handler)  # type: ignore[arg-type]
        except OSError:
            self.address_family = socket.AF_INET
            super().__init__((LOOPBACK, 0), Handler)
            self.file = self._write_port(port_file(file))
        self._inode = os.stat(self.file).st_ino

    def server_bind(self) -> None:
        if self.address_family != socket.AF_INET:
            os.fchmod(self.socket.fileno(), 0o600)  # before it has a name, so that no other user can ever open it
        super().server_bind()

    def _write_port(self, file: Path) -> Path:
        self._secret = secrets.token_hex(SECRET_BYTES).encode()
        facts = {"port": self.server_address[1], "secret": self._secret.decode()}
        part = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
        with open(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as target:
            json.dump(facts, target)
        os.replace(part, file)
        return file

    def knows(self, stream: Any) -> bool:
        """Whether a client may talk to this server: on a port it must send the secret first."""
        return not self._secret or hmac.compare_digest(stream.readline(2 * SECRET_BYTES + 1).rstrip(), self._secret)

    def server_close(self) -> None:
        super().server_close()
        with contextlib.suppress(OSError):
            if os.stat(self.file).st_ino == self._inode:  # else it belongs to a service that has taken over
                self.file.unlink()


def _unix_sockets() -> int:
    """The address family of Unix sockets.

    Raises:
        OSError: This system has none, or cannot make them private before they can be opened.
    """
    family = getattr(socket, "AF_UNIX", None)
    if family is None or not hasattr(os, "fchmod") or not sys.platform.startswith("linux"):
        raise OSError("there are no Unix sockets with a mode here")
    return int(family)


@contextlib.contextmanager
def connected(file: Path, timeout: float | None = 5.0) -> Iterator[Any]:
    """Connect to the service that listens beside a queue file; the context gives a binary stream.

    Args:
        file: The queue file.
        timeout: Seconds that connecting and each answer may take; None: no limit.

    Raises:
        OSError: No service listens.
        ValueError: The file with the port and the secret cannot be read.
    """
    with _connect(file, timeout) as connection, connection.makefile("rwb") as stream:
        yield stream


def _connect(file: Path, timeout: float | None) -> socket.socket:
    with contextlib.suppress(OSError):
        connection = socket.socket(_unix_sockets())
        try:
            connection.settimeout(timeout)
            connection.connect(str(socket_file(file)))
            return connection
        except OSError:
            connection.close()
    facts = json.loads(port_file(file).read_text())
    connection = socket.create_connection((LOOPBACK, int(facts["port"])), timeout=timeout)
    connection.sendall(str(facts["secret"]).encode() + b"\n")
    return connection


# --- the pipe to a worker --------------------------------------------------------------------------------------------


def start_with_pipe(
    command: Sequence[str], environment: Mapping[str, str]
) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start a process with a pipe to this one; its last argument is what it passes to `pipe_from`.

    The process leads a process group of its own, so that Ctrl-C reaches only the service, which stops its workers
    itself. Its standard output and error can both be read from `stdout` of the returned process.

    Raises:
        OSError: The process cannot be started, or did not connect.
    """
    if hasattr(socket, "AF_UNIX"):
        here, there = socket.socketpair()
        with there:
            try:
                process = subprocess.Popen(
                    [*command, str(there.fileno())],
                    pass_fds=(there.fileno(),),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except BaseException:
                here.close()
                raise
        return here, process
    secret = secrets.token_hex(SECRET_BYTES).encode()
    with socket.create_server((LOOPBACK, 0)) as server:
        process = subprocess.Popen(
            [*command, f"{LOOPBACK}:{server.getsockname()[1]}"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        try:
            assert process.stdin is not None
            with process.stdin as stream:
                stream.write(secret)  # not as an argument, which other users could read
            return _accepted(server, process, secret), process
        except BaseException:
            process.kill()
            process.wait()
            raise


def _accepted(server: socket.socket, process: subprocess.Popen[bytes], secret: bytes) -> socket.socket:
    """Accept the connection of the process that knows the secret; others are closed."""
    server.settimeout(0.2)
    for _ in range(int(CONNECTING / 0.2)):
        with contextlib.suppress(TimeoutError):
            client, _ = server.accept()
            client.settimeout(CONNECTING)
            with contextlib.suppress(OSError):
                if hmac.compare_digest(_exactly(client, len(secret)), secret):
                    client.settimeout(None)
                    return client
            client.close()
        if process.poll() is not None:
            raise OSError(f"the process ended with exit code {process.returncode} before it connected")
    raise OSError(f"the process did not connect in {CONNECTING:g} s")


def _exactly(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := client.recv(size - len(data))):
        data += part
    return data


def pipe_from(argument: str) -> Connection:
    """Open the other end of `start_with_pipe`, in the started process.

    Raises:
        OSError: The process that started this one is gone.
    """
    if ":" not in argument:
        return Connection(int(argument))
    host, _, port = argument.rpartition(":")
    client = socket.create_connection((host, int(port)), timeout=CONNECTING)
    client.sendall(sys.stdin.buffer.read())
    client.settimeout(None)
    return Connection(client.detach())
