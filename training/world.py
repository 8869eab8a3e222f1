"""An endless world of pictures that can be put into words: one, two or three things before a background.

`sample(rng)` draws one `Scene`; `captions.caption` words it and `painting.render` paints it. Combinations of kind,
colour and background for which `held_out` is true are never drawn for training, so that an evaluation on them
shows composition and not memory.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (222, 38, 38),
    "orange": (246, 138, 22),
    "yellow": (250, 216, 38),
    "green": (48, 164, 66),
    "blue": (42, 92, 220),
    "purple": (134, 58, 184),
    "pink": (248, 138, 186),
    "brown": (124, 76, 40),
    "white": (246, 246, 246),
    "black": (28, 28, 32),
}
COLOUR_NAMES = tuple(COLOURS)
KINDS = (
    *("circle", "square", "triangle", "star", "heart", "house", "tree", "flower"),
    *("mushroom", "cat", "sun", "moon", "balloon", "boat", "fish"),
)
SCENES = ("meadow", "sea", "beach", "snow", "night", "sunset")
BACKGROUNDS = (*COLOUR_NAMES, *SCENES)
CELLS = {
    "center": (0.5, 0.5),
    "left": (0.26, 0.5),
    "right": (0.74, 0.5),
    "top": (0.5, 0.27),
    "bottom": (0.5, 0.73),
    "top left": (0.27, 0.27),
    "top right": (0.73, 0.27),
    "bottom left": (0.27, 0.73),
    "bottom right": (0.73, 0.73),
}
SIZES = {"small": 0.28, "medium": 0.44, "large": 0.68}
ROW = {2: (0.28, 0.72), 3: (0.19, 0.5, 0.81)}  # where two or three alike stand

# Colours too close to be told apart when one stands before the other.
CLOSE = {
    frozenset(pair)
    for pair in (
        *(("red", "orange"), ("red", "pink"), ("orange", "yellow"), ("brown", "black"), ("purple", "blue")),
        *(("brown", "red"), ("pink", "purple"), ("orange", "brown"), ("white", "yellow"), ("white", "pink")),
    )
}
SCENE_CLASH = {
    "meadow": ("green",),
    "sea": ("blue",),
    "beach": ("yellow",),
    "snow": ("white",),
    "night": ("black", "blue", "purple"),
    "sunset": ("orange", "pink", "red"),
}


@dataclass(frozen=True)
class Thing:
    """One object; `x`, `y` (its middle) and `scale` are shares of the picture's width."""

    kind: str
    colour: str
    size: str
    cell: str
    x: float
    y: float
    scale: float


@dataclass(frozen=True)
class Scene:
    """What a picture shows; `shade` varies the background, `seed` its stars and snowflakes."""

    background: str
    things: tuple[Thing, ...]
    shade: float = 0.0
    seed: int = field(default=0, compare=False)

    @property
    def count(self) -> int:
        return len(self.things)

    @property
    def alike(self) -> bool:
        return self.count > 1 and len({thing.kind for thing in self.things}) == 1


def held_out(kind: str, colour: str, background: str) -> bool:
    """Whether this combination is kept for evaluation: one in ten, by a checksum that no Python version changes."""
    return zlib.crc32(f"{kind}+{colour}+{background}".encode()) % 10 == 0


def clashes(colour: str, background: str) -> bool:
    """Whether a thing of this colour could not be seen before this background."""
    if background in SCENES:
        return colour in SCENE_CLASH[background]
    return colour == background or frozenset((colour, background)) in CLOSE


def sample(rng: random.Random, *, unseen: bool = False) -> Scene:
    """One thing in most scenes, else two different ones side by side, or two or three alike.

    With `unseen` every combination is a held-out one, otherwise none is.
    """
    background = rng.choice(COLOUR_NAMES) if rng.random() < 0.6 else rng.choice(SCENES)
    shade, seed, form = rng.uniform(-1, 1), rng.getrandbits(30), rng.random()
    if form < 0.72:
        size = rng.choice(tuple(SIZES))
        # A large thing fills the picture: only the centre leaves it whole.
        cell = "center" if size == "large" or rng.random() < 0.35 else rng.choice(tuple(CELLS))
        things: tuple[Thing, ...] = (_placed(rng, *_look(rng, background, unseen), size, cell),)
    elif form < 0.90:
        things = _different_pair(rng, background, unseen)
    else:
        things = _row_of_alike(rng, background, unseen)
    return Scene(background, things, shade, seed)


def _look(rng: random.Random, background: str, unseen: bool) -> tuple[str, str]:
    """A kind and a colour that may stand before `background`."""
    while True:
        kind, colour = rng.choice(KINDS), rng.choice(COLOUR_NAMES)
        if not clashes(colour, background) and held_out(kind, colour, background) == unseen:
            return kind, colour


def _placed(rng: random.Random, kind: str, colour: str, size: str, cell: str, x: float | None = None) -> Thing:
    """The thing a little off its cell's middle (or off `x`), a little off its size."""
    middle = CELLS[cell][0] if x is None else x
    x, y = middle + rng.uniform(-0.025, 0.025), CELLS[cell][1] + rng.uniform(-0.025, 0.025)
    return Thing(kind, colour, size, cell, x, y, SIZES[size] * rng.uniform(0.92, 1.08))


def _different_pair(rng: random.Random, background: str, unseen: bool) -> tuple[Thing, Thing]:
    size = rng.choice(("small", "medium"))
    while True:
        left = _placed(rng, *_look(rng, background, unseen), size, "left")
        right = _placed(rng, *_look(rng, background, unseen), size, "right")
        if left.kind != right.kind:
            return left, right


def _row_of_alike(rng: random.Random, background: str, unseen: bool) -> tuple[Thing, ...]:
    row = ROW[rng.choice((2, 3))]
    kind, colour = _look(rng, background, unseen)
    cells = ("left", *("center" if x == 0.5 else "right" for x in row[1:]))
    things = [_placed(rng, kind, colour, "small", cell, x) for cell, x in zip(cells, row, strict=True)]
    return tuple(things)
