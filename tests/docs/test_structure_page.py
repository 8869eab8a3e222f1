"""docs/structure.md lists every module once, as its docstring says, in the order of the floors."""

from __future__ import annotations

import re

from tests.docs.structure import HOUSES, PAGE, listing, rendered


def test_the_page_is_as_the_tree_is() -> None:
    page = PAGE.read_text()
    assert rendered(page) == page, "run `python -m tests.docs.structure`"


def test_every_module_is_listed_once() -> None:
    lines = [line for house in (*HOUSES, "graphengine.service") for line in listing(house)]
    listed = sorted(match[1].rpartition("/")[2] for line in lines if (match := re.match(r"- `([^`]+)`: ", line)))
    files = [f for house, folder in HOUSES.items() for f in (folder / house).rglob("*.py")]
    assert listed == sorted(file.stem for file in files if file.name != "__init__.py")


def test_every_module_says_in_one_sentence_what_it_is_for() -> None:
    lines = [line for house in (*HOUSES, "graphengine.service") for line in listing(house) if line]
    assert [line for line in lines if not line.endswith(".")] == []
