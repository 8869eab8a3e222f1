"""Light nodes for the tests of the server: they read a file, wait for one, fail, and make files of several types."""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from graphengine import INERT, Context, Doc, Drawn, File, Range, SocketType, View, node, register_type

_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100"
    "c9fe92ef0000000049454e44ae426082"
)


@dataclass(frozen=True)
class Sheet:
    """Bytes that are written into a file with an ending."""

    content: bytes
    ending: str


def _save(sheet: Sheet, path: Path, text: Mapping[str, str]) -> list[Path]:
    file = path.with_name(f"{path.name}.{sheet.ending}")
    file.write_bytes(sheet.content)
    return [file]


register_type(
    SocketType(
        Sheet, "Sheet", encode=lambda sheet: f"{sheet.ending}\n".encode() + sheet.content,
        decode=lambda data: Sheet(data.partition(b"\n")[2], data.partition(b"\n")[0].decode()),
        size=lambda sheet: len(sheet.content), save=_save, view=lambda sheet: View(png=sheet.content),
    )
)  # fmt: skip


@node(version=1)
def digest(path: Annotated[str | Path, File("text")]) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@node(version=1)
def model(source: Annotated[str | Path, File("weights", names=True, known=("tiny",))]) -> str:
    """What a model's name leads to: its content, or the name."""
    return Path(source).read_text() if isinstance(source, Path) else source


@node(version=1)
def store(text: str, path: Annotated[str | Path, File("text", write=True)]) -> str:
    """Write a text into a file."""
    Path(path).write_text(text)
    return text


@node(version=1, cache="never")
def gate(text: str, file: Annotated[str, Doc("It is there once this may go on.")], ctx: Context = INERT) -> str:
    """Give a text once a file is there."""
    ctx.progress(1, 2)
    while not Path(file).exists():
        ctx.check_cancelled()
        time.sleep(0.01)
    ctx.progress(2, 2)
    return text


@node(version=1, cache="never", on="device")
def gate_of_device(sheet: Sheet, file: str, ctx: Context = INERT) -> Sheet:
    """Give a sheet once a file is there; a device computes one such node at a time."""
    ctx.progress(1, 2)
    while not Path(file).exists():
        ctx.check_cancelled()
        time.sleep(0.01)
    return sheet


@node(version=1, cache="never")
def paces(steps: int, seconds: float, ctx: Context = INERT) -> int:
    """Take steps at a pace, for measurements."""
    begin = time.monotonic()
    for step in range(1, steps + 1):
        time.sleep(max(0.0, begin + step * seconds / steps - time.monotonic()))
        ctx.progress(step, steps)
    return steps


@node(version=1, cache="never")
def shows(file: Annotated[str, Doc("It is there once this may end.")], ctx: Context = INERT) -> int:
    """Show pictures while somebody watches; how many it has made. Once nobody watches any more, it makes a file whose
    name ends as `.unwatched`."""
    made = 0
    while not Path(file).exists():
        ctx.check_cancelled()
        time.sleep(0.01)
        if ctx.watched:
            made += 1
            ctx.progress(made, 1_000_000)
            ctx.preview(Sheet(_PIXEL, "png"))
        elif made:
            Path(f"{file}.unwatched").touch()
    return made


@node(version=1)
def sheet(text: str, ending: str = "html") -> Sheet:
    """A text as a file; with the ending `png` a picture of one pixel."""
    return Sheet(_PIXEL if ending == "png" else text.encode(), ending)


@node(version=1)
def sheets(count: int) -> list[Sheet]:
    """Pictures of one pixel."""
    return [Sheet(_PIXEL, "png")] * count


@node(version=1)
def decides(switch: bool | None = None) -> str:
    """What it was given, or that it was given nothing."""
    return "decided here" if switch is None else str(switch)


@node(version=1, output=True)
def show(text: str) -> Sheet:
    """A text as a page that is an output of every workflow it is in."""
    return Sheet(text.encode(), "txt")


@node(version=1, cache="never")
def collects() -> bool:
    """Whether Python looks for garbage in this process."""
    return gc.isenabled()


@node(version=1)
def fails(text: str) -> str:
    """Fail."""
    raise ValueError(f"{text} is not lucky")


@node(version=1)
def misses(path: Annotated[str | Path, File("text")]) -> str:
    """Fail, as a library does that names the file and its own."""
    raise FileNotFoundError(f"no such file: {Path(path).resolve()!s}, asked at {__file__}, see https://a.example/b/c")


@node(version=1)
def page(
    width: Annotated[int, Range(1, 100), Doc("How wide.")] = 10, look: Literal["plain", "bold"] = "plain",
    seed: Annotated[int, Range(0, 2**64 - 1), Drawn()] = 0,
) -> Sheet:  # fmt: skip
    """A picture."""
    return Sheet(_PIXEL, "png")


@node(version=1, output=True)
def present(sheet: Sheet) -> Sheet:
    """Show a sheet."""
    return sheet


@node(version=1, output=True)
def tell(text: str) -> str:
    """Show a text."""
    return text


@node(version=1, output=True)
def count(number: int) -> int:
    """Show a number."""
    return number
