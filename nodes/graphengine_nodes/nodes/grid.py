"""Pictures: many as one, with labels."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Annotated

from graphengine import Doc, Range, node
from graphengine_nodes.values.types import Image

if TYPE_CHECKING:
    import PIL.Image
    import PIL.ImageFont

    Font = PIL.ImageFont.ImageFont | PIL.ImageFont.FreeTypeFont

Labels = list[str] | None


@node(version=1)
def image_grid(
    images: Annotated[
        Image | list[Image], Doc("Placed row by row; pictures of different sizes are centred in their cells.")
    ],
    columns: Annotated[
        int | None, Range(1, 1000, 1), Doc("Default: the number of column labels, else about square.")
    ] = None,
    column_labels: Annotated[Labels, Doc("Above the columns.")] = None,
    row_labels: Annotated[Labels, Doc("To the left of the rows.")] = None,
    labels: Annotated[Labels, Doc("Below the pictures.")] = None,
    gap: Annotated[int, Range(0, 256, 1), Doc("Pixels between the pictures.")] = 8,
    font_size: Annotated[int, Range(6, 256, 1), Doc("Font size of the labels, in pixels.")] = 16,
) -> Image:
    """Lay out many pictures as one on white, with labels in black; long labels are wrapped.

    If a picture has alpha, so has the grid, which is opaque beside the pictures.

    Raises:
        ValueError: There is no picture, or there are not as many labels as pictures, columns or rows.
    """
    import PIL.Image

    from graphengine_nodes.nodes.images import from_pil

    pictures = [picture for image in (images if isinstance(images, list) else [images]) for picture in image.pils()]
    if not pictures:
        raise ValueError("a grid of no pictures; give at least one")
    columns = columns or (len(column_labels) if column_labels else math.ceil(math.sqrt(len(pictures))))
    rows = math.ceil(len(pictures) / columns)
    counts = {"column": (column_labels, columns), "row": (row_labels, rows), "picture": (labels, len(pictures))}
    for name, (given, count) in counts.items():
        if given and len(given) != count:
            raise ValueError(f"{len(given)} {name} labels for {count} {name}s; give one for each, or none")

    width, height = max(picture.width for picture in pictures), max(picture.height for picture in pictures)
    text = Text(font_size)
    tops, sides = text.all(column_labels, width), text.all(row_labels, max(width // 2, 8 * font_size))
    below = text.all(labels, width)
    left = gap + (max(side.width for side in sides) + gap if sides else 0)
    top = gap + (max(one.height for one in tops) + gap if tops else 0)
    step = (width + gap, height + (max(one.height for one in below) if below else 0) + gap)
    mode = "RGBA" if any(picture.mode == "RGBA" for picture in pictures) else "RGB"
    whole = PIL.Image.new(mode, (left + columns * step[0], top + rows * step[1]), "white")
    for column, label in enumerate(tops):
        whole.paste(label, (left + column * step[0] + (width - label.width) // 2, top - gap - label.height))
    for row, label in enumerate(sides):
        whole.paste(label, (left - gap - label.width, top + row * step[1] + (height - label.height) // 2))
    for number, picture in enumerate(pictures):
        x, y = left + number % columns * step[0], top + number // columns * step[1]
        whole.paste(picture, (x + (width - picture.width) // 2, y + (height - picture.height) // 2))
        if below:
            whole.paste(below[number], (x + (width - below[number].width) // 2, y + height))
    return from_pil(whole, alpha=True)


class Text:
    """Draws labels of one size."""

    def __init__(self, size: int) -> None:
        import PIL.ImageFont

        self.font = PIL.ImageFont.load_default(size)

    def all(self, labels: Labels, width: int) -> list[PIL.Image.Image]:
        """Labels as pictures that are at most `width` pixels wide."""
        return [self.picture(label, width) for label in labels or ()]

    def picture(self, label: str, width: int) -> PIL.Image.Image:
        """A label as a picture; text that does not fit into four lines is left out."""
        import PIL.Image
        import PIL.ImageDraw

        characters = max(1, int(width / max(1.0, self.font.getlength("n"))))
        placeholder = "…" if characters > 1 else ""
        lines = textwrap.wrap(label, characters, max_lines=4, placeholder=placeholder)
        text = "\n".join(lines)
        _, _, right, bottom = PIL.ImageDraw.Draw(PIL.Image.new("L", (1, 1))).multiline_textbbox((0, 0), text, self.font)
        found = PIL.Image.new("RGB", (min(width, math.ceil(right)) or 1, math.ceil(bottom) + 4), "white")
        PIL.ImageDraw.Draw(found).multiline_text((0, 0), text, "black", self.font, align="center")
        return found
