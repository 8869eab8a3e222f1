"""Scenes as pictures, drawn with Pillow: flat shapes before a plain colour or a simple landscape."""

from __future__ import annotations

import random

from PIL import Image, ImageDraw

from training.shapes import PAINTERS, Brush, mixed
from training.world import COLOURS, RGB, Scene

SIZE = 128
SUPERSAMPLE = 2  # painted this many times larger, then reduced: smooth edges
WHITE: RGB = (255, 255, 255)
BLACK: RGB = (0, 0, 0)


def render(scene: Scene) -> Image.Image:
    """The scene as an RGB picture of 128 x 128."""
    width = SIZE * SUPERSAMPLE
    picture = Image.new("RGB", (width, width))
    _Backdrop(picture, scene).paint()
    draw = ImageDraw.Draw(picture)
    for thing in scene.things:
        PAINTERS[thing.kind](Brush(draw, thing, scene.background, width))
    return picture.reduce(SUPERSAMPLE)


class _Backdrop:
    """Paints a scene's background; coordinates are shares of the picture's width."""

    def __init__(self, picture: Image.Image, scene: Scene) -> None:
        self.draw, self.width, self.scene = ImageDraw.Draw(picture), picture.width, scene
        self.rng = random.Random(scene.seed)

    def paint(self) -> None:
        if self.scene.background in COLOURS:
            self.plain(COLOURS[self.scene.background])
        else:
            getattr(self, self.scene.background)()

    def plain(self, colour: RGB) -> None:
        """The colour, slightly lighter at the top or slightly darker at the bottom."""
        depth = 0.12 * self.scene.shade
        self._gradient(self.width, mixed(colour, WHITE, max(0, depth)), mixed(colour, BLACK, max(0, -depth)))

    def meadow(self) -> None:
        horizon = self._horizon(0.5, 0.05)
        grass = (112, 190, 78)
        self._gradient(horizon, (128, 196, 246), (206, 234, 252))
        self._ground(horizon, grass)
        edge, hill = 0.07 * self.width, 0.3 * self.width
        self.draw.ellipse((-0.3 * self.width, horizon - edge, 0.7 * self.width, horizon + hill), fill=grass)
        self._ground(int(self.width * 0.84), (94, 172, 66))

    def sea(self) -> None:
        horizon, w = self._horizon(0.4, 0.05), self.width
        self._gradient(horizon, (146, 204, 248), (222, 240, 252))
        self._ground(horizon, (38, 126, 196))
        for row in range(4):
            y = horizon + (row + 1) * (w - horizon) // 5
            for column in range(-1, 5):
                x = column * w // 4 + (row % 2) * w // 8
                box = (x, y, x + w // 5, y + w // 18)
                self.draw.arc(box, 180, 360, fill=(120, 186, 232), width=max(2, w // 70))

    def beach(self) -> None:
        horizon, sand = self._horizon(0.34, 0.04), (240, 214, 150)
        self._gradient(horizon, (130, 204, 250), (214, 240, 252))
        self._ground(horizon, (60, 160, 210))
        self._ground(int(self.width * 0.54), sand)
        self._ellipse(-0.2, 0.48, 1.2, 0.62, sand)

    def snow(self) -> None:
        self._gradient(int(self.width * 0.55), (170, 190, 216), (214, 224, 238))
        self._ground(int(self.width * 0.55), (242, 246, 252))
        self._ellipse(0.2, 0.47, 1.3, 0.8, (242, 246, 252))
        self._specks(1.0, (0.006, 0.012), WHITE)

    def night(self) -> None:
        self._gradient(self.width, (14, 18, 58), (40, 46, 104))
        self._specks(0.8, (0.005, 0.011), (250, 246, 206))
        self._ground(int(self.width * 0.86), (20, 26, 50))

    def sunset(self) -> None:
        self._gradient(int(self.width * 0.68), (96, 62, 132), (255, 158, 84))
        x, y, r = self.width * (0.5 + 0.25 * self.scene.shade), self.width * 0.66, self.width * 0.13
        self.draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 220, 120))
        self._ground(int(self.width * 0.68), (98, 52, 76))

    def _horizon(self, middle: float, swing: float) -> int:
        return int(self.width * (middle + swing * self.scene.shade))

    def _gradient(self, height: int, top: RGB, bottom: RGB) -> None:
        for y in range(height):
            self.draw.line(((0, y), (self.width, y)), fill=mixed(top, bottom, y / max(1, height - 1)))

    def _ground(self, top: int, colour: RGB) -> None:
        self.draw.rectangle((0, top, self.width, self.width), fill=colour)

    def _ellipse(self, left: float, top: float, right: float, bottom: float, colour: RGB) -> None:
        w = self.width
        self.draw.ellipse((left * w, top * w, right * w, bottom * w), fill=colour)

    def _specks(self, height: float, radius: tuple[float, float], colour: RGB) -> None:
        """Stars or snowflakes, all over the upper `height` of the picture."""
        for _ in range(26):
            x, y = self.rng.uniform(0, self.width), self.rng.uniform(0, self.width * height)
            r = self.width * self.rng.uniform(*radius)
            self.draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
