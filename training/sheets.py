"""Contact sheets: pictures in rows, words under them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image, ImageDraw

from training import cli
from training.captions import caption
from training.painting import SIZE, render
from training.pictures import Picture
from training.world import sample

GAP = 4
WORDS = 24  # pixels of two lines of text


def contact_sheet(pictures: Sequence[Picture], words: Sequence[str], columns: int) -> Image.Image:
    """The pictures from left to right and top to bottom, each over the first of its words."""
    rows = -(-len(pictures) // columns)
    wide, high = SIZE + GAP, SIZE + WORDS + GAP
    sheet = Image.new("RGB", (columns * wide + GAP, rows * high + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (picture, text) in enumerate(zip(pictures, words, strict=True)):
        x, y = GAP + i % columns * wide, GAP + i // columns * high
        coloured = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
        sheet.paste(Image.fromarray(coloured), (x, y))
        draw.text((x, y + SIZE), f"{text[:21]}\n{text[21:42].strip()}", fill="black", font_size=11, spacing=0)
    return sheet


def main(
    out: Annotated[Path, typer.Argument(help="The sheet, a PNG.")],
    count: Annotated[int, typer.Option(help="How many pictures.", min=1)] = 40,
) -> None:
    """Draw a sheet of the world: pictures as the training sees them, with captions."""
    rng = random.Random(0)
    scenes = [sample(rng) for _ in range(count)]
    pictures = [np.asarray(render(scene)) for scene in scenes]
    contact_sheet(pictures, [caption(scene, rng) for scene in scenes], columns=8).save(out)


if __name__ == "__main__":
    cli.run(main)
