"""Palettes: the colours of a picture, and pictures recoloured with a palette."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from graphengine_nodes import Image

from graphengine import Doc, Range, SocketType, View, node, register_type


@dataclass(frozen=True)
class Palette:
    """Colours, the most frequent first, each as red, green and blue from 0 to 255."""

    colours: tuple[tuple[int, int, int], ...]


def encode(palette: Palette) -> bytes:
    """Encode a palette as bytes, which are kept on disk and sent to workers."""
    return json.dumps(palette.colours).encode()


def decode(data: bytes) -> Palette:
    """Decode the bytes of `encode`."""
    return Palette(tuple((red, green, blue) for red, green, blue in json.loads(data)))


def view(palette: Palette) -> View:
    """Show a palette in reports and notebooks."""
    return View(text=" ".join(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in palette.colours))


def save(palette: Palette, path: Path, text: Mapping[str, str]) -> list[Path]:
    """Save a palette as a text file, for the command line."""
    file = path.with_suffix(".txt")
    file.write_text(f"{view(palette).text}\n", "utf-8")
    return [file]


register_type(SocketType(Palette, "Palette", encode=encode, decode=decode, view=view, save=save))


@node(version=1)
def palette_of(
    image: Image,
    count: Annotated[int, Range(1, 16), Doc("Colours at most.")] = 4,
    levels: Annotated[int, Range(2, 256), Doc("Number of shades to distinguish in red, green and blue.")] = 4,
) -> Palette:
    """Find the most frequent colours of a picture, the first of a batch."""
    shades = (image.pixels[0] * (levels - 1)).round() / (levels - 1)
    colours, counts = (shades * 255).round().int().reshape(-1, 3).unique(dim=0, return_counts=True)
    order = counts.argsort(descending=True, stable=True)[:count]
    return Palette(tuple((int(red), int(green), int(blue)) for red, green, blue in colours[order]))


@node(version=1)
def recolour(image: Image, palette: Palette) -> Image:
    """Give each pixel of pictures the nearest colour of a palette."""
    import torch

    colours = torch.tensor(palette.colours, dtype=image.pixels.dtype) / 255
    nearest = torch.cdist(image.pixels.reshape(-1, 3), colours).argmin(dim=1)
    return Image(colours[nearest].reshape(image.pixels.shape))
