"""Sheets: their labels and where what stands."""

from __future__ import annotations

import io

import PIL.Image

from graphengine.cli.sheet import SheetCell, in_the_middle, sheet, told_apart
from graphengine.values.socket_types import View

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255)]


def cell(colour: tuple[int, int, int]) -> SheetCell:
    target = io.BytesIO()
    PIL.Image.new("RGB", (16, 16), colour).save(target, "PNG")
    return SheetCell([View(png=target.getvalue())])


def places(axes: dict[str, list[object]], count: int) -> list[tuple[int, int]]:
    """Where the pictures of each colour begin."""
    made = sheet([cell(colour) for colour in COLOURS[:count]], axes)
    assert made is not None
    picture = PIL.Image.open(io.BytesIO(made))
    found: dict[object, tuple[int, int]] = {}
    for y in range(picture.height):
        for x in range(picture.width):
            found.setdefault(picture.getpixel((x, y)), (x, y))
    return [found[colour] for colour in COLOURS[:count]]


def test_the_last_axis_makes_the_columns_and_the_others_the_rows() -> None:
    where = places({"prompt": ["a", "b"], "seed": [1, 2, 3]}, 6)
    assert len({x for x, _ in where}) == 3
    assert len({y for _, y in where}) == 2
    assert where == sorted(where, key=lambda place: (place[1], place[0]))
    assert min(x for x, _ in where) > 160  # headings of the rows stand before them
    assert min(y for _, y in where) > 60  # and those of the columns above


def test_one_axis_is_one_row_while_it_is_short() -> None:
    assert len({y for _, y in places({"seed": [1, 2, 3]}, 3)}) == 1


def test_many_values_of_one_axis_are_about_square() -> None:
    made = sheet([cell(COLOURS[0])] * 16, {"seed": list(range(16))})
    assert made is not None
    width, height = PIL.Image.open(io.BytesIO(made)).size
    assert 0.7 < width / height < 1.4


def test_labels_that_differ_are_told_apart() -> None:
    prompts = [f"a red {what} on a blue background, in the style of an old master" for what in ("circle", "square")]
    assert told_apart(prompts) == ["…circle…", "…square…"]
    assert told_apart([1, 20]) == ["1", "20"]
    assert told_apart(["x" * 100]) == [f"{'x' * 30}…{'x' * 28}"]
    assert len(set(told_apart([f"{'long word ' * 20}{n}" for n in range(3)]))) == 3


def test_a_label_is_shortened_in_the_middle() -> None:
    assert in_the_middle("abcdefghij", 7) == "abc…ij"
    assert in_the_middle("abc", 7) == "abc"


def test_nothing_made_is_no_sheet() -> None:
    assert sheet([SheetCell(failed=True)], {"seed": [1]}) is None
