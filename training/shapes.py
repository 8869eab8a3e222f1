"""The world's kinds of things, each drawn by a function with a brush that stands on the thing.

Coordinates are from -1 to 1 within the thing's own square, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from PIL import ImageDraw

from training.world import COLOURS, RGB, Thing

Point = tuple[float, float]
WOOD: RGB = (110, 70, 40)


def mixed(a: RGB, b: RGB, share: float) -> RGB:
    """`a` with a share of `b` in it."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


class Brush:
    """Draws in one thing's square; knows its colour, a darker and a lighter one."""

    def __init__(self, draw: ImageDraw.ImageDraw, thing: Thing, background: str, width: int) -> None:
        self.draw, self.thing, self.background, self.width = draw, thing, background, width
        self.x, self.y, self.radius = thing.x * width, thing.y * width, thing.scale * width / 2
        self.colour = COLOURS[thing.colour]
        self.dark = mixed(self.colour, (0, 0, 0), 0.35) if thing.colour != "black" else (90, 90, 96)
        self.light = mixed(self.colour, (255, 255, 255), 0.55) if thing.colour != "white" else (196, 200, 208)

    def ellipse(self, left: float, top: float, right: float, bottom: float, fill: RGB) -> None:
        self.draw.ellipse((*self._at(left, top), *self._at(right, bottom)), fill=fill)

    def disc(self, x: float, y: float, radius: float, fill: RGB) -> None:
        self.ellipse(x - radius, y - radius, x + radius, y + radius, fill)

    def rectangle(self, left: float, top: float, right: float, bottom: float, fill: RGB) -> None:
        self.draw.rectangle((*self._at(left, top), *self._at(right, bottom)), fill=fill)

    def polygon(self, points: Iterable[Point], fill: RGB) -> None:
        self.draw.polygon([self._at(x, y) for x, y in points], fill=fill)

    def upper_half(self, left: float, top: float, right: float, bottom: float, fill: RGB) -> None:
        self.draw.pieslice((*self._at(left, top), *self._at(right, bottom)), 180, 360, fill=fill)

    def line(self, points: Iterable[Point], fill: RGB) -> None:
        width = max(2, round(self.width / 90))
        self.draw.line([self._at(x, y) for x, y in points], fill=fill, width=width)

    def _at(self, x: float, y: float) -> Point:
        return self.x + x * self.radius, self.y + y * self.radius


def circle(b: Brush) -> None:
    b.disc(0, 0, 0.92, b.colour)


def square(b: Brush) -> None:
    b.rectangle(-0.82, -0.82, 0.82, 0.82, b.colour)


def triangle(b: Brush) -> None:
    b.polygon([(0, -0.95), (1, 0.8), (-1, 0.8)], b.colour)


def star(b: Brush) -> None:
    angles = [-math.pi / 2 + math.pi * i / 5 for i in range(10)]
    lengths = [1.05 if i % 2 == 0 else 1.05 * 0.45 for i in range(10)]
    corners = zip(lengths, angles, strict=True)
    b.polygon([(length * math.cos(a), 0.06 + length * math.sin(a)) for length, a in corners], b.colour)


def heart(b: Brush) -> None:
    angles = [2 * math.pi * i / 60 for i in range(60)]
    b.polygon([(0.98 * math.sin(t) ** 3, -0.04 - 0.98 * _heart_height(t)) for t in angles], b.colour)


def _heart_height(t: float) -> float:
    return (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16


def house(b: Brush) -> None:
    b.rectangle(-0.72, -0.12, 0.72, 0.92, b.colour)
    b.polygon([(-0.98, -0.1), (0, -0.98), (0.98, -0.1)], b.dark)
    b.rectangle(-0.16, 0.38, 0.2, 0.92, b.light)
    b.rectangle(-0.54, 0.1, -0.26, 0.4, b.light)
    b.rectangle(0.34, 0.1, 0.58, 0.4, b.light)


def tree(b: Brush) -> None:
    b.rectangle(-0.14, 0.3, 0.14, 0.98, WOOD if b.thing.colour != "brown" else (70, 42, 24))
    for x, y, radius in ((-0.42, 0.02, 0.46), (0.42, 0.02, 0.46), (0, -0.44, 0.54), (0, 0.05, 0.5)):
        b.disc(x, y, radius, b.colour)


def flower(b: Brush) -> None:
    stem = (44, 130, 56) if b.thing.colour != "green" else (24, 92, 40)
    b.rectangle(-0.06, 0.1, 0.06, 1.0, stem)
    b.polygon([(0.05, 0.72), (0.5, 0.4), (0.42, 0.72)], stem)
    for a in (2 * math.pi * i / 6 for i in range(6)):
        b.disc(0.4 * math.cos(a), -0.34 + 0.4 * math.sin(a), 0.28, b.colour)
    b.disc(0, -0.34, 0.22, (250, 206, 60) if b.thing.colour not in ("yellow", "orange") else (124, 76, 40))


def mushroom(b: Brush) -> None:
    stalk = (244, 230, 204)
    b.rectangle(-0.26, 0.1, 0.26, 0.78, stalk)
    b.ellipse(-0.26, 0.62, 0.26, 0.94, stalk)
    b.upper_half(-0.95, -0.85, 0.95, 1.0, b.colour)
    for x, y, radius in ((-0.46, -0.18, 0.15), (0.06, -0.5, 0.18), (0.5, -0.14, 0.14)):
        b.disc(x, y, radius, b.light)


def cat(b: Brush) -> None:
    b.polygon([(-0.8, -0.2), (-0.72, -0.98), (-0.14, -0.58)], b.colour)
    b.polygon([(0.8, -0.2), (0.72, -0.98), (0.14, -0.58)], b.colour)
    b.ellipse(-0.84, -0.7, 0.84, 0.8, b.colour)
    b.ellipse(-0.5, -0.22, -0.16, 0.18, (250, 250, 210))
    b.ellipse(0.16, -0.22, 0.5, 0.18, (250, 250, 210))
    b.ellipse(-0.38, -0.14, -0.26, 0.12, (20, 20, 24))
    b.ellipse(0.26, -0.14, 0.38, 0.12, (20, 20, 24))
    nose = (236, 120, 140) if b.thing.colour not in ("pink", "red") else (110, 40, 60)
    b.polygon([(-0.1, 0.24), (0.1, 0.24), (0, 0.38)], nose)


def sun(b: Brush) -> None:
    for a in (2 * math.pi * i / 12 for i in range(12)):
        foot = [(0.56 * math.cos(a + turn), 0.56 * math.sin(a + turn)) for turn in (0.2, -0.2)]
        b.polygon([(0.98 * math.cos(a), 0.98 * math.sin(a)), *foot], b.colour)
    b.disc(0, 0, 0.56, b.colour)


def moon(b: Brush) -> None:
    outer = [(math.cos(a), math.sin(a)) for a in map(math.radians, range(50, 311, 5))]
    inner = [(0.34 + 0.78 * math.cos(a), 0.78 * math.sin(a)) for a in map(math.radians, range(292, 67, -5))]
    b.polygon([(x * 0.95 + 0.2, y * 0.95) for x, y in outer + inner], b.colour)


def balloon(b: Brush) -> None:
    b.line([(0, 0.45), (0.1, 0.72), (0, 1.02)], b.dark)
    b.ellipse(-0.66, -1.0, 0.66, 0.42, b.colour)
    b.polygon([(-0.12, 0.54), (0.12, 0.54), (0, 0.36)], b.dark)
    b.ellipse(-0.4, -0.76, -0.14, -0.36, b.light)


def boat(b: Brush) -> None:
    b.polygon([(-0.98, 0.34), (0.98, 0.34), (0.62, 0.88), (-0.62, 0.88)], b.colour)
    b.rectangle(-0.06, -0.95, 0.04, 0.34, WOOD)
    white_shows = b.background not in ("white", "snow") and b.thing.colour != "white"
    sail = (250, 250, 250) if white_shows else (250, 206, 60)
    b.polygon([(0.12, -0.9), (0.12, 0.2), (0.84, 0.2)], sail)
    b.polygon([(-0.14, -0.7), (-0.14, 0.2), (-0.7, 0.2)], mixed(sail, (0, 0, 0), 0.12))


def fish(b: Brush) -> None:
    b.polygon([(0.42, 0), (1.0, -0.52), (1.0, 0.52)], b.dark)
    b.polygon([(-0.1, -0.5), (0.3, -0.8), (0.36, -0.3)], b.dark)
    b.ellipse(-0.98, -0.54, 0.6, 0.54, b.colour)
    b.ellipse(-0.72, -0.26, -0.48, -0.02, (252, 252, 252))
    b.ellipse(-0.66, -0.2, -0.54, -0.08, (16, 16, 20))


PAINTERS: dict[str, Callable[[Brush], None]] = {
    painter.__name__: painter
    for painter in (
        *(circle, square, triangle, star, heart, house, tree, flower),
        *(mushroom, cat, sun, moon, balloon, boat, fish),
    )
}
