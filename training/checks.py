"""Recognise what a picture shows from its pixels: background, places of things, their colours and number.

No learning: backgrounds are compared with backgrounds that the world paints; things are the pixels that differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from training.painting import render
from training.pictures import Picture, canny
from training.world import BACKGROUNDS, CELLS, COLOUR_NAMES, COLOURS, ROW, Scene, Thing

Mask = NDArray[np.bool_]
SHADES = np.linspace(-1, 1, 17)
COARSE = 4  # backgrounds are told on pictures reduced so many times
DIFFERENT = 48.0  # from this distance in RGB on, a pixel is not the background's
FAR = 100.0  # how different a pixel can be: things before the background count, but not by their colour
LEAST = 30  # pixels of the smallest thing; stars and snowflakes have fewer
PALETTE = np.array([COLOURS[name] for name in COLOUR_NAMES], np.float32)


@dataclass(frozen=True)
class Box:
    """A bounding box, in pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def middle(self) -> tuple[float, float]:
        """Shares of the picture's width."""
        return (self.left + self.right) / 256, (self.top + self.bottom) / 256


def background(picture: Picture) -> str:
    """The name of the background that the picture resembles most, whatever stands before it."""
    return _nearest_background(picture)[0]


def things(picture: Picture) -> Mask:
    """The mask of pixels that differ from the picture's background; specks left out."""
    return things_before(_nearest_background(picture)[1], picture)


def things_before(backdrop: NDArray[np.float32], picture: Picture) -> Mask:
    """The mask of pixels that differ from a known backdrop."""
    distance = np.linalg.norm(picture.astype(np.float32) - backdrop, axis=2)
    without_waves = _opened(distance > DIFFERENT, 3, 3)
    return _without_specks(_opened(without_waves, 5, 1))  # horizons that are a little off


def box(mask: Mask) -> Box | None:
    """The bounding box of a mask, or None where it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def strips(mask: Mask, count: int) -> list[Mask]:
    """The mask's part of each of `count` things side by side, of the picture's size."""
    nearest = np.abs(np.linspace(0, 1, mask.shape[1])[:, None] - np.array(ROW.get(count, (0.5,)))).argmin(1)
    return [mask & (nearest == i) for i in range(count)]


def cell(mask: Mask) -> str | None:
    """The name of the place in which the mask's middle is."""
    where = box(mask)
    if where is None:
        return None
    x, y = where.middle
    return min(CELLS, key=lambda name: (CELLS[name][0] - x) ** 2 + (CELLS[name][1] - y) ** 2)


def colour(picture: Picture, mask: Mask, kind: str) -> str | None:
    """The colour of the thing of this kind that the mask covers; trunks, stalks, sails and eyes are left out."""
    where = box(mask)
    if where is None:
        return None
    body = _body(kind, where) & mask
    pixels = picture[body if body.any() else mask].astype(np.float32)
    return COLOUR_NAMES[int(np.linalg.norm(PALETTE - np.median(pixels, axis=0), axis=1).argmin())]


def count(mask: Mask) -> int:
    """Count the things in a mask, side by side; neither a thin bridge between two nor a gap in one changes the count.

    A thing's own parts (sails and hull, say) stand over each other, so what shares columns is one.
    """
    apart = _opened(_opened(mask, 7, 1), 1, 3)
    numbers, large = _areas(apart, max(LEAST, int(mask.sum()) // 12))
    columns = [(numbers == number).any(0) for number in large]
    things: list[NDArray[np.bool_]] = []
    for covered in sorted(columns, key=lambda covered: int(covered.sum()), reverse=True):
        if not any((covered & other).sum() > covered.sum() / 2 for other in things):
            things.append(covered)
    return len(things)


def style_distance(a: list[Picture], b: list[Picture]) -> float:
    """Earth mover's distance between two sets' reds, greens and blues, on average: 0 the same, 1 black to white."""
    levels = np.linspace(0, 1, 101)
    quantiles = [np.quantile(np.stack(pictures).reshape(-1, 3), levels, axis=0) for pictures in (a, b)]
    return float(np.abs(quantiles[0] - quantiles[1]).mean() / 255)


def edge_agreement(control: Picture, made: Picture) -> float:
    """Share of the control image's edge pixels that have an edge of the made picture within two pixels."""
    near = cv2.dilate(canny(made), np.ones((5, 5), np.uint8)) > 0
    return float(near[control > 0].mean())


def _nearest_background(picture: Picture) -> tuple[str, NDArray[np.float32]]:
    coarse, fine = _templates()
    reduced = cv2.resize(picture, None, fx=1 / COARSE, fy=1 / COARSE, interpolation=cv2.INTER_AREA)
    distance = np.abs(coarse - reduced.astype(np.float32)).sum(3)
    best = int(np.minimum(distance, FAR).mean((1, 2)).argmin())
    return BACKGROUNDS[best // len(SHADES)], fine[best]


@cache
def _templates() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Each background in each shade, reduced and whole."""
    empty = [Scene(name, (), float(shade)) for name in BACKGROUNDS for shade in SHADES]
    fine = np.stack([np.asarray(render(scene), np.float32) for scene in empty])
    return fine.reshape(len(fine), 128 // COARSE, COARSE, 128 // COARSE, COARSE, 3).mean((2, 4)), fine


def _body(kind: str, where: Box) -> Mask:
    """The mask of a thing's own colour, when it is painted into the box."""
    x, y = where.middle
    scale = max(where.right - where.left, where.bottom - where.top) / 128
    thing = Thing(kind, "red", "small", "center", x, y, scale)
    painted = np.asarray(render(Scene("black", (thing,))), np.float32)
    body = np.abs(painted - PALETTE[COLOUR_NAMES.index("red")]).sum(2) < 12
    return cv2.erode(body.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)


def _opened(mask: Mask, height: int, width: int) -> Mask:
    """Remove from a mask all parts lower or narrower than this."""
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((height, width), np.uint8))
    return np.asarray(opened, np.bool_)


def _areas(mask: Mask, least: int) -> tuple[NDArray[np.int32], list[int]]:
    """The mask's connected parts: a number for each pixel, and the numbers of those that are large enough."""
    amount, numbers, figures, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return np.asarray(numbers), [i for i in range(1, amount) if figures[i, cv2.CC_STAT_AREA] >= least]


def _without_specks(mask: Mask) -> Mask:
    numbers, large = _areas(mask, LEAST)
    return np.isin(numbers, large)
