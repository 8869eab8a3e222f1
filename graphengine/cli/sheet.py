"""Contact sheets: many values side by side, each with its label, as one PNG."""

from __future__ import annotations

import io
import math
import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import PIL.Image
    import PIL.ImageFont

    from graphengine.types import View

GAP, FONT = 8, 13
SIDE = 512
"""Pictures are made smaller to fit into a square of this side."""
NARROW = 128
"""Cells are at least so wide."""


@dataclass
class Cell:
    """One run: its label and what it made."""

    label: str
    views: list[View] = field(default_factory=list)
    failed: bool = False


def sheet(cells: list[Cell], columns: int | None = None) -> bytes | None:
    """All cells as one PNG, row by row; None where nothing is a picture or a text.

    Args:
        columns: How many cells a row has; by default the sheet is about square.
    """
    import PIL.Image
    import PIL.ImageDraw
    import PIL.ImageFont

    font = PIL.ImageFont.load_default(FONT)
    faces = [_face(cell, font) for cell in cells]
    if not any(cell.views for cell in cells):
        return None
    columns = columns or math.ceil(math.sqrt(len(cells)))
    rows = math.ceil(len(cells) / columns)
    width = max(NARROW, *(face.width for face in faces))
    height = max(face.height for face in faces)
    characters = max(8, int(width / max(1.0, font.getlength("n"))))
    labels = [textwrap.wrap(cell.label, characters, max_lines=4, placeholder="…") or [""] for cell in cells]
    line = FONT + 4
    text_height = line * max(map(len, labels))
    whole = PIL.Image.new(
        "RGB", (columns * (width + GAP) + GAP, rows * (height + text_height + 2 * GAP) + GAP), "white"
    )
    draw = PIL.ImageDraw.Draw(whole)
    for n, (face, label) in enumerate(zip(faces, labels, strict=True)):
        left = GAP + (n % columns) * (width + GAP)
        top = GAP + (n // columns) * (height + text_height + 2 * GAP)
        whole.paste(face, (left + (width - face.width) // 2, top + (height - face.height) // 2))
        for number, text in enumerate(label):
            draw.text((left, top + height + 2 + number * line), text, fill="black", font=font)
    target = io.BytesIO()
    whole.save(target, "PNG")
    return target.getvalue()


def _face(cell: Cell, font: PIL.ImageFont.ImageFont | PIL.ImageFont.FreeTypeFont) -> PIL.Image.Image:
    """What a cell shows: its pictures side by side, else its text."""
    import PIL.Image
    import PIL.ImageDraw

    pictures = []
    for view in cell.views:
        if view.png is not None:
            picture = PIL.Image.open(io.BytesIO(view.png)).convert("RGB")
            picture.thumbnail((SIDE, SIDE))
            pictures.append(picture)
    if pictures:
        face = PIL.Image.new("RGB", (sum(p.width for p in pictures), max(p.height for p in pictures)), "white")
        left = 0
        for picture in pictures:
            face.paste(picture, (left, 0))
            left += picture.width
        return face
    text = "failed" if cell.failed else "\n".join(view.text or "" for view in cell.views)
    face = PIL.Image.new("RGB", (NARROW, NARROW), "#fbe3e3" if cell.failed else "#f4f4f4")
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, 18) or [""]]
    PIL.ImageDraw.Draw(face).text((6, 6), "\n".join(lines[:7]), fill="black", font=font)
    return face
