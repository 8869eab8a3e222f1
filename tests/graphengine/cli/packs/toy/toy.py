"""Nodes for the tests of the command line: small pictures without torch."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import PIL.Image
import PIL.PngImagePlugin

from graphengine import INERT, Context, Doc, Drawn, File, Pack, Range, SocketType, View, node, register_type
from graphengine.provenance.steps import Step


@dataclass(frozen=True)
class Card:
    """A picture of 16 x 16 in one colour, or noise of a size that is asked for."""

    png: bytes


def _save(card: Card, path: Path, text: Mapping[str, str]) -> list[Path]:
    chunks = PIL.PngImagePlugin.PngInfo()
    for name, value in text.items():
        chunks.add_itxt(name, value)
    file = path.with_name(f"{path.name}.png")
    with PIL.Image.open(io.BytesIO(card.png)) as picture:
        picture.save(file, pnginfo=chunks)
    return [file]


@dataclass(frozen=True)
class Brush:
    """A reference to weights."""

    content: str
    source: str

    def digest(self, part: str | None = None) -> str:
        return self.content


register_type(
    SocketType(Card, "Card", encode=lambda card: card.png, decode=Card, size=lambda card: len(card.png),
               view=lambda card: View(png=card.png), save=_save)
)  # fmt: skip
register_type(
    SocketType(
        Brush, "Brush", digest=Brush.digest, view=lambda brush: View(text=brush.source),
        encode=lambda brush: json.dumps([brush.content, brush.source]).encode(),
        decode=lambda data: Brush(*json.loads(data)),
    )
)  # fmt: skip


def _parameters(step: Step, value: Any) -> str | None:
    if step.node != "toy.paint":
        return None
    brush = Path(step.inputs["brush"].value.source).name
    words = step.inputs["prompt"]
    words = words.inputs["prompt"] if isinstance(words, Step) else words
    return f"{words}\nSeed: {step.inputs['seed']}, Model: {brush}"


__pack__ = Pack(
    "toy",
    environment=lambda: {"device": "easel", "threads": 1},
    parameters=_parameters,
    free=lambda device: 3 << 30,
)


@node(version=1)
def load_brush(source: Annotated[Path | str, File("weights", names=True)] = "plain") -> Brush:
    """Refer to a brush."""
    if isinstance(source, Path):
        return Brush(hashlib.sha256(source.read_bytes()).hexdigest(), str(source))
    return Brush(f"named {source}", source)


@node(version=1, on="device")
def mix(brush: Brush, prompt: str) -> str:
    """Mix colours."""
    time.sleep(0.005)
    return prompt.upper()


@node(version=1, on="device")
def paint(
    brush: Brush,
    prompt: str,
    seed: Annotated[int, Range(0, 1000), Drawn(), Doc("What the colour is drawn from.")] = 0,
    steps: Annotated[int, Range(1, 100)] = 2,
    side: Annotated[int, Range(1, 4096)] = 16,
    ctx: Context = INERT,
) -> Card:
    """Paint a picture.

    Its colour comes from everything that it is given.
    """
    colour = hashlib.sha256(f"{brush.content}/{prompt}/{seed}/{steps}".encode()).digest()
    for step in range(steps):
        ctx.progress(step + 1, steps)
        time.sleep(0.003)
    picture = PIL.Image.new("RGB", (side, side), tuple(colour[:3]))
    if side > 256:
        picture = PIL.Image.frombytes("RGB", (side, side), hashlib.shake_256(colour).digest(side * side * 3))
    target = io.BytesIO()
    picture.save(target, "PNG")
    return Card(target.getvalue())


@node(version=1)
def load_card(path: Annotated[Path, File("image")]) -> Card:
    """Read a picture."""
    return Card(path.read_bytes())


@node(version=1)
def turn(card: Card) -> Card:
    """Turn a picture around."""
    time.sleep(0.005)
    with PIL.Image.open(io.BytesIO(card.png)) as picture:
        target = io.BytesIO()
        picture.convert("RGB").rotate(180).save(target, "PNG")
    return Card(target.getvalue())


@node(version=1, on="device")
def wait(seconds: float, ctx: Context = INERT) -> float:
    """Wait in steps of a tenth of a second."""
    for step in range(round(seconds * 10)):
        ctx.progress(step, round(seconds * 10))
        time.sleep(0.1)
    return seconds


@node(version=1, on="device")
def until(file: str, ctx: Context = INERT) -> str:
    """Wait until there is a file."""
    while not Path(file).exists():
        ctx.check_cancelled()
        time.sleep(0.05)
    return "there"


@node(version=1, on="device")
def hang(seconds: float) -> float:
    """Wait without a sign."""
    time.sleep(seconds)
    return seconds


@node(version=1)
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


@node(version=1)
def fail(text: str) -> int:
    """Always fails."""
    raise ValueError(text)


@node(version=1, output=True)
def keep(card: Card, path: Annotated[Path, File("image", write=True)]) -> str:
    """Write a picture."""
    path.write_bytes(card.png)
    return str(path)


@node(version=1)
def say(text: str) -> str:
    """Print something, as nodes of others do."""
    print("a node prints this")
    return text
