"""Servers as the tests of the server start them, and a road to one on which connections are lost."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator

import pytest

from graphengine.declare import registry
from tests.graphengine.server.conftest import PACK, Server, serve, server, tokens

__all__ = ["Road", "door_nodes", "road", "serve", "server", "tokens"]


@pytest.fixture(scope="session", autouse=True)
def door_nodes() -> None:
    """The nodes of the server's pack, in this process too."""
    assert registry.load_folder(PACK) == []


class Road:
    """Passes bytes between clients and a server, and notes what is asked.

    Attributes:
        asked: The methods and paths of the requests.
        cut: So many of the next answers to POST are lost: the server gets the request, and the client no answer.
    """

    def __init__(self, port: int) -> None:
        self.port, self.asked, self.cut = port, list[str](), 0
        self._sockets: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                there = socket.create_connection(("127.0.0.1", self.port))
                self._sockets += [client, there]
                threading.Thread(target=self._pass, args=(client, there, True), daemon=True).start()
                threading.Thread(target=self._pass, args=(there, client, False), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, forth: bool) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                if forth:
                    self.asked += [line.decode() for line in re.findall(rb"((?:GET|HEAD|POST|PUT) \S+) HTTP", data)]
                elif self.cut and self.asked[-1].startswith("POST"):
                    self.cut -= 1
                    break
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def break_all(self) -> None:
        """Break all connections."""
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.break_all()
        self._listening.close()
        for end in self._sockets:
            end.close()


@pytest.fixture
def road(server: Server) -> Iterator[Road]:
    """A road to the module's server."""
    assert server.port is not None
    made = Road(server.port)
    yield made
    made.close()
