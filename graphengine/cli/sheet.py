"""Contact sheets: the pictures of a sweep as one PNG, with headings for rows and columns."""

from __future__ import annotations

import io
import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graphengine.old_names import moved

if TYPE_CHECKING:
    import PIL.Image
    import PIL.ImageDraw
    import PIL.ImageFont

    from graphengine.values.socket_types import View

    Font = PIL.ImageFont.ImageFont | PIL.ImageFont.FreeTypeFont

GAP, EDGE, FONT, LINE = 12, 24, 16, 21
MOST, LEAST = 512, 160
"""The largest and the smallest side of a cell, in pixels: large pictures are reduced to fit, small ones enlarged by a
whole number."""
SIDE_HEADING = 168
"""The width of a row's heading in pixels."""
MOST_LINES = 3
MOST_IN_A_ROW = 6
"""The most cells of a sweep over one input that are placed in one row; with more, the sheet is about square."""
PAPER, INK, DIM, EMPTY, FAILED = "#ffffff", "#1b2430", "#667085", "#f1f3f6", "#fbe3e3"


@dataclass
class SheetCell:
    """One run of a sweep: the views of its result, or that it failed."""

    views: list[View] = field(default_factory=list)
    failed: bool = False


def sheet(cells: Sequence[SheetCell], axes: Mapping[str, Sequence[Any]]) -> bytes | None:
    """Draw all cells as one PNG; None if no run has a result.

    Args:
        cells: The runs, in the order of the product of the axes, the last one changing fastest.
        axes: The values of each input. The last input makes the columns, the others together the rows.
    """
    import PIL.Image
    import PIL.ImageDraw
    import PIL.ImageFont

    if not any(cell.views for cell in cells):
        return None
    font = PIL.ImageFont.load_default(FONT)
    pictures = [_picture(cell) for cell in cells]
    width = max((picture.width for picture in pictures if picture is not None), default=LEAST)
    height = max((picture.height for picture in pictures if picture is not None), default=LEAST)
    faces = [picture or _note(cell, width, height, font) for picture, cell in zip(pictures, cells, strict=True)]
    *outer, last = axes
    columns = len(axes[last])
    below: list[list[str]] = []
    tops: list[list[str]] = []
    if not outer and columns > MOST_IN_A_ROW:
        below = [_wrapped(label, width, font) for label in told_apart(axes[last])]
        columns = math.ceil(math.sqrt(columns))
    else:
        tops = [_wrapped(label, width, font) for label in told_apart(axes[last])]
    rows = math.ceil(len(cells) / columns)
    sides = [_wrapped(label, SIDE_HEADING, font) for label in _rows(axes, outer)]
    left = EDGE + (SIDE_HEADING + GAP if sides else 0)
    top = EDGE + LINE + GAP + (LINE * max(map(len, tops)) + GAP if tops else 0)
    step = height + GAP + LINE * max(map(len, below), default=0)
    size = (left + columns * (width + GAP) - GAP + EDGE, top + rows * step - GAP + EDGE)
    whole = PIL.Image.new("RGB", size, PAPER)
    draw = PIL.ImageDraw.Draw(whole)
    draw.text((left, EDGE), _cut(last, size[0] - left - EDGE, font), DIM, font)
    if outer:
        draw.text((EDGE, EDGE), _cut(", ".join(outer), SIDE_HEADING, font), DIM, font)
    for column, lines in enumerate(tops):
        x = left + column * (width + GAP)
        _text(draw, lines, x + width // 2, top - GAP - LINE * len(lines), font, "m")
    for row, lines in enumerate(sides):
        _text(draw, lines, left - GAP, top + row * step + (height - LINE * len(lines)) // 2, font, "r")
    for n, face in enumerate(faces):
        x, y = left + n % columns * (width + GAP), top + n // columns * step
        whole.paste(face, (x + (width - face.width) // 2, y + (height - face.height) // 2))
        if below:
            _text(draw, below[n], x + width // 2, y + height + 2, font, "m")
    target = io.BytesIO()
    whole.save(target, "PNG")
    return target.getvalue()


def told_apart(values: Sequence[Any], length: int = 60) -> list[str]:
    """Make labels of values: common beginnings and ends of long ones are left out, and the rest is shortened."""
    labels = [value if isinstance(value, str) else str(value) for value in values]
    if len(set(labels)) > 1 and max(map(len, labels)) > length // 2:
        start = _common(labels)
        end = _common([label[start:][::-1] for label in labels])
        if start + end > 8:
            labels = [
                ("…" if start else "") + label[start : len(label) - end] + ("…" if end else "") for label in labels
            ]
    return [in_the_middle(label, length) for label in labels]


def _common(texts: Sequence[str]) -> int:
    """The number of characters that all texts begin with, up to the end of a word."""
    signs = zip(*texts, strict=False)
    shared = "".join(same[0] for same in itertools.takewhile(lambda column: len(set(column)) == 1, signs))
    return max(shared.rfind(sign) for sign in " /\\,_-") + 1


def in_the_middle(text: str, length: int) -> str:
    """Shorten a text to `length` characters by leaving out its middle."""
    return text if len(text) <= length else f"{text[: length // 2]}…{text[len(text) - (length - 1) // 2 + 1 :]}"


def _rows(axes: Mapping[str, Sequence[Any]], outer: Sequence[str]) -> list[str]:
    """The headings of the rows: every combination of the inputs that make them."""
    labels = [""]
    for name in outer:
        labels = [f"{label}, {value}" if label else value for label in labels for value in told_apart(axes[name])]
    return labels if outer else []


def _wrapped(label: str, width: int, font: Font) -> list[str]:
    """Wrap a label into lines of a width in pixels."""
    characters = max(6, int(width / max(1.0, font.getlength("n"))))
    label = in_the_middle(label, characters * MOST_LINES - MOST_LINES)
    lines = textwrap.wrap(label, characters, break_on_hyphens=False) or [""]
    if len(lines) > MOST_LINES:  # words left gaps
        lines = [*lines[: MOST_LINES - 1], f"…{lines[-1][1 - characters :]}"]
    return lines


def _cut(text: str, width: int, font: Font) -> str:
    return in_the_middle(text, max(6, int(width / max(1.0, font.getlength("n")))))


def _text(draw: PIL.ImageDraw.ImageDraw, lines: Sequence[str], x: int, y: int, font: Font, anchor: str) -> None:
    for number, line in enumerate(lines):
        draw.text((x, y + number * LINE), line, INK, font, anchor=f"{anchor}a")


def _picture(cell: SheetCell) -> PIL.Image.Image | None:
    """The pictures of a cell side by side; None if it has none."""
    import PIL.Image

    pictures = []
    for view in cell.views:
        if view.png is not None:
            picture = PIL.Image.open(io.BytesIO(view.png)).convert("RGBA")
            picture = PIL.Image.alpha_composite(PIL.Image.new("RGBA", picture.size, PAPER), picture).convert("RGB")
            larger = math.ceil(LEAST / max(picture.size))
            picture = picture.resize((picture.width * larger, picture.height * larger), PIL.Image.Resampling.BICUBIC)
            picture.thumbnail((MOST, MOST))
            pictures.append(picture)
    if not pictures:
        return None
    width = sum(picture.width for picture in pictures) + 4 * (len(pictures) - 1)
    row = PIL.Image.new("RGB", (width, max(picture.height for picture in pictures)), PAPER)
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + 4
    return row


def _note(cell: SheetCell, width: int, height: int, font: Font) -> PIL.Image.Image:
    """Draw a cell without a picture: its text, or `failed`."""
    import PIL.Image
    import PIL.ImageDraw

    text = "failed" if cell.failed else "\n".join(view.text or "" for view in cell.views)
    note = PIL.Image.new("RGB", (width, height), FAILED if cell.failed else EMPTY)
    characters, most = max(6, int((width - 16) / font.getlength("n"))), max(1, (height - 16) // LINE)
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, characters) or [""]]
    shown = lines if len(lines) <= most else [*lines[: most - 1], "…"]
    PIL.ImageDraw.Draw(note).multiline_text((8, 8), "\n".join(shown), INK, font)
    return note


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)  # names that were renamed
