"""Nodes, and a type, whose code raises what is no Exception; and nodes that lack memory or close what is not theirs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from graphengine import Pack, SocketType, View, node, register_type


class Own(BaseException):
    """No Exception."""


class Speechless(Exception):
    """An exception that ends whoever asks what it is."""

    def __str__(self) -> str:
        raise SystemExit(0)

    __repr__ = __str__


RAISED: dict[str, BaseException] = {
    "SystemExit": SystemExit(0),
    "KeyboardInterrupt": KeyboardInterrupt("0"),
    "GeneratorExit": GeneratorExit("0"),
    "Own": Own("0"),
    "MemoryError": MemoryError("0"),
}


def _raise(name: str) -> NoReturn:
    raise Speechless if name == "Speechless" else RAISED[name]


@dataclass(frozen=True)
class Raising:
    """A value whose type raises `name` where it is asked for `where`."""

    where: str
    name: str

    def at(self, where: str) -> None:
        if where == self.where:
            _raise(self.name)

    def __repr__(self) -> str:
        self.at("repr")
        return "Raising"


def _encode(value: Raising) -> bytes:
    value.at("encode")
    return f"{value.where}:{value.name}".encode()


def _decode(data: bytes) -> Raising:
    value = Raising(*data.decode().split(":"))
    value.at("decode")
    return value


def _size(value: Raising) -> int:
    value.at("size")
    return 1


def _needs(value: Raising, part: Any) -> frozenset[str]:
    value.at("needs")
    return frozenset()


def _save(value: Raising, path: Path, text: Any) -> list[Path]:
    value.at("save")
    return []


def _view(value: Raising) -> View:
    value.at("view")
    return View(text="Raising")


register_type(
    SocketType(Raising, "Raising", encode=_encode, decode=_decode, size=_size, needs=_needs, save=_save, view=_view)
)


def _environment() -> dict[str, Any]:
    raise SystemExit(0)


__pack__ = Pack("raising", environment=_environment if os.environ.get("RAISING_ENVIRONMENT") else None)


@node(version=1)
def here(name: str) -> int:
    """Raise."""
    _raise(name)


@node(version=1, on="thread")
def thread(name: str) -> int:
    """Raise."""
    _raise(name)


@node(version=1, on="device")
def device(name: str) -> int:
    """Raise."""
    _raise(name)


@node(version=1)
async def waits(name: str) -> int:
    """Raise."""
    _raise(name)


@node(version=1)
def makes(where: str, name: str) -> Raising:
    """A value that raises."""
    return Raising(where, name)


@node(version=1, on="device")
def makes_on_device(where: str, name: str) -> Raising:
    """A value that raises."""
    return Raising(where, name)


@node(version=1, on="device")
def takes(value: Raising) -> int:
    """Fail with such an input."""
    raise ValueError("0")


@node(version=1)
def lacks_memory(mark: str, times: int) -> int:
    """Lack memory so many times."""
    tried = Path(mark).read_bytes() if Path(mark).exists() else b""
    Path(mark).write_bytes(tried + b"x")
    if len(tried) < times:
        raise MemoryError
    return len(tried)


@node(version=1, on="device")
def closes_files(x: int) -> int:
    """Close all files of the process."""
    os.closerange(3, 1024)
    return x


@node(version=1, on="device", cache="never")
def fine(x: int) -> int:
    """A number."""
    return x
